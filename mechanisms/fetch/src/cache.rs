//! The cache of fetched files and trees, on disk, addressed by contents.
//!
//! ```text
//! files/HASH    files, by their SHA-256
//! trees/HASH    trees, by the SHA-256 of their NAR
//! known/KEY     the result for a URL or a commit, as JSON
//! git/KEY       bare repositories
//! locks/KEY     held during a fetch
//! tmp/          unfinished fetches
//! ```
//!
//! Entries of `files` and `trees` are complete when they are moved there, and never change.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::tree::Tree;
use super::{Cancel, FetchError};

/// The interval between attempts to take a lock that another process holds.
const RETRY: Duration = Duration::from_millis(20);

/// The kind of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Tree,
}

/// The last known result for a URL.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    /// The URL, for people who inspect the cache.
    pub(super) url: String,
    /// The version, from the server (`ETag`) or the file system.
    pub(super) etag: String,
    /// The hash of the contents.
    pub(super) sha256: NixHash,
    /// The time when this was last confirmed, in seconds since 1970.
    pub(super) seen: u64,
}

impl Known {
    /// Whether it was confirmed within the last `ttl`.
    pub(super) fn is_fresh(&self, ttl: Duration) -> bool {
        now().saturating_sub(self.seen) < ttl.as_secs()
    }
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The cache.
#[derive(Debug)]
pub(super) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens a cache; creates it if it does not exist.
    pub(super) fn open(root: &Path) -> Result<Self, FetchError> {
        for part in ["files", "trees", "known", "git", "locks", "tmp"] {
            // Contents of private repositories are readable by the user only.
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root.join(part));
            made.map_err(|error| {
                FetchError::local(format!("making the cache '{}'", root.display()), error)
            })?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    fn place(&self, kind: Kind, sha256: &NixHash) -> PathBuf {
        let folder = match kind {
            Kind::File => "files",
            Kind::Tree => "trees",
        };
        self.root
            .join(folder)
            .join(sha256.encode(HashEncoding::Base32))
    }

    /// The path of contents, if the cache has them.
    pub(super) fn find(&self, kind: Kind, sha256: &NixHash) -> Option<PathBuf> {
        let place = self.place(kind, sha256);
        place.symlink_metadata().is_ok().then_some(place)
    }

    /// A temporary directory on the file system of the cache.
    pub(super) fn scratch(&self) -> Result<TempDir, FetchError> {
        TempDir::new_in(self.root.join("tmp"))
            .map_err(|error| FetchError::local("making a temporary directory", error))
    }

    /// Moves finished contents into the cache.
    pub(super) fn keep(
        &self,
        kind: Kind,
        sha256: &NixHash,
        finished: &Path,
    ) -> Result<PathBuf, FetchError> {
        let place = self.place(kind, sha256);
        match fs::rename(finished, &place) {
            Ok(()) => Ok(place),
            // Another process was faster, with the same contents.
            Err(_) if place.symlink_metadata().is_ok() => Ok(place),
            Err(error) => Err(FetchError::local("moving into the cache", error)),
        }
    }

    /// Adds a tree.
    pub(super) fn keep_tree(
        &self,
        tree: Tree,
        scratch: &Path,
        url: &str,
    ) -> Result<(NixHash, PathBuf), FetchError> {
        let made = scratch.join("tree");
        tree.write(&made)
            .map_err(|error| FetchError::local(format!("unpacking '{url}'"), error))?;
        let (sha256, _) = tvix_tree::hash_path(&made, HashAlgo::Sha256).map_err(|error| {
            FetchError::local(format!("hashing the contents of '{url}'"), error)
        })?;
        let path = self.keep(Kind::Tree, &sha256, &made)?;
        Ok((sha256, path))
    }

    /// The note under a key, if it can be read.
    pub(super) fn known<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let text = fs::read(self.root.join("known").join(key)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Stores a note under a key.
    pub(super) fn note(&self, key: &str, value: &impl Serialize) -> Result<(), FetchError> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp"))?;
            serde_json::to_writer(&mut file, value)?;
            file.persist(self.root.join("known").join(key))?;
            Ok(())
        };
        write().map_err(|error| FetchError::local("writing the cache", error))
    }

    /// Waits until no other process fetches the same. Dropping the file releases the lock.
    pub(super) fn lock(&self, key: &str, cancel: &Cancel) -> Result<File, FetchError> {
        let failed = |error: io::Error| FetchError::local("locking the cache", error);
        let path = self.root.join("locks").join(key);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                    return Err(FetchError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(RETRY),
            }
        }
    }

    /// The path of the clone of a repository.
    pub(super) fn repository(&self, key: &str) -> PathBuf {
        self.root.join("git").join(key)
    }
}

/// The cache key for several strings.
pub(super) fn key(words: &[&str]) -> String {
    let mut text = Vec::new();
    for word in words {
        text.extend_from_slice(&(word.len() as u64).to_le_bytes());
        text.extend_from_slice(word.as_bytes());
    }
    NixHash::digest(HashAlgo::Sha256, &text).encode(HashEncoding::Base32)
}

/// Sets the mode of a fetched file to that of store paths: not writable, not executable.
pub(super) fn seal_file(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}
