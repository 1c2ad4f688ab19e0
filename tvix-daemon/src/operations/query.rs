//! Queries.

use std::sync::Arc;

use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{
    FoundRealisation, Operation, QueryAllValidPaths, QueryPathFromHashPart, QueryPathInfo,
    QueryRealisation, QueryReferrers, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, QueryValidDerivers, QueryValidPaths, RegisterDrvOutput,
    SubstitutablePathInfo, Tagged, UnkeyedPathInfo,
};

use super::{Operations, Reply};
use crate::failure::Failure;
use crate::log::Log;

/// Paths that are queried at a substituter at once.
const QUERIED: usize = 1024;

impl Operations {
    pub(super) async fn info(
        &mut self,
        path: &StorePath,
    ) -> Result<Option<Arc<PathInfo>>, Failure> {
        let info = self.store().await?.path_info(path).await;
        info.map_err(|error| self.failed(&error))
    }

    /// The info of a path that must be valid.
    pub(super) async fn valid_info(&mut self, path: &StorePath) -> Result<Arc<PathInfo>, Failure> {
        let info = self.info(path).await?;
        info.ok_or_else(|| self.not_valid(path))
    }

    pub(super) fn not_valid(&self, path: &StorePath) -> Failure {
        let path = self.context.store_dir().display(path);
        Failure::refused(format!("path '{path}' is not valid"))
    }

    pub(super) async fn path_info(&mut self, request: &QueryPathInfo) -> Result<Reply, Failure> {
        let info = self.info(&request.path).await?;
        let info = info.map(|info| UnkeyedPathInfo::from(Arc::unwrap_or_clone(info)));
        self.reply(request, &Tagged(info))
    }

    pub(super) async fn valid_paths(
        &mut self,
        request: QueryValidPaths,
        log: Log,
    ) -> Result<Reply, Failure> {
        let store = self.store().await?;
        let valid = store.valid_paths(&request.paths).await;
        let mut valid = valid.map_err(|error| self.failed(&error))?;
        if request.substitute && valid.len() < request.paths.len() {
            let missing = request.paths.iter().filter(|path| !valid.contains(path));
            self.substitute(missing.cloned().collect(), log).await?;
            let found = store.valid_paths(&request.paths).await;
            valid = found.map_err(|error| self.failed(&error))?;
        }
        self.reply(&request, &sorted(valid))
    }

    pub(super) async fn by_hash_part(
        &mut self,
        request: &QueryPathFromHashPart,
    ) -> Result<Reply, Failure> {
        let found = self.store().await?.find(&request.digest).await;
        let found = found.map_err(|error| self.failed(&error))?;
        self.reply(request, &found.map(|info| info.path.clone()))
    }

    pub(super) async fn referrers(&mut self, request: &QueryReferrers) -> Result<Reply, Failure> {
        let maintenance = self.maintenance(Operation::QueryReferrers).await?;
        let referrers = maintenance.referrers(&request.path).await;
        self.reply(request, &sorted(referrers.map_err(|it| self.failed(&it))?))
    }

    pub(super) async fn derivers(
        &mut self,
        request: &QueryValidDerivers,
    ) -> Result<Reply, Failure> {
        let maintenance = self.maintenance(Operation::QueryValidDerivers).await?;
        let derivers = maintenance.derivers(&request.path).await;
        self.reply(request, &sorted(derivers.map_err(|it| self.failed(&it))?))
    }

    pub(super) async fn all_valid_paths(
        &mut self,
        request: &QueryAllValidPaths,
    ) -> Result<Reply, Failure> {
        let maintenance = self.maintenance(Operation::QueryAllValidPaths).await?;
        let paths = maintenance.all_valid_paths().await;
        self.reply(request, &sorted(paths.map_err(|it| self.failed(&it))?))
    }

    pub(super) async fn realisation(
        &mut self,
        request: &QueryRealisation,
    ) -> Result<Reply, Failure> {
        let found = self.store().await?.realisation(&request.id).await;
        let found = found.map_err(|error| self.failed(&error))?;
        self.reply(request, &FoundRealisation(found.map(Into::into)))
    }

    /// Nothing but its signature vouches for a realisation, so untrusted clients need a trusted one.
    pub(super) async fn register_realisation(
        &mut self,
        request: &RegisterDrvOutput,
    ) -> Result<Reply, Failure> {
        let realisation = &request.realisation;
        let options = &self.daemon.options;
        let vouched = self.client.is_trusted()
            || !options.require_signatures
            || realisation.is_signed_by(&options.trusted_keys);
        if !vouched {
            return Err(Failure::refused(format!(
                "cannot register realisation '{}' because it lacks a signature by a trusted key",
                realisation.id
            )));
        }
        let added = self.store().await?.add_realisation(realisation).await;
        added.map_err(|error| self.failed(&error))?;
        self.reply(request, &())
    }

    /// What substituters know of paths, each path from the first one that has it. A substituter that fails is
    /// left out.
    async fn at_substituters(
        &mut self,
        paths: &[StorePath],
    ) -> Result<Vec<Arc<PathInfo>>, Failure> {
        if !self.client.settings.substitute {
            return Ok(Vec::new());
        }
        let substituters = self.backend().await?.substituters.clone();
        let mut left: Vec<StorePath> = paths.to_vec();
        let mut found = Vec::new();
        for substituter in substituters {
            let mut still = Vec::new();
            for group in left.chunks(QUERIED) {
                match substituter.path_infos(group).await {
                    Ok(infos) => {
                        for (path, info) in group.iter().zip(infos) {
                            match info {
                                Some(info) => found.push(info),
                                None => still.push(path.clone()),
                            }
                        }
                    }
                    Err(_) => still.extend_from_slice(group),
                }
            }
            left = still;
        }
        Ok(found)
    }

    pub(super) async fn substitutable_paths(
        &mut self,
        request: &QuerySubstitutablePaths,
    ) -> Result<Reply, Failure> {
        let found = self.at_substituters(&request.paths).await?;
        let paths = found.iter().map(|info| info.path.clone());
        self.reply(request, &paths.collect())
    }

    pub(super) async fn substitutable_info(
        &mut self,
        request: &QuerySubstitutablePathInfo,
    ) -> Result<Reply, Failure> {
        let found = self
            .at_substituters(std::slice::from_ref(&request.path))
            .await?;
        let found = found.first().map(|info| substitutable(info));
        self.reply(request, &Tagged(found))
    }

    pub(super) async fn substitutable_infos(
        &mut self,
        request: &QuerySubstitutablePathInfos,
    ) -> Result<Reply, Failure> {
        let paths: Vec<StorePath> = request.paths.iter().map(|(path, _)| path.clone()).collect();
        let found = self.at_substituters(&paths).await?;
        let infos = found
            .iter()
            .map(|info| (info.path.clone(), substitutable(info)));
        self.reply(request, &infos.collect())
    }
}

fn substitutable(info: &PathInfo) -> SubstitutablePathInfo {
    SubstitutablePathInfo {
        deriver: info.deriver.clone(),
        references: info.references.clone(),
        download_size: 0,
        nar_size: info.nar_size,
    }
}

fn sorted(paths: impl IntoIterator<Item = StorePath>) -> SortedSet<StorePath> {
    paths.into_iter().collect()
}
