//! Fetching for evaluators of the Tvix build flow: files and archives over HTTP(S) and from `file:`
//! URLs, trees of Git repositories, and a cache of both on disk.
//!
//! [`CachingFetcher`] implements [`Fetcher`], which an evaluator calls on threads that may block.
//!
//! ```
//! use tvix_fetch::{CachingFetcher, FetchOptions};
//!
//! let mut options = FetchOptions::default();
//! options.cache = Some("/tmp/fetched".into());
//! let fetcher = CachingFetcher::new(options);
//! # let _ = fetcher;
//! ```

#![forbid(unsafe_code)]

mod archive;
mod cache;
mod caching;
mod git;
mod http;
mod tree;
mod zip;

pub use caching::{CachingFetcher, FetchOptions};
pub use tvix_eval_api::fetch::{
    Cancel, FetchError, FetchRequest, Fetched, Fetcher, GitRequest, GitTree,
};

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use tvix_eval_api;
#[doc(no_inline)]
pub use tvix_http;

use tvix_eval_api::fetch::{file_path, git_url, split_scheme};
