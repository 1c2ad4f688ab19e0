//! Events of an evaluation.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::channel::oneshot;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::JobDetails;

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
        /// The hash modulo fixed outputs of a content-addressed derivation, by which caches know its
        /// outputs; `None` for other derivations, or if the evaluator does not know it.
        modulo: Option<[u8; 32]>,
    },
    /// Evaluation needs outputs before it can go on: import from derivation.
    Realise(Realise),
    /// A local tree or a text becomes a store path.
    AddSource(SourceAddition),
    /// Something that the user asked for is this.
    Root(Root),
    /// A message to the user.
    Diagnostic(Diagnostic),
}

/// Outputs of one derivation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct WantedOutputs {
    /// The derivation.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub drv_path: StorePath,
    /// Which of its outputs; not empty.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub outputs: Vec<OutputName>,
}

impl WantedOutputs {
    /// Outputs of a derivation; not none.
    pub fn new(drv_path: StorePath, outputs: Vec<OutputName>) -> Self {
        Self { drv_path, outputs }
    }
}

/// The place of a root among all roots of an evaluation.
///
/// Roots are yielded as they are found, which depends on imports. Sorted by this, they are in the order in which a depth-first search finds them: the number of the attribute
/// path that was asked for, then that of each attribute (by name) or list element on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RootOrder(pub Vec<u32>);

impl RootOrder {
    /// The place of the attribute path of this number.
    pub fn of(number: usize) -> Self {
        Self(vec![clamped(number)])
    }

    /// The place of the attribute or element of this number within this place.
    #[must_use]
    pub fn child(&self, number: usize) -> Self {
        let mut places = Vec::with_capacity(self.0.len() + 1);
        places.extend_from_slice(&self.0);
        places.push(clamped(number));
        Self(places)
    }

    /// The number of the attribute path that led here, if the evaluator says so.
    pub fn request_index(&self) -> Option<usize> {
        self.0.first().map(|number| *number as usize)
    }

    /// The same place in a larger evaluation, in which so many attribute paths come before.
    pub(crate) fn with_offset(mut self, asked: usize) -> Self {
        if let Some(first) = self.0.first_mut() {
            *first = first.saturating_add(clamped(asked));
        }
        self
    }

    /// Whether the evaluator says nothing of the place.
    pub fn is_unknown(&self) -> bool {
        self.0.is_empty()
    }
}

fn clamped(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Something that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Root {
    /// How the user asked for it: an attribute path, or the path of a `.drv` file.
    pub name: String,
    /// Its derivation and outputs.
    pub wanted: WantedOutputs,
    /// Its place among all roots; roots without one stay in the order in which they are yielded.
    #[serde(default, skip_serializing_if = "RootOrder::is_unknown")]
    pub order: RootOrder,
    /// If this root was yielded before at a later place, that place: it is one root, and its place
    /// is [`Root::order`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_from: Option<RootOrder>,
    /// Details of a job, if jobs were requested ([`EvalRequest::jobs`](crate::EvalRequest::jobs)).
    #[serde(skip)]
    pub job: Option<Box<JobDetails>>,
}

impl Root {
    /// A root that says nothing of its place.
    pub fn new(name: impl Into<String>, wanted: WantedOutputs) -> Self {
        Self {
            name: name.into(),
            wanted,
            order: RootOrder::default(),
            moved_from: None,
            job: None,
        }
    }

    /// As a root of a larger evaluation, in which so many attribute paths come before those of the
    /// evaluation that yielded it.
    #[must_use]
    pub fn with_offset(mut self, asked: usize) -> Self {
        self.order = self.order.with_offset(asked);
        self.moved_from = self.moved_from.map(|order| order.with_offset(asked));
        self
    }

    /// With a place among all roots.
    #[must_use]
    pub fn with_order(mut self, order: RootOrder) -> Self {
        self.order = order;
        self
    }

    /// With the details of a job.
    #[must_use]
    pub fn with_job(mut self, job: JobDetails) -> Self {
        self.job = Some(Box::new(job));
        self
    }
}

/// A request for outputs that evaluation waits for. Made by [`realise`] and [`realise_ahead`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Realise {
    /// The outputs that are needed.
    pub wanted: Vec<WantedOutputs>,
    /// Where the answer goes.
    pub reply: RealiseReply,
    /// Set if evaluation does not wait for the outputs yet: it needs them if everything before them
    /// succeeds. Until [`Ahead`] says that they are needed, a failure should not be answered and
    /// must not fail anything.
    pub ahead: Option<Ahead>,
}

/// The future of a request ahead of evaluation: `true` once evaluation waits for the outputs, `false`
/// if it does not need them after all.
pub struct Ahead(oneshot::Receiver<()>);

impl Future for Ahead {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        Pin::new(&mut self.0).poll(cx).map(|needed| needed.is_ok())
    }
}

impl fmt::Debug for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ahead(..)")
    }
}

/// The evaluator's side of [`Ahead`]. Dropping it says that the outputs are not needed.
pub struct AheadRequest(oneshot::Sender<()>);

impl AheadRequest {
    /// Evaluation waits for the outputs.
    pub fn needed(self) {
        let _ = self.0.send(());
    }
}

impl fmt::Debug for AheadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AheadRequest(..)")
    }
}

/// An output that can be read now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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

impl RealisedOutput {
    /// An output without references.
    pub fn new(
        drv_path: StorePath,
        output: OutputName,
        store_path: StorePath,
        local_path: impl Into<PathBuf>,
    ) -> Self {
        Self {
            drv_path,
            output,
            store_path,
            local_path: local_path.into(),
            references: SortedSet::new(),
        }
    }

    /// Sets the store paths that the output refers to.
    #[must_use]
    pub fn with_references(mut self, references: SortedSet<StorePath>) -> Self {
        self.references = references;
        self
    }
}

/// Why outputs that evaluation waits for are not available.
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
    /// The evaluation was cancelled.
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

/// A request for outputs, to be yielded, and the future of its answer, to be awaited.
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
            ahead: None,
        },
        answer,
    )
}

/// A request ahead of evaluation, to be yielded; the means to say that its outputs are needed; and
/// the future of its answer.
pub fn realise_ahead(
    wanted: Vec<WantedOutputs>,
) -> (
    Realise,
    AheadRequest,
    impl Future<Output = Result<Vec<RealisedOutput>, RealiseError>> + Send,
) {
    let (mut request, answer) = realise(wanted);
    let (sender, receiver) = oneshot::channel();
    request.ahead = Some(Ahead(receiver));
    (request, AheadRequest(sender), answer)
}

/// A local tree or a text that becomes a store path. The path is computed already; contents that
/// do not give it when they are added are an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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

impl SourceAddition {
    /// A source without references.
    pub fn new(path: StorePath, method: ContentAddressMethod, content: SourceContent) -> Self {
        Self {
            path,
            method,
            content,
            references: SortedSet::new(),
        }
    }

    /// Sets the store paths that it refers to.
    #[must_use]
    pub fn with_references(mut self, references: SortedSet<StorePath>) -> Self {
        self.references = references;
        self
    }
}

/// Where the contents of a source are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceContent {
    /// A file of these bytes.
    Text(Bytes),
    /// A file or tree on this file system.
    Tree(PathBuf),
    /// A tree as a NAR: for a tree that is only in memory, or of which files are left out.
    Archive(Bytes),
}

/// A message to the user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The text.
    pub message: String,
}

impl Diagnostic {
    /// A message.
    pub fn new(severity: Severity, message: impl Into<String>) -> Self {
        Self {
            severity,
            message: message.into(),
        }
    }
}

/// How much a diagnostic matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum Severity {
    /// Output of `builtins.trace`.
    Trace,
    /// A deprecated or doubtful construct.
    Warning,
}
