//! The end: of what nothing needs, of everything at once, and of the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix_compat::sorted::SortedMap;
use rustc_hash::FxHashSet;

use super::graph::{Body, NodeId, State};
use super::sources::SourceState;
use super::{Action, Machine, Stop};
use crate::event::BuildEvent;
use crate::options::BuildPolicy;
use crate::report::{FailureCause, Report, RootReport, Skipped, Status};

impl Machine {
    /// Evaluation has ended and everything is looked up, so what is needed is known: whatever
    /// else was begun ends.
    pub(super) fn prune(&mut self) {
        self.pruned = true;
        for id in self.graph.ids() {
            let node = &mut self.graph[id];
            if node.needed {
                continue;
            }
            // What was never looked up still has to be, should something that cannot be substituted
            // after all need it.
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

    /// Nothing is under way, so whatever is needed and not there waits for something that will
    /// never come: an input that was never yielded, or itself.
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

    fn report(&self) -> Report {
        let mut roots: Vec<_> = self.roots.iter().collect();
        roots.sort_by(|(a, _), (b, _)| a.order.cmp(&b.order));
        let roots: Vec<RootReport> = roots
            .into_iter()
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
                    drv_path,
                    outputs,
                    success,
                }
            })
            .collect();
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
        } else if needed.next().is_some() || !self.errors.is_empty() {
            Status::Error
        } else if checks.iter().any(|check| check.problem.is_some()) {
            Status::CheckFailed
        } else if self.options.policy == BuildPolicy::Imports
            || roots.iter().all(|root| root.success)
        {
            Status::Success
        } else {
            Status::Error
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
