//! Inputs that another process removes from the store while builds need them.

use std::collections::BTreeSet;

use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, FailureKind};
use tvix_coordinator::OnVanished;
use tvix_coordinator::machine::{BuildId, BuildResult, Input, StartBuild};

use super::{Pending, World};

/// What has vanished in a world.
#[derive(Debug, Default)]
pub(super) struct Vanishing {
    vanished: BTreeSet<StorePath>,
    /// The build that ends.
    pub(super) started: Option<StartBuild>,
    restarted: bool,
}

impl Vanishing {
    /// Whether something vanished since the session began, or began anew.
    pub(super) fn any(&self) -> bool {
        !self.vanished.is_empty()
    }
}

impl World {
    /// Whether the machine has a reason to believe that a path is valid.
    pub(super) fn is_valid_or_vanished(&self, path: &StorePath) -> bool {
        self.valid.contains(path) || self.vanishing.vanished.contains(path)
    }

    /// Some builds fail because an input vanished, once in a world.
    pub(super) fn maybe_vanishes(&mut self, build: BuildId, result: BuildResult) -> BuildResult {
        let started = self.vanishing.started.take();
        let once = !self.vanishing.any() && !self.vanishing.restarted;
        let cancelled = self.cancelled_builds.contains(&build);
        let fails = matches!(
            result,
            BuildResult::Failed(_) | BuildResult::ComponentError(_)
        );
        if !once || cancelled || !fails || !self.random.percent(self.plan.vanishing) {
            return result;
        }
        let outputs = started.iter().flat_map(|start| &start.inputs);
        // What was there from the start is what the rest of the world counts on.
        let outputs = outputs.filter(|path| self.plan.owner(path).is_some());
        let mut outputs = outputs.filter(|path| !self.plan.present.contains(*path));
        let Some(path) = outputs.next().cloned() else {
            return result;
        };
        self.tally.vanished += 1;
        self.valid.remove(&path);
        self.vanishing.vanished.insert(path);
        BuildResult::Failed(
            BuildFailure::new(FailureKind::ExitCode { code: 2 }, self.now)
                .with_log_tail(Vec::new()),
        )
    }

    pub(super) fn answer_inputs(&mut self, build: BuildId, paths: Vec<StorePath>) {
        let valid: Vec<bool> = paths.iter().map(|path| self.valid.contains(path)).collect();
        let all_there = valid.iter().all(|valid| *valid);
        let trouble = match all_there {
            true => self.trouble(format!("inputs {build:?}"), self.plan.store_trouble),
            false => None,
        };
        let result = trouble.map_or(Ok(valid), Err);
        let again = result.clone();
        self.tell(Input::InputsQueried { build, result });
        if self.duplicate() {
            let result = again;
            self.tell(Input::InputsQueried { build, result });
        }
    }

    /// The session begins anew with what is valid now.
    pub(super) fn restart(&mut self, first_event: u64) {
        assert_eq!(self.plan.options.on_vanished, OnVanished::Restart);
        assert!(self.vanishing.any(), "a restart, and nothing vanished");
        assert!(!self.vanishing.restarted, "a second restart");
        assert!(!self.cancelled, "a restart after everything was cancelled");
        assert_eq!(first_event, self.next_event, "events without gaps");
        assert!(self.machine.is_finished());
        assert!(self.running.is_empty(), "builds that did not end");
        let builds = |it: &Pending| matches!(it, Pending::Build(_) | Pending::Push(_));
        assert!(!self.pending.iter().any(builds), "builds that did not end");
        let fresh = Self::new(self.plan.clone(), self.random.clone(), self.verbose);
        let old = std::mem::replace(self, fresh);
        self.machine = std::mem::replace(&mut self.machine, old.machine).again(first_event);
        self.now = old.now;
        self.valid = old.valid;
        self.realisations = old.realisations;
        self.troubles = old.troubles;
        self.next_event = old.next_event;
        self.mended_twin = old.mended_twin;
        self.log = old.log;
        self.tally = old.tally;
        self.tally.restarts += 1;
        self.vanishing.restarted = true;
    }
}
