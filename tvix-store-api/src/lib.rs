//! The [`Store`] trait of the Tvix build flow and its back ends.
//!
//! A store holds store objects (file system trees, exchanged as NAR) under store paths, with what
//! is known of each: a [`PathInfo`]. Few methods are required of a back end; what can be made
//! from them is in [`StoreExt`]. What every back end promises is the `# Contract` section of
//! [`Store`], and the module `conformance` (feature `conformance`) checks it.

mod error;
mod ext;
mod forward;
mod memory;
mod store;
mod uri;
pub mod verify;

pub use error::{BoxError, Fault, StoreError};
pub use ext::StoreExt;
pub use memory::MemoryStore;
pub use nix_compat::path_info::PathInfo;
pub use nix_compat::realisation::{DrvOutput, Realisation};
pub use store::{NarStream, Store};
pub use uri::{StoreUri, StoreUriError};
