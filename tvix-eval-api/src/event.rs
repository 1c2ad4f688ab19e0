//! What an evaluation yields.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

/// Something that an evaluation yields.
#[derive(Debug)]
#[non_exhaustive]
pub enum EvalEvent {
    /// A derivation was instantiated: fire and forget.
    Derivation {
        /// The path of its `.drv` file.
        path: StorePath,
        /// The derivation.
        derivation: Arc<Derivation>,
        /// Of one with floating outputs, its hash modulo fixed outputs, by which caches know what others
        /// built; `None` if the evaluator does not know it, or for others.
        modulo: Option<[u8; 32]>,
    },
    /// Evaluation needs outputs before it can go on: import from derivation.
    Realise(Realise),
    /// A local tree or a text becomes a store path.
    AddSource(SourceAddition),
    /// Something that the user asked for is this.
    Root(Root),
    /// Something to tell the user.
    Diagnostic(Diagnostic),
}

/// Outputs of one derivation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WantedOutputs {
    /// The derivation.
    pub drv_path: StorePath,
    /// Which of its outputs; not empty.
    pub outputs: Vec<OutputName>,
}

/// Something that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Root {
    /// How the user asked for it: an attribute path, or the path of a `.drv` file.
    pub name: String,
    /// What it is.
    pub wanted: WantedOutputs,
}

/// A request for outputs that evaluation waits for. Made by [`realise`].
#[derive(Debug)]
pub struct Realise {
    /// What is needed.
    pub wanted: Vec<WantedOutputs>,
    /// Where the answer goes.
    pub reply: RealiseReply,
}

/// An output that can be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealisedOutput {
    /// The derivation.
    pub drv_path: StorePath,
    /// Its output.
    pub output: OutputName,
    /// The output's store path.
    pub store_path: StorePath,
    /// Where to read it on this file system, until the evaluation ends.
    pub local_path: PathBuf,
    /// The store paths that the output refers to.
    pub references: SortedSet<StorePath>,
}

/// Why outputs that evaluation waits for will not come.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RealiseError {
    /// Building one of them, or something that it needs, failed.
    #[error("build of '{drv_path}' failed: {message}")]
    Failed {
        /// The derivation that failed.
        drv_path: StorePath,
        /// Why.
        message: String,
        /// The last lines of its log, oldest first.
        log_tail: Vec<String>,
    },
    /// A derivation that was never yielded, or an output that it has not.
    #[error("no such derivation output: {0}")]
    Unknown(String),
    /// The store failed.
    #[error("cannot read what was built: {0}")]
    Store(String),
    /// Nobody will answer any more.
    #[error("cancelled")]
    Cancelled,
}

/// Where the answer to a [`Realise`] goes. Dropping it answers [`RealiseError::Cancelled`].
pub struct RealiseReply(oneshot::Sender<Result<Vec<RealisedOutput>, RealiseError>>);

impl RealiseReply {
    /// Answers. Does nothing if the evaluation does not wait any more.
    pub fn answer(self, answer: Result<Vec<RealisedOutput>, RealiseError>) {
        let _ = self.0.send(answer);
    }
}

impl fmt::Debug for RealiseReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RealiseReply(..)")
    }
}

/// A request for outputs, and the future of its answer: what an evaluator yields and what it
/// awaits.
pub fn realise(
    wanted: Vec<WantedOutputs>,
) -> (
    Realise,
    impl Future<Output = Result<Vec<RealisedOutput>, RealiseError>> + Send,
) {
    let (sender, receiver) = oneshot::channel();
    let answer = async move { receiver.await.unwrap_or(Err(RealiseError::Cancelled)) };
    (
        Realise {
            wanted,
            reply: RealiseReply(sender),
        },
        answer,
    )
}

/// A local tree or a text that becomes a store path. The path is computed already; contents that
/// do not give it when they are added are an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceAddition {
    /// The store path.
    pub path: StorePath,
    /// How the contents are addressed.
    pub method: ContentAddressMethod,
    /// The store paths that it refers to.
    pub references: SortedSet<StorePath>,
    /// The contents.
    pub content: SourceContent,
}

/// Where the contents of a source are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceContent {
    /// A file of these bytes.
    Text(Bytes),
    /// A file or tree on this file system.
    Tree(PathBuf),
    /// A tree as a NAR, for what is on no file system as it is: a tree of which some files are
    /// left out, or one that is only in memory.
    Archive(Bytes),
}

/// Something to tell the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The text.
    pub message: String,
}

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What the user asked to be told: `builtins.trace`.
    Trace,
    /// Something that will not do in the long run.
    Warning,
}
