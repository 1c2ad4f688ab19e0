//! What happens to the machine.

use std::sync::Arc;

use bytes::Bytes;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, CheckOutcome, ResourceUsage};
use tvix_eval_api::{Diagnostic, Root, WantedOutputs};

use super::{BatchId, BuildId, ImportId, ProbeId, QuestionId, SubstitutionId};
use crate::options::Decision;

/// Something that happened, told to the machine.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// The evaluator instantiated a derivation.
    Derivation {
        /// Its path.
        path: StorePath,
        /// It.
        derivation: Arc<Derivation>,
        /// Of one with floating outputs, its hash modulo fixed outputs, if the evaluator knows it.
        modulo: Option<[u8; 32]>,
    },
    /// The evaluator waits for outputs. Answered once, by [`Action::AnswerImport`].
    ///
    /// [`Action::AnswerImport`]: super::Action::AnswerImport
    Import {
        /// The caller's name for it, new each time.
        import: ImportId,
        /// What is needed.
        wanted: Vec<WantedOutputs>,
    },
    /// The evaluator has a source for this path; the caller keeps its contents until
    /// [`Action::AddSources`] asks for them.
    ///
    /// [`Action::AddSources`]: super::Action::AddSources
    Source {
        /// The path it will have.
        path: StorePath,
    },
    /// The evaluator found out what the user asked for.
    Root(Root),
    /// The evaluator has something to tell.
    Diagnostic(Diagnostic),
    /// Something could not be evaluated; other things may go on.
    EvaluationFailed {
        /// Why.
        message: String,
    },
    /// Nothing more will come from the evaluator.
    EvaluationEnded,
    /// Answers [`Action::QueryPaths`].
    ///
    /// [`Action::QueryPaths`]: super::Action::QueryPaths
    PathsQueried {
        /// Which query.
        batch: BatchId,
        /// For each path, in order, whether it is valid.
        result: Result<Vec<bool>, Trouble>,
    },
    /// Answers [`Action::QueryRealisations`].
    ///
    /// [`Action::QueryRealisations`]: super::Action::QueryRealisations
    RealisationsQueried {
        /// Which query.
        batch: BatchId,
        /// For each output, in order, its path, if it is known and valid.
        result: Result<Vec<Option<StorePath>>, Trouble>,
    },
    /// Answers [`Action::QuerySubstituter`].
    ///
    /// [`Action::QuerySubstituter`]: super::Action::QuerySubstituter
    SubstituterQueried {
        /// Which question.
        probe: ProbeId,
        /// What there is of each path, in order.
        result: Result<Vec<Probed>, Trouble>,
    },
    /// Answers [`Action::FindRealisations`].
    ///
    /// [`Action::FindRealisations`]: super::Action::FindRealisations
    RealisationsFound {
        /// Which question.
        probe: ProbeId,
        /// For each output, in order, its path, if a substituter knows it and is believed.
        paths: Vec<Option<StorePath>>,
        /// What substituters said that is not believed.
        refused: Vec<RefusedRealisation>,
    },
    /// Answers [`Action::Substitute`].
    ///
    /// [`Action::Substitute`]: super::Action::Substitute
    Substituted {
        /// Which substitution.
        substitution: SubstitutionId,
        /// How it went.
        result: Result<(), Trouble>,
    },
    /// Answers [`Action::AddSources`].
    ///
    /// [`Action::AddSources`]: super::Action::AddSources
    SourceAdded {
        /// Which source.
        path: StorePath,
        /// How it went.
        result: Result<(), Trouble>,
    },
    /// Answers [`Action::Record`].
    ///
    /// [`Action::Record`]: super::Action::Record
    Recorded {
        /// Which recording.
        batch: BatchId,
        /// How it went.
        result: Result<(), Trouble>,
    },
    /// A build wrote a line to its log.
    LogLine {
        /// Which build.
        build: BuildId,
        /// The line.
        text: Bytes,
    },
    /// A build that was started waits for something that another process does, and uses no slot
    /// meanwhile.
    BuildWaiting {
        /// Which build.
        build: BuildId,
        /// The lock that it waits for, for people.
        lock: String,
    },
    /// A build that was [waiting](Self::BuildWaiting) could go on. Answered by
    /// [`Action::ResumeBuild`] once there is a slot, unless the build ends before.
    ///
    /// [`Action::ResumeBuild`]: super::Action::ResumeBuild
    BuildReady {
        /// Which build.
        build: BuildId,
    },
    /// Answers [`Action::StartBuild`].
    ///
    /// [`Action::StartBuild`]: super::Action::StartBuild
    BuildEnded {
        /// Which build.
        build: BuildId,
        /// How it ended.
        result: BuildResult,
        /// What it used, if it succeeded and the builder knows. A failure says so itself.
        usage: Option<ResourceUsage>,
    },
    /// Answers [`Action::StartCheck`].
    ///
    /// [`Action::StartCheck`]: super::Action::StartCheck
    CheckEnded {
        /// The build.
        build: BuildId,
        /// Its result.
        result: CheckResult,
    },
    /// Answers [`Action::PushOutputs`].
    ///
    /// [`Action::PushOutputs`]: super::Action::PushOutputs
    OutputsPushed {
        /// Which build.
        build: BuildId,
        /// How it went.
        result: Result<(), Trouble>,
    },
    /// Answers [`Action::AskAboutFailure`].
    ///
    /// [`Action::AskAboutFailure`]: super::Action::AskAboutFailure
    FailureDecided {
        /// Which question.
        question: QuestionId,
        /// The answer.
        decision: Decision,
    },
    /// The time that [`Machine::poll_timeout`] gave has come, or any other.
    ///
    /// [`Machine::poll_timeout`]: super::Machine::poll_timeout
    TimePassed,
    /// The caller wants everything to end.
    Cancel,
}

/// What a substituter has of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// It has it.
    Offered {
        /// What the path refers to.
        references: Vec<StorePath>,
    },
    /// It does not have it.
    Absent,
    /// What it has is not to be taken.
    Refused {
        /// Why.
        message: String,
    },
}

/// Realisations that a substituter has and that are not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRealisation {
    /// The substituter, as an index into those that the machine was given.
    pub substituter: usize,
    /// Why, and what to do about it.
    pub message: String,
}

/// Trouble with a store, a substituter or a builder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What, with its causes.
    pub message: String,
    /// Whether the same may well succeed later.
    pub retryable: bool,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckResult {
    /// The rebuild ended, or was cancelled.
    Ended(CheckOutcome),
    /// The builder failed, not the derivation.
    Trouble(Trouble),
    /// The store cannot compare or keep outputs.
    Impossible {
        /// The reason.
        message: String,
    },
    /// Inputs that were valid when it was started are not valid any more.
    InputsGone {
        /// The inputs, and how the build failed.
        message: String,
    },
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildResult {
    /// The outputs are valid.
    Pushed(Vec<(OutputName, StorePath)>),
    /// The caller holds the outputs and adds them to the store at [`Action::PushOutputs`].
    ///
    /// [`Action::PushOutputs`]: super::Action::PushOutputs
    Streamed(Vec<(OutputName, StorePath)>),
    /// The derivation is to blame, or the build was cancelled.
    Failed(BuildFailure),
    /// The builder is to blame.
    Trouble(Trouble),
    /// Inputs that were valid when it was started are not valid any more.
    InputsGone {
        /// Which, and how the build failed.
        message: String,
    },
}
