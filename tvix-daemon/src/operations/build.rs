//! Builds and substitutions, which [`Builds`](crate::Builds) does.

use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{BuildMode, Operation, Request};

use super::{DONE, Operations, Reply};
use crate::failure::Failure;
use crate::log::Log;

impl Operations {
    pub(super) async fn build(&mut self, request: Request, log: Log) -> Result<Reply, Failure> {
        let mode = match &request {
            Request::BuildPaths(it) => it.mode,
            Request::BuildPathsWithResults(it) => it.mode,
            Request::BuildDerivation(it) => it.mode,
            _ => BuildMode::Normal,
        };
        self.check_repair(mode == BuildMode::Repair)?;
        let builds = self.builds(request.operation()).await?;
        let (client, log) = (&self.client, log.sender());
        match request {
            Request::BuildPaths(it) => {
                builds.build_paths(it.paths, mode, client, log).await?;
                self.encoded(&DONE)
            }
            Request::BuildPathsWithResults(it) => {
                self.encoded(&builds.build(it.paths, mode, client, log).await?)
            }
            Request::BuildDerivation(it) => {
                self.encoded(&builds.build_derivation(it, client, log).await?)
            }
            Request::EnsurePath(it) => {
                builds.ensure(it.path, client, log).await?;
                self.encoded(&DONE)
            }
            Request::QueryMissing(it) => {
                self.encoded(&builds.missing(&it.paths, client, log).await?)
            }
            other => Err(Failure::refused(format!(
                "operation '{}' is not supported",
                other.operation()
            ))),
        }
    }

    /// Fetches those of `paths` that substituters have. Failures are messages for the client.
    pub(super) async fn substitute(
        &mut self,
        paths: Vec<StorePath>,
        log: Log,
    ) -> Result<(), Failure> {
        if self.backend().await?.builds.is_none() {
            return Ok(());
        }
        let builds = self.builds(Operation::QueryValidPaths).await?;
        Ok(builds
            .substitute(&paths, &self.client, log.sender())
            .await?)
    }
}
