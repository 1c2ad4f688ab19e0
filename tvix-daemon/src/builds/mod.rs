//! Builds and substitutions for clients.

mod activities;
mod drvs;
mod evaluator;
mod history;
mod hook;
mod hooks;
mod log_files;
mod log_lines;
mod operations;
mod plan;
mod results;
mod session;
mod shared;
mod substitute;
mod texts;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tvix_coordinator::Coordinator;
use tvix_worker_protocol::LogMessage;

pub use self::hook::PostBuildHook;

use self::drvs::Drvs;
use self::log_files::LogFiles;
use self::shared::Registry;

/// Where messages for a client go. Bounded: a slow client slows down what it waits for.
pub type LogSender = mpsc::Sender<LogMessage>;

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

    /// Runs a program after each build.
    #[must_use]
    pub fn with_post_build_hook(self, hook: PostBuildHook) -> Self {
        let registry = self.registry.with(|new| new.post_build_hook = Some(hook));
        Self {
            registry: Arc::new(registry),
            ..self
        }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }
}
