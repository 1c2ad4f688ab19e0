//! Fetching for evaluators of the Tvix build flow: files and archives over HTTP(S) and from `file:`
//! URLs, trees of Git repositories, and a cache of both on disk.
//!
//! [`CachingFetcher`] implements [`Fetcher`], which an evaluator calls on threads that may block.
//!
//! ```
//! use std::path::PathBuf;
//! use tvix_fetch::{CachingFetcher, FetchOptions};
//!
//! let options = FetchOptions::default().with_cache(PathBuf::from("/tmp/fetched"));
//! let fetcher = CachingFetcher::new(options);
//! # let _ = fetcher;
//! ```

#![forbid(unsafe_code)]

mod archive;
mod cache;
mod caching;
mod git;
mod http;
mod options;
mod tree;

pub use caching::CachingFetcher;
pub use options::FetchOptions;
pub use tvix_eval_api::fetch::{
    Cancel, FetchError, FetchRequest, Fetched, Fetcher, GitRequest, GitTree,
};

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use tvix_eval_api;
#[doc(no_inline)]
pub use tvix_http;

use tvix_eval_api::fetch::{file_path, git_url, split_scheme};
