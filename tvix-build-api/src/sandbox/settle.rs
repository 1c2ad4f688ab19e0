//! The final paths of outputs, and contents that refer to them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar::{NarError, Parser};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher, SelfReferenceHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tvix_tree::{Interruptible, RestoreOptions, TreeError, Unpacker};

use super::field::{Field, Found, Harvested};
use super::trouble::Trouble;
use crate::outputs::{
    Addressed, Destination, HashRewrite, PlannedOutput, RewritingWriter, check_fixed, floating_path,
};

/// Settles the outputs of a build one by one, references first.
pub(super) struct Settler<'f> {
    field: &'f Field,
    /// The outputs so far with a changed path.
    moved: Vec<(StorePath, StorePath)>,
}

impl<'f> Settler<'f> {
    pub fn new(field: &'f Field) -> Self {
        Self {
            field,
            moved: Vec::new(),
        }
    }

    /// Checks a fixed output, computes the path of a floating one, and rewrites references to
    /// outputs with a changed path. Blocks.
    pub fn settle(&mut self, found: Found) -> Result<Harvested, Trouble> {
        let moved = self.moved.iter();
        let rewrites: Vec<HashRewrite> = moved
            .filter(|(from, _)| found.scan.references.contains(from))
            .map(|(from, to)| HashRewrite::new(from, to))
            .collect();
        let references: SortedSet<StorePath> = found
            .references
            .iter()
            .map(|path| self.now(path).clone())
            .collect();
        match found.output.destination.clone() {
            Destination::Known => self.known(found, references, &rewrites),
            Destination::Fixed(address) => self.fixed(found, references, address),
            Destination::Floating(method, algo) => {
                self.floating(found, &references, method, algo, rewrites)
            }
        }
    }

    fn now<'p>(&'p self, path: &'p StorePath) -> &'p StorePath {
        let found = self.moved.iter().find(|(from, _)| from == path);
        found.map_or(path, |(_, to)| to)
    }

    fn known(
        &self,
        found: Found,
        references: SortedSet<StorePath>,
        rewrites: &[HashRewrite],
    ) -> Result<Harvested, Trouble> {
        let mut info = self.info(found.output.path.clone(), &found, references);
        let mut file = found.file;
        if !rewrites.is_empty() {
            file = self.rewrite(&found.output, &file, rewrites, &mut info)?;
        }
        Ok(Harvested {
            output: found.output,
            file,
            info,
        })
    }

    fn fixed(
        &self,
        found: Found,
        references: SortedSet<StorePath>,
        address: ContentAddress,
    ) -> Result<Harvested, Trouble> {
        let ContentAddress { method, hash } = &address;
        let actual = match (method, hash.algo()) {
            (ContentAddressMethod::NixArchive, HashAlgo::Sha256) => {
                NixHash::Sha256(found.scan.nar_hash)
            }
            (method, algo) => self.hash(&found, *method, algo)?,
        };
        check_fixed(&found.output, &address, actual, &references)?;
        let mut info = self.info(found.output.path.clone(), &found, references);
        info.ca = Some(address);
        Ok(Harvested {
            output: found.output,
            file: found.file,
            info,
        })
    }

    fn floating(
        &mut self,
        found: Found,
        references: &SortedSet<StorePath>,
        method: ContentAddressMethod,
        algo: HashAlgo,
        mut rewrites: Vec<HashRewrite>,
    ) -> Result<Harvested, Trouble> {
        let to_self = found.scan.references.contains(&found.output.path);
        let unchanged = rewrites.is_empty() && !to_self;
        let hash = match method {
            ContentAddressMethod::NixArchive if unchanged && algo == HashAlgo::Sha256 => {
                NixHash::Sha256(found.scan.nar_hash)
            }
            ContentAddressMethod::NixArchive if !unchanged => {
                self.hash_rewritten(&found, algo, &rewrites)?
            }
            // A single file with references is refused below, except for a text, which may refer to
            // other outputs with a changed path.
            method if rewrites.is_empty() => self.hash(&found, method, algo)?,
            _ => self.hash_rewritten_file(&found, method, algo, &rewrites)?,
        };
        let Addressed {
            path,
            ca,
            references,
        } = floating_path(&self.field.dir, &found.output, method, hash, references)?;
        let mut info = self.info(path.clone(), &found, references);
        info.ca = Some(ca);
        let mut file = found.file;
        if !unchanged {
            rewrites.push(HashRewrite::new(&found.output.path, &path));
            file = self.rewrite(&found.output, &file, &rewrites, &mut info)?;
        }
        self.moved.push((found.output.path.clone(), path));
        Ok(Harvested {
            output: found.output,
            file,
            info,
        })
    }

    fn info(&self, path: StorePath, found: &Found, references: SortedSet<StorePath>) -> PathInfo {
        let mut info = PathInfo::new(path, found.scan.nar_hash, found.scan.nar_size);
        info.references = references;
        info.deriver = Some(self.field.request.drv_path.clone());
        info.ultimate = true;
        info
    }

    fn hash(
        &self,
        found: &Found,
        method: ContentAddressMethod,
        algo: HashAlgo,
    ) -> Result<NixHash, Trouble> {
        let interrupted = || self.field.stop.is_cancelled();
        tvix_tree::hash_until(&found.file, method, algo, &interrupted).map_err(
            |error| match error {
                TreeError::UnsupportedType { kind, .. } => crate::FailureKind::InvalidOutput {
                    output: found.output.name.clone(),
                    message: format!(
                        "its content address requires a file that is not executable, and it is a \
                     {kind}"
                    ),
                }
                .into(),
                error => self.field.tree_error(&found.output, error),
            },
        )
    }

    /// The hash of the archive after `rewrites`, without references to itself.
    fn hash_rewritten(
        &self,
        found: &Found,
        algo: HashAlgo,
        rewrites: &[HashRewrite],
    ) -> Result<NixHash, Trouble> {
        let hasher = HashSink(SelfReferenceHasher::new(algo, &found.output.path));
        let mut writer = RewritingWriter::new(hasher, rewrites);
        let interrupted = || self.field.stop.is_cancelled();
        tvix_tree::dump_path(&found.file, Interruptible::new(&mut writer, &interrupted))
            .and_then(|()| Ok(writer.finish().map_err(NarError::Io)?.0.finish()))
            .map_err(|error| self.field.tree_error(&found.output, error))
    }

    /// The hash of a single file after `rewrites`.
    fn hash_rewritten_file(
        &self,
        found: &Found,
        method: ContentAddressMethod,
        algo: HashAlgo,
        rewrites: &[HashRewrite],
    ) -> Result<NixHash, Trouble> {
        // Checks that the output is a single file.
        self.hash(found, method, algo)?;
        let mut writer = RewritingWriter::new(NixHasher::new(algo), rewrites);
        let interrupted = || self.field.stop.is_cancelled();
        let mut checked = Interruptible::new(&mut writer, &interrupted);
        let copied = std::fs::File::open(&found.file)
            .and_then(|mut file| io::copy(&mut file, &mut checked))
            .and_then(|_| writer.finish());
        copied.map(NixHasher::finish).map_err(|error| {
            self.field
                .tree_error(&found.output, NarError::Io(error).into())
        })
    }

    /// Unpacks a rewritten copy beside the tree, and updates `info`.
    fn rewrite(
        &self,
        output: &PlannedOutput,
        file: &Path,
        rewrites: &[HashRewrite],
        info: &mut PathInfo,
    ) -> Result<PathBuf, Trouble> {
        // No output has such a name, and a file that the builder program leaves there makes it
        // fail.
        let copy = self.field.store.join(format!(".rewritten-{}", output.name));
        let write = || -> Result<(NixHash, u64), TreeError> {
            let sink = UnpackSink {
                parser: Parser::new(),
                unpacker: Unpacker::new(&copy, RestoreOptions::default().with_canonical(true))?,
                hasher: NixHasher::new(HashAlgo::Sha256),
                size: 0,
            };
            let mut writer = RewritingWriter::new(sink, rewrites);
            let interrupted = || self.field.stop.is_cancelled();
            let dumped = tvix_tree::dump_path(file, Interruptible::new(&mut writer, &interrupted));
            let sink = writer.finish();
            dumped?;
            sink.map_err(NarError::Io)?.finish()
        };
        let (hash, size) = write().map_err(|error| match error {
            // The first error is wrapped in this one.
            TreeError::Nar(NarError::Io(error)) => match error.downcast::<TreeError>() {
                Ok(inner) => self.field.tree_error(output, inner),
                Err(error) if self.field.stop.is_cancelled() => {
                    self.field.tree_error(output, NarError::Io(error).into())
                }
                Err(error) => self.field.blame.io("rewrite an output", error),
            },
            error => self.field.tree_error(output, error),
        })?;
        if let NixHash::Sha256(hash) = hash {
            info.nar_hash = hash;
        }
        info.nar_size = size;
        Ok(copy)
    }
}

struct HashSink(SelfReferenceHasher);

impl Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Unpacks and hashes the archive that is written to it.
struct UnpackSink {
    parser: Parser,
    unpacker: Unpacker,
    hasher: NixHasher,
    size: u64,
}

impl UnpackSink {
    fn finish(mut self) -> Result<(NixHash, u64), TreeError> {
        self.parser.finish()?;
        self.unpacker.finish()?;
        Ok((self.hasher.finish(), self.size))
    }
}

impl Write for UnpackSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        let mut rest = bytes;
        loop {
            let step = self.parser.feed(rest).map_err(as_tree_error)?;
            let Some(event) = step.event else {
                break;
            };
            self.unpacker.event(event).map_err(as_tree_error)?;
            rest = &rest[step.consumed..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// For [`Settler`], which looks for a [`TreeError`] in the errors of a writer.
fn as_tree_error(error: impl Into<TreeError>) -> io::Error {
    io::Error::other(error.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use nix_compat::derivation::DerivationBuilder;
    use nix_compat::store_path::StoreDir;
    use tokio_util::sync::CancellationToken;
    use tvix_tree::TreeScan;

    use super::*;
    use crate::outputs::{OutputChecks, plan_outputs};
    use crate::sandbox::trouble::Blame;
    use crate::{BuildRequest, FailureKind};

    /// Every way of settling that reads an output again stops with the harvest: the output has 8
    /// TB. Fails (after hours) without `Interruptible`.
    #[test]
    fn settling_can_be_stopped() {
        use ContentAddressMethod::{Flat, NixArchive};
        let directory = tempfile::tempdir().unwrap();
        let dir = StoreDir::default();
        for (method, algo, to_self) in [
            (NixArchive, HashAlgo::Sha256, true),
            (NixArchive, HashAlgo::Sha512, true),
            (NixArchive, HashAlgo::Sha512, false),
            (Flat, HashAlgo::Sha256, false),
        ] {
            let made = DerivationBuilder::new("test", "x86_64-linux", "/bin/sh")
                .floating(method, algo)
                .instantiate(&dir)
                .unwrap();
            let request = BuildRequest::new(made.path, made.derivation);
            let outputs = plan_outputs(&dir, &request).unwrap();
            let checks = OutputChecks::of(&dir, &request.attributes().unwrap(), &outputs).unwrap();
            let output = outputs[0].clone();
            let file = directory.path().join(output.path.to_string());
            let sparse = std::fs::File::create(&file).unwrap();
            sparse.set_len(8_000_000_000_000).unwrap();
            let itself = to_self.then(|| output.path.clone());
            let scan = TreeScan::new([0; 32], 8_000_000_000_112, itself.into_iter().collect());
            let field = Field {
                blame: Blame("test".into()),
                dir: dir.clone(),
                store: directory.path().to_owned(),
                owner: 0,
                request: Arc::new(request),
                outputs,
                checks,
                disk: None,
                stop: CancellationToken::new(),
            };
            let found = Found {
                output,
                file,
                references: scan.references.clone(),
                scan,
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    field.stop.cancel();
                });
                let trouble = Settler::new(&field).settle(found).unwrap_err();
                assert!(
                    matches!(trouble, Trouble::Failure(FailureKind::Cancelled)),
                    "{trouble:?}"
                );
            });
        }
    }
}
