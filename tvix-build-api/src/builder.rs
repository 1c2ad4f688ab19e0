//! The trait [`Builder`].

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{BuildContext, BuildOutcome, BuildRequest, BuilderError, BuilderProfile};

/// Builds derivations.
///
/// # Contract
///
/// - **The outcome is a value.** A fault of the derivation is a [`BuildOutcome::Failure`]. An `Err`
///   is a fault of the builder itself; if [`BuilderError::is_retryable`] returns true, the same
///   request may succeed later or on another builder.
/// - **All or nothing.** A success has every output of the derivation. After a failure, none of the
///   outputs was pushed.
/// - **Delivery.** If the request names a store that this builder knows, outputs are pushed to it,
///   references first, are valid when `build` returns, and are delivered as [`Delivery::Pushed`].
///   Otherwise they are delivered as [`Delivery::Streamed`]; the streams outlive the build and may
///   be read in any order or dropped.
/// - **Isolation.** A build sees the inputs of the request and no other path of the store.
/// - **Cancellation.** When the token is cancelled, the build ends soon with
///   [`FailureKind::Cancelled`]. Dropping the future ends the build too. In both cases no process,
///   file or partially pushed output of the build remains.
/// - **Concurrency.** `build` may be called concurrently. The builder does not queue; the caller
///   respects [`BuilderProfile::max_jobs`].
/// - **Waiting.** A build that waits for another process, such as for a lock that it holds, gives
///   up its [slot](BuildContext::slot) meanwhile, and takes one again before it continues.
/// - **Logs** are sent line by line, in order, completely before `build` returns.
///
/// [`Delivery::Pushed`]: crate::Delivery::Pushed
/// [`Delivery::Streamed`]: crate::Delivery::Streamed
/// [`FailureKind::Cancelled`]: crate::FailureKind::Cancelled
/// [`BuilderError::is_retryable`]: crate::BuilderError::is_retryable
#[async_trait]
pub trait Builder: Send + Sync + Debug {
    /// The capabilities of this builder. Constant over its lifetime.
    fn profile(&self) -> &BuilderProfile;

    /// Builds `request`.
    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError>;
}
