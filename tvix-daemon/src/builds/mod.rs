//! Builds and substitutions for clients.

mod activities;
mod drvs;
mod evaluator;
mod history;
mod hook;
mod hooks;
mod log_files;
mod log_lines;
mod new_drvs;
mod operations;
mod places;
mod plan;
mod prepare;
mod results;
mod session;
mod shared;
mod substitute;
mod texts;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tvix_coordinator::Coordinator;
use tvix_store_api::Store;
use tvix_worker_protocol::LogMessage;

pub(crate) use self::drvs::Drvs;
pub use self::hook::PostBuildHook;
pub(crate) use self::new_drvs::NewDrv;

use self::log_files::LogFiles;
use self::shared::Registry;
use crate::client::Client;

/// Where messages for a client go. Bounded: a slow client slows down what it waits for.
pub type LogSender = mpsc::Sender<LogMessage>;

type OpenFuture = BoxFuture<'static, Vec<(i32, Arc<dyn Store>)>>;

/// Opens substituters by their URIs.
#[derive(Clone)]
struct OpenSubstituters(Arc<dyn Fn(Vec<String>) -> OpenFuture + Send + Sync>);

impl fmt::Debug for OpenSubstituters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenSubstituters(..)")
    }
}

/// Builds and substitutes for any number of clients. Cheap to clone; clones share running builds.
///
/// Equal builds that several clients want at the same time are executed once: all of them get the log from its beginning,
/// and the result. A build ends when no client waits for it any more. Of a log, the last mebibyte is kept for
/// clients that come late or read slowly; they are told of what is left out.
///
/// Every future may be dropped at any point, which ends what only it wants.
#[derive(Debug, Clone)]
pub struct Builds {
    coordinator: Coordinator,
    open_substituters: Option<OpenSubstituters>,
    registry: Arc<Registry>,
    drvs: Arc<Drvs>,
}

impl Builds {
    /// Builds with the store, substituters, builders and options of `coordinator`; its evaluator is not used. At most
    /// as many builds run at once, for all clients together, as its builders or [`Options::max_jobs`] allow.
    ///
    /// [`Options::max_jobs`]: tvix_coordinator::Options::max_jobs
    pub fn new(coordinator: Coordinator) -> Self {
        let places = coordinator
            .builders()
            .iter()
            .map(|it| it.profile().max_jobs);
        let places: usize = places.fold(0, usize::saturating_add);
        let most = coordinator.options().max_jobs.unwrap_or(places);
        let drvs = Drvs::new(coordinator.store().clone());
        Self {
            registry: Arc::new(Registry::new(most.min(places.max(1)))),
            drvs: Arc::new(drvs),
            open_substituters: None,
            coordinator,
        }
    }

    /// Writes logs of builds below `directory` (`NIX_LOG_DIR/drvs`), as bzip2 files if `compress` is set.
    #[must_use]
    pub fn with_log_directory(self, directory: impl Into<PathBuf>, compress: bool) -> Self {
        let logs = Some(LogFiles {
            directory: directory.into(),
            compress,
        });
        let registry = self.registry.with(|new| new.logs = logs);
        Self {
            registry: Arc::new(registry),
            ..self
        }
    }

    /// Opens substituters that a client chooses (its settings `substituters` and `extra-substituters`, as far as its trust
    /// allows them), in place of or beside those of the coordinator. `open` returns those that can be opened, with their
    /// priorities; it is called for each operation that needs them.
    #[must_use]
    pub fn with_open_substituters<F, R>(self, open: F) -> Self
    where
        F: Fn(Vec<String>) -> R + Send + Sync + 'static,
        R: Future<Output = Vec<(i32, Arc<dyn Store>)>> + Send + 'static,
    {
        let open = OpenSubstituters(Arc::new(move |uris| Box::pin(open(uris))));
        Self {
            open_substituters: Some(open),
            ..self
        }
    }

    /// These builds with the substituters of a client.
    async fn of_client(&self, client: &Client) -> Self {
        let chosen = |names: &[&str]| {
            let mut values = names
                .iter()
                .filter_map(|name| client.settings.others.get(*name));
            let words = values.next()?.split_whitespace();
            Some(words.map(str::to_owned).collect::<Vec<_>>())
        };
        let own = chosen(&["substituters", "binary-caches"]);
        let more = chosen(&["extra-substituters", "extra-binary-caches"]);
        let mut builds = self.clone();
        let Some(open) = self
            .open_substituters
            .as_ref()
            .filter(|_| own.is_some() || more.is_some())
        else {
            return builds;
        };
        if own.is_some() {
            builds.coordinator = builds.coordinator.without_substituters();
        }
        let uris: Vec<String> = own.into_iter().chain(more).flatten().collect();
        if uris.is_empty() {
            return builds;
        }
        for (priority, substituter) in (open.0)(uris).await {
            let coordinator = builds.coordinator.clone();
            // One with other store paths is of no use.
            if let Ok(with) = coordinator.try_with_substituter(substituter, priority) {
                builds.coordinator = with;
            }
        }
        builds
    }

    /// Runs a program after each build.
    #[must_use]
    pub fn with_post_build_hook(self, hook: PostBuildHook) -> Self {
        let registry = self.registry.with(|new| new.post_build_hook = Some(hook));
        Self {
            registry: Arc::new(registry),
            ..self
        }
    }

    pub(crate) fn drvs(&self) -> Arc<Drvs> {
        self.drvs.clone()
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }
}
