//! The [`Builder`] trait of the Tvix build flow and its back ends.
//!
//! A builder takes a [`BuildRequest`] (a derivation whose inputs are all known and valid) and a
//! [`BuildContext`] (where to read the inputs, where log lines go, how to stop) and answers with a
//! [`BuildOutcome`]: a failed build is an outcome, an `Err` is the builder's own trouble. What
//! every back end promises is the `# Contract` section of [`Builder`], and the module
//! `conformance` (feature `conformance`) checks it.
//!
//! | back end | is for |
//! |---|---|
//! | [`memory`] | tests and embedders: closures in place of builder programs |
//! | `sandbox` (feature `sandbox`) | building on this machine, in Linux namespaces |
//!
//! [`translate`] says what a builder program is started with, for back ends that start one.

#[cfg(feature = "builder")]
mod attributes;
#[cfg(feature = "builder")]
mod builder;
#[cfg(feature = "builder")]
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod difference;
#[cfg(feature = "builder")]
mod error;
mod failure;
#[cfg(feature = "builder")]
mod forward;
mod limits;
#[cfg(feature = "builder")]
mod log;
#[cfg(feature = "builder")]
pub mod memory;
#[cfg(feature = "builder")]
mod outcome;
#[cfg(feature = "builder")]
mod outputs;
mod profile;
#[cfg(feature = "builder")]
mod request;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub mod sandbox;
#[cfg(feature = "builder")]
mod slot;
mod structured_log;
pub mod terminal;
#[cfg(feature = "builder")]
pub mod translate;

#[cfg(feature = "builder")]
pub use builder::Builder;
#[cfg(feature = "builder")]
pub use check::{CheckError, check, check_against};
pub use difference::{CheckOutcome, Difference};
#[cfg(feature = "builder")]
pub use error::BuilderError;
pub use failure::{BuildFailure, FailureKind, ResourceUsage};
pub use limits::BuildLimits;
#[cfg(feature = "builder")]
pub use log::{LogLine, LogReceiver, LogSender, log_channel};
#[cfg(feature = "builder")]
pub use outcome::{BuildOutcome, BuildSuccess, Delivery, PushedOutput, StreamedOutput};
pub use profile::{BuilderProfile, Requirements, detected_features, further_systems, this_system};
#[cfg(feature = "builder")]
pub use request::{BuildContext, BuildRequest};
#[cfg(feature = "builder")]
pub use slot::{BuildSlot, SlotMessage, SlotReceiver, slot_channel};
pub use structured_log::StructuredLog;
