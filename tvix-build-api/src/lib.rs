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

mod attributes;
mod builder;
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod forward;
mod log;
pub mod memory;
mod outcome;
mod outputs;
mod request;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub mod sandbox;
mod slot;
mod structured_log;
pub mod terminal;
pub mod translate;

pub use builder::{Builder, BuilderProfile, detected_features, further_systems, this_system};
pub use check::{CheckError, CheckOutcome, Difference, check, check_against};
pub use error::BuilderError;
pub use log::{LogLine, LogReceiver, LogSender, log_channel};
pub use outcome::{
    BuildFailure, BuildOutcome, BuildSuccess, Delivery, FailureKind, PushedOutput, ResourceUsage,
    StreamedOutput,
};
pub use request::{BuildContext, BuildLimits, BuildRequest};
pub use slot::{BuildSlot, SlotMessage, SlotReceiver, slot_channel};
pub use structured_log::StructuredLog;
