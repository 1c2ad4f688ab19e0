//! The trait `Evaluator`.

use std::fmt::Debug;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::tasks::TaskSource;
use crate::{EvalError, EvalEvent, EvalRequest};

/// The events of an evaluation.
///
/// The stream ends after the last event, or after an error that ends the evaluation. An error of
/// one attribute among several is an item of the stream, and the other attributes continue.
pub type EvalStream = BoxStream<'static, Result<EvalEvent, EvalError>>;

/// Evaluates a request to derivations.
///
/// # Contract
///
/// - **Order.** The inputs of a derivation precede it: its input derivations as
///   [`EvalEvent::Derivation`], its sources as [`EvalEvent::AddSource`] (unless the store is known
///   to have them). [`EvalEvent::Root`] and [`EvalEvent::Realise`] follow the derivations that they
///   name.
/// - **Immediacy.** A derivation is sent as soon as it is instantiated, not at the end of
///   evaluation. Duplicates are allowed.
/// - **Imports.** [`EvalEvent::Realise`] suspends only the part of the evaluation that needs the
///   reply. Several imports may be in flight, replies may arrive in any order, and nothing is
///   evaluated twice. A dropped reply counts as [`RealiseError::Cancelled`]. A request may come
///   before evaluation waits for it ([`Realise::ahead`](crate::Realise::ahead)).
/// - **Back-pressure.** Evaluation stops soon after the stream is no longer polled.
/// - **Cancellation.** Dropping the stream, or the future of `evaluate`, ends the evaluation and
///   its tasks and processes.
/// - **Concurrency.** `evaluate` may be called concurrently.
/// - **Errors.** An error of one attribute among several is an item of the stream.
///   [`EvalError::attr_path`] names the attribute; the other attributes continue. An attribute with
///   a failed import ends with [`EvalError::Import`].
///
/// The module `conformance` (feature `conformance`) tests this contract.
///
/// [`RealiseError::Cancelled`]: crate::RealiseError::Cancelled
#[async_trait]
pub trait Evaluator: Send + Sync + Debug {
    /// Starts the evaluation of `request`.
    ///
    /// # Errors
    ///
    /// Errors in the request itself, such as an unsupported kind of source. Errors of the
    /// evaluation are items of the stream.
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError>;

    /// Starts an evaluation of `request` that shares its work with others: instead of all attribute
    /// paths of the request, it evaluates the tasks that it takes from `tasks`, until there are none.
    ///
    /// The contract of [`Evaluator::evaluate`] applies. The values of all tasks are in one evaluation,
    /// so nothing that they share is evaluated twice. The evaluation yields the root or the error of a
    /// task before it drops the task; roots and errors have the task's place
    /// ([`TaskPlace::order`](crate::tasks::TaskPlace::order)). A set or list may be given back as one
    /// task for each member ([`Task::split`](crate::tasks::Task::split)).
    ///
    /// Returns `None` if this evaluator evaluates only complete requests, which is the default.
    ///
    /// # Errors
    ///
    /// As for [`Evaluator::evaluate`].
    async fn evaluate_tasks(
        &self,
        request: &EvalRequest,
        tasks: TaskSource,
    ) -> Result<Option<EvalStream>, EvalError> {
        let _ = (request, tasks);
        Ok(None)
    }
}
