//! The [`Builder`] trait of the Tvix build flow and its back ends.
//!
//! A builder takes a [`BuildRequest`] (a derivation with inputs that are all known and valid) and a
//! [`BuildContext`] (the store to read the inputs from, the log channel, the cancellation token)
//! and returns a [`BuildOutcome`]. A failed build is an outcome; an `Err` is a fault of the builder
//! itself. The guarantees of every back end are in the `# Contract` section of [`Builder`]; the
//! module `conformance` (feature `conformance`) tests them.
//!
//! | back end | purpose |
//! |---|---|
//! | [`memory`] | tests and embedders: closures in place of builder programs |
//! | `sandbox` (feature `sandbox`) | building on this machine, in Linux namespaces |
//!
//! [`translate`] computes the arguments, environment and files of a builder program, for back ends
//! that start one.

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
