//! What a builder is asked for.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::Derivation;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tvix_store_api::{Store, StoreUri};

use crate::attributes::Attributes;
use crate::{BuildSlot, LogSender};

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
        }
    }

    /// Whether the derivation says that sending it elsewhere costs more than building it
    /// (`preferLocalBuild`): a hint for who chooses among builders.
    pub fn prefers_local_build(&self) -> bool {
        // What cannot be read fails when it is built.
        let attributes = Attributes::of(&self.derivation);
        attributes.is_ok_and(|attributes| attributes.flag("preferLocalBuild").unwrap_or(false))
    }
}

/// When to give up on a build. `None` is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLimits {
    /// The longest that it may run (`timeout`).
    pub wall_time: Option<Duration>,
    /// The longest that it may write nothing to its log (`max-silent-time`).
    pub silence: Option<Duration>,
    /// The most bytes that it may write to its log (`max-log-size`).
    pub log_bytes: Option<u64>,
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
