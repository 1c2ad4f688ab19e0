//! Builds and substitutions.

use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{BuildMode, Request};

use super::{Operations, Reply};
use crate::failure::Failure;
use crate::log::Log;

impl Operations {
    pub(super) async fn build(&mut self, request: Request, _log: Log) -> Result<Reply, Failure> {
        let mode = match &request {
            Request::BuildPaths(it) => it.mode,
            Request::BuildPathsWithResults(it) => it.mode,
            Request::BuildDerivation(it) => it.mode,
            _ => BuildMode::Normal,
        };
        self.check_repair(mode == BuildMode::Repair)?;
        let _builds = self.builds(request.operation()).await?;
        Err(Failure::refused(format!(
            "operation '{}' is not supported yet",
            request.operation()
        )))
    }

    /// Fetches those of `paths` that substituters have.
    pub(super) async fn substitute(&mut self, _paths: Vec<StorePath>, _log: Log) {}
}
