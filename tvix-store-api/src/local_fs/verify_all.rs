//! Checking that a store is what its database says.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::nar::{NarError, Parser};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::optimise::link_name;
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::verify::{AddressVerifier, check_address};
use crate::{Store, StoreError};

/// What to check, and what to do about what is wrong.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Read all contents and hash them. Else only whether the files are there is checked.
    pub contents: bool,
    /// Where to get anew what is damaged.
    pub repair_from: Option<Arc<dyn Store>>,
    /// Forget paths whose files are missing, unless something else needs them. `nix-store --verify`
    /// always does.
    pub forget_missing: bool,
    /// Only these paths; all that are valid if it is empty.
    pub paths: Vec<StorePath>,
}

impl VerifyOptions {
    /// Sets [`contents`](Self::contents).
    pub fn contents(mut self, contents: bool) -> Self {
        self.contents = contents;
        self
    }

    /// Sets [`repair_from`](Self::repair_from).
    pub fn repair_from(mut self, store: Arc<dyn Store>) -> Self {
        self.repair_from = Some(store);
        self
    }

    /// Sets [`forget_missing`](Self::forget_missing).
    pub fn forget_missing(mut self, forget: bool) -> Self {
        self.forget_missing = forget;
        self
    }

    /// Sets [`paths`](Self::paths).
    pub fn paths(mut self, paths: Vec<StorePath>) -> Self {
        self.paths = paths;
        self
    }
}

/// What was found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// How many valid paths were checked.
    pub checked: u64,
    /// What is, or was, wrong.
    pub damaged: Vec<DamagedPath>,
    /// Files in `.links` that are not what their names say.
    pub bad_links: Vec<PathBuf>,
    /// Whether these are removed, as they are if there is something to repair from.
    pub bad_links_removed: bool,
}

impl VerifyReport {
    /// Whether all that is valid now is as it should be.
    pub fn is_sound(&self) -> bool {
        self.damaged.iter().all(|it| it.is_mended())
            && (self.bad_links.is_empty() || self.bad_links_removed)
    }
}

/// A valid path whose files are not what they should be.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedPath {
    /// The path.
    pub path: StorePath,
    /// What is wrong with it.
    pub damage: Damage,
    /// Whether it has its contents again; or why not, if it was tried.
    pub repaired: Option<Result<(), StoreError>>,
    /// Whether it is not valid any more.
    pub forgotten: bool,
}

impl DamagedPath {
    /// Whether nothing is wrong any more.
    pub fn is_mended(&self) -> bool {
        self.forgotten || matches!(self.repaired, Some(Ok(())))
    }
}

/// What can be wrong with a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// There is nothing.
    #[error("its files are missing")]
    Missing,
    /// The contents are others than when it was added, or are not those of its content address, or
    /// the path is not that of its address.
    #[error("its contents were changed")]
    Contents(#[source] StoreError),
    /// Something of it cannot be read, or is of a kind that no store holds.
    #[error("it cannot be read")]
    Unreadable(#[source] StoreError),
}

impl LocalStore {
    /// Checks valid paths, several at once, and repairs or forgets what is damaged, if that is
    /// wanted. What is collected meanwhile is no damage.
    ///
    /// Dropping the future leaves each path repaired or not.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`] if something would have to be changed, [`StoreError::Backend`] if the
    /// database cannot be read or contradicts itself. What is wrong with a path is no error.
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
        // Each begins only when it is its turn.
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

    /// Whoever names a path that is not valid is told so.
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
            .filter(|it| matches!(it.damage, Damage::Missing) && !it.is_mended());
        let missing: Vec<StorePath> = missing.map(|it| it.path.clone()).collect();
        let forgotten = self.read(move |database| database.forget(&missing)).await?;
        for damaged in &mut report.damaged {
            damaged.forgotten = forgotten.contains(&damaged.path);
        }
        Ok(())
    }
}

/// What becomes of checking a path.
enum Checked {
    Sound,
    Damaged(Damage),
    /// It was collected before it was checked.
    Gone,
}

impl Inner {
    /// Checks a path. Blocks.
    ///
    /// Collectors remove the row first, and whoever makes a path anew adds one with another number. So
    /// what is damaged is really damaged if its row was there all the time; else it is checked again.
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
                let error = self
                    .layout
                    .failed(format!("reading '{}'", info.path), error);
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
        Damage::Unreadable(self.file_error("reading", path, error))
    }

    /// The files in `.links` whose contents are not what they are called after. Blocks.
    fn check_links(&self, remove: bool) -> Result<Vec<PathBuf>, StoreError> {
        let folder = self.layout.store.join(".links");
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries,
        };
        let failed = |error| {
            let action = format!("listing '{}'", folder.display());
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
                    let action = format!("removing '{}'", path.display());
                    self.layout.failed(action, error)
                })?;
            }
            bad.push(path);
        }
        Ok(bad)
    }
}

/// The hash and size of a tree's archive, and whether its content address is that of its contents.
fn hash_with_address(
    file: &Path,
    address: AddressVerifier,
) -> Result<(NixHash, u64, Result<(), StoreError>), NarError> {
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
        // A collector has removed it.
        Err(_) => path.symlink_metadata().is_err(),
    }
}
