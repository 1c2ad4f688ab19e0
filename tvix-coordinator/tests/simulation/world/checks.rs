//! Simulated checks: rebuilds that are compared with valid outputs.

use std::collections::{BTreeMap, BTreeSet};

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, CheckOutcome, Difference, FailureKind};
use tvix_coordinator::StoreErrorKind;
use tvix_coordinator::machine::{BuildId, CheckResult, Input, StartBuild};
use tvix_coordinator::{CheckProblem, ComponentError, ComponentErrorKind, FailureCause, Report};

use super::World;

/// The result of a simulated check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Same,
    Differs,
    Failed,
    Impossible,
}

/// The checks of a world.
#[derive(Debug, Default)]
pub(super) struct Checking {
    builds: BTreeSet<BuildId>,
    /// Derivations that are being rebuilt.
    running: BTreeSet<StorePath>,
    ended: BTreeMap<StorePath, Ended>,
}

impl World {
    pub(super) fn is_check(&self, build: BuildId) -> bool {
        self.checking.builds.contains(&build)
    }

    pub(super) fn start_check(&mut self, start: StartBuild, outputs: &[(OutputName, StorePath)]) {
        self.tally.checks += 1;
        let name = &start.derivation.name;
        assert!(self.plan.options.check.is_some(), "{name}: not asked for");
        assert!(
            !self.stopped && !self.cancelled && self.evaluation_over,
            "{name}: checked at the wrong time"
        );
        let mut roots = self.roots.iter().map(|root| &root.wanted.drv_path);
        assert!(roots.any(|it| *it == start.drv_path), "{name}: not a root");
        let known = &self.checking;
        assert!(
            !known.ended.contains_key(&start.drv_path),
            "{name}: checked twice"
        );
        let first = self.checking.running.insert(start.drv_path.clone());
        assert!(first, "{name}: checked twice at once");
        let names: Vec<_> = outputs.iter().map(|(name, _)| name).collect();
        let expected: Vec<_> = start.derivation.outputs.keys().collect();
        assert_eq!(names, expected, "{name}: its outputs");
        for (output, path) in outputs {
            assert!(
                self.is_valid_or_vanished(path),
                "{name}: {path} is not valid, so there is nothing to compare with"
            );
            self.expect_output(&start.drv_path, output, path);
        }
        self.expect_inputs(&start);
        self.expect_slot(start.builder);
        self.checking.builds.insert(start.build);
        self.run_build(start);
    }

    pub(super) fn end_check(&mut self, start: StartBuild) {
        let build = start.build;
        self.running.remove(&build);
        self.waiting.remove(&build);
        self.checking.running.remove(&start.drv_path);
        let failed = |kind| {
            let duration = std::time::Duration::ZERO;
            CheckResult::Ended(CheckOutcome::Failed(
                BuildFailure::new(kind, duration).with_log_tail(Vec::new()),
            ))
        };
        let cancelled = self.cancelled_builds.contains(&build);
        let result = if cancelled && self.random.percent(80) {
            failed(FailureKind::Cancelled)
        } else if let Some(trouble) = self.trouble(format!("check {}", start.drv_path), 10) {
            CheckResult::ComponentError(trouble)
        } else {
            let ended = match self.random.below(100) {
                0..70 => Ended::Same,
                70..85 => Ended::Differs,
                85..97 => Ended::Failed,
                _ => Ended::Impossible,
            };
            if !cancelled {
                self.tally.check_problems += u64::from(ended != Ended::Same);
                self.checking.ended.insert(start.drv_path, ended);
            }
            match ended {
                Ended::Same => CheckResult::Ended(CheckOutcome::Same),
                Ended::Differs => {
                    let hash = |text: &str| NixHash::digest(HashAlgo::Sha256, text);
                    let difference = Difference::new(
                        OutputName::out(),
                        start.derivation.path(&self.plan.dir).unwrap(),
                        hash("one"),
                        hash("other"),
                    );
                    CheckResult::Ended(CheckOutcome::Differs(vec![difference]))
                }
                Ended::Failed => failed(FailureKind::ExitCode { code: 1 }),
                Ended::Impossible => {
                    let kind = ComponentErrorKind::Store(StoreErrorKind::NoSpace);
                    let error = ComponentError::new(kind, "disk full");
                    CheckResult::Impossible { error }
                }
            }
        };
        let again = result.clone();
        self.tell(Input::CheckEnded { build, result });
        if self.duplicate() {
            let result = again;
            self.tell(Input::CheckEnded { build, result });
        }
    }

    /// Each reported check is of a root, is reported once, and has the recorded result.
    pub(super) fn expect_check_results(&mut self, report: &Report) {
        let mut seen = BTreeSet::new();
        for check in &report.checks {
            let path = &check.drv_path;
            assert!(seen.insert(path), "{path}: reported twice");
            assert!(
                report
                    .roots
                    .iter()
                    .any(|root| root.drv_path.as_ref() == Some(path)),
                "{path}: not a root"
            );
            let ended = self.checking.ended.get(path);
            match &check.problem {
                None => assert_eq!(ended, Some(&Ended::Same), "{path}"),
                Some(CheckProblem::Differs { .. }) => assert_eq!(ended, Some(&Ended::Differs)),
                Some(CheckProblem::Failed { .. }) => assert_eq!(ended, Some(&Ended::Failed)),
                Some(CheckProblem::Impossible { reason }) => {
                    assert_eq!(ended, Some(&Ended::Impossible), "{reason}");
                    assert!(matches!(**reason, FailureCause::Store { .. }), "{reason}");
                }
                // Outputs may become valid later, as other checks need them.
                Some(CheckProblem::NotValid { .. }) => assert_eq!(ended, None, "{path}"),
                Some(CheckProblem::Skipped { root_cause }) => {
                    self.tally.skipped_checks += 1;
                    assert_eq!(ended, None, "{path}");
                    let mut failures = report.failures.iter();
                    assert!(
                        failures.any(|it| it.drv_path == *root_cause && it.needed),
                        "{path}: {root_cause} did not fail"
                    );
                }
                Some(other) => panic!("what is {other:?}?"),
            }
        }
        // A session that stops may not have begun them all.
        for path in self.checking.ended.keys() {
            assert!(seen.contains(path), "{path}: not reported");
        }
    }

    pub(super) fn expect_not_valid(&self, drv_path: &StorePath, outputs: &[OutputName]) {
        let made = &self.plan.derivations[self.by_path[drv_path]].derivation;
        // From the 32nd output on, the machine tracks outputs only together.
        let exact = made.outputs.len() < 32;
        assert!(!outputs.is_empty());
        for output in outputs {
            let path = made.output_path(&self.plan.dir, output);
            let valid = path.is_some_and(|path| self.valid.contains(&path));
            assert!(!valid || !exact, "{drv_path}!{output} is valid");
        }
    }

    /// Every root that is valid was checked.
    pub(super) fn expect_all_checked(&self, report: &Report) {
        let checks = self.plan.options.check.is_some();
        for root in report.roots.iter().filter(|root| checks && root.success) {
            assert!(
                report
                    .checks
                    .iter()
                    .any(|it| Some(&it.drv_path) == root.drv_path.as_ref()),
                "{root:?} was not checked"
            );
        }
    }
}
