//! The [`Evaluator`] trait of the Tvix build flow, its events, and two evaluators that need no
//! language: one of a graph made in Rust, one of `.drv` files.
//!
//! An evaluator knows no store. It turns a request into a stream of [`EvalEvent`]s: derivations
//! the moment they are instantiated, so that they can be built while evaluation goes on, and
//! [`Realise`] requests where evaluation itself needs something built (import from derivation).

mod error;
mod evaluator;
mod event;
mod forward;
pub mod memory;
mod request;

pub use error::EvalError;
pub use evaluator::{EvalStream, Evaluator};
pub use event::{
    Diagnostic, EvalEvent, Realise, RealiseError, RealiseReply, RealisedOutput, Root, Severity,
    SourceAddition, SourceContent, WantedOutputs, realise,
};
pub use request::{EvalRequest, EvalSource};
