//! The ends: of work that nothing needs, of everything at once, and of the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix_compat::sorted::SortedMap;
use rustc_hash::FxHashSet;
use tvix_eval_api::{EvalFailure, RootOrder};

use super::graph::{Body, NodeId, State};
use super::sources::SourceState;
use super::{Action, Machine, Stop};
use crate::event::BuildEvent;
use crate::options::BuildPolicy;
use crate::report::{FailureCause, Report, RootReport, Skipped, Status};

impl Machine {
    /// Cancels everything that is not needed. Evaluation has ended and all look-ups are done, so it
    /// is known which derivations are needed.
    pub(super) fn prune(&mut self) {
        self.pruned = true;
        for id in self.graph.ids() {
            let node = &mut self.graph[id];
            if node.needed {
                continue;
            }
            // A node that was never looked up is kept: a derivation that cannot be substituted
            // after all, or a check, may need it.
            let may_be_needed = self.substitutions.any() || self.options.check.is_some();
            if node.state == State::Idle && may_be_needed {
                continue;
            }
            if matches!(
                node.state,
                State::Waiting { .. }
                    | State::Ready
                    | State::Idle
                    | State::Asking
                    | State::Offered
                    | State::Fetching
            ) {
                node.state = State::Unneeded;
            }
        }
        let graph = &self.graph;
        for id in self.scheduler.drop_delayed(|id| graph[id].needed) {
            self.graph[id].state = State::Unneeded;
        }
        self.cancel_builds(|machine, id| !machine.graph[id].needed);
        self.prune_substitutions();
        self.fail_for_missing_sources();
    }

    /// No more sources will be offered.
    fn fail_for_missing_sources(&mut self) {
        for id in self.graph.ids() {
            if !matches!(self.graph[id].state, State::Waiting { .. }) {
                continue;
            }
            let Some(derivation) = self.graph[id].derivation().cloned() else {
                continue;
            };
            let missing = derivation.input_srcs.iter().find_map(|path| {
                let source = self.sources.find(path)?;
                (self.sources[source].state == SourceState::Missing).then_some(source)
            });
            if let Some(source) = missing {
                let cause = self.source_trouble(source);
                self.fail(id, cause);
                self.do_work();
            }
        }
    }

    /// Everything ends.
    pub(super) fn stop(&mut self, why: Stop) {
        if self.stop == Some(Stop::Cancelled) || self.finished {
            return;
        }
        let first = self.stop.is_none();
        self.stop = Some(why);
        if first {
            if std::mem::replace(&mut self.evaluating, false) {
                self.actions.push_back(Action::StopEvaluation);
            }
            self.work.clear();
            self.scheduler.clear();
            self.checks.clear();
            self.sources.clear();
            self.look_ups.clear();
            self.substitutions.clear();
            self.questions.clear();
            self.recordings.clear();
            self.close_imports();
            self.cancel_builds(|_, _| true);
        }
    }

    /// Ends the session if nothing is under way. True if there is something to do before, for which
    /// there may be no action yet.
    pub(super) fn try_finish(&mut self) -> bool {
        if !self.can_finish() {
            return false;
        }
        if self.stop.is_none() {
            self.fail_what_is_stuck();
            self.do_work();
            if !self.actions.is_empty() || !self.can_finish() {
                return false;
            }
            if self.begin_checks() {
                return true;
            }
        }
        self.finished = true;
        let report = Arc::new(self.report());
        if let Some(message) = self.restarts(&report) {
            self.emit(BuildEvent::Restarted { message });
            let first_event = self.next_event;
            self.actions.push_back(Action::Restart { first_event });
            return false;
        }
        self.emit(BuildEvent::Finished {
            report: report.clone(),
        });
        self.actions.push_back(Action::Finish(report));
        false
    }

    fn can_finish(&self) -> bool {
        match self.stop {
            Some(Stop::Cancelled) => self.builds.values().all(super::builds::Build::is_pushing),
            Some(Stop::Failure) => self.builds.is_empty(),
            None => {
                !self.evaluating
                    && self.pruned
                    && self.builds.is_empty()
                    && !self.checks.any_ready()
                    && self.look_ups.is_idle()
                    && self.sources.is_idle()
                    && self.substitutions.is_idle()
                    && !self.substitutions.any_waiting()
                    && !self.scheduler.has_delayed()
                    && self.questions.is_empty()
                    && self.recordings.is_idle()
            }
        }
    }

    /// Fails derivations that are needed and not valid while nothing is under way: they wait for an
    /// input that was never yielded, or for themselves.
    fn fail_what_is_stuck(&mut self) {
        let wanted = self
            .roots
            .iter()
            .map(|(_, id)| *id)
            .chain(self.imports.wants())
            .chain(self.unmet_inputs_of_checks());
        let mut stuck: Vec<NodeId> = wanted.collect();
        let mut seen: FxHashSet<NodeId> = FxHashSet::default();
        while let Some(id) = stuck.pop() {
            if !seen.insert(id) {
                continue;
            }
            match self.graph[id].state {
                State::Unknown => {
                    let message = "evaluation never yielded it".to_owned();
                    return self.fail(id, FailureCause::Invalid { message });
                }
                State::Waiting { .. } => {
                    if let Some(input) = self.unknown_input(id) {
                        return self.fail(id, FailureCause::MissingInput { input });
                    }
                    let inputs = self.graph.inputs(id).iter();
                    let unmet = inputs.filter(|edge| !self.graph[edge.input].has(edge.outputs));
                    stuck.extend(unmet.map(|edge| edge.input));
                }
                State::Delegated(resolved) => stuck.push(resolved),
                _ => {}
            }
        }
        let waiting = seen
            .into_iter()
            .filter(|id| matches!(self.graph[*id].state, State::Waiting { .. }));
        // The least, so that the same session fails in the same way each time.
        if let Some(start) = waiting.min() {
            self.fail_cycle(start);
        }
    }

    /// Follows unmet inputs until one comes up again.
    fn fail_cycle(&mut self, start: NodeId) {
        let mut order: Vec<NodeId> = Vec::new();
        let mut position: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut id = start;
        let first = loop {
            if let Some(first) = position.get(&id) {
                break *first;
            }
            position.insert(id, order.len());
            order.push(id);
            let unmet = self
                .graph
                .inputs(id)
                .iter()
                .find(|edge| !self.graph[edge.input].has(edge.outputs));
            match unmet {
                Some(edge) => id = edge.input,
                None => {
                    let message = "it waits for nothing and was not built (a bug)".to_owned();
                    return self.fail(id, FailureCause::Invalid { message });
                }
            }
        };
        let mut cycle: Vec<_> = order[first..]
            .iter()
            .map(|id| self.graph.path(*id).clone())
            .collect();
        cycle.extend(cycle.first().cloned());
        self.fail(order[first], FailureCause::Cycle { cycle });
    }

    /// The name of a root that failed: its attribute path, or else as it was requested.
    fn failed_name(&self, error: &EvalFailure) -> String {
        let requested = || self.requested.get(error.order.request_index()?).cloned();
        let path = error.attr_path.as_ref().map(ToString::to_string);
        path.or_else(requested).unwrap_or_default()
    }

    /// Entries for requested attribute paths that were not evaluated.
    fn unreached_roots(&self, reached: &[RootReport]) -> Vec<RootReport> {
        let numbers: Option<FxHashSet<usize>> = reached
            .iter()
            .map(|root| root.order.request_index())
            .collect();
        // Without numbers it is not known which path a root belongs to.
        let (false, Some(numbers)) = (self.evaluated, numbers) else {
            return Vec::new();
        };
        let requested = self.requested.iter().enumerate();
        let unreached = requested.filter(|(number, _)| !numbers.contains(number));
        unreached
            .map(|(number, name)| RootReport {
                name: name.clone(),
                order: RootOrder::of(number),
                drv_path: None,
                outputs: SortedMap::default(),
                success: false,
                error: None,
            })
            .collect()
    }

    fn report(&self) -> Report {
        let mut roots: Vec<RootReport> = self
            .roots
            .iter()
            .map(|(root, id)| {
                let node = &self.graph[*id];
                let mut outputs = SortedMap::with_capacity(root.wanted.outputs.len());
                for (name, path) in self.graph.outputs(*id, &self.dir) {
                    let wanted = root.wanted.outputs.contains(name)
                        && node.mask([name]).is_ok_and(|mask| node.has(mask));
                    if let (true, Some(path)) = (wanted, path) {
                        outputs.insert(name.clone(), path);
                    }
                }
                let success = !matches!(node.body, Body::Unknown)
                    && root
                        .wanted
                        .outputs
                        .iter()
                        .all(|name| outputs.contains_key(name));
                let (name, drv_path) = (root.name.clone(), root.wanted.drv_path.clone());
                RootReport {
                    name,
                    order: root.order.clone(),
                    drv_path: Some(drv_path),
                    outputs,
                    success,
                    error: None,
                }
            })
            .collect();
        let failed = self.failed_roots.iter().map(|error| RootReport {
            name: self.failed_name(error),
            order: error.order.clone(),
            drv_path: None,
            outputs: SortedMap::default(),
            success: false,
            error: Some(error.clone()),
        });
        roots.extend(failed);
        roots.extend(self.unreached_roots(&roots));
        roots.sort_by(|a, b| a.order.cmp(&b.order));
        let failures: Vec<_> = self
            .failures
            .iter()
            .flatten()
            .map(|(_, failure)| failure.clone())
            .collect();
        let skipped = self.skipped.iter().filter_map(|(id, failure)| {
            let root_cause = self.failure(*failure)?.drv_path.clone();
            Some(Skipped {
                drv_path: self.known_path(*id).clone(),
                root_cause,
            })
        });
        let mut needed = failures.iter().filter(|failure| failure.needed);
        let checks = self.check_reports();
        let status = if self.stop == Some(Stop::Cancelled) {
            Status::Cancelled
        } else if needed
            .clone()
            .any(|it| matches!(it.cause, FailureCause::Build { .. }))
        {
            Status::BuildFailed
        } else if let Some(status) = Status::of_errors(&self.errors) {
            status
        } else if let Some(failure) = needed.next() {
            failure.cause.status()
        } else if checks.iter().any(|check| check.problem.is_some()) {
            Status::CheckFailed
        } else if self.options.policy == BuildPolicy::Imports
            || roots.iter().all(|root| root.success)
        {
            Status::Success
        } else {
            Status::InvalidDerivation
        };
        Report {
            status,
            roots,
            skipped: skipped.collect(),
            failures,
            checks,
            errors: self.errors.clone(),
            counts: self.counts,
        }
    }
}
