//! What a builder is asked for.

use std::sync::{Arc, OnceLock};

use bstr::ByteSlice as _;
use nix_compat::derivation::Derivation;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tokio_util::sync::CancellationToken;
use tvix_store_api::{Store, StoreUri};

use crate::attributes::Attributes;
use crate::{BuildLimits, BuildSlot, FailureKind, LogSender, Requirements};

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The path of the derivation that the user knows this by: the deriver of the outputs.
    pub drv_path: StorePath,
    /// The derivation, resolved: no placeholder of an input is left in it. Inputs that are
    /// derivations may still be named; all that is needed of them is in `inputs`.
    pub derivation: Arc<Derivation>,
    /// The closure of the inputs: the input sources, the used outputs of input derivations, and
    /// all that these refer to. Every one is valid in [`BuildContext::inputs`].
    pub inputs: Vec<Arc<PathInfo>>,
    /// When to give up.
    pub limits: BuildLimits,
    /// How many cores the build may use, as `NIX_BUILD_CORES`; 0 for all.
    pub cores: usize,
    /// Where the outputs should go, if the builder can push there.
    pub store: Option<StoreUri>,
    /// A derivation and its attributes: those of `derivation`, unless it was replaced since.
    parsed: OnceLock<(Arc<Derivation>, Result<Attributes, FailureKind>)>,
}

impl BuildRequest {
    /// A build without inputs and limits whose outputs are streamed.
    pub fn new(drv_path: StorePath, derivation: Arc<Derivation>) -> Self {
        Self {
            drv_path,
            derivation,
            inputs: Vec::new(),
            limits: BuildLimits::default(),
            cores: 0,
            store: None,
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

    /// What the derivation requires of a builder, as [`Requirements::of`] tells.
    pub fn requirements(&self) -> Requirements {
        let attributes = self.attributes();
        let words = attributes.and_then(|it| it.words("requiredSystemFeatures"));
        let words = words.ok().flatten().unwrap_or_default();
        let features = words.iter().map(|word| word.to_str_lossy().into_owned());
        Requirements {
            system: self.derivation.system.clone(),
            features: features.collect(),
        }
    }

    /// Whether the derivation says that sending it elsewhere costs more than building it
    /// (`preferLocalBuild`): a hint for who chooses among builders.
    pub fn prefers_local_build(&self) -> bool {
        // Attributes that cannot be read are a failure of the build.
        let attributes = self.attributes();
        attributes.is_ok_and(|attributes| attributes.flag("preferLocalBuild").unwrap_or(false))
    }
}

/// What a build is given to work with.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// Where to read inputs.
    pub inputs: Arc<dyn Store>,
    /// Where log lines go.
    pub log: LogSender,
    /// Ends the build when cancelled.
    pub cancel: CancellationToken,
    /// Given up while the build waits for another process.
    pub slot: BuildSlot,
}

impl BuildContext {
    /// A context without log that nothing cancels.
    pub fn new(inputs: Arc<dyn Store>) -> Self {
        Self {
            inputs,
            log: LogSender::discard(),
            cancel: CancellationToken::new(),
            slot: BuildSlot::unshared(),
        }
    }
}
