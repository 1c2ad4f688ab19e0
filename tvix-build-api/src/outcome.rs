//! Outcomes of builds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use tvix_store_api::{NarStream, Store, StoreError};

use crate::{BuildFailure, ResourceUsage};

/// The outcome of a build.
#[derive(Debug)]
pub enum BuildOutcome {
    /// All outputs were built.
    Success(BuildSuccess),
    /// The derivation is at fault.
    Failure(BuildFailure),
}

/// A successful build.
#[derive(Debug)]
#[non_exhaustive]
pub struct BuildSuccess {
    /// The outputs.
    pub delivery: Delivery,
    /// The duration, from the inputs to the outputs.
    pub duration: Duration,
    /// Resource usage of its processes, if the builder measures it.
    pub usage: Option<ResourceUsage>,
}

/// The way in which outputs are delivered.
#[derive(Debug)]
pub enum Delivery {
    /// The outputs are valid in the store that the request names.
    Pushed(Vec<PushedOutput>),
    /// The caller must add the outputs to a store, in this order: references first.
    Streamed(Vec<StreamedOutput>),
}

/// An output that the builder has pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushedOutput {
    /// Its name.
    pub name: OutputName,
    /// Its info in the store.
    pub info: Arc<PathInfo>,
}

impl PushedOutput {
    /// An output with this info in the store.
    pub fn new(name: OutputName, info: Arc<PathInfo>) -> Self {
        Self { name, info }
    }
}

/// An output that has yet to be added to a store.
#[non_exhaustive]
pub struct StreamedOutput {
    /// Its name.
    pub name: OutputName,
    /// Its info.
    pub info: PathInfo,
    /// Its contents.
    pub nar: NarStream,
}

impl StreamedOutput {
    /// An output with these contents.
    pub fn new(name: OutputName, info: PathInfo, nar: NarStream) -> Self {
        Self { name, info, nar }
    }
}

impl fmt::Debug for StreamedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedOutput")
            .field("name", &self.name)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl BuildSuccess {
    /// A build of which it is not known what its processes used.
    pub fn new(delivery: Delivery, duration: Duration) -> Self {
        Self {
            delivery,
            duration,
            usage: None,
        }
    }

    /// Sets the resource usage of its processes.
    #[must_use]
    pub fn with_usage(mut self, usage: impl Into<Option<ResourceUsage>>) -> Self {
        self.usage = usage.into();
        self
    }
}

impl Delivery {
    /// Adds outputs to a store, in their order: references must come first.
    ///
    /// # Errors
    ///
    /// Those of [`Store::add`]. Outputs that were added before stay.
    pub async fn push(outputs: Vec<StreamedOutput>, store: &dyn Store) -> Result<Self, StoreError> {
        let mut pushed = Vec::with_capacity(outputs.len());
        for StreamedOutput { name, info, nar } in outputs {
            let known = Arc::new(info.clone());
            store.add(info, nar).await?;
            pushed.push(PushedOutput { name, info: known });
        }
        Ok(Self::Pushed(pushed))
    }

    /// The names and infos of the outputs, for either kind of delivery.
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
