//! The trait.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{BuildContext, BuildOutcome, BuildRequest, BuilderError, BuilderProfile};

/// Builds derivations.
///
/// # Contract
///
/// - **The outcome is a value.** Whatever the derivation is to blame for is a
///   [`BuildOutcome::Failure`]; an `Err` is the builder's own trouble, and the same request may
///   succeed elsewhere or later if [`BuilderError::is_retryable`].
/// - **All or nothing.** A success holds every output of the derivation. After a failure none of
///   its outputs was pushed.
/// - **Delivery.** If the request names a store that this builder knows, outputs are pushed there
///   in an order in which references come first, are valid when `build` returns, and are
///   delivered as [`Delivery::Pushed`]. Else they come as [`Delivery::Streamed`]; their streams
///   outlive the build and may be read in any order or dropped.
/// - **Isolation.** The build sees the inputs of the request and nothing else of the store.
/// - **Cancellation.** When the token is cancelled the build ends soon with
///   [`FailureKind::Cancelled`]; when the future is dropped it ends too. Either way no process,
///   file or half-pushed output of it stays behind.
/// - **Concurrency.** `build` may be called many times at once; the builder does not queue, who
///   calls it keeps to [`BuilderProfile::max_jobs`].
/// - **Waiting.** A build that waits for something that another process does, such as a lock that it
///   holds, gives up its [slot](BuildContext::slot) meanwhile, and takes one again before it goes on.
/// - **Logs** are sent line by line, in order, all of them before `build` returns.
///
/// [`Delivery::Pushed`]: crate::Delivery::Pushed
/// [`Delivery::Streamed`]: crate::Delivery::Streamed
/// [`FailureKind::Cancelled`]: crate::FailureKind::Cancelled
/// [`BuilderError::is_retryable`]: crate::BuilderError::is_retryable
#[async_trait]
pub trait Builder: Send + Sync + Debug {
    /// What this builder can build, and how much at once. Does not change.
    fn profile(&self) -> &BuilderProfile;

    /// Builds `request`.
    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError>;
}
