//! The language as an [`Evaluator`], and as a library for embedders.

mod embed;
mod roots;
mod thread;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use futures::StreamExt as _;
use tvix_eval_api::{EvalError, EvalRequest, EvalSource, EvalStream, Evaluator};

use crate::fetch::Fetcher;
use crate::files::{Files, HostFiles};
use crate::limits::Limits;
use crate::native::Native;
use crate::valid_paths::ValidPaths;
use crate::world::Settings;
use thread::Setup;

pub use embed::{Evaluation, Failure};

/// The evaluator of the Nix language. Cheap to clone.
///
/// Each evaluation has a thread and a heap of its own. Each attribute path is evaluated on a fiber
/// of that thread: a fiber that waits for a build is suspended, and the others continue.
///
/// As an [`Evaluator`] it takes files (`default.nix` of a directory), search path entries and
/// expressions. The function that a source evaluates to, and functions on an attribute path, are
/// called with the arguments of the request.
///
/// Roots are the derivations that `nix-build` would build: the derivation at an attribute path, or
/// all derivations in the list or set at it. Without attribute paths, the roots are those of the
/// complete source. The name of a root inside a set is its attribute path.
#[derive(Clone)]
pub struct NixEvaluator {
    settings: Settings,
    files: Arc<dyn Files + Send + Sync>,
    natives: Arc<[Native]>,
    cancelled: Option<Arc<AtomicBool>>,
    fetcher: Option<Arc<dyn Fetcher>>,
    valid_paths: Option<Arc<dyn ValidPaths>>,
}

impl NixEvaluator {
    /// An evaluator that reads files of this machine.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            files: Arc::new(HostFiles),
            natives: Arc::new([]),
            cancelled: None,
            fetcher: None,
            valid_paths: None,
        }
    }

    /// Sets the file system to read.
    #[must_use]
    pub fn with_files(mut self, files: impl Files + Send + Sync + 'static) -> Self {
        self.files = Arc::new(files);
        self
    }

    /// Sets the limits of an evaluation.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Appends an entry to the search path: `<prefix>` stands for `path`.
    #[must_use]
    pub fn with_search_path(mut self, prefix: impl Into<String>, path: impl Into<String>) -> Self {
        let entry = (prefix.into(), path.into());
        self.settings.search_path.push(entry);
        self
    }

    /// Adds a builtin. Replaces an existing one of the same name.
    #[must_use]
    pub fn with_builtin(mut self, native: Native) -> Self {
        let others = self
            .natives
            .iter()
            .filter(|old| old.name() != native.name());
        self.natives = others.cloned().chain([native.clone()]).collect();
        self
    }

    /// Sets the fetcher for URLs in expressions. Without a fetcher, fetching is an error.
    #[must_use]
    pub fn with_fetcher(mut self, fetcher: impl Fetcher + 'static) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Sets the look-up of valid store paths, which provides the references of paths that are
    /// copied or read from the store.
    #[must_use]
    pub fn with_valid_paths(mut self, valid_paths: impl ValidPaths + 'static) -> Self {
        self.valid_paths = Some(Arc::new(valid_paths));
        self
    }

    /// Sets a flag that cancels evaluations soon after it becomes `true`. Work of
    /// [`NixEvaluator::spawn`] gets errors of kind
    /// [`Cancelled`](crate::error::ErrorKind::Cancelled) while the flag is `true`, and may continue
    /// once it is `false` again. Dropping a stream also cancels its evaluation.
    #[must_use]
    pub fn with_cancellation(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancelled = Some(flag);
        self
    }

    /// The settings of evaluations.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn setup(&self) -> Setup {
        Setup {
            settings: self.settings.clone(),
            files: self.files.clone(),
            natives: self.natives.clone(),
            fetcher: self.fetcher.clone(),
            valid_paths: self.valid_paths.clone(),
            cancelled: self.cancelled.clone(),
        }
    }
}

#[async_trait]
impl Evaluator for NixEvaluator {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        match &request.source {
            EvalSource::File(_)
            | EvalSource::SearchPath(_)
            | EvalSource::Expression { .. }
            | EvalSource::Stdin { .. } => {}
            other => {
                return Err(EvalError::UnsupportedSource {
                    source_kind: other.kind().to_owned(),
                });
            }
        }
        let mut setup = self.setup();
        let settings = &mut setup.settings;
        let own = std::mem::take(&mut settings.search_path);
        let entries = request.search_path.iter();
        settings.search_path = entries
            .map(|(prefix, path)| (prefix.clone(), path.to_string_lossy().into_owned()))
            .chain(own)
            .collect();
        if let Some(system) = &request.system {
            settings.system.clone_from(system);
        }
        let events = setup.spawn(move |interp, wire| roots::evaluate(interp, wire, &request))?;
        Ok(events.boxed())
    }
}

impl Default for NixEvaluator {
    fn default() -> Self {
        Self::new(Settings::default())
    }
}

impl fmt::Debug for NixEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixEvaluator")
            .field("settings", &self.settings)
            .field("natives", &self.natives)
            .finish_non_exhaustive()
    }
}
