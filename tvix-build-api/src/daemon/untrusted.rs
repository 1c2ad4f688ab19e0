//! Builds on daemons that do not trust the client: by a `.drv` file in their store.

use tvix_store_api::daemon::DaemonConnection;
use tvix_store_api::{Store as _, StoreError, StoreExt as _, VerifiedObject};
use tvix_worker_protocol::{
    BuildMode, BuildPathsWithResults, BuildResult, DerivedPath, WantedOutputs,
};

use super::run::Log;
use super::{DaemonBuilder, Trouble};
use crate::{BuildContext, BuildRequest, BuilderError};

impl DaemonBuilder {
    /// Sends the `.drv` file with its closure, and has the daemon build it. The daemon builds or
    /// substitutes inputs that it did not accept.
    pub(super) async fn build_file(
        &self,
        connection: &mut DaemonConnection,
        request: &BuildRequest,
        context: &BuildContext,
        log: &mut Log,
    ) -> Result<BuildResult, Trouble> {
        self.send_derivation(request, context).await?;
        let call = BuildPathsWithResults {
            paths: vec![DerivedPath::Built {
                drv: request.drv_path.clone(),
                outputs: WantedOutputs::All,
            }],
            mode: BuildMode::Normal,
        };
        let failed = |error| self.call_failed("build", error);
        connection.request(&call).map_err(failed)?;
        self.ask_for_outputs(connection, request)?;
        self.follow(connection, request, log).await?;
        let results = connection.answer::<BuildPathsWithResults>().await;
        let result = results.map_err(failed)?.into_iter().next();
        let result = result.ok_or_else(|| self.backend("build", false, "it gave no result"))?;
        Ok(result.result)
    }

    async fn send_derivation(
        &self,
        request: &BuildRequest,
        context: &BuildContext,
    ) -> Result<(), BuilderError> {
        let (from, store) = (&*context.inputs, self.store().await?);
        let path = &request.drv_path;
        if self.0.options.daemon.uri() == from.uri() || self.0.inputs.has(path) {
            return Ok(());
        }
        let known = from.path_info(path).await;
        let known = known.map_err(|error| self.sending_failed(from, error))?;
        match known {
            Some(_) => {
                let copied = from.copy_closure(store, std::slice::from_ref(path)).await;
                copied.map_err(|error| self.sending_failed(from, error))?;
            }
            None => self.write_derivation(request, context).await?,
        }
        self.0.inputs.are_present([path.clone()]);
        Ok(())
    }

    /// Sends a derivation that the store of the inputs does not have as a file.
    async fn write_derivation(
        &self,
        request: &BuildRequest,
        context: &BuildContext,
    ) -> Result<(), BuilderError> {
        let (from, store) = (&*context.inputs, self.store().await?);
        let derivation = &request.derivation;
        let references = derivation.input_srcs.iter();
        let references = references.chain(derivation.input_drvs.keys()).cloned();
        let references: Vec<_> = references.collect();
        match from.copy_closure(store, &references).await {
            Ok(_) => {}
            Err(StoreError::NotFound { path, .. }) => {
                return Err(BuilderError::Unsupported {
                    builder: self.name(),
                    message: format!(
                        "its daemon does not trust this user, and needs '{path}', which is not in \
                         the store"
                    ),
                });
            }
            Err(error) => return Err(self.sending_failed(from, error)),
        }
        let dir = self.0.options.daemon.store_dir();
        let object = VerifiedObject::derivation_as(dir, &request.drv_path, derivation);
        let object = object.map_err(|error| self.store_failed("write the derivation", error))?;
        let added = store.add_many(vec![object]).await.into_iter().next();
        let added = added.unwrap_or(Ok(()));
        added.map_err(|error| self.store_failed("send the derivation", error))
    }
}
