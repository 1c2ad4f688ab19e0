//! `Builder` for pointers to builders.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile};

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        // Every method is forwarded, including those with a default; clippy rejects a missing one.
        #[deny(clippy::missing_trait_methods)]
        impl<B: Builder + ?Sized> Builder for $pointer {
            fn profile(&self) -> &BuilderProfile {
                (**self).profile()
            }

            async fn build(
                &self,
                request: BuildRequest,
                context: BuildContext,
            ) -> Result<BuildOutcome, BuilderError> {
                (**self).build(request, context).await
            }
        }
    )*};
}

forward!(Box<B>, Arc<B>, &B);
