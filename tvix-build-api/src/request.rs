//! Requests to builders.

use std::sync::{Arc, OnceLock};

use bstr::ByteSlice as _;
use nix_compat::derivation::Derivation;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tokio_util::sync::CancellationToken;
use tvix_store_api::{Store, StoreUri};

use crate::attributes::Attributes;
use crate::{BuildLimits, BuildSlot, FailureKind, LogSender, Requirements};

/// A request to build a derivation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildRequest {
    /// The path of the unresolved derivation: the deriver of the outputs.
    pub drv_path: StorePath,
    /// The resolved derivation, without placeholders of inputs. It may still name input
    /// derivations; all required paths are in `inputs`.
    pub derivation: Arc<Derivation>,
    /// The closure of the inputs: the input sources, the used outputs of input derivations, and
    /// their references, transitively. All of them are valid in [`BuildContext::inputs`].
    pub inputs: Vec<Arc<PathInfo>>,
    /// The limits of the build.
    pub limits: BuildLimits,
    /// Number of cores that the build may use (`NIX_BUILD_CORES`); 0 for all.
    pub cores: usize,
    /// The destination of the outputs, if the builder can push to it.
    pub store: Option<StoreUri>,
    /// Whether a builder that is set up to keep the files of failed builds keeps those of this one. `true` by default.
    pub keep_failed: bool,
    /// A derivation and its attributes: those of `derivation`, unless it was replaced since.
    parsed: OnceLock<(Arc<Derivation>, Result<Attributes, FailureKind>)>,
}

impl BuildRequest {
    /// A request without inputs and limits, with streamed outputs.
    pub fn new(drv_path: StorePath, derivation: Arc<Derivation>) -> Self {
        Self {
            drv_path,
            derivation,
            inputs: Vec::new(),
            limits: BuildLimits::default(),
            cores: 0,
            store: None,
            keep_failed: true,
            parsed: OnceLock::new(),
        }
    }

    /// The attributes of the derivation, which are parsed the first time. Clones of a request share them.
    pub(crate) fn attributes(&self) -> Result<Attributes, FailureKind> {
        let parse = || (self.derivation.clone(), Attributes::of(&self.derivation));
        let (derivation, attributes) = self.parsed.get_or_init(parse);
        match Arc::ptr_eq(derivation, &self.derivation) {
            true => attributes.clone(),
            false => Attributes::of(&self.derivation),
        }
    }

    /// The requirements of the derivation on a builder, as [`Requirements::of`].
    pub fn requirements(&self) -> Requirements {
        let attributes = self.attributes();
        let words = attributes.and_then(|it| it.words("requiredSystemFeatures"));
        let words = words.ok().flatten().unwrap_or_default();
        let features = words.iter().map(|word| word.to_str_lossy().into_owned());
        Requirements {
            system: self.derivation.system.clone(),
            features: features.collect(),
            prefers_local: self.prefers_local_build(),
        }
    }

    /// Whether the derivation prefers a local build (`preferLocalBuild`), because sending it
    /// elsewhere costs more than building it. A hint for choosing a builder.
    pub fn prefers_local_build(&self) -> bool {
        // Malformed attributes are an error of the build.
        let attributes = self.attributes();
        attributes.is_ok_and(|attributes| attributes.flag("preferLocalBuild").unwrap_or(false))
    }

    /// Sets the closure of the inputs.
    #[must_use]
    pub fn with_inputs(mut self, inputs: Vec<Arc<PathInfo>>) -> Self {
        self.inputs = inputs;
        self
    }

    /// Sets the limits of the build.
    #[must_use]
    pub fn with_limits(mut self, limits: BuildLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the number of cores that the build may use; 0 for all.
    #[must_use]
    pub fn with_cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// Sets whether the files of the build are kept if it fails and the builder is set up for it.
    #[must_use]
    pub fn with_keep_failed(mut self, keep_failed: bool) -> Self {
        self.keep_failed = keep_failed;
        self
    }

    /// Sets the destination of the outputs.
    #[must_use]
    pub fn with_store(mut self, store: impl Into<Option<StoreUri>>) -> Self {
        self.store = store.into();
        self
    }
}

/// The environment of a build on the caller's side.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BuildContext {
    /// The store to read inputs from.
    pub inputs: Arc<dyn Store>,
    /// The channel for log lines.
    pub log: LogSender,
    /// Ends the build when cancelled.
    pub cancel: CancellationToken,
    /// Given up while the build waits for another process.
    pub slot: BuildSlot,
}

impl BuildContext {
    /// A context that discards the log and is never cancelled.
    pub fn new(inputs: Arc<dyn Store>) -> Self {
        Self {
            inputs,
            log: LogSender::discard(),
            cancel: CancellationToken::new(),
            slot: BuildSlot::unshared(),
        }
    }

    /// Sets the channel for log lines.
    #[must_use]
    pub fn with_log(mut self, log: LogSender) -> Self {
        self.log = log;
        self
    }

    /// Sets the token that ends the build.
    #[must_use]
    pub fn with_cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// Sets the slot that is given up while the build waits.
    #[must_use]
    pub fn with_slot(mut self, slot: BuildSlot) -> Self {
        self.slot = slot;
        self
    }
}
