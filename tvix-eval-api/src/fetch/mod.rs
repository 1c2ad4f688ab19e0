//! Fetching during evaluation: files, archives and Git trees.
//!
//! An evaluator calls a [`Fetcher`] on a thread of its own, so that other attributes continue. The
//! result becomes a source of the flow, under a store path derived from its contents. The crate
//! `tvix-fetch` has a fetcher that speaks HTTP and Git and keeps a cache on disk.

mod url;

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix_compat::nixhash::NixHash;
use thiserror::Error;

pub use url::{file_path, git_url, is_pseudo_url, resolve_pseudo_url, show_git, split_scheme};

/// Tells blocking work whether its result is still wanted. Long work asks often.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Vec<Arc<AtomicBool>>);

impl Cancel {
    /// Cancelled as soon as one of `flags` is `true`.
    pub fn new(flags: impl IntoIterator<Item = Arc<AtomicBool>>) -> Self {
        Self(flags.into_iter().collect())
    }

    /// Whether the result is no longer wanted.
    pub fn is_cancelled(&self) -> bool {
        self.0.iter().any(|flag| flag.load(Ordering::Relaxed))
    }
}

/// A file or tree to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FetchRequest {
    /// A file.
    File {
        /// The file's URL.
        url: String,
        /// The SHA-256 that the expression requires of the contents. A file that is known to have
        /// it need not be fetched.
        sha256: Option<NixHash>,
    },
    /// An unpacked tar or zip archive. If its only top-level entry is a directory, that directory.
    Tarball {
        /// The archive's URL.
        url: String,
        /// The SHA-256 that the expression requires of the unpacked tree, as a NAR.
        sha256: Option<NixHash>,
    },
    /// The files of a commit, or of a working tree.
    Git(GitRequest),
}

impl FetchRequest {
    /// The SHA-256 that the expression requires.
    pub fn sha256(&self) -> Option<&NixHash> {
        match self {
            Self::File { sha256, .. } | Self::Tarball { sha256, .. } => sha256.as_ref(),
            Self::Git(_) => None,
        }
    }
}

/// A tree of a Git repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GitRequest {
    /// The repository's URL: `https://…`, `ssh://…`, `file:///…` and so on.
    pub url: String,
    /// A branch, or a full name below `refs/`. Without it and `rev`: the working tree with its
    /// uncommitted changes, or the remote's default branch.
    pub reference: Option<String>,
    /// The commit, as hexadecimal digits.
    pub rev: Option<String>,
    /// Include submodules.
    pub submodules: bool,
    /// Fetch no history.
    pub shallow: bool,
    /// Fetch all refs, to find a commit that is in no branch.
    pub all_refs: bool,
    /// Omit files that `.gitattributes` marks `export-ignore`.
    pub export_ignore: bool,
    /// Replace pointers of Git LFS in a commit by the files they name.
    pub lfs: bool,
}

impl GitRequest {
    /// A request for the working tree, or the default branch of a remote repository, without
    /// submodules.
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

    /// The arguments that change the tree of a given commit, with their names. A cache of trees is
    /// keyed by the commit and by these.
    pub fn tree_arguments(&self) -> [(&'static str, bool); 3] {
        // All fields are named, so that a new one must be put on one side or the other.
        let Self {
            // The commit determines the tree; these only find the commit.
            url: _,
            reference: _,
            rev: _,
            shallow: _,
            all_refs: _,
            submodules,
            export_ignore,
            lfs,
        } = self;
        [
            ("submodules", *submodules),
            ("exportIgnore", *export_ignore),
            ("lfs", *lfs),
        ]
    }
}

/// A fetched file or tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fetched {
    /// The path on this file system. It stays there, unchanged, until the evaluation has ended and
    /// its sources were added.
    pub path: PathBuf,
    /// The SHA-256 of the contents of a file, or of the NAR of a tree.
    pub sha256: NixHash,
    /// Facts about a Git tree.
    pub git: Option<GitTree>,
    /// Warnings for the user.
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

/// Facts about a tree from a Git repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GitTree {
    /// The commit, or the requested tag object, as hexadecimal digits. For a working tree with changes, the commit it is
    /// based on. `None` if there is no commit yet.
    pub rev: Option<String>,
    /// Whether files differ from the commit.
    pub dirty: bool,
    /// The number of commits in its history, itself included; `None` for a shallow repository.
    pub rev_count: Option<u64>,
    /// The time of the commit, in seconds since 1970.
    pub last_modified: i64,
}

/// The reason why a fetch failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server cannot be reached, refused the request, or has no such file.
    #[error("unable to download '{url}': {reason}")]
    Download {
        /// The requested URL.
        url: String,
        /// The reason, such as `HTTP error 404`.
        reason: String,
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// An invalid URL, or an unsupported scheme.
    #[error("'{url}' {reason}")]
    Url {
        /// The requested URL.
        url: String,
        /// The reason, as the rest of a sentence.
        reason: String,
    },
    /// An archive that is damaged, hostile, too large, or of an unknown format.
    #[error("cannot unpack '{url}': {reason}")]
    Archive {
        /// The archive's URL.
        url: String,
        /// The reason.
        reason: String,
    },
    /// Git failed, or the repository has no such commit.
    #[error("{message}")]
    Git {
        /// The reason.
        message: String,
        /// The standard error of `git`; may be empty.
        log: String,
    },
    /// A request that this fetcher does not support.
    #[error("{0}")]
    Unsupported(String),
    /// The cache or a local file cannot be read or written.
    #[error("{doing}")]
    Local {
        /// The action that failed.
        doing: String,
        /// The cause.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The fetch was cancelled.
    #[error("the fetch was cancelled")]
    Cancelled,
}

impl FetchError {
    /// A failure of the file system while `doing` something.
    pub fn local(
        doing: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Local {
            doing: doing.into(),
            source: source.into(),
        }
    }

    /// A failure of Git without a log.
    pub fn git(message: impl Into<String>) -> Self {
        Self::Git {
            message: message.into(),
            log: String::new(),
        }
    }
}

/// Fetches files and trees that expressions name by URL.
///
/// # Contract
///
/// May be called from several threads at once, also for the same request. It blocks, and returns
/// [`FetchError::Cancelled`] soon after it is cancelled. [`Fetched::sha256`] is the hash of the
/// contents; the evaluator compares it with the required hash, and adding the path to a store
/// computes it again. A request with a hash may be answered with any contents of that hash. The
/// evaluator has already decided that the expression may fetch the URL.
pub trait Fetcher: Send + Sync {
    /// Fetches a file or tree, or finds it in a cache.
    fn fetch(&self, request: &FetchRequest, cancel: &Cancel) -> Result<Fetched, FetchError>;
}
