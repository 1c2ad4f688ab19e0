//! The language as an [`Evaluator`], and for whoever embeds it.

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
/// Each evaluation runs on a thread of its own with a heap of its own. Each attribute path is a
/// fiber on it: one that needs something built waits, the others go on.
///
/// As an [`Evaluator`] it takes files (`default.nix` of a folder), entries of the search path and
/// expressions. What they evaluate to, and functions on the way to an attribute, are called with
/// the arguments of the request. Roots are what `nix-build` would build: the derivation that an
/// attribute path leads to, or those in a list or set; without attribute paths, those of the
/// whole. Names of what was found in a set are the path to it.
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
    /// An evaluator that reads the files of this machine.
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

    /// Reads other files.
    #[must_use]
    pub fn files(mut self, files: impl Files + Send + Sync + 'static) -> Self {
        self.files = Arc::new(files);
        self
    }

    /// Limits what an evaluation may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Adds an entry to the end of the search path: what `<prefix>` stands for.
    #[must_use]
    pub fn search_path(mut self, prefix: impl Into<String>, path: impl Into<String>) -> Self {
        let entry = (prefix.into(), path.into());
        self.settings.search_path.push(entry);
        self
    }

    /// Adds a builtin, or replaces one.
    #[must_use]
    pub fn builtin(mut self, native: Native) -> Self {
        let others = self
            .natives
            .iter()
            .filter(|old| old.name() != native.name());
        self.natives = others.cloned().chain([native.clone()]).collect();
        self
    }

    /// Fetches what expressions name by URL; without it they get an error that says so.
    #[must_use]
    pub fn fetcher(mut self, fetcher: impl Fetcher + 'static) -> Self {
        self.fetcher = Some(Arc::new(fetcher));
        self
    }

    /// Looks up paths of the store: what is copied or read from there has the references that it
    /// has.
    #[must_use]
    pub fn valid_paths(mut self, valid_paths: impl ValidPaths + 'static) -> Self {
        self.valid_paths = Some(Arc::new(valid_paths));
        self
    }

    /// Ends what [`NixEvaluator::eval_to`] and [`NixEvaluator::work`] do soon after somebody sets
    /// this to `true`. Streams end when they are dropped.
    #[must_use]
    pub fn cancelled_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.cancelled = Some(flag);
        self
    }

    /// What evaluations may see.
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
        }
    }
}

#[async_trait]
impl Evaluator for NixEvaluator {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        match &request.source {
            EvalSource::File(_) | EvalSource::SearchPath(_) | EvalSource::Expression { .. } => {}
            other => {
                return Err(EvalError::UnsupportedSource {
                    source_kind: other.kind().to_owned(),
                });
            }
        }
        let mut setup = self.setup();
        let settings = &mut setup.settings;
        let own = std::mem::take(&mut settings.search_path);
        let asked = request.search_path.iter();
        settings.search_path = asked
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
