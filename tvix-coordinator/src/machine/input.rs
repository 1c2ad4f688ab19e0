//! Inputs: events that the machine is told of.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, CheckOutcome, ResourceUsage};
use tvix_eval_api::{Diagnostic, EvalFailure, Root, WantedOutputs};

use super::{BatchId, BuildId, ImportId, ProbeId, QuestionId, SubstitutionId};
use crate::component_error::ComponentError;
use crate::options::Decision;

/// An event that the machine is told of.
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
        /// The outputs that it needs.
        wanted: Vec<WantedOutputs>,
        /// Whether the evaluator only expects to need them: [`Input::ImportNeeded`] or
        /// [`Input::ImportDropped`] follows. Until then, a failure is not answered.
        ahead: bool,
    },
    /// The evaluator waits for an import that it has requested ahead.
    ImportNeeded {
        /// The import.
        import: ImportId,
    },
    /// The evaluator does not need an import that it has requested ahead. It is not answered.
    ImportDropped {
        /// The import.
        import: ImportId,
    },
    /// The evaluator has a source for this path; the caller keeps its contents until
    /// [`Action::AddSource`] and [`Action::AddSmallSources`] ask for them.
    ///
    /// [`Action::AddSource`]: super::Action::AddSource
    /// [`Action::AddSmallSources`]: super::Action::AddSmallSources
    Source {
        /// The path it will have.
        path: StorePath,
        /// Paths that it refers to. Sources among them are added before.
        references: Vec<StorePath>,
    },
    /// The evaluator resolved something that the user asked for.
    Root(Root),
    /// The evaluator has something to tell.
    Diagnostic(Diagnostic),
    /// Something could not be evaluated; other things may go on.
    EvaluationFailed {
        /// Why.
        error: EvalFailure,
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
        result: Result<Vec<bool>, ComponentError>,
    },
    /// Answers [`Action::QueryRealisations`].
    ///
    /// [`Action::QueryRealisations`]: super::Action::QueryRealisations
    RealisationsQueried {
        /// Which query.
        batch: BatchId,
        /// For each output, in order, its path, if it is known and valid.
        result: Result<Vec<Option<StorePath>>, ComponentError>,
    },
    /// Answers [`Action::QuerySubstituter`].
    ///
    /// [`Action::QuerySubstituter`]: super::Action::QuerySubstituter
    SubstituterQueried {
        /// Which question.
        probe: ProbeId,
        /// The answer for each path, in order.
        result: Result<Vec<Probed>, ComponentError>,
    },
    /// Answers [`Action::FindRealisations`].
    ///
    /// [`Action::FindRealisations`]: super::Action::FindRealisations
    RealisationsFound {
        /// Which question.
        probe: ProbeId,
        /// The answer for each output, in order.
        answers: Vec<FoundRealisation>,
    },
    /// Answers [`Action::Substitute`].
    ///
    /// [`Action::Substitute`]: super::Action::Substitute
    Substituted {
        /// Which substitution.
        substitution: SubstitutionId,
        /// How it went.
        result: Result<(), ComponentError>,
    },
    /// Answers [`Action::AddSource`] and [`Action::AddSmallSources`].
    ///
    /// [`Action::AddSource`]: super::Action::AddSource
    /// [`Action::AddSmallSources`]: super::Action::AddSmallSources
    SourceAdded {
        /// The source.
        path: StorePath,
        /// The result of the addition.
        result: Result<(), ComponentError>,
    },
    /// Answers [`Action::AddSmallSources`]: these were not added because of their size.
    ///
    /// [`Action::AddSmallSources`]: super::Action::AddSmallSources
    SourcesTooLarge {
        /// The sources.
        paths: Vec<StorePath>,
    },
    /// Answers [`Action::Record`].
    ///
    /// [`Action::Record`]: super::Action::Record
    Recorded {
        /// Which recording.
        batch: BatchId,
        /// How it went.
        result: Result<(), ComponentError>,
    },
    /// A build wrote a line to its log.
    LogLine {
        /// Which build.
        build: BuildId,
        /// The line, without the newline.
        text: Bytes,
        /// Whether no newline follows it.
        partial: bool,
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
        /// The resources of a successful build, if the builder measures them. A failure has its own
        /// field for them.
        usage: Option<ResourceUsage>,
        /// The size in bytes of the NARs of all outputs of a successful build, if it is known. For the
        /// choice of builders.
        size: Option<u64>,
    },
    /// Answers [`Action::QueryInputs`].
    ///
    /// [`Action::QueryInputs`]: super::Action::QueryInputs
    InputsQueried {
        /// The build.
        build: BuildId,
        /// For each input, in order, whether it is valid.
        result: Result<Vec<bool>, ComponentError>,
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
        result: Result<(), ComponentError>,
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

/// The answer of a substituter for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probed {
    /// It has the path.
    Offered {
        /// The references of the path.
        references: Vec<StorePath>,
    },
    /// It does not have the path.
    Absent,
    /// It has it, and it must not be used.
    Refused {
        /// Why.
        error: ComponentError,
    },
}

/// The realisation that a substituter has of an output. Of several keys, the first with a usable
/// realisation counts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundRealisation {
    /// It has none.
    Absent,
    /// It has one.
    Known {
        /// The path of the output.
        path: StorePath,
        /// Inputs that it was built with, of which the store knows other paths.
        conflicts: Vec<RealisationConflict>,
    },
    /// It has one that must not be used.
    Refused {
        /// The reason, and what to do about it.
        message: String,
    },
    /// It could not be asked.
    Failed(ComponentError),
}

/// An input of a realisation that the store knows under another path.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RealisationConflict {
    /// The realisation.
    pub realisation: DrvOutput,
    /// The input.
    pub input: DrvOutput,
    /// Its path according to the realisation.
    pub claimed: StorePath,
    /// Its path according to the store.
    pub known: StorePath,
}

impl RealisationConflict {
    /// An input of `realisation` that has the path `claimed` there, and `known` in the store.
    pub fn new(
        realisation: DrvOutput,
        input: DrvOutput,
        claimed: StorePath,
        known: StorePath,
    ) -> Self {
        Self {
            realisation,
            input,
            claimed,
            known,
        }
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckResult {
    /// The rebuild ended, or was cancelled.
    Ended(CheckOutcome),
    /// The builder failed, not the derivation.
    ComponentError(ComponentError),
    /// The store cannot compare or keep outputs.
    Impossible {
        /// The reason.
        error: ComponentError,
    },
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
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
    ComponentError(ComponentError),
}

impl fmt::Display for RealisationConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            realisation,
            input,
            claimed,
            known,
        } = self;
        write!(
            f,
            "that of '{realisation}' was made with '{claimed}' as '{input}', which is '{known}' here"
        )
    }
}
