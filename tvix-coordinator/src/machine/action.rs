//! Actions: the machine's requests to the code that runs it.

use std::sync::Arc;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::store_path::StorePath;
use tvix_eval_api::RealiseError;

use super::{BatchId, BuildId, ImportId, ProbeId, QuestionId, SubstitutionId};
use crate::event::EventRecord;
use crate::report::{Failure, Report};

/// A request of the machine. The code that runs the machine performs it and tells the machine the
/// result, in any order and at any time.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Pass an event to the listeners. No answer.
    Emit(EventRecord),
    /// Ask the store which of these are valid: [`Input::PathsQueried`].
    ///
    /// [`Input::PathsQueried`]: super::Input::PathsQueried
    QueryPaths {
        /// Name of the query.
        batch: BatchId,
        /// The paths.
        paths: Vec<StorePath>,
    },
    /// Ask the store for the valid paths of outputs: [`Input::RealisationsQueried`].
    ///
    /// [`Input::RealisationsQueried`]: super::Input::RealisationsQueried
    QueryRealisations {
        /// Name of the query.
        batch: BatchId,
        /// The outputs.
        outputs: Vec<OutputKeys>,
    },
    /// Ask a substituter which of these it has: [`Input::SubstituterQueried`].
    ///
    /// [`Input::SubstituterQueried`]: super::Input::SubstituterQueried
    QuerySubstituter {
        /// Name of the question.
        probe: ProbeId,
        /// Which substituter, as an index into those that the machine was given.
        substituter: usize,
        /// The paths.
        paths: Vec<StorePath>,
    },
    /// Ask a substituter, or the store, for realisations of these floating outputs, whether their paths
    /// are valid or not: [`Input::RealisationsFound`].
    ///
    /// [`Input::RealisationsFound`]: super::Input::RealisationsFound
    FindRealisations {
        /// Name of the question.
        probe: ProbeId,
        /// The substituter, as an index into those that the machine was given; `None` for the store.
        substituter: Option<usize>,
        /// The outputs.
        outputs: Vec<OutputKeys>,
    },
    /// Copy a path from a substituter to the store, where all that it refers to is valid:
    /// [`Input::Substituted`].
    ///
    /// [`Input::Substituted`]: super::Input::Substituted
    Substitute {
        /// Name of the substitution.
        substitution: SubstitutionId,
        /// Which substituter.
        substituter: usize,
        /// The path.
        path: StorePath,
    },
    /// Add a source to the store: [`Input::SourceAdded`].
    ///
    /// [`Input::SourceAdded`]: super::Input::SourceAdded
    AddSource {
        /// The source.
        path: StorePath,
    },
    /// Add sources that refer to nothing to the store in one request, as far as they are small:
    /// [`Input::SourceAdded`] for each that was added or failed, [`Input::SourcesTooLarge`] for the
    /// others. Their sizes are known only once they are read.
    ///
    /// [`Input::SourceAdded`]: super::Input::SourceAdded
    /// [`Input::SourcesTooLarge`]: super::Input::SourcesTooLarge
    AddSmallSources {
        /// The sources.
        paths: Vec<StorePath>,
        /// Maximum size in bytes of one of them, as a NAR.
        max_size: usize,
        /// Maximum size in bytes of all of them.
        max_total: usize,
    },
    /// Have the store keep these: [`Input::Recorded`].
    ///
    /// [`Input::Recorded`]: super::Input::Recorded
    Record {
        /// Name of the recording.
        batch: BatchId,
        /// What to keep.
        recording: Recording,
    },
    /// Start a build: [`Input::LogLine`] any number of times, then [`Input::BuildEnded`]. In between
    /// [`Input::BuildWaiting`] and then [`Input::BuildReady`], if the builder waits.
    ///
    /// [`Input::BuildWaiting`]: super::Input::BuildWaiting
    /// [`Input::BuildReady`]: super::Input::BuildReady
    /// [`Input::LogLine`]: super::Input::LogLine
    /// [`Input::BuildEnded`]: super::Input::BuildEnded
    StartBuild(StartBuild),
    /// Start a build, to compare its outputs with the valid ones and not to add them to the store:
    /// log lines and waiting as for [`Action::StartBuild`], then [`Input::CheckEnded`].
    ///
    /// [`Input::CheckEnded`]: super::Input::CheckEnded
    StartCheck {
        /// The build.
        start: StartBuild,
        /// All outputs of the derivation with their valid store paths.
        outputs: Vec<(OutputName, StorePath)>,
    },
    /// Ask the store which of the inputs of a build are valid that did not succeed: [`Input::InputsQueried`].
    ///
    /// [`Input::InputsQueried`]: super::Input::InputsQueried
    QueryInputs {
        /// The build.
        build: BuildId,
        /// Its inputs.
        paths: Vec<StorePath>,
    },
    /// Let a build go on that was [waiting](super::Input::BuildWaiting): it has a slot again. Nothing
    /// to answer.
    ResumeBuild(BuildId),
    /// End a build soon. It still ends with [`Input::BuildEnded`].
    ///
    /// [`Input::BuildEnded`]: super::Input::BuildEnded
    CancelBuild(BuildId),
    /// Add the outputs that a build streamed to the store: [`Input::OutputsPushed`].
    ///
    /// [`Input::OutputsPushed`]: super::Input::OutputsPushed
    PushOutputs(BuildId),
    /// Forget an import that was requested ahead. Nothing to answer.
    DropImport {
        /// The import.
        import: ImportId,
    },
    /// Answer an import. Nothing to answer.
    AnswerImport {
        /// Which.
        import: ImportId,
        /// Where its outputs are, or why they are not.
        answer: Result<Vec<ImportedOutput>, RealiseError>,
    },
    /// Ask the front end what to do about a failure: [`Input::FailureDecided`].
    ///
    /// [`Input::FailureDecided`]: super::Input::FailureDecided
    AskAboutFailure {
        /// Name of the question.
        question: QuestionId,
        /// The failure.
        failure: Box<Failure>,
    },
    /// Take nothing more from the evaluator, and end it. Nothing to answer.
    StopEvaluation,
    /// Begin the session anew with a machine made by [`Machine::again`], as inputs vanished from the store:
    /// evaluate the same request. The last action of this machine.
    ///
    /// [`Machine::again`]: super::Machine::again
    Restart {
        /// The number of the next event.
        first_event: u64,
    },
    /// The session is over: drop everything that is still running. The last action.
    Finish(Arc<Report>),
}

/// An output of a floating derivation, and the keys by which its realisation is known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputKeys {
    /// Names of the derivation, the best first. A realisation under any of them is the answer.
    pub keys: Vec<DrvKey>,
    /// The output.
    pub output: OutputName,
}

impl OutputKeys {
    /// The output by each key.
    pub fn ids(&self) -> impl Iterator<Item = DrvOutput> + '_ {
        self.keys.iter().map(|drv| DrvOutput {
            drv: drv.clone(),
            output: self.output.clone(),
        })
    }
}

/// A build to start.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StartBuild {
    /// Name of the build.
    pub build: BuildId,
    /// Which builder, as an index into those that the machine was made with.
    pub builder: usize,
    /// The derivation that the user knows this by.
    pub drv_path: StorePath,
    /// What to build. Resolved.
    pub derivation: Arc<Derivation>,
    /// The outputs and sources that it uses directly, each once. All valid.
    pub inputs: Vec<StorePath>,
}

/// An output that evaluation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportedOutput {
    /// The derivation.
    pub drv_path: StorePath,
    /// Its output.
    pub output: OutputName,
    /// Where it is.
    pub path: StorePath,
}

/// Things for the store to keep, in one go.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Recording {
    /// Add the `.drv` files of these, in this order: inputs come first.
    Derivations(Vec<(StorePath, Arc<Derivation>)>),
    /// Remember where these outputs are.
    Realisations(Vec<Realisation>),
}
