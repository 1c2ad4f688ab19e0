//! The arguments and results of the closures that stand for builder programs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use nix_compat::derivation::OutputName;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio_util::sync::CancellationToken;
use tvix_store_api::Store;

use super::Tree;
use crate::outputs::{PlannedOutput, plan_outputs};
use crate::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, BuildSuccess, BuilderError, Delivery,
    FailureKind, LogSender,
};

/// A build in progress, as seen by its closure. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryBuild {
    pub(super) request: Arc<BuildRequest>,
    pub(super) outputs: Arc<[PlannedOutput]>,
    pub(super) inputs: Arc<dyn Store>,
    pub(super) log: LogRecorder,
    pub(super) cancel: CancellationToken,
    pub(super) attempt: u64,
}

/// Forwards log lines and keeps the last ones.
#[derive(Debug, Clone)]
pub(super) struct LogRecorder {
    pub sender: LogSender,
    pub tail: Arc<std::sync::Mutex<crate::log::Tail>>,
}

impl MemoryBuild {
    /// A build of `request`, for a builder of one's own that makes outputs in memory. Paths of
    /// outputs are planned; [`MemoryBuild::finish`] makes outputs of trees.
    ///
    /// # Errors
    ///
    /// If the derivation is to blame.
    pub fn new(request: BuildRequest, context: &BuildContext) -> Result<Self, FailureKind> {
        let outputs = plan_outputs(context.inputs.store_dir(), &request)?;
        Ok(Self {
            request: Arc::new(request),
            outputs: outputs.into(),
            inputs: context.inputs.clone(),
            log: LogRecorder {
                sender: context.log.clone(),
                tail: Arc::default(),
            },
            cancel: context.cancel.clone(),
            attempt: 1,
        })
    }

    /// What a builder returns of this build: its outputs, its failure, or the builder's own error.
    ///
    /// # Errors
    ///
    /// [`MemoryFault::Builder`].
    pub fn outcome(
        &self,
        ended: Result<Delivery, MemoryFault>,
        duration: Duration,
    ) -> Result<BuildOutcome, BuilderError> {
        match ended {
            Ok(delivery) => {
                let success = BuildSuccess::new(delivery, duration);
                Ok(BuildOutcome::Success(success))
            }
            Err(MemoryFault::Failure(kind)) => {
                Ok(BuildOutcome::Failure(self.failure(kind, duration)))
            }
            Err(MemoryFault::Builder(error)) => Err(*error),
        }
    }

    /// The failure of this build, with the end of its log.
    pub fn failure(&self, kind: FailureKind, duration: Duration) -> BuildFailure {
        let mut tail = self.log.tail.lock().unwrap_or_else(PoisonError::into_inner);
        BuildFailure {
            kind,
            log_tail: std::mem::take(&mut *tail).into_lines(),
            duration,
            usage: None,
        }
    }

    /// The request.
    pub fn request(&self) -> &BuildRequest {
        &self.request
    }

    /// The number of this build among those of the same derivation, starting from 1.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// The store directory.
    pub fn store_dir(&self) -> &StoreDir {
        self.inputs.store_dir()
    }

    /// The store to read the inputs from.
    pub fn inputs(&self) -> &Arc<dyn Store> {
        &self.inputs
    }

    /// Cancelled when the build should end. A closure may ignore it: its future is dropped.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The path of an output during the build. Files that refer to the output contain this path.
    pub fn output_path(&self, output: &str) -> Option<String> {
        let path = self.output(output)?;
        Some(self.store_dir().display(path).to_string())
    }

    fn output(&self, name: &str) -> Option<&StorePath> {
        let mut outputs = self.outputs.iter();
        let output = outputs.find(|output| output.name.as_str() == name)?;
        Some(&output.path)
    }

    /// Writes a line to the log; waits while the log channel is full.
    pub async fn log(&self, line: impl Into<Bytes>) {
        let line = line.into();
        if let Ok(mut tail) = self.log.tail.lock() {
            tail.push(&line);
        }
        self.log.sender.send(line).await;
    }
}

/// The outputs of a closure, by name.
#[derive(Debug, Clone, Default)]
pub struct MemoryOutputs(pub(super) BTreeMap<String, Tree>);

impl MemoryOutputs {
    /// No outputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only the output `out`.
    pub fn out(tree: Tree) -> Self {
        Self::new().with("out", tree)
    }

    /// Adds an output.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, tree: Tree) -> Self {
        self.0.insert(name.into(), tree);
        self
    }

    /// Every output of the request, each a file that contains `text` and the name of the output.
    pub fn all(build: &MemoryBuild, text: &str) -> Self {
        let names = build.outputs.iter().map(|output| &output.name);
        let outputs = names
            .map(|name: &OutputName| (name.to_string(), Tree::file(format!("{text} {name}\n"))));
        Self(outputs.collect())
    }
}

impl From<Tree> for MemoryOutputs {
    fn from(tree: Tree) -> Self {
        Self::out(tree)
    }
}

/// The reason that a closure returns no outputs.
#[derive(Debug)]
#[non_exhaustive]
pub enum MemoryFault {
    /// A fault of the derivation: the build fails.
    Failure(FailureKind),
    /// A fault of the builder.
    Builder(Box<BuilderError>),
}

impl From<FailureKind> for MemoryFault {
    fn from(kind: FailureKind) -> Self {
        Self::Failure(kind)
    }
}

impl From<BuilderError> for MemoryFault {
    fn from(error: BuilderError) -> Self {
        Self::Builder(Box::new(error))
    }
}

/// The result of a closure.
pub type MemoryResult = Result<MemoryOutputs, MemoryFault>;

/// A closure that stands for a builder program.
#[derive(Clone)]
pub(super) enum Program {
    /// A synchronous closure.
    Sync(Arc<dyn Fn(&MemoryBuild) -> MemoryResult + Send + Sync>),
    /// An asynchronous closure.
    Async(Arc<dyn Fn(MemoryBuild) -> BoxFuture<'static, MemoryResult> + Send + Sync>),
    /// Makes empty files, as cheaply as possible.
    Trivial,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sync(_) => "Sync",
            Self::Async(_) => "Async",
            Self::Trivial => "Trivial",
        })
    }
}
