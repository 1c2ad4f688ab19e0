//! How a build ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use tvix_store_api::NarStream;

use crate::{BuildFailure, ResourceUsage};

/// How a build ended.
#[derive(Debug)]
pub enum BuildOutcome {
    /// Every output is there.
    Success(BuildSuccess),
    /// The derivation is to blame.
    Failure(BuildFailure),
}

/// A build that made all its outputs.
#[derive(Debug)]
pub struct BuildSuccess {
    /// The outputs.
    pub delivery: Delivery,
    /// How long it took, inputs to outputs.
    pub duration: Duration,
    /// What its processes used, if the builder knows.
    pub usage: Option<ResourceUsage>,
}

/// How outputs are handed over.
#[derive(Debug)]
pub enum Delivery {
    /// They are valid in the store that the request named.
    Pushed(Vec<PushedOutput>),
    /// They have to be added to a store, in this order: references come first.
    Streamed(Vec<StreamedOutput>),
}

/// An output that the builder has pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedOutput {
    /// Its name.
    pub name: OutputName,
    /// What the store knows of it.
    pub info: Arc<PathInfo>,
}

/// An output that is still to be added to a store.
pub struct StreamedOutput {
    /// Its name.
    pub name: OutputName,
    /// What the store is to know of it.
    pub info: PathInfo,
    /// Its contents.
    pub nar: NarStream,
}

impl fmt::Debug for StreamedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedOutput")
            .field("name", &self.name)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// The outputs with their infos, whichever way they come.
    pub fn outputs(&self) -> Vec<(&OutputName, &PathInfo)> {
        match self {
            Self::Pushed(outputs) => outputs
                .iter()
                .map(|output| (&output.name, &*output.info))
                .collect(),
            Self::Streamed(outputs) => outputs
                .iter()
                .map(|output| (&output.name, &output.info))
                .collect(),
        }
    }
}
