//! What happens in a session, as values that can be shown, kept and sent.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use tvix_build_api::{BuildFailure, ResourceUsage};
use tvix_eval_api::{Diagnostic, Root};

use crate::report::{CheckProblem, Report};

/// The version of the serialised form. It grows when a consumer of an older version would
/// misread a newer one; new kinds of events and new fields alone do not count as that.
pub const EVENT_VERSION: u32 = 1;

/// An event as it is sent and kept: JSON lines of these are a complete log of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// [`EVENT_VERSION`].
    pub v: u32,
    /// Counts the events of a session from 0, without gaps.
    pub seq: u64,
    /// Since the session began, in seconds.
    #[serde(with = "seconds")]
    pub time: Duration,
    /// What happened.
    #[serde(flatten)]
    pub event: BuildEvent,
}

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum BuildEvent {
    /// A derivation was instantiated, for the first time in this session.
    Instantiated {
        /// Its path.
        drv_path: StorePath,
    },
    /// What the user asked for is this.
    Root {
        /// What was asked for, and what it is.
        root: Root,
    },
    /// Evaluation needs outputs before it can go on.
    ImportRequested {
        /// Counts the imports of a session.
        import: u64,
        /// The derivations whose outputs it needs.
        drv_paths: Vec<StorePath>,
    },
    /// Evaluation got what it asked for, or heard that it cannot be had.
    ImportAnswered {
        /// Which import.
        import: u64,
        /// Whether it got it.
        success: bool,
    },
    /// The evaluator has something to tell.
    Diagnostic {
        /// What.
        diagnostic: Diagnostic,
    },
    /// Something could not be evaluated. Other attributes may go on.
    EvaluationFailed {
        /// Why.
        message: String,
    },
    /// No more derivations will come.
    EvaluationEnded,
    /// A local source was added to the store.
    SourceAdded {
        /// Its store path.
        path: StorePath,
    },
    /// Outputs of a derivation are in the store already.
    Found {
        /// The derivation.
        drv_path: StorePath,
    },
    /// A path is being fetched from a substituter.
    SubstitutionStarted {
        /// The path.
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
    },
    /// A path was fetched from a substituter, and is valid.
    Substituted {
        /// The path.
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
        /// How long that took.
        #[serde(with = "seconds")]
        duration: Duration,
    },
    /// A path cannot be had from a substituter that said it has it. It is sought elsewhere, or
    /// built.
    SubstitutionFailed {
        /// The path.
        path: StorePath,
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why.
        message: String,
    },
    /// A substituter does not answer. Others are asked, or what it might have is built. Said once
    /// until it answers again.
    SubstituterFailed {
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why.
        message: String,
    },
    /// A substituter has realisations of floating outputs that are not believed, so these are built or
    /// sought elsewhere. The first of a session is told of each substituter.
    RealisationRefused {
        /// The substituter's name.
        substituter: Arc<str>,
        /// Why, and what to do about it.
        message: String,
    },
    /// A derivation turned out to be the same as another once its inputs were known.
    Resolved {
        /// The derivation.
        drv_path: StorePath,
        /// What is built in its place.
        resolved: StorePath,
    },
    /// A build was handed to a builder.
    BuildStarted {
        /// Counts the builds of a session; retries are builds of their own.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// The builder's name.
        builder: Arc<str>,
    },
    /// A build waits for something that another process does, and uses no slot meanwhile.
    BuildWaiting {
        /// Which build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// The path whose lock it waits for.
        lock: String,
    },
    /// A build that waited goes on.
    BuildResumed {
        /// Which build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
    },
    /// A build wrote a line to its log.
    LogLine {
        /// Which build.
        build: u64,
        /// The line, without the newline; what is not UTF-8 is replaced.
        text: String,
        /// The bytes of a line that is not UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<Vec<u8>>,
    },
    /// A builder is done and has no way to push; the outputs are on their way to the store.
    PushStarted {
        /// Which build.
        build: u64,
    },
    /// A build is done, and its outputs are valid.
    BuildSucceeded {
        /// Which build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// Where its outputs are.
        outputs: SortedMap<OutputName, StorePath>,
        /// How long the build took.
        #[serde(with = "seconds")]
        duration: Duration,
        /// What its processes used, if the builder knows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<ResourceUsage>,
        /// Whether the builder pushed the outputs itself.
        pushed: bool,
    },
    /// A derivation does not build.
    BuildFailed {
        /// Which build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// Why.
        failure: BuildFailure,
    },
    /// A builder or the store failed; the build is tried again.
    BuildRetried {
        /// Which build failed.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// Why.
        message: String,
        /// How long until the next try.
        #[serde(with = "seconds")]
        delay: Duration,
    },
    /// A derivation cannot be had for another reason than its own build.
    Failed {
        /// The derivation.
        drv_path: StorePath,
        /// Why.
        message: String,
    },
    /// A derivation is not built because something that it needs failed.
    Skipped {
        /// The derivation.
        drv_path: StorePath,
        /// The derivation that failed in the first place.
        root_cause: StorePath,
    },
    /// A build was cancelled, because nothing needs it or because everything ends.
    BuildCancelled {
        /// Which build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
    },
    /// A rebuild was handed to a builder, to compare the result with the valid outputs. Checks are
    /// numbered like builds, and have the same events for log lines, retries and cancellation.
    CheckStarted {
        /// The number of the build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// The builder's name.
        builder: Arc<str>,
    },
    /// All outputs of a rebuild are identical to the valid ones.
    CheckSucceeded {
        /// The number of the build.
        build: u64,
        /// The derivation.
        drv_path: StorePath,
        /// How long the build took.
        #[serde(with = "seconds")]
        duration: Duration,
    },
    /// A check found a difference, or could not be made.
    CheckFailed {
        /// The number of the build; `None` if none was started.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        build: Option<u64>,
        /// The derivation.
        drv_path: StorePath,
        /// The result of the check.
        problem: CheckProblem,
    },
    /// Something that was built or found meanwhile vanished from the store, as another process
    /// collects garbage. Everything is evaluated and looked up again, once.
    Restarted {
        /// What vanished.
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
