//! Roots, garbage, verification and signatures.

use tvix_worker_protocol::{
    AddIndirectRoot, AddPermRoot, AddSignatures, CollectGarbage, Collected, FindRoots, GcPaths,
    Obsolete, Operation, OptimiseStore, Root, VerifyStore, Version,
};

use super::{DONE, Operations, Reply, absolute};
use crate::failure::Failure;
use crate::log::Log;

/// What untrusted clients see in place of processes, as in Nix.
const CENSORED: &[u8] = b"{censored}";

impl Operations {
    pub(super) async fn roots(&mut self, request: &FindRoots) -> Result<Reply, Failure> {
        let maintenance = self.maintenance(Operation::FindRoots).await?;
        let found = maintenance
            .roots()
            .await
            .map_err(|error| self.failed(&error))?;
        let mut roots: Vec<Root> = found
            .into_iter()
            .map(|root| Root {
                link: match root.is_process && !self.client.is_trusted() {
                    true => CENSORED.into(),
                    false => root.link.into(),
                },
                path: root.path,
            })
            .collect();
        roots.sort_by(|one, other| (&one.path, &one.link).cmp(&(&other.path, &other.link)));
        roots.dedup();
        self.reply(request, &roots)
    }

    pub(super) async fn collect_garbage(
        &mut self,
        request: CollectGarbage,
        log: Log,
    ) -> Result<Reply, Failure> {
        if request.ignore_liveness {
            return Err(Failure::refused("you are not allowed to ignore liveness"));
        }
        if let GcPaths::Specific {
            delete_referrers: true,
            ..
        } = request.paths
        {
            return Err(Failure::refused(
                "deleting the referrers of paths is not supported",
            ));
        }
        let maintenance = self.maintenance(Operation::CollectGarbage).await?;
        let settings = self.client.settings.clone();
        let collected = maintenance.collect_garbage(request, &settings, &log).await;
        let collected = collected.map_err(|error| self.failed(&error))?;
        let dir = self.context.store_dir();
        if let Some(alive) = collected.alive.first() {
            let hint = match self.context.version() < Version::new(1, 38) {
                true => "nix-store --query --roots",
                false => "nix-store --query --roots and nix-store --query --referrers",
            };
            return Err(Failure::refused(format!(
                "Cannot delete path '{}' since it is still alive. To find out why, use: {hint}",
                dir.display(alive)
            )));
        }
        let paths = collected.names.iter();
        self.encoded(&Collected {
            paths: paths.map(|name| format!("{dir}/{name}").into()).collect(),
            bytes_freed: collected.bytes_freed,
            blocks_freed: Obsolete,
        })
    }

    pub(super) async fn add_indirect_root(
        &mut self,
        request: &AddIndirectRoot,
    ) -> Result<Reply, Failure> {
        let link = absolute(&request.link)?;
        let maintenance = self.maintenance(Operation::AddIndirectRoot).await?;
        let added = maintenance.add_indirect_root(&link).await;
        added.map_err(|error| self.failed(&error))?;
        self.reply(request, &DONE)
    }

    pub(super) async fn add_permanent_root(
        &mut self,
        request: &AddPermRoot,
    ) -> Result<Reply, Failure> {
        self.require_trust(
            "you are not privileged to create perm roots\n\nhint: you can just do this client-side without special \
             privileges, and probably want to do that instead.",
        )?;
        let link = absolute(&request.link)?;
        let maintenance = self.maintenance(Operation::AddPermRoot).await?;
        let added = maintenance.add_permanent_root(&request.path, &link).await;
        added.map_err(|error| self.failed(&error))?;
        self.reply(request, &request.link)
    }

    pub(super) async fn verify(
        &mut self,
        request: &VerifyStore,
        log: Log,
    ) -> Result<Reply, Failure> {
        if request.repair {
            self.require_trust("you are not privileged to repair paths")?;
        }
        let maintenance = self.maintenance(Operation::VerifyStore).await?;
        let from = self.backend().await?.substituters.first().cloned();
        let from = from.filter(|_| request.repair);
        let verified = maintenance.verify(request.check_contents, from, &log).await;
        let errors = verified.map_err(|error| self.failed(&error))?;
        self.reply(request, &errors)
    }

    pub(super) async fn optimise(
        &mut self,
        request: &OptimiseStore,
        log: Log,
    ) -> Result<Reply, Failure> {
        let maintenance = self.maintenance(Operation::OptimiseStore).await?;
        let optimised = maintenance.optimise(&log).await;
        optimised.map_err(|error| self.failed(&error))?;
        self.reply(request, &DONE)
    }

    /// Signatures are looked at by those who know the keys. The daemon of Nix 2.34 takes them from any client, that of 2.8
    /// from trusted ones.
    pub(super) async fn add_signatures(
        &mut self,
        request: AddSignatures,
    ) -> Result<Reply, Failure> {
        if self.context.version() < Version::new(1, 38) {
            self.require_trust("you are not privileged to add signatures")?;
        }
        let maintenance = self.maintenance(Operation::AddSignatures).await?;
        let added = maintenance
            .add_signatures(&request.path, request.signatures)
            .await;
        added.map_err(|error| self.failed(&error))?;
        self.encoded(&DONE)
    }
}
