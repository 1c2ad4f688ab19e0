//! What is fetched while evaluating: files, archives, Git trees.
//!
//! The evaluator asks a [`Fetcher`], on a thread of its own, so that other attributes go on. What it
//! gets becomes a source of the flow, under a store path that follows from the contents.
//! `CachingFetcher`, of the feature `fetch`, is one that talks HTTP and Git and keeps a cache on
//! disk.

#[cfg(feature = "fetch")]
mod archive;
#[cfg(feature = "fetch")]
mod cache;
#[cfg(feature = "fetch")]
mod caching;
#[cfg(feature = "fetch")]
mod git;
#[cfg(feature = "fetch")]
mod http;
#[cfg(feature = "fetch")]
mod tree;
mod url;
#[cfg(feature = "fetch")]
mod zip;

use std::error::Error as StdError;
use std::path::PathBuf;

use nix_compat::nixhash::NixHash;
use thiserror::Error;

pub use crate::background::Cancel;
#[cfg(feature = "fetch")]
pub use caching::{CachingFetcher, FetchOptions};
#[cfg(feature = "fetch")]
pub(crate) use url::file_path;
pub use url::is_pseudo_url;
pub(crate) use url::{git_url, resolve_pseudo_url, show_git};

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FetchRequest {
    /// A file.
    File {
        /// Where it is.
        url: String,
        /// The SHA-256 that its contents have to have, if the expression says so. What is known
        /// to have it need not be fetched.
        sha256: Option<NixHash>,
    },
    /// A tar or zip archive, unpacked. Of one that holds a directory and nothing beside it, that
    /// directory.
    Tarball {
        /// Where it is.
        url: String,
        /// As above, of the unpacked tree as a NAR.
        sha256: Option<NixHash>,
    },
    /// The files of a commit, or of a working tree.
    Git(GitRequest),
}

/// What to take from a Git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GitRequest {
    /// Where it is: `https://…`, `ssh://…`, `file:///…` and so on.
    pub url: String,
    /// A branch, or a full name below `refs/`. Without it and `rev`: what is checked out, with
    /// changes that were not committed, or the remote's default branch.
    pub reference: Option<String>,
    /// The commit, as hexadecimal digits.
    pub rev: Option<String>,
    /// With its submodules.
    pub submodules: bool,
    /// Without the history.
    pub shallow: bool,
    /// Fetch all refs, to find a commit that is in no branch.
    pub all_refs: bool,
    /// Without what `.gitattributes` says is not to be exported.
    pub export_ignore: bool,
    /// Replace pointers of Git LFS in a commit by the files that they stand for.
    pub lfs: bool,
}

impl GitRequest {
    /// What is checked out, or the default branch of a remote repository, without submodules.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            reference: None,
            rev: None,
            submodules: false,
            shallow: false,
            all_refs: false,
            export_ignore: true,
            lfs: false,
        }
    }
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// Where it is on this file system. It stays there, unchanged, until the evaluation has ended
    /// and its sources were added.
    pub path: PathBuf,
    /// The SHA-256 of the contents of a file, or of the NAR of a tree.
    pub sha256: NixHash,
    /// What else is known of a Git tree.
    pub git: Option<GitTree>,
    /// What the user should be told.
    pub warnings: Vec<String>,
}

impl Fetched {
    /// A file or tree.
    pub fn new(path: PathBuf, sha256: NixHash) -> Self {
        Self {
            path,
            sha256,
            git: None,
            warnings: Vec::new(),
        }
    }
}

/// What is known of a tree from a Git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GitTree {
    /// The commit, or the tag that was asked for, as hexadecimal digits; of a working tree with changes, the one that it was
    /// made from. `None` if there is none yet.
    pub rev: Option<String>,
    /// Whether files differ from the commit.
    pub dirty: bool,
    /// How many commits lead to it, itself included; not counted of a shallow repository.
    pub rev_count: Option<u64>,
    /// When it was committed, in seconds since 1970.
    pub last_modified: i64,
}

/// Why something could not be fetched.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server refused, or does not have it, or cannot be reached.
    #[error("unable to download '{url}': {reason}")]
    Download {
        /// What was asked for.
        url: String,
        /// Why, such as `HTTP error 404`.
        reason: String,
        /// Whether it may go better another time.
        retryable: bool,
    },
    /// A URL that is none, or whose scheme is not known.
    #[error("'{url}' {reason}")]
    Url {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An archive that is damaged, hostile, too large, or of an unknown kind.
    #[error("cannot unpack '{url}': {reason}")]
    Archive {
        /// Where it comes from.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Git failed, or has not what was asked for.
    #[error("{message}")]
    Git {
        /// What is wrong.
        message: String,
        /// What `git` wrote to its standard error; may be empty.
        log: String,
    },
    /// Something that this fetcher does not do.
    #[error("{0}")]
    Unsupported(String),
    /// The cache, or a local file, cannot be read or written.
    #[error("{doing}")]
    Local {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Nobody wants it any more.
    #[error("the fetch was cancelled")]
    Cancelled,
}

#[cfg(feature = "fetch")]
impl FetchError {
    /// A failure of the file system.
    fn local(doing: impl Into<String>, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Local {
            doing: doing.into(),
            source: source.into(),
        }
    }

    fn git(message: impl Into<String>) -> Self {
        Self::Git {
            message: message.into(),
            log: String::new(),
        }
    }
}

/// Fetches what expressions name by URL.
///
/// # Contract
///
/// May be called from several threads at once, for the same thing too. It blocks, and returns
/// [`FetchError::Cancelled`] soon after it is cancelled. What it returns has the hash that it says;
/// the evaluator compares it with the one that was asked for, and whoever adds it to a store
/// computes it again. A request that names a hash may be answered with anything that has it.
/// Whether the expression may fetch this at all was decided before.
pub trait Fetcher: Send + Sync {
    /// Fetches something, or finds it where it was kept.
    fn fetch(&self, request: &FetchRequest, cancel: &Cancel) -> Result<Fetched, FetchError>;
}
