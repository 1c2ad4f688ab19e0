//! What was fetched, on disk, by its contents.
//!
//! ```text
//! files/HASH    files, by their SHA-256
//! trees/HASH    trees, by the SHA-256 of their NAR
//! known/KEY     what a URL or a commit led to, as JSON
//! git/KEY       bare repositories
//! locks/KEY     held while something is fetched
//! tmp/          what is not finished
//! ```
//!
//! What is in `files` and `trees` was moved there whole, and is never written again.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix_compat::nixhash::{HashAlgo, HashEncoding, NixHash};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Cancel, FetchError};

/// How often a lock is tried again that somebody else holds.
const RETRY: Duration = Duration::from_millis(20);

/// Which of the two kinds of contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Tree,
}

/// What a URL led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    /// What was asked for, for people who look.
    pub(super) url: String,
    /// What the server, or the file system, said of this version.
    pub(super) etag: String,
    /// What it was.
    pub(super) sha256: NixHash,
    /// When that was seen last, in seconds since 1970.
    pub(super) seen: u64,
}

impl Known {
    /// Whether it was seen in this many seconds.
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
    /// Opens a cache, and makes it if there is none.
    pub(super) fn open(root: &Path) -> Result<Self, FetchError> {
        for part in ["files", "trees", "known", "git", "locks", "tmp"] {
            // What private repositories hold is for nobody else.
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

    /// Where contents are, if they are here.
    pub(super) fn find(&self, kind: Kind, sha256: &NixHash) -> Option<PathBuf> {
        let place = self.place(kind, sha256);
        place.symlink_metadata().is_ok().then_some(place)
    }

    /// A directory for what is not finished, on the cache's file system.
    pub(super) fn scratch(&self) -> Result<TempDir, FetchError> {
        TempDir::new_in(self.root.join("tmp"))
            .map_err(|error| FetchError::local("making a temporary directory", error))
    }

    /// Takes in what is finished.
    pub(super) fn keep(
        &self,
        kind: Kind,
        sha256: &NixHash,
        finished: &Path,
    ) -> Result<PathBuf, FetchError> {
        let place = self.place(kind, sha256);
        match fs::rename(finished, &place) {
            Ok(()) => Ok(place),
            // Somebody else was faster, with the same contents.
            Err(_) if place.symlink_metadata().is_ok() => Ok(place),
            Err(error) => Err(FetchError::local("moving into the cache", error)),
        }
    }

    /// What was noted under a key, if it can be read.
    pub(super) fn known<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let text = fs::read(self.root.join("known").join(key)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes something.
    pub(super) fn note(&self, key: &str, value: &impl Serialize) -> Result<(), FetchError> {
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(self.root.join("tmp"))?;
            serde_json::to_writer(&mut file, value)?;
            file.persist(self.root.join("known").join(key))?;
            Ok(())
        };
        write().map_err(|error| FetchError::local("writing the cache", error))
    }

    /// Waits until nobody else fetches the same. Others may, once the file is dropped.
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

    /// Where the clone of a repository is.
    pub(super) fn repository(&self, key: &str) -> PathBuf {
        self.root.join("git").join(key)
    }
}

/// A name for something that is told by several words.
pub(super) fn key(words: &[&str]) -> String {
    let mut text = Vec::new();
    for word in words {
        text.extend_from_slice(&(word.len() as u64).to_le_bytes());
        text.extend_from_slice(word.as_bytes());
    }
    NixHash::digest(HashAlgo::Sha256, &text).encode(HashEncoding::Base32)
}

/// Makes a file that a fetch wrote what a store path is: not writable, not executable.
pub(super) fn seal_file(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o444))
}
