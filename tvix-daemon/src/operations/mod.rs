//! The operations of a daemon.

mod add;
mod build;
mod derivations;
mod maintain;
mod multiple;
mod query;
mod spool;

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::AsyncRead;
use tvix_store_api::{NarStream, Store, StoreError};
use tvix_worker_protocol::{Call, Context, Message, Obsolete, Operation, Request};

use crate::backend::{Backend, Maintenance};
use crate::builds::{Builds, Drvs};
use crate::client::{Client, ClientSettings};
use crate::failure::Failure;
use crate::input::Frames;
use crate::log::Log;
use crate::options::Shared;

/// The answer after the last message.
pub(crate) enum Reply {
    /// An encoded message.
    Message(Vec<u8>),
    /// A NAR, as it is.
    Nar(NarStream),
}

/// The operations of a connection.
pub(crate) struct Operations {
    pub(super) daemon: Arc<Shared>,
    pub(super) context: Context,
    pub client: Client,
    backend: Option<Backend>,
    /// Builds, and what they keep until the connection ends.
    builds: Option<(Builds, Box<dyn Any + Send + Sync>)>,
    /// Derivations, if there are no builds that know them.
    drvs: Option<Arc<Drvs>>,
}

const DONE: Obsolete<1> = Obsolete;

impl Operations {
    pub fn new(daemon: Arc<Shared>, context: Context, client: Client) -> Self {
        Self {
            daemon,
            context,
            client,
            backend: None,
            builds: None,
            drvs: None,
        }
    }

    /// The store, which is opened by the first operation that needs it.
    async fn backend(&mut self) -> Result<&Backend, Failure> {
        let opened = match self.backend.take() {
            Some(backend) => backend,
            None => self
                .daemon
                .stores
                .open()
                .await
                .map_err(|error| self.failed(&error))?,
        };
        Ok(self.backend.insert(opened))
    }

    async fn store(&mut self) -> Result<Arc<dyn Store>, Failure> {
        Ok(self.backend().await?.store.clone())
    }

    /// What the store can do beyond the trait.
    async fn maintenance(&mut self, operation: Operation) -> Result<Arc<dyn Maintenance>, Failure> {
        let backend = self.backend().await?;
        let maintenance = backend.maintenance.clone();
        maintenance.ok_or_else(|| Failure::unsupported(operation, backend.store.uri()))
    }

    /// Builds.
    async fn builds(&mut self, operation: Operation) -> Result<Builds, Failure> {
        if let Some((builds, _)) = &self.builds {
            return Ok(builds.clone());
        }
        let backend = self.backend().await?;
        let Some(lease) = &backend.builds else {
            return Err(Failure::unsupported(operation, backend.store.uri()));
        };
        let begun = lease.begin();
        Ok(self.builds.insert(begun).0.clone())
    }

    /// Reads and checks derivations. All connections share what builds know of them.
    async fn drvs(&mut self) -> Result<Arc<Drvs>, Failure> {
        if let Some(drvs) = &self.drvs {
            return Ok(drvs.clone());
        }
        let backend = self.backend().await?;
        let drvs = match &backend.builds {
            Some(lease) => lease.drvs(),
            None => Arc::new(Drvs::new(backend.store.clone())),
        };
        Ok(self.drvs.insert(drvs).clone())
    }

    fn failed(&self, error: &StoreError) -> Failure {
        Failure::store(error, self.context.store_dir())
    }

    fn encoded<T: Message>(&self, message: &T) -> Result<Reply, Failure> {
        let mut out = Vec::new();
        let encoded = self.context.encode(message, &mut out);
        // The version of the connection has no form for it.
        encoded.map_err(|error| Failure::refused(error.to_string()))?;
        Ok(Reply::Message(out))
    }

    fn reply<C: Call>(&self, _call: &C, answer: &C::Answer) -> Result<Reply, Failure> {
        self.encoded(answer)
    }

    fn require_trust(&self, message: &str) -> Result<(), Failure> {
        match self.client.is_trusted() {
            true => Ok(()),
            false => Err(Failure::refused(message)),
        }
    }

    /// Performs a request without a stream.
    pub async fn perform(&mut self, request: Request, log: Log) -> Result<Reply, Failure> {
        match request {
            Request::IsValidPath(it) => {
                let valid = self.info(&it.path).await?.is_some();
                self.reply(&it, &valid)
            }
            Request::QueryPathInfo(it) => self.path_info(&it).await,
            Request::QueryValidPaths(it) => self.valid_paths(it, log).await,
            Request::QueryPathFromHashPart(it) => self.by_hash_part(&it).await,
            Request::QueryReferrers(it) => self.referrers(&it).await,
            Request::QueryValidDerivers(it) => self.derivers(&it).await,
            Request::QueryAllValidPaths(it) => self.all_valid_paths(&it).await,
            Request::QueryDeriver(it) => {
                let deriver = self.valid_info(&it.path).await?.deriver.clone();
                self.reply(&it, &deriver)
            }
            Request::QueryDerivationOutputs(it) => {
                let outputs = self.derivation_outputs(&it.path).await?;
                self.reply(&it, &outputs.into_values().flatten().collect())
            }
            Request::QueryDerivationOutputNames(it) => {
                let outputs = self.derivation_outputs(&it.path).await?;
                self.reply(&it, &outputs.into_keys().collect())
            }
            Request::QueryDerivationOutputMap(it) => {
                let outputs = self.derivation_outputs(&it.path).await?;
                self.reply(&it, &outputs)
            }
            Request::QueryRealisation(it) => self.realisation(&it).await,
            Request::RegisterDrvOutput(it) => self.register_realisation(&it).await,
            Request::QuerySubstitutablePaths(it) => self.substitutable_paths(&it).await,
            Request::QuerySubstitutablePathInfo(it) => self.substitutable_info(&it).await,
            Request::QuerySubstitutablePathInfos(it) => self.substitutable_infos(&it).await,
            Request::NarFromPath(it) => {
                let nar = self.store().await?.nar(&it.path).await;
                Ok(Reply::Nar(nar.map_err(|error| self.failed(&error))?))
            }
            Request::AddTextToStore(it) => self.add_text(it).await,
            Request::AddTempRoot(it) => {
                if let Some(maintenance) = self.backend().await?.maintenance.clone() {
                    let held = maintenance.hold(&it.path).await;
                    held.map_err(|error| self.failed(&error))?;
                }
                self.reply(&it, &DONE)
            }
            Request::SyncWithGc(it) => self.reply(&it, &DONE),
            Request::SetOptions(it) => {
                let allowed = &self.daemon.options.allowed_substituters;
                let allowed = allowed.iter().cloned().collect();
                let (settings, warnings) = ClientSettings::from_request(
                    it,
                    (self.client.trust, self.context.version()),
                    &allowed,
                );
                let log = Log::new(log.sender().clone(), settings.verbosity)
                    .with_version(self.context.version());
                self.client.settings = settings;
                for warning in warnings {
                    log.warning(warning).await;
                }
                self.encoded(&())
            }
            Request::FindRoots(it) => self.roots(&it).await,
            Request::CollectGarbage(it) => self.collect_garbage(it, log).await,
            Request::AddIndirectRoot(it) => self.add_indirect_root(&it).await,
            Request::AddPermRoot(it) => self.add_permanent_root(&it).await,
            Request::VerifyStore(it) => self.verify(&it, log).await,
            Request::OptimiseStore(it) => self.optimise(&it, log).await,
            Request::AddSignatures(it) => self.add_signatures(it).await,
            Request::BuildPaths(_)
            | Request::BuildPathsWithResults(_)
            | Request::BuildDerivation(_)
            | Request::EnsurePath(_)
            | Request::QueryMissing(_) => self.build(request, log).await,
            other => Err(Failure::refused(format!(
                "operation '{}' is not supported",
                other.operation()
            ))),
        }
    }

    /// Performs a request with a stream. The caller reads what is left of the stream.
    pub async fn with_stream(
        &mut self,
        request: Request,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
        log: Log,
    ) -> Result<Reply, Failure> {
        drop(log);
        match request {
            Request::AddToStore(it) => self.add(it, frames).await,
            Request::AddToStoreNar(it) => self.add_nar(it, frames).await,
            Request::AddMultipleToStore(it) => self.add_multiple(it, frames).await,
            Request::AddBuildLog(it) => self.add_build_log(it, frames).await,
            other => Err(Failure::refused(format!(
                "operation '{}' is not supported",
                other.operation()
            ))),
        }
    }
}

/// An absolute path of a file that a client names.
fn absolute(path: &[u8]) -> Result<PathBuf, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let file = PathBuf::from(std::ffi::OsStr::from_bytes(path));
    match file.is_absolute() && !path.contains(&0) {
        true => Ok(file),
        false => Err(Failure::refused(format!(
            "not an absolute path: '{}'",
            file.display()
        ))),
    }
}
