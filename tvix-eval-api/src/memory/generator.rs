//! Evaluators made of a function.

use std::fmt;

use async_trait::async_trait;
use futures::{Stream, StreamExt};

use crate::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator};

/// An evaluator that is a function from requests to streams of events.
///
/// The evaluator stores no graph, so graphs may have any size: the stream makes derivations while
/// it is polled. The function must fulfil the contract of [`Evaluator`].
///
/// ```
/// use futures::{StreamExt, stream};
/// use nix_compat::derivation::DerivationBuilder;
/// use tvix_eval_api::memory::StreamEvaluator;
/// use tvix_eval_api::{EvalEvent, EvalRequest, Evaluator};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endless = StreamEvaluator::new(|_request| {
///     stream::iter(0u64..).map(|number| {
///         let made = DerivationBuilder::new(format!("drv-{number}"), "x86_64-linux", "/bin/sh")
///             .instantiate(&Default::default())?;
///         Ok(EvalEvent::Derivation { path: made.path, derivation: made.derivation, modulo: None })
///     })
/// });
/// let events = endless.evaluate(EvalRequest::attrs(["all"])).await?;
/// assert_eq!(events.take(3).count().await, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct StreamEvaluator<F>(F);

impl<F, S> StreamEvaluator<F>
where
    F: Fn(EvalRequest) -> S + Send + Sync,
    S: Stream<Item = Result<EvalEvent, EvalError>> + Send + 'static,
{
    /// An evaluator that answers each request with the stream returned by `factory`.
    pub fn new(factory: F) -> Self {
        Self(factory)
    }
}

#[async_trait]
impl<F, S> Evaluator for StreamEvaluator<F>
where
    F: Fn(EvalRequest) -> S + Send + Sync,
    S: Stream<Item = Result<EvalEvent, EvalError>> + Send + 'static,
{
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        Ok((self.0)(request).boxed())
    }
}

impl<F> fmt::Debug for StreamEvaluator<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamEvaluator(..)")
    }
}
