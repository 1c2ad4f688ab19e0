//! The coordinator of the Tvix build flow: it takes derivations from an evaluator while that still
//! evaluates, checks the store, has builders build what is missing, and sees to it that outputs
//! reach the store.
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
//! # Decide about failures
//!
//! [`Options::on_failure`] stops or goes on; [`Coordinator::on_failure`] asks a callback each time.

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

pub use driver::{Coordinator, Session, SessionEvents, SessionReport};
pub use event::{BuildEvent, EVENT_VERSION, EventRecord};
pub use options::{
    BuildPolicy, CheckOptions, Decision, OnFailure, OnVanished, Options, RetryPolicy,
};
pub use report::{
    CheckProblem, CheckReport, Counts, Failure, FailureCause, Report, RootReport, Skipped, Status,
};
