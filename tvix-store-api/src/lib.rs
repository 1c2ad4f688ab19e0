//! The [`Store`] trait of the Tvix build flow and its back ends.
//!
//! A store holds store objects (file system trees, exchanged as NAR) under store paths, with a
//! [`PathInfo`] for each. The trait has few required methods; operations that are derived from them
//! are in [`StoreExt`]. The guarantees of every back end are in the `# Contract` section of
//! [`Store`]; the module `conformance` (feature `conformance`) tests them.

#![forbid(unsafe_code)]

mod blocking;
#[cfg(all(unix, feature = "binary-cache"))]
pub mod cache;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(all(unix, feature = "daemon"))]
pub mod daemon;
mod error;
mod ext;
mod forward;
#[cfg(all(unix, any(feature = "daemon", feature = "local-fs")))]
mod links;
#[cfg(all(unix, feature = "local-fs"))]
pub mod local_fs;
mod memory;
mod object;
#[cfg(unix)]
mod open;
mod store;
mod tiered;

mod uri;
pub mod verify;

pub use blocking::writer_stream;
pub use error::{BoxError, Fault, StoreError, StoreErrorKind};
pub use ext::{LocalPath, StoreExt};
pub use memory::MemoryStore;
pub use nix_compat::path_info::PathInfo;
pub use nix_compat::realisation::{DrvOutput, Realisation};
pub use object::VerifiedObject;
#[cfg(unix)]
pub use open::{OpenError, OpenOptions, OpenedStore, open, open_kind};
pub use store::{ExpectedPath, NarStream, SourceTree, Store};
pub use tiered::TieredStore;
pub use uri::{StoreUri, StoreUriError};

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bytes;
#[doc(no_inline)]
pub use futures;
#[doc(no_inline)]
pub use nix_compat;
#[cfg(feature = "binary-cache")]
#[doc(no_inline)]
pub use tvix_http;
#[doc(no_inline)]
pub use tvix_tree;
#[cfg(all(unix, feature = "daemon"))]
#[doc(no_inline)]
pub use tvix_worker_protocol;
