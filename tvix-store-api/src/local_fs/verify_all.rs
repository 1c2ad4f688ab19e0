//! Verification of a store against its database.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::nar::Parser;
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::optimise::link_name;
use super::{Inner, LocalStore};
use tvix_tree::TreeError;

use crate::blocking::blocking;
use crate::verify::{AddressVerifier, check_address};
use crate::{Store, StoreError};

/// Options of [`LocalStore::verify_all`](super::LocalStore::verify_all).
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Read and hash all contents. Otherwise only the existence of the files is checked.
    pub contents: bool,
    /// The source of contents for repairs. By default none.
    pub repair_from: Option<Arc<dyn Store>>,
    /// Delete the rows of paths with missing files, unless another path needs them. `nix-store
    /// --verify` always does that.
    pub forget_missing: bool,
    /// The paths to verify; empty for all valid paths.
    pub paths: Vec<StorePath>,
}

impl VerifyOptions {
    /// Sets [`contents`](Self::contents).
    pub fn with_contents(mut self, contents: bool) -> Self {
        self.contents = contents;
        self
    }

    /// Sets [`repair_from`](Self::repair_from).
    pub fn with_repair_from(mut self, store: Arc<dyn Store>) -> Self {
        self.repair_from = Some(store);
        self
    }

    /// Sets [`forget_missing`](Self::forget_missing).
    pub fn with_forget_missing(mut self, forget: bool) -> Self {
        self.forget_missing = forget;
        self
    }

    /// Sets [`paths`](Self::paths).
    pub fn with_paths(mut self, paths: Vec<StorePath>) -> Self {
        self.paths = paths;
        self
    }
}

/// The result of a verification.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of valid paths that were checked.
    pub checked: u64,
    /// The damaged paths, including repaired ones.
    pub damaged: Vec<DamagedPath>,
    /// Files in `.links` with contents that do not match their names.
    pub bad_links: Vec<PathBuf>,
    /// Whether these links were removed, which happens if there is a source of repairs.
    pub bad_links_removed: bool,
}

impl VerifyReport {
    /// Whether everything that is valid now is intact.
    pub fn is_intact(&self) -> bool {
        self.damaged.iter().all(|it| it.is_repaired())
            && (self.bad_links.is_empty() || self.bad_links_removed)
    }
}

/// A valid path with wrong files.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedPath {
    /// The path.
    pub path: StorePath,
    /// The kind of damage.
    pub damage: Damage,
    /// The result of the repair; `None` if none was attempted.
    pub repaired: Option<Result<(), StoreError>>,
    /// Whether the path is no longer valid.
    pub forgotten: bool,
}

impl DamagedPath {
    /// Whether the damage is gone.
    pub fn is_repaired(&self) -> bool {
        self.forgotten || matches!(self.repaired, Some(Ok(())))
    }
}

/// The kind of damage of a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The files do not exist.
    #[error("its files are missing")]
    Missing,
    /// The contents do not have the recorded hash or the hash of the content address, or the path
    /// does not follow from the content address.
    #[error("its contents were changed")]
    Contents(#[source] StoreError),
    /// A file cannot be read, or has a type that a store cannot hold.
    #[error("it cannot be read")]
    Unreadable(#[source] StoreError),
}

impl LocalStore {
    /// Verifies valid paths, several concurrently, and repairs or forgets damaged ones, as the
    /// options say. A path that is collected meanwhile does not count as damaged.
    ///
    /// If the future is dropped, each path is repaired or unchanged.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`] if a change is needed, [`StoreError::Backend`] if the database
    /// cannot be read or is inconsistent. Damage of a path is not an error.
    pub async fn verify_all(&self, options: VerifyOptions) -> Result<VerifyReport, StoreError> {
        if options.repair_from.is_some() || options.forget_missing {
            self.0.scratch()?;
        }
        self.read(|database| database.check_integrity()).await?;
        let paths = match options.paths.is_empty() {
            true => self.all_valid_paths().await?,
            false => {
                self.expect_valid(&options.paths).await?;
                options.paths.clone()
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let contents = options.contents;
        let checks = paths.into_iter().map(|path| {
            let inner = self.0.clone();
            blocking(&self.0.uri, move || {
                Ok((path.clone(), inner.check_path(&path, contents)?))
            })
        });
        // Each check starts only when it is polled.
        let mut checks = stream::iter(checks).buffered(threads);
        let mut report = VerifyReport::default();
        while let Some((path, checked)) = checks.next().await.transpose()? {
            let damage = match checked {
                Checked::Sound => None,
                Checked::Damaged(damage) => Some(damage),
                Checked::Gone => continue,
            };
            report.checked += 1;
            report.damaged.extend(damage.map(|damage| DamagedPath {
                path,
                damage,
                repaired: None,
                forgotten: false,
            }));
        }
        if contents && options.paths.is_empty() {
            let inner = self.0.clone();
            let remove = options.repair_from.is_some();
            report.bad_links = blocking(&self.0.uri, move || inner.check_links(remove)).await?;
            report.bad_links_removed = remove;
        }
        if let Some(from) = &options.repair_from {
            for damaged in &mut report.damaged {
                damaged.repaired = Some(self.repair(&damaged.path, &**from).await);
            }
        }
        if options.forget_missing {
            self.forget_missing(&mut report).await?;
        }
        Ok(report)
    }

    /// Fails for a requested path that is not valid.
    async fn expect_valid(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        let asked = paths.to_vec();
        let valid = self
            .read(move |database| database.valid_paths(&asked))
            .await?;
        match paths.iter().find(|path| !valid.contains(path)) {
            None => Ok(()),
            Some(path) => Err(StoreError::NotFound {
                store: self.0.uri.clone(),
                path: path.clone(),
            }),
        }
    }

    async fn forget_missing(&self, report: &mut VerifyReport) -> Result<(), StoreError> {
        let missing = report
            .damaged
            .iter()
            .filter(|it| matches!(it.damage, Damage::Missing) && !it.is_repaired());
        let missing: Vec<StorePath> = missing.map(|it| it.path.clone()).collect();
        let forgotten = self.read(move |database| database.forget(&missing)).await?;
        for damaged in &mut report.damaged {
            damaged.forgotten = forgotten.contains(&damaged.path);
        }
        Ok(())
    }
}

/// The result of checking a path.
enum Checked {
    Sound,
    Damaged(Damage),
    /// The path was collected before the check.
    Gone,
}

impl Inner {
    /// Checks a path. Blocks.
    ///
    /// Collectors delete the row first, and a path that is added again gets a row with another id.
    /// So the damage is real if the row had the same id throughout; otherwise the path is checked
    /// again.
    fn check_path(&self, path: &StorePath, contents: bool) -> Result<Checked, StoreError> {
        loop {
            let Some((row, info)) = self.database.row(path)? else {
                return Ok(Checked::Gone);
            };
            let Some(damage) = self.damage(&info, contents) else {
                return Ok(Checked::Sound);
            };
            match self.database.row(path)? {
                Some((now, _)) if now == row => return Ok(Checked::Damaged(damage)),
                Some(_) => {}
                None => return Ok(Checked::Gone),
            }
        }
    }

    fn damage(&self, info: &PathInfo, contents: bool) -> Option<Damage> {
        let file = self.layout.store.join(info.path.to_string());
        match file.symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Damage::Missing),
            Err(error) => return Some(self.unreadable(&info.path, error)),
        }
        if let Err(error) = check_address(&self.store_dir, info) {
            return Some(Damage::Contents(error));
        }
        if !contents {
            return None;
        }
        let address = AddressVerifier::new(info);
        let hashed = match address {
            None => tvix_tree::hash_path(&file, HashAlgo::Sha256)
                .map(|(hash, size)| (hash, size, Ok(()))),
            Some(address) => hash_with_address(&file, address),
        };
        let (hash, size, address) = match hashed {
            Ok(hashed) => hashed,
            Err(error) => {
                let error = self.layout.failed(format!("read '{}'", info.path), error);
                return Some(Damage::Unreadable(error));
            }
        };
        let path = info.path.clone();
        // Very old databases have no sizes.
        if size != info.nar_size && info.nar_size != 0 {
            return Some(Damage::Contents(StoreError::SizeMismatch {
                path,
                expected: info.nar_size,
                actual: size,
            }));
        }
        let expected = NixHash::Sha256(info.nar_hash);
        if hash != expected {
            return Some(Damage::Contents(StoreError::HashMismatch {
                path,
                expected,
                actual: hash,
            }));
        }
        address.err().map(Damage::Contents)
    }

    fn unreadable(&self, path: &StorePath, error: io::Error) -> Damage {
        Damage::Unreadable(self.file_error("read", path, error))
    }

    /// The files in `.links` with contents that do not match their names. Blocks.
    fn check_links(&self, remove: bool) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.layout.store.join(".links");
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries,
        };
        let failed = |error| {
            let action = format!("list '{}'", folder.display());
            self.layout.failed(action, error)
        };
        let mut bad = Vec::new();
        for entry in entries.map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_good_link(&path) {
                continue;
            }
            if remove {
                std::fs::remove_file(&path).map_err(|error| {
                    let action = format!("remove '{}'", path.display());
                    self.layout.failed(action, error)
                })?;
            }
            bad.push(path);
        }
        Ok(bad)
    }
}

/// The NAR hash and size of a tree, and whether its content address is that of its contents.
fn hash_with_address(
    file: &Path,
    address: AddressVerifier,
) -> Result<(NixHash, u64, Result<(), StoreError>), TreeError> {
    let mut sink = AddressSink {
        hasher: NixHasher::new(HashAlgo::Sha256),
        size: 0,
        parser: Parser::new(),
        address,
    };
    tvix_tree::dump_path(file, &mut sink)?;
    Ok((sink.hasher.finish(), sink.size, sink.address.finish()))
}

struct AddressSink {
    hasher: NixHasher,
    size: u64,
    parser: Parser,
    address: AddressVerifier,
}

impl io::Write for AddressSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.address.nar(bytes);
        let mut rest = bytes;
        loop {
            let step = self.parser.feed(rest).map_err(io::Error::other)?;
            rest = &rest[step.consumed..];
            match step.event {
                Some(event) => self.address.event(event),
                None => return Ok(bytes.len()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_good_link(path: &Path) -> bool {
    match tvix_tree::hash_path(path, HashAlgo::Sha256) {
        Ok((hash, _)) => path
            .file_name()
            .is_some_and(|name| *name == *link_name(&hash)),
        // A collector has removed the path.
        Err(_) => path.symlink_metadata().is_err(),
    }
}
