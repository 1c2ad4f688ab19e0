//! The coordinator of the Tvix build flow. It takes derivations from an evaluator while evaluation
//! is still running, checks the store, has builders build the missing outputs, and sees to it that
//! they reach the store.
//!
//! The logic is a state machine without I/O ([`machine`]); [`Coordinator`] runs it with tokio on
//! the three traits. A [`Session`] is a stream of events and a future of the report.
//!
//! # Build something
//!
//! ```
//! use std::sync::Arc;
//! use nix_compat::derivation::DerivationBuilder;
//! use tvix_build_api::{BuilderProfile, memory::InMemoryBuilder};
//! use tvix_coordinator::Coordinator;
//! use tvix_eval_api::{EvalRequest, memory::InMemoryEvaluator};
//! use tvix_store_api::{MemoryStore, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new(Default::default()));
//! let hello = DerivationBuilder::new("hello", "x86_64-linux", "/bin/sh")
//!     .instantiate(store.store_dir())?;
//! let evaluator = InMemoryEvaluator::new().root("hello", &hello);
//! let builder = InMemoryBuilder::trivial(BuilderProfile::new("here", "x86_64-linux", 4));
//!
//! let report = Coordinator::new(Arc::new(evaluator), store)
//!     .with_builder(Arc::new(builder))
//!     .start(EvalRequest::attrs(["hello"]))
//!     .report()
//!     .await;
//! assert!(report.is_success());
//! assert_eq!(report.output_paths().count(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Watch it
//!
//! A [`Session`] is also a stream: take [`EventRecord`]s from it while it works, then await
//! [`Session::report`].
//!
//! # Without tokio
//!
//! With the feature `driver` off (it is on by default) the crate has the [`machine`], events and reports,
//! and depends on no runtime. `examples/drive_machine.rs` drives the machine by hand.
//!
//! # Decide about failures
//!
//! [`Options::on_failure`] stops or goes on; [`Coordinator::on_failure`] asks a callback each time.

#![forbid(unsafe_code)]

mod component_error;
#[cfg(feature = "driver")]
mod driver;
pub mod event;
pub mod machine;
pub mod options;
pub mod report;

/// The hash part of a path is a hash already.
fn digest_hash(path: &nix_compat::store_path::StorePath) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *path.digest();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

pub use component_error::{ComponentError, ComponentErrorKind, StoreErrorKind};
#[cfg(feature = "driver")]
pub use driver::{Coordinator, Session, SessionEvents, SessionReport, SetupError};
pub use event::{BuildEvent, EVENT_VERSION, EventRecord, LogText};
pub use machine::MAX_BUILDERS;
pub use options::{
    BuildPolicy, CheckOptions, Decision, OnFailure, OnVanished, Options, RetryPolicy,
};
pub use report::{
    CheckProblem, CheckReport, Counts, Failure, FailureCause, Report, RootReport, SessionError,
    Skipped, Status,
};

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bytes;
#[cfg(feature = "driver")]
#[doc(no_inline)]
pub use futures;
#[doc(no_inline)]
pub use nix_compat;
#[doc(no_inline)]
pub use serde_json;
#[cfg(feature = "driver")]
#[doc(no_inline)]
pub use tokio_util;
#[doc(no_inline)]
pub use tvix_build_api;
#[doc(no_inline)]
pub use tvix_eval_api;
#[cfg(feature = "driver")]
#[doc(no_inline)]
pub use tvix_store_api;
