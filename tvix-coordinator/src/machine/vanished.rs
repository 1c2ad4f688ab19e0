//! Inputs that vanish from the store while builds need them.
//!
//! The garbage collector of another program may remove inputs in spite of the roots of this process. A build
//! that does not succeed may not be at fault then, so the store is asked for its inputs before the failure
//! counts. If an input is gone, the derivations to rebuild it have been dropped from the graph, and the session
//! begins anew, once ([`Options::on_vanished`](crate::Options::on_vanished)).

use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, CheckOutcome, FailureKind};

use super::{Action, BuildId, ComponentError, Machine};
use crate::report::{FailureCause, Report, Status};

/// The result of a build that did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// The derivation is at fault, unless inputs vanished.
    Derivation(BuildFailure),
    /// The builder is.
    Builder(ComponentError),
}

impl From<BuildFailure> for Failed {
    fn from(failure: BuildFailure) -> Self {
        match failure.kind {
            // A builder may report a cancellation only if it was asked for one.
            FailureKind::Cancelled => {
                let message = "the builder cancelled a build without having been asked to";
                Self::Builder(ComponentError::builder(message).retryable(true))
            }
            _ => Self::Derivation(failure),
        }
    }
}

impl Machine {
    /// A build did not succeed. It keeps its slot until it is known whether its inputs are there.
    pub(super) fn failed(&mut self, id: BuildId, failed: Failed) {
        self.resumable.retain(|it| *it != id);
        let paths = self.inputs_of_build(id);
        let Some(build) = self.builds.get_mut(&id) else {
            return;
        };
        if build.is_cancelled() || paths.is_empty() {
            return self.conclude(id, failed, None);
        }
        build.failed = Some(failed);
        self.actions
            .push_back(Action::QueryInputs { build: id, paths });
    }

    pub(super) fn inputs_queried(
        &mut self,
        id: BuildId,
        result: Result<Vec<bool>, ComponentError>,
    ) {
        let Some(build) = self.builds.get_mut(&id) else {
            return;
        };
        let Some(failed) = build.failed.take() else {
            return;
        };
        // If the store does not answer, the failure counts.
        let valid = result.unwrap_or_default();
        let inputs = self.inputs_of_build(id).into_iter().zip(valid);
        let mut gone = inputs.filter(|(_, valid)| !valid);
        let gone = gone.next().map(|(path, _)| path);
        self.conclude(id, failed, gone);
    }

    fn conclude(&mut self, id: BuildId, failed: Failed, gone: Option<StorePath>) {
        if self.give_up_slot(id) {
            return self.build_cancelled(id);
        }
        let check = self.builds.get(&id).is_some_and(|build| build.is_check());
        let gone = gone.map(|path| {
            let path = self.dir.display(&path);
            match &failed {
                Failed::Derivation(failure) => {
                    format!("input '{path}' vanished from the store: {failure}")
                }
                Failed::Builder(trouble) => {
                    let why = &trouble.message;
                    format!("input '{path}' vanished from the store: {why}")
                }
            }
        });
        match (gone, failed) {
            (Some(message), _) if check => {
                self.end_check(id, Err(FailureCause::InputsGone { message }));
            }
            (Some(message), _) => self.inputs_gone(id, message),
            (None, Failed::Builder(trouble)) => self.try_again(id, trouble),
            (None, Failed::Derivation(failure)) if check => {
                self.end_check(id, Ok(CheckOutcome::Failed(failure)));
            }
            (None, Failed::Derivation(failure)) => self.build_failed(id, failure),
        }
    }

    /// The message about a vanished input because of which the session begins anew in place of its end.
    pub(super) fn restarts(&self, report: &Report) -> Option<String> {
        if !self.may_restart || report.status == Status::Cancelled {
            return None;
        }
        let mut needed = report.failures.iter().filter(|failure| failure.needed);
        needed.find_map(|failure| match &failure.cause {
            FailureCause::InputsGone { message } => Some(message.clone()),
            _ => None,
        })
    }
}
