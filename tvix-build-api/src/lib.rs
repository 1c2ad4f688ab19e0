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
//! | `daemon` (feature `daemon`) | building on a Nix daemon, here or on another machine |
//!
//! [`translate`] computes the arguments, environment and files of a builder program, for back ends
//! that start one.

#[cfg(feature = "builder")]
mod attributes;
#[cfg(feature = "builder")]
mod builder;
#[cfg(feature = "builder")]
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(all(unix, feature = "daemon"))]
pub mod daemon;
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
pub mod outputs;
mod profile;
#[cfg(feature = "builder")]
mod reference_graphs;
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
pub use failure::{BuildFailure, BuilderErrorKind, FailureKind, ResourceUsage};
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

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bstr;
#[cfg(feature = "builder")]
#[doc(no_inline)]
pub use bytes;
#[doc(no_inline)]
pub use nix_compat;
#[cfg(feature = "builder")]
#[doc(no_inline)]
pub use tokio;
#[cfg(feature = "builder")]
#[doc(no_inline)]
pub use tokio_util;
#[cfg(feature = "builtins")]
#[doc(no_inline)]
pub use tvix_http;
#[cfg(feature = "builder")]
#[doc(no_inline)]
pub use tvix_store_api;
#[cfg(feature = "builder")]
#[doc(no_inline)]
pub use tvix_tree;
