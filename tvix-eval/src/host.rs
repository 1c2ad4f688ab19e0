//! The interface between an evaluation and its host program.

use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use tvix_eval_api::{Diagnostic, RealiseError, RealisedOutput, SourceAddition, WantedOutputs};

pub use crate::background::Work;
pub use tvix_eval_api::fetch::Cancel;

/// An answer to a fiber.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The requested outputs, or the reason why they are not available.
    Realised(Result<Vec<RealisedOutput>, RealiseError>),
    /// The fiber's background work is done.
    Done,
    /// For no fiber: there may be a task that several evaluations share.
    Task,
}

/// The host of an evaluation: receives events and answers requests. All methods are called on the
/// evaluation's thread. Blocking it applies back-pressure.
pub trait Host {
    /// A derivation was instantiated. Its inputs were reported earlier. Returns `false` to end the
    /// evaluation. `modulo` is the field of
    /// [`EvalEvent::Derivation`](tvix_eval_api::EvalEvent::Derivation).
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        modulo: Option<[u8; 32]>,
    ) -> bool;
    /// A source was added to the store. Returns `false` to end the evaluation.
    fn source(&self, source: SourceAddition) -> bool;
    /// A message for the user.
    fn diagnostic(&self, diagnostic: Diagnostic);
    /// A fiber needs outputs. [`Host::next_answer`] returns the fiber's number with the answer.
    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>);
    /// A speculative fiber asks for outputs: evaluation needs them in any case, if everything before
    /// them succeeds. [`Host::needed`] or [`Host::forget`] follows. A failure should be answered only
    /// after [`Host::needed`], and must not have consequences before.
    fn realise_ahead(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        self.realise(fiber, wanted);
    }
    /// Evaluation waits for the outputs that a speculative fiber has asked for.
    fn needed(&self, fiber: u32) {
        let _ = fiber;
    }
    /// A speculative fiber does not need an answer any more. Answers to it are ignored.
    fn forget(&self, fiber: u32) {
        let _ = fiber;
    }
    /// Runs work for a fiber on another thread. [`Host::next_answer`] returns the fiber's number
    /// with [`Answer::Done`]. A host without threads returns the work, which then runs at once and
    /// blocks the evaluation.
    fn background(&self, fiber: u32, work: Work) -> Option<Work> {
        let _ = fiber;
        Some(work)
    }
    /// Waits for the next answer; `None` if there will not be one.
    fn next_answer(&self) -> Option<(u32, Answer)>;
    /// The next answer if it is available. `None` defers it to [`Host::next_answer`]. A fiber with
    /// an available answer resumes before new work is started.
    fn ready_answer(&self) -> Option<(u32, Answer)> {
        None
    }
    /// Whether the evaluation is cancelled. Called often.
    fn is_cancelled(&self) -> bool;
}

/// A host that does nothing, for evaluations without builds.
#[derive(Debug, Default)]
pub struct NoHost;

impl Host for NoHost {
    fn derivation(&self, _: &StorePath, _: &Arc<Derivation>, _: Option<[u8; 32]>) -> bool {
        true
    }

    fn source(&self, _: SourceAddition) -> bool {
        true
    }

    fn diagnostic(&self, diagnostic: Diagnostic) {
        tracing::info!("{}", diagnostic.message);
    }

    fn realise(&self, _: u32, _: Vec<WantedOutputs>) {}

    fn next_answer(&self) -> Option<(u32, Answer)> {
        None
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        None
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}
