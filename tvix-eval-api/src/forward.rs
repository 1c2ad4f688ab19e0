//! Implements `Evaluator` for pointers to evaluators.

use std::sync::Arc;

use async_trait::async_trait;

use crate::tasks::TaskSource;
use crate::{EvalError, EvalRequest, EvalStream, Evaluator};

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        // A method that gets a default implementation later must be forwarded here too.
        #[deny(clippy::missing_trait_methods)]
        impl<E: Evaluator + ?Sized> Evaluator for $pointer {
            async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
                (**self).evaluate(request).await
            }

            async fn evaluate_tasks(
                &self,
                request: &EvalRequest,
                tasks: TaskSource,
            ) -> Result<Option<EvalStream>, EvalError> {
                (**self).evaluate_tasks(request, tasks).await
            }
        }
    )*};
}

forward!(Box<E>, Arc<E>, &E);
