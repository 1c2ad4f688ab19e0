//! Builds for the store of a daemon that does not trust us.

use std::sync::Arc;

use async_trait::async_trait;
use nix_compat::derivation::Output;
use tvix_build_api::sandbox::SandboxBuilder;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile,
};
use tvix_store_api::Store as _;
use tvix_store_api::daemon::DaemonStore;

/// Refuses builds whose outputs the daemon would refuse: those without content addresses.
#[derive(Debug)]
pub struct Untrusted {
    pub builder: SandboxBuilder,
    pub store: Arc<DaemonStore>,
}

#[async_trait]
impl Builder for Untrusted {
    fn profile(&self) -> &BuilderProfile {
        self.builder.profile()
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let by_inputs = request
            .derivation
            .outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::InputAddressed(_) | Output::Deferred));
        if !by_inputs {
            return self.builder.build(request, context).await;
        }
        Err(BuilderError::Unsupported {
            builder: self.profile().name.clone(),
            message: format!(
                "the daemon of store '{}' does not trust you, so it would refuse outputs that are built here; \
                 its setting 'trusted-users' has to name you",
                self.store.uri()
            ),
        })
    }
}
