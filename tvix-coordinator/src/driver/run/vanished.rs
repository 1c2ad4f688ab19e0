//! Inputs that vanish from the store while builds need them.

use nix_compat::store_path::StorePath;
use tvix_build_api::BuildOutcome;

use super::{Done, Driver, tasks};
use crate::event::{BuildEvent, EventRecord};
use crate::machine::{BuildId, BuildResult, Trouble};
use crate::report::{FailureCause, Status};

impl Driver {
    /// A build that did not succeed may not be to blame, if its inputs vanished.
    pub(super) fn check_inputs(&mut self, build: BuildId, result: Result<BuildOutcome, Trouble>) {
        let inputs = self.machine.inputs_of_build(build);
        let store = self.store.clone();
        self.spawn(async move {
            let valid = tasks::query_paths(store, inputs.clone()).await;
            let valid = valid.unwrap_or_else(|_| vec![true; inputs.len()]);
            let inputs = inputs.into_iter().zip(valid);
            let gone = inputs.filter_map(|(path, valid)| (!valid).then_some(path));
            Done::Checked(build, result, gone.collect())
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

    /// The result of a build whose inputs vanished.
    pub(super) fn vanished(
        &self,
        gone: &StorePath,
        result: Result<BuildOutcome, Trouble>,
    ) -> BuildResult {
        let why = match result {
            Ok(BuildOutcome::Failure(failure)) => failure.to_string(),
            Ok(BuildOutcome::Success(_)) => String::new(),
            Err(trouble) => trouble.message,
        };
        let gone = self.store.store_dir().display(gone);
        BuildResult::InputsGone {
            message: format!("input '{gone}' vanished from the store: {why}"),
        }
    }
}
