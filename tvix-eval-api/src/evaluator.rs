//! The trait.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{EvalError, EvalEvent, EvalRequest};

/// What an evaluation yields. It ends after the last event or after an error that ends it all;
/// errors of one attribute among several are items, and others go on.
pub type EvalStream = BoxStream<'static, Result<EvalEvent, EvalError>>;

/// Turns a request into derivations.
///
/// # Contract
///
/// - **Order.** Whatever a derivation needs comes before it: its input derivations as
///   [`EvalEvent::Derivation`], its sources as [`EvalEvent::AddSource`] (unless the store is
///   known to have them). A [`EvalEvent::Root`] and a [`EvalEvent::Realise`] come after the
///   derivations that they name.
/// - **At once.** A derivation is sent as soon as it is instantiated, not when evaluation ends.
///   Sending one twice is allowed.
/// - **Imports.** [`EvalEvent::Realise`] suspends only what needs the answer. Several may be in
///   flight, answers come in any order, and nothing is evaluated twice. A reply that is dropped
///   counts as [`RealiseError::Cancelled`].
/// - **Back-pressure.** Whoever does not poll the stream stops the evaluation before long.
/// - **Cancellation.** Dropping the stream, or the future of `evaluate`, ends the evaluation and
///   whatever it runs.
/// - **Concurrency.** `evaluate` may be called many times at once.
/// - **Errors.** What is wrong with one of several attributes is an item of which
///   [`EvalError::attr_path`] says which it is; the others go on. An attribute whose import
///   fails ends with [`EvalError::Import`].
///
/// The module `conformance` (feature of that name) tests all of this.
///
/// [`RealiseError::Cancelled`]: crate::RealiseError::Cancelled
#[async_trait]
pub trait Evaluator: Send + Sync + Debug {
    /// Starts to evaluate `request`.
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError>;
}
