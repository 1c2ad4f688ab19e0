//! Inputs that vanish from the store while builds need them.

use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildOutcome, CheckOutcome};

use super::{Done, Driver, Ended, tasks};
use crate::event::{BuildEvent, EventRecord};
use crate::machine::{BuildId, BuildResult, CheckResult, Input};
use crate::report::{FailureCause, Status};

impl Driver {
    /// Finds out whether the inputs of a build that did not succeed vanished.
    pub(super) fn query_inputs(&mut self, build: BuildId, ended: Ended) {
        let inputs = self.machine.inputs_of_build(build);
        let store = self.store.clone();
        self.spawn(async move {
            let valid = tasks::query_paths(store, inputs.clone()).await;
            let valid = valid.unwrap_or_else(|_| vec![true; inputs.len()]);
            let inputs = inputs.into_iter().zip(valid);
            let gone = inputs.filter_map(|(path, valid)| (!valid).then_some(path));
            Done::InputsQueried(ended, gone.collect())
        });
    }

    /// In place of the end, the session begins anew if inputs of builds vanished.
    pub(super) fn restarted(&mut self, record: EventRecord) -> EventRecord {
        let BuildEvent::Finished { report } = &record.event else {
            return record;
        };
        let vanished = report.failures.iter().find_map(|failure| {
            let needed = failure.needed && self.may_restart && report.status != Status::Cancelled;
            match &failure.cause {
                FailureCause::InputsGone { message } if needed => Some(message.clone()),
                _ => None,
            }
        });
        let Some(message) = vanished else {
            return record;
        };
        self.restart = Some(record.seq + 1);
        EventRecord {
            event: BuildEvent::Restarted { message },
            ..record
        }
    }

    /// The end of a build or check whose inputs vanished.
    pub(super) fn vanished(&mut self, gone: &StorePath, ended: Ended) -> Input {
        let gone = self.store.store_dir().display(gone).to_string();
        let message = |why: &str| format!("input '{gone}' vanished from the store: {why}");
        match ended {
            Ended::Build(build, result) => {
                self.forget(build);
                let message = match result {
                    Ok(BuildOutcome::Failure(failure)) => message(&failure.to_string()),
                    Ok(BuildOutcome::Success(_)) => message(""),
                    Err(trouble) => message(&trouble.message),
                };
                Input::BuildEnded {
                    build,
                    result: BuildResult::InputsGone { message },
                    usage: None,
                }
            }
            Ended::Check(build, result) => {
                self.forget(build);
                let message = match result {
                    CheckResult::Ended(CheckOutcome::Failed(failure)) => {
                        message(&failure.to_string())
                    }
                    CheckResult::Trouble(trouble) => message(&trouble.message),
                    CheckResult::Impossible { message: why }
                    | CheckResult::InputsGone { message: why } => message(&why),
                    CheckResult::Ended(_) => message(""),
                };
                let result = CheckResult::InputsGone { message };
                Input::CheckEnded { build, result }
            }
        }
    }
}
