//! The trait [`Evaluator`] of the Tvix build flow, its events, and two evaluators that need no
//! language: one for graphs made in Rust, one for `.drv` files.
//!
//! An evaluator has no access to a store. It turns a request into a stream of [`EvalEvent`]s:
//! derivations as soon as they are instantiated, so that builds start during evaluation, and
//! [`Realise`] requests where evaluation itself needs build outputs (import from derivation).
//!
//! # From a graph to its events
//!
//! This example evaluates a graph made in Rust. Only derivations that the attributes need are
//! yielded, inputs first:
//!
//! ```
//! use futures::StreamExt;
//! use nix_compat::derivation::DerivationBuilder;
//! use nix_compat::store_path::StoreDir;
//! use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator};
//! use tvix_eval_api::{EvalEvent, EvalRequest, Evaluator, RealiseError};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = StoreDir::default();
//! let builder = |name: &str| DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
//! let libc = builder("libc").outputs(["out", "dev"]).instantiate(&dir)?;
//! let hello = builder("hello").input_env("libc", &libc, "dev").instantiate(&dir)?;
//! let evaluator = InMemoryEvaluator::new().derivation(&libc).root("hello", &hello);
//!
//! let mut events = evaluator.evaluate(EvalRequest::attrs(["hello"])).await?;
//! let mut names = Vec::new();
//! while let Some(event) = events.next().await {
//!     match event? {
//!         EvalEvent::Derivation { derivation, .. } => names.push(derivation.name.to_string()),
//!         EvalEvent::Root(root) => assert_eq!(root.wanted.drv_path, hello.path),
//!         _ => {}
//!     }
//! }
//! assert_eq!(names, ["libc", "hello"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Imports
//!
//! An attribute may depend on the output of a build. Only this attribute waits for the reply. A
//! caller that does not build drops the request, and the attribute fails:
//!
//! ```
//! # use futures::StreamExt;
//! # use nix_compat::derivation::DerivationBuilder;
//! # use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator};
//! # use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, Evaluator, RealiseError};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = Default::default();
//! # let builder = |name: &str| DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
//! # let hello = builder("hello").instantiate(&dir)?;
//! let lock = builder("lock-file").instantiate(&dir)?;
//! let evaluator = InMemoryEvaluator::new()
//!     .root("hello", &hello)
//!     .import("packages", [(&lock, ["out"])], |outputs| {
//!         let path = outputs[0].local_path.clone();
//!         let _ = std::fs::read(&path).map_err(|source| EvalError::Read { path, source })?;
//!         Ok(EvaluatedAttribute::new()) // depends on the contents of the file
//!     });
//!
//! let mut events = evaluator.evaluate(EvalRequest::attrs(["packages", "hello"])).await?;
//! let (mut roots, mut failed) = (Vec::new(), Vec::new());
//! while let Some(event) = events.next().await {
//!     match event {
//!         Ok(EvalEvent::Realise(realise)) => drop(realise), // or build, and call realise.reply.answer(..)
//!         Ok(EvalEvent::Root(root)) => roots.push(root.name),
//!         Ok(_) => {}
//!         Err(error) => failed.push(error.attr_path().unwrap_or_default().to_owned()),
//!     }
//! }
//! assert_eq!((roots, failed), (vec!["hello".to_owned()], vec!["packages".to_owned()]));
//! # Ok(())
//! # }
//! ```
//!
//! # Implementing an evaluator
//!
//! [`memory::StreamEvaluator`] makes an evaluator of a function; implementing [`Evaluator`] takes
//! one method, and a second one to share the work of a request with others ([`Workers`]). The module `conformance` (feature `conformance`) tests either against the contract.

#![forbid(unsafe_code)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "drv-files")]
pub mod drv;
mod error;
mod evaluator;
mod event;
mod failure;
pub mod fetch;
mod forward;
mod job;
pub mod memory;
mod request;
pub mod tasks;
mod workers;

pub use error::{ErrorPlace, EvalError, EvalErrorKind, Position};
pub use evaluator::{EvalStream, Evaluator};
pub use event::{
    Ahead, AheadRequest, Diagnostic, EvalEvent, Realise, RealiseError, RealiseReply,
    RealisedOutput, Root, RootOrder, Severity, SourceAddition, SourceContent, WantedOutputs,
    realise, realise_ahead,
};
pub use failure::{AttrPath, AttrPathName, EvalFailure};
pub use job::{EvalCost, JobDetails, JobOptions};
pub use request::{EvalRequest, EvalSource};
pub use workers::Workers;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bytes;
#[doc(no_inline)]
pub use futures;
#[doc(no_inline)]
pub use nix_compat;
