//! Rebuilds valid outputs and compares the results (`--check` in Nix).

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::OutputName;
use nix_compat::nar::NarError;
use nix_compat::nixhash::{NixHash, SelfReferenceHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use thiserror::Error;
use tokio::sync::mpsc;
use tvix_store_api::{Store, StoreError, StoreExt as _};
use tvix_tree::RestoreOptions;

use crate::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, CheckOutcome, Delivery,
    Difference, StreamedOutput,
};

/// Why a check has no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// There is nothing to compare with.
    #[error("output '{output}' is not valid, so checking is not possible")]
    NotValid {
        /// The output.
        output: OutputName,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The builder failed.
    #[error(transparent)]
    Builder(#[from] BuilderError),
    /// A differing output cannot be kept.
    #[error("cannot keep a differing output at '{}'", path.display())]
    Keep {
        /// Where it should have been unpacked.
        path: PathBuf,
        /// Why it was not.
        source: NarError,
    },
}

/// Rebuilds `request` and compares the outputs with those that are valid in the store of `context`.
/// Nothing is added to that store. An output that differs is unpacked into the directory `keep` under
/// the name of its store path with the suffix `.check`, and replaces the copy of an earlier check.
///
/// The derivation is always run: no lock is taken and valid outputs do not replace the build, so a
/// fixed output is fetched again from its current URL (CVE-2024-36050).
///
/// Cancelled as [`Builder::build`] is.
///
/// # Errors
///
/// [`CheckError::NotValid`] if an output is not valid; nothing is built then.
pub async fn check(
    builder: &dyn Builder,
    request: BuildRequest,
    context: BuildContext,
    keep: Option<&Path>,
) -> Result<CheckOutcome, CheckError> {
    let valid = valid_outputs(&*context.inputs, &request).await?;
    check_against(builder, request, context, &valid, keep).await
}

/// [`check`] with the store paths of the outputs given, for callers that know where outputs without a
/// predetermined path are.
///
/// # Errors
///
/// As [`check`].
pub async fn check_against(
    builder: &dyn Builder,
    mut request: BuildRequest,
    context: BuildContext,
    valid: &[(OutputName, StorePath)],
    keep: Option<&Path>,
) -> Result<CheckOutcome, CheckError> {
    let store = context.inputs.clone();
    for (output, path) in valid {
        if store.path_info(path).await?.is_none() {
            let output = output.clone();
            return Err(CheckError::NotValid { output });
        }
    }
    request.store = None;
    let success = match builder.build(request, context).await? {
        BuildOutcome::Success(success) => success,
        BuildOutcome::Failure(failure) => return Ok(CheckOutcome::Failed(failure)),
    };
    let outputs = match success.delivery {
        Delivery::Streamed(outputs) => outputs,
        Delivery::Pushed(_) => Vec::new(),
    };
    let mut differences = Vec::new();
    for made in outputs {
        let Some((_, path)) = valid.iter().find(|(name, _)| *name == made.name) else {
            continue;
        };
        let Some(known) = store.path_info(path).await? else {
            let output = made.name;
            return Err(CheckError::NotValid { output });
        };
        let same = known.nar_hash == made.info.nar_hash;
        if same || is_same_elsewhere(&*store, &known, &made.info).await? {
            continue;
        }
        differences.push(Difference {
            output: made.name.clone(),
            path: path.clone(),
            expected: NixHash::Sha256(known.nar_hash),
            actual: NixHash::Sha256(made.info.nar_hash),
            kept: match keep {
                Some(directory) => {
                    let place = directory.join(format!("{path}.check"));
                    Some(unpack(made, place).await?)
                }
                None => None,
            },
        });
    }
    Ok(match differences.is_empty() {
        true => CheckOutcome::Same,
        false => CheckOutcome::Differs(differences),
    })
}

/// Whether a floating output that refers to itself has the same contents under another path. That is
/// so if Nix 2.17 to 2.34 computed the path of the valid one.
async fn is_same_elsewhere(
    store: &dyn Store,
    known: &PathInfo,
    made: &PathInfo,
) -> Result<bool, StoreError> {
    let others = |info: &PathInfo| {
        let others = info.references.iter().filter(|path| **path != info.path);
        others.cloned().collect::<Vec<_>>()
    };
    let to_themselves = |info: &PathInfo| info.references.contains(&info.path);
    let Some(ContentAddress { method, hash }) = &made.ca else {
        return Ok(false);
    };
    if *method != ContentAddressMethod::NixArchive
        || known.ca.is_none()
        || known.path == made.path
        || !(to_themselves(known) && to_themselves(made))
        || others(known) != others(made)
    {
        return Ok(false);
    }
    let mut hasher = SelfReferenceHasher::new(hash.algo(), &known.path);
    let mut nar = store.nar(&known.path).await?;
    while let Some(chunk) = nar.next().await.transpose()? {
        hasher.update(&chunk);
        tokio::task::yield_now().await;
    }
    Ok(hasher.finish() == *hash)
}

/// The store paths of the outputs of a request.
async fn valid_outputs(
    store: &dyn Store,
    request: &BuildRequest,
) -> Result<Vec<(OutputName, StorePath)>, CheckError> {
    let dir = store.store_dir();
    let mut valid = Vec::new();
    for (output, known) in request.derivation.output_paths(dir) {
        let not_valid = || CheckError::NotValid {
            output: output.clone(),
        };
        let path = match known {
            Some(path) => path,
            None => {
                let drv_path = request.derivation.path(dir).map_err(|_| not_valid())?;
                let keys = request.derivation.realisation_keys(dir, &drv_path);
                let found = store.realisation_of(keys, output).await?;
                found.ok_or_else(not_valid)?.out_path
            }
        };
        valid.push((output.clone(), path));
    }
    Ok(valid)
}

/// Unpacks an output on a blocking thread.
async fn unpack(made: StreamedOutput, place: PathBuf) -> Result<PathBuf, CheckError> {
    let (sender, receiver) = mpsc::channel(4);
    let to = place.clone();
    let unpacking = tokio::task::spawn_blocking(move || {
        let directory = to.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(NarError::Io)?;
        remove(&to).map_err(NarError::Io)?;
        let reader = Chunks {
            receiver,
            current: Bytes::new(),
        };
        tvix_tree::restore(io::BufReader::new(reader), &to, RestoreOptions::default())
    });
    let mut stream = made.nar;
    let mut failed = None;
    while let Some(chunk) = stream.next().await {
        match chunk {
            // A closed channel means that unpacking failed; its result has the reason.
            Ok(chunk) => {
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let unpacked = match unpacking.await {
        Ok(unpacked) => unpacked,
        Err(lost) => Err(NarError::Io(io::Error::other(lost))),
    };
    if let Some(error) = failed {
        return Err(error.into());
    }
    match unpacked {
        Ok(()) => Ok(place),
        Err(source) => Err(CheckError::Keep {
            path: place,
            source,
        }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    }
}

/// A reader of the chunks that a channel yields.
struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.current[..length]);
        self.current.advance(length);
        Ok(length)
    }
}
