//! Events of a session, as values that can be shown, kept and sent.
//!
//! [`EventRecord::to_json`] writes the lines that `docs/EVENTS.md` describes.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::{StoreDir, StorePath};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tvix_build_api::{BuildFailure, ResourceUsage};
use tvix_eval_api::{Diagnostic, EvalFailure, Root};

use crate::component_error::ComponentError;
use crate::report::{CheckProblem, FailureCause, Report};

/// The version of the serialised form. It changes when a consumer of an older version would
/// misread a newer one; new events and new fields alone do not change it.
pub const EVENT_VERSION: u32 = 2;

/// An event with its number and time: JSON lines of these are a complete log of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EventRecord {
    /// The version of the format: 2.
    pub v: u32,
    /// The number of the event in its session, from 0, without gaps.
    pub seq: u64,
    /// The time since the session began, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub time: Duration,
    /// The event.
    #[serde(flatten)]
    pub event: BuildEvent,
}

impl EventRecord {
    /// The record of an event, in the current version of the format.
    pub fn new(seq: u64, time: Duration, event: BuildEvent) -> Self {
        Self {
            v: EVENT_VERSION,
            seq,
            time,
            event,
        }
    }

    /// The record as a line of JSON, without the newline, with store paths in full.
    pub fn to_json(&self, dir: &StoreDir) -> serde_json::Result<String> {
        dir.in_full(|| serde_json::to_string(self))
    }

    /// Reads a line of [`EventRecord::to_json`]. The store directory is that of the first record
    /// of the session, [`BuildEvent::SessionStarted`], which itself can be read with any.
    pub fn from_json(line: &str, dir: &StoreDir) -> serde_json::Result<Self> {
        dir.in_full(|| serde_json::from_str(line))
    }
}

/// A line of a build's log, without the newline. Not always UTF-8.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LogText(Bytes);

impl LogText {
    /// The bytes that the build wrote.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The line as text; bytes that are not UTF-8 are replaced.
    pub fn to_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl<T: Into<Bytes>> From<T> for LogText {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Display for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl fmt::Debug for LogText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_text(), f)
    }
}

impl Serialize for LogText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for LogText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum BuildEvent {
    /// The session started. Always the first event.
    SessionStarted {
        /// The directory of all store paths of the session.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        store_dir: StoreDir,
    },
    /// A derivation was instantiated, for the first time in this session.
    Instantiated {
        /// Its path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
    },
    /// A derivation is one of those that the user asked for.
    Root {
        /// The root.
        root: Root,
    },
    /// Evaluation needs outputs before it can go on.
    ImportRequested {
        /// The number of the import in the session.
        import: u64,
        /// The derivations that evaluation needs outputs of.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        drv_paths: Vec<StorePath>,
        /// Whether evaluation does not wait for it yet: `ImportNeeded` or `ImportDropped` follows.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ahead: bool,
    },
    /// Evaluation waits for an import that it has requested ahead.
    ImportNeeded {
        /// The import.
        import: u64,
    },
    /// Evaluation does not need an import that it has requested ahead.
    ImportDropped {
        /// The import.
        import: u64,
    },
    /// An import ended: evaluation got the outputs, or an error.
    ImportAnswered {
        /// The import.
        import: u64,
        /// Whether evaluation got the outputs.
        success: bool,
    },
    /// A warning or trace of the evaluator.
    Diagnostic {
        /// The diagnostic.
        diagnostic: Diagnostic,
    },
    /// An attribute, or the whole evaluation, failed. Other attributes may go on.
    EvaluationFailed {
        /// Why, and which attribute.
        #[serde(flatten)]
        error: EvalFailure,
    },
    /// Evaluation ended: no more derivations follow.
    EvaluationEnded,
    /// A local source was added to the store.
    SourceAdded {
        /// Its store path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: StorePath,
    },
    /// The `.drv` files of derivations were added to the store
    /// ([`Options::record_derivations`](crate::Options::record_derivations)).
    Recorded {
        /// The derivations.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        drv_paths: Vec<StorePath>,
    },
    /// Outputs of a derivation are in the store already.
    Found {
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
    },
    /// A path is being fetched from a substituter.
    SubstitutionStarted {
        /// The path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
    },
    /// A path was fetched from a substituter, and is valid.
    Substituted {
        /// The path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
        /// How long that took, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        duration: Duration,
    },
    /// A path cannot be fetched from a substituter that has it. Others are tried, or it is built.
    SubstitutionFailed {
        /// The path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why.
        #[serde(flatten)]
        error: ComponentError,
    },
    /// A substituter does not answer; other substituters are asked, or paths are built. Reported
    /// once until it answers again.
    SubstituterFailed {
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why.
        #[serde(flatten)]
        error: ComponentError,
    },
    /// A substituter has realisations of content-addressed outputs that are not trusted. Reported
    /// once per substituter.
    RealisationRefused {
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why, and what to do about it.
        message: String,
    },
    /// The inputs of a content-addressed derivation are known, and another derivation is built in
    /// its place.
    Resolved {
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The derivation that is built.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        resolved: StorePath,
    },
    /// A build was handed to a builder.
    BuildStarted {
        /// The number of the build in the session. A retry is a build of its own.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The builder's name.
        builder: Arc<str>,
    },
    /// A build waits for a lock that another process holds, and uses no slot meanwhile.
    BuildWaiting {
        /// The build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The path of the lock.
        lock: String,
    },
    /// A build that waited goes on.
    BuildResumed {
        /// The build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
    },
    /// A build wrote a line to its log.
    LogLine {
        /// The build.
        build: u64,
        /// The line, without the newline. In JSON, bytes that are not UTF-8 are replaced.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        text: LogText,
        /// Whether no newline follows: the line is very long and goes on with the next event of this
        /// build, or the log ends here.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        partial: bool,
    },
    /// A builder that cannot write to the store is done; its outputs are being added.
    PushStarted {
        /// The build.
        build: u64,
    },
    /// A build is done, and its outputs are valid.
    BuildSucceeded {
        /// The build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The paths of its outputs.
        #[cfg_attr(
            feature = "schema",
            schemars(with = "std::collections::BTreeMap<String, String>")
        )]
        outputs: SortedMap<OutputName, StorePath>,
        /// How long the build took, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        duration: Duration,
        /// The resources that its processes used, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<ResourceUsage>,
        /// Whether the builder pushed the outputs itself.
        pushed: bool,
    },
    /// A derivation does not build.
    BuildFailed {
        /// The build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// Why.
        failure: BuildFailure,
    },
    /// A builder or the store failed; the build is tried again.
    BuildRetried {
        /// The build that failed.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// Why.
        #[serde(flatten)]
        error: ComponentError,
        /// How long until the next try, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        delay: Duration,
    },
    /// A builder is left alone for a while, because it is unreachable or has failed several times in a
    /// row. Other builders build meanwhile. Then it gets one build.
    BuilderPaused {
        /// The builder.
        builder: Arc<str>,
        /// The last error.
        #[serde(flatten)]
        error: ComponentError,
        /// How long it is left alone, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        pause: Duration,
    },
    /// A derivation cannot be built, for another reason than that its build failed.
    Failed {
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// Why.
        cause: FailureCause,
        /// The same as text.
        message: String,
    },
    /// A derivation is not built because one that it needs failed.
    Skipped {
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The derivation that failed.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        root_cause: StorePath,
    },
    /// A build was cancelled, because nothing needs it or because everything ends.
    BuildCancelled {
        /// The build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
    },
    /// A rebuild was handed to a builder, to compare the result with the valid outputs. Checks are
    /// numbered like builds, and have the same events for log lines, retries and cancellation.
    CheckStarted {
        /// The number of the build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The builder's name.
        builder: Arc<str>,
    },
    /// All outputs of a rebuild are identical to the valid ones.
    CheckSucceeded {
        /// The number of the build.
        build: u64,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// How long the build took, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        duration: Duration,
    },
    /// A check found a difference, or could not be made.
    CheckFailed {
        /// The number of the build; `None` if none was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<u64>,
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The result of the check.
        problem: CheckProblem,
    },
    /// A path vanished from the store, as another process collects garbage. Everything is evaluated
    /// and looked up again, once.
    Restarted {
        /// The path, and how the build failed.
        message: String,
    },
    /// The session is over.
    Finished {
        /// How it ended.
        report: Arc<Report>,
    },
}

/// Durations as seconds with a fraction.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
