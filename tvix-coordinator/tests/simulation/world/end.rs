//! Invariants at the end of a session.

use nix_compat::derivation::OutputName;
use nix_compat::store_path::{StorePath, output_path_name};
use tvix_coordinator::{FailureCause, OnFailure, Report, Status};

use super::World;
use crate::plan::Fate;

impl World {
    pub(super) fn check_end(&mut self) {
        let report = self.report.take().unwrap();
        assert!(self.open_imports.is_empty(), "imports without an answer");
        let running = self
            .running
            .keys()
            .filter(|build| !self.cancelled_builds.contains(build));
        assert_eq!(running.count(), 0, "builds that still run");
        assert!(self.running.is_empty(), "builds that did not end");
        assert!(self.waiting.is_empty(), "builds that still wait");
        if self.cancelled {
            self.tally.cancelled += 1;
            assert_eq!(report.status, Status::Cancelled);
            return;
        }
        self.tally.failures += report.failures.len() as u64;
        if self.plan.fatal_store_trouble || self.mended_twin {
            return;
        }
        for failure in &report.failures {
            let index = self.by_path[&failure.drv_path];
            assert!(
                matches!(failure.cause, FailureCause::Build { .. }),
                "{failure:?}"
            );
            assert_eq!(
                self.plan.fates[self.plan.classes[index]],
                Fate::Fails,
                "{failure:?}"
            );
            assert!(
                !failure.needed || self.needed.contains(&index),
                "{failure:?}"
            );
        }
        for skipped in &report.skipped {
            let cause = self.by_path[&skipped.root_cause];
            let index = self.by_path[&skipped.drv_path];
            let same_class = |other: &usize| self.plan.classes[*other] == self.plan.classes[cause];
            assert!(
                self.plan.closure(index).iter().any(same_class),
                "{skipped:?}"
            );
        }
        for root in &report.roots {
            for (output, path) in &root.outputs {
                assert!(
                    self.valid.contains(path),
                    "{path} is reported and not valid"
                );
                self.expect_output(&root.drv_path, output, path);
            }
        }
        let failed = report.failures.iter().any(|failure| failure.needed);
        self.expect_check_results(&report);
        let problems = report.checks.iter().any(|check| check.problem.is_some());
        let expected = match () {
            () if failed => Status::BuildFailed,
            () if self.evaluation_failed => Status::Error,
            () if problems => Status::CheckFailed,
            () => Status::Success,
        };
        assert_eq!(report.status, expected, "{report:?}");
        let stops = self.plan.options.on_failure == OnFailure::Stop || self.stop_decided;
        if stops && (failed || self.evaluation_failed) {
            return;
        }
        self.expect_realisations(&report);
        self.expect_all_checked(&report);
        // Everything that can be built exists.
        assert_eq!(report.roots.len(), self.roots.len());
        for (reported, root) in report.roots.iter().zip(&self.roots) {
            let index = self.by_path[&root.wanted.drv_path];
            let wanted: Vec<String> = root
                .wanted
                .outputs
                .iter()
                .map(ToString::to_string)
                .collect();
            // A derivation that does not build may be available from a substituter, depending on
            // chance.
            match reported.success {
                true => assert!(self.can_be_had(index, &wanted, true), "{reported:?}"),
                false => assert!(!self.can_be_had(index, &wanted, false), "{reported:?}"),
            }
        }
    }

    /// Whether outputs were present from the beginning, can be built, or, with `luck`, can be
    /// substituted.
    pub(super) fn can_be_had(&self, index: usize, outputs: &[String], luck: bool) -> bool {
        let derivation = &self.plan.derivations[index].derivation;
        let present = outputs.iter().all(|output| {
            let path = derivation.output_path(&self.plan.dir, &output.parse().unwrap());
            path.is_some_and(|path| {
                self.plan.present.contains(&path) || (luck && self.may_be_substituted(&path))
            })
        });
        present
            || (luck && self.plan.is_realised(index))
            || (self.plan.fates[self.plan.classes[index]] != Fate::Fails
                && self.plan.inputs[index].iter().all(|(input, output)| {
                    self.can_be_had(*input, std::slice::from_ref(output), luck)
                }))
    }

    /// Checks that a path belongs to this output: it was reported by a substituter, or has the
    /// right name.
    pub(super) fn expect_output(
        &self,
        drv_path: &StorePath,
        output: &OutputName,
        path: &StorePath,
    ) {
        if self.plan.is_offered(path) {
            let id = self.plan.drv_output(drv_path, output);
            let offered = id.and_then(|id| self.plan.offered_realisations.get(&id));
            assert_eq!(offered, Some(path), "{drv_path}!{output}");
        } else {
            let made = &self.plan.derivations[self.by_path[drv_path]].derivation;
            let name = output_path_name(&made.name, output).unwrap();
            assert_eq!(path.name(), &name, "{drv_path}!{output}");
        }
    }

    /// The store knows the realisations of all reported floating outputs.
    pub(super) fn expect_realisations(&self, report: &Report) {
        for root in &report.roots {
            for (output, path) in &root.outputs {
                let made = &self.plan.derivations[self.by_path[&root.drv_path]].derivation;
                let id = self.plan.drv_output(&root.drv_path, output);
                let is_known = made.output_path(&self.plan.dir, output).is_some();
                if let Some(id) = id.filter(|_| !is_known) {
                    let recorded = self.realisations.get(&id);
                    assert_eq!(recorded, Some(path), "{}!{output}", root.drv_path);
                }
            }
        }
    }
}
