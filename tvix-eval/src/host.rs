//! What evaluation tells and asks of whoever runs it.

use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use tvix_eval_api::{Diagnostic, RealiseError, RealisedOutput, SourceAddition, WantedOutputs};

pub use crate::background::Work;
pub use tvix_eval_api::fetch::Cancel;

/// What a fiber waited for.
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The outputs that it asked for, or why they do not come.
    Realised(Result<Vec<RealisedOutput>, RealiseError>),
    /// What it had done in the background is done.
    Done,
}

/// What evaluation tells and asks of whoever runs it. All methods are called on the evaluation's
/// thread and may block it, which is how back-pressure is exerted.
pub trait Host {
    /// A derivation was instantiated; those it needs came before it. `false` if nobody listens
    /// any more: the evaluation then ends.
    /// `modulo` is what [`EvalEvent::Derivation`](tvix_eval_api::EvalEvent::Derivation) has.
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        modulo: Option<[u8; 32]>,
    ) -> bool;
    /// A source becomes a store path. `false` as above.
    fn source(&self, source: SourceAddition) -> bool;
    /// Something to tell the user.
    fn diagnostic(&self, diagnostic: Diagnostic);
    /// Outputs are needed by a fiber. [`Host::next_answer`] will say its number.
    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>);
    /// Does work for a fiber on another thread. [`Host::next_answer`] will say its number and
    /// [`Answer::Done`]. A host that has no threads for it gives the work back, and it is done at
    /// once, while all else waits.
    fn background(&self, fiber: u32, work: Work) -> Option<Work> {
        let _ = fiber;
        Some(work)
    }
    /// Waits for the next answer; `None` if there will be none.
    fn next_answer(&self) -> Option<(u32, Answer)>;
    /// The next answer if it is there already; `None` leaves it to [`Host::next_answer`]. Who waited
    /// for it then goes on before anything new is begun.
    fn ready_answer(&self) -> Option<(u32, Answer)> {
        None
    }
    /// Whether nobody wants the result any more. Asked often.
    fn is_cancelled(&self) -> bool;
}

/// A host that does nothing: evaluation of what needs no build.
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
