//! Checks: rebuilding valid outputs and comparing the results ([`Options::check`]).
//!
//! Checks begin when evaluation has ended and everything that was asked for was obtained, as far as
//! it could be. A check waits until the inputs of its derivation are valid, which may take builds
//! and substitutions of their own, then for a slot of a builder. It never changes the state of its
//! node: the outputs stay valid.
//!
//! [`Options::check`]: crate::Options::check

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::{Derivation, OutputName};
use rustc_hash::{FxHashMap, FxHashSet};
use tvix_build_api::CheckOutcome;

use super::demand::Want;
use super::graph::{FailureId, NodeId, Urgency};
use super::pool::BuilderMask;
use super::sources::SourceState;
use super::{Action, BuildId, Machine, StartBuild, Work};
use crate::component_error::ComponentError;
use crate::event::BuildEvent;
use crate::options::BuildPolicy;
use crate::report::{CheckProblem, CheckReport, FailureCause};

/// The checks of a session.
#[derive(Debug, Default)]
pub(super) struct Checks {
    /// The derivations as evaluation yielded them, if the session checks: the graph lets go of a
    /// derivation when its outputs are valid.
    derivations: FxHashMap<NodeId, Arc<Derivation>>,
    begun: bool,
    /// Checks that have no result yet.
    open: BTreeMap<NodeId, Check>,
    /// Those of them that wait for a slot, in the order of the roots.
    ready: VecDeque<NodeId>,
    /// The derivations to check, in the order of the roots.
    order: Vec<NodeId>,
    results: FxHashMap<NodeId, Option<CheckProblem>>,
}

#[derive(Debug)]
struct Check {
    /// Resolved, once the inputs are valid.
    derivation: Arc<Derivation>,
    /// Inputs that are not valid.
    unmet: usize,
    /// Builders that can build it.
    suitable: BuilderMask,
}

impl Checks {
    pub(super) fn keep(&mut self, id: NodeId, derivation: Arc<Derivation>) {
        self.derivations.insert(id, derivation);
    }

    /// The derivation of an open check.
    pub(super) fn derivation(&self, id: NodeId) -> Option<&Arc<Derivation>> {
        self.open.get(&id).map(|check| &check.derivation)
    }

    /// Whether any waits for a slot.
    pub(super) fn any_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Starts no more of them.
    pub(super) fn clear(&mut self) {
        self.ready.clear();
    }
}

impl Machine {
    /// Begins the checks of everything that was asked for and is valid, once in a session. True if
    /// there are any.
    pub(super) fn begin_checks(&mut self) -> bool {
        let checks = self.options.check.is_some() && self.options.policy != BuildPolicy::Imports;
        if !checks || std::mem::replace(&mut self.checks.begun, true) {
            return false;
        }
        let mut roots: Vec<_> = self.roots.iter().collect();
        roots.sort_by(|(a, _), (b, _)| a.order.cmp(&b.order));
        let obtained = roots.into_iter().filter(|(root, id)| {
            let node = &self.graph[*id];
            let wanted = node.mask(&root.wanted.outputs);
            wanted.is_ok_and(|wanted| node.has(wanted))
        });
        let mut seen = FxHashSet::default();
        let ids = obtained.map(|(_, id)| *id).filter(|id| seen.insert(*id));
        let ids: Vec<NodeId> = ids.collect();
        for id in &ids {
            self.begin_check(*id);
        }
        self.do_work();
        !ids.is_empty()
    }

    fn begin_check(&mut self, id: NodeId) {
        self.checks.order.push(id);
        let Some(derivation) = self.checks.derivations.remove(&id) else {
            let message = "evaluation never yielded it".to_owned();
            let reason = Box::new(FailureCause::Invalid { message });
            return self.check_failed(id, None, CheckProblem::Impossible { reason });
        };
        let missing = self.outputs_not_valid(id);
        if !missing.is_empty() {
            let outputs = missing;
            return self.check_failed(id, None, CheckProblem::NotValid { outputs });
        }
        let check = Check {
            derivation: derivation.clone(),
            unmet: 0,
            suitable: 0,
        };
        self.checks.open.insert(id, check);
        // Evaluation has ended: what is missing now stays missing.
        if let Some(input) = self.unknown_input(id) {
            return self.check_impossible(id, FailureCause::MissingInput { input });
        }
        let mut unmet = 0;
        for path in derivation.input_srcs.iter() {
            let source = self.sources.intern(path);
            match self.sources[source].state {
                SourceState::Valid => continue,
                SourceState::Failed(_) | SourceState::Missing => {
                    let cause = self.source_trouble(source);
                    return self.check_impossible(id, cause);
                }
                SourceState::Unknown => self.look_up_source(source),
                SourceState::Looking | SourceState::Adding | SourceState::Awaited => {}
            }
            unmet += 1;
            let waiting = &mut self.sources[source].waiting;
            if !waiting.contains(&id) {
                waiting.push(id);
            }
        }
        for edge in self.graph.inputs(id) {
            if !self.graph[edge.input].has(edge.outputs) {
                unmet += 1;
                self.work.push(Work::Want(Want {
                    id: edge.input,
                    outputs: edge.outputs,
                    needed: true,
                    urgency: Urgency::None,
                }));
            }
        }
        if unmet == 0 {
            return self.check_ready(id);
        }
        if let Some(check) = self.checks.open.get_mut(&id) {
            check.unmet = unmet;
        }
        if let Some(failure) = self.spread_failure_of_input(id) {
            self.skip_check(id, failure);
        }
    }

    fn outputs_not_valid(&self, id: NodeId) -> Vec<OutputName> {
        let node = &self.graph[id];
        let outputs = self.graph.outputs(id, &self.dir);
        let missing = outputs.filter(|(name, path)| {
            let valid = node.mask([*name]).is_ok_and(|mask| node.has(mask));
            !valid || path.is_none()
        });
        missing.map(|(name, _)| name.clone()).collect()
    }

    /// Counts an input of a derivation that became valid, for a check that waits for it.
    pub(super) fn check_input_met(&mut self, id: NodeId) {
        let Some(check) = self.checks.open.get_mut(&id) else {
            return;
        };
        if check.unmet > 0 {
            check.unmet -= 1;
            if check.unmet == 0 {
                self.check_ready(id);
            }
        }
    }

    /// All inputs are valid: the derivation is resolved if it has to be, and waits for a slot.
    fn check_ready(&mut self, id: NodeId) {
        let Some(derivation) = self.checks.derivation(id).cloned() else {
            return;
        };
        let mut inputs = self.graph.inputs(id).iter();
        let unresolved = !derivation.input_drvs.is_empty()
            && (self.graph[id].floating || inputs.any(|edge| self.graph[edge.input].floating));
        if unresolved {
            match self.resolved(&derivation) {
                Ok((resolved, _)) => {
                    if let Some(check) = self.checks.open.get_mut(&id) {
                        check.derivation = Arc::new(resolved);
                    }
                }
                Err(message) => {
                    return self.check_impossible(id, FailureCause::Invalid { message });
                }
            }
        }
        self.enqueue_check(id);
    }

    fn enqueue_check(&mut self, id: NodeId) {
        let Some(derivation) = self.checks.derivation(id).cloned() else {
            return;
        };
        let system = self.graph[id].system;
        let suitable = self.scheduler.suitable(id, system, &derivation);
        if suitable == 0 {
            let reasons = self.scheduler.why_unsuitable(&derivation);
            let message = format!("no builder can build it: {reasons}");
            return self.check_impossible(id, FailureCause::Unsuitable { message });
        }
        if let Some(check) = self.checks.open.get_mut(&id) {
            check.suitable = suitable;
            self.checks.ready.push_back(id);
        }
    }

    /// Retries a check after a failure of its builder. False if no check of this derivation is
    /// open.
    pub(super) fn retry_check(&mut self, id: NodeId) -> bool {
        let is_open = self.checks.open.contains_key(&id);
        if is_open {
            self.enqueue_check(id);
        }
        is_open
    }

    /// Starts the first check that a free builder can do.
    pub(super) fn start_next_check(&mut self) -> bool {
        let mut ready = self.checks.ready.iter().enumerate();
        let next = ready.find_map(|(index, id)| {
            let suitable = self.checks.open.get(id)?.suitable;
            let (graph, now) = (&self.graph, self.now);
            let builder = self
                .scheduler
                .assign(graph, *id, suitable, now, &self.sources)?;
            Some((index, *id, builder))
        });
        let Some((index, id, builder)) = next else {
            return false;
        };
        self.checks.ready.remove(index);
        let Some(derivation) = self.checks.derivation(id).cloned() else {
            self.scheduler.pool.release(builder);
            return false;
        };
        let build = self.new_build(id, builder, true);
        let drv_path = self.graph.path(id).clone();
        let inputs = self.inputs_used(id, &derivation);
        let outputs = self.graph.outputs(id, &self.dir);
        let outputs = outputs.filter_map(|(name, path)| Some((name.clone(), path?)));
        let outputs = outputs.collect();
        self.emit(BuildEvent::CheckStarted {
            build: build.0,
            drv_path: drv_path.clone(),
            builder: self.scheduler.pool.name(builder),
        });
        let start = StartBuild {
            build,
            builder,
            drv_path,
            derivation,
            inputs,
        };
        self.actions
            .push_back(Action::StartCheck { start, outputs });
        true
    }

    /// A rebuild is over.
    pub(super) fn check_result(
        &mut self,
        id: NodeId,
        build: BuildId,
        duration: Duration,
        result: Result<CheckOutcome, FailureCause>,
    ) {
        let derivation = self.checks.derivation(id);
        let fixed_output = derivation.is_some_and(|it| it.is_fixed_output());
        let problem = match result {
            Ok(CheckOutcome::Same) => {
                self.checks.open.remove(&id);
                self.checks.results.insert(id, None);
                return self.emit(BuildEvent::CheckSucceeded {
                    build: build.0,
                    drv_path: self.graph.path(id).clone(),
                    duration,
                });
            }
            Ok(CheckOutcome::Differs(differences)) => CheckProblem::Differs { differences },
            Ok(CheckOutcome::Failed(failure)) => CheckProblem::Failed {
                failure,
                fixed_output,
            },
            // `CheckOutcome` may grow.
            Ok(other) => CheckProblem::Impossible {
                reason: Box::new(FailureCause::Builder {
                    error: ComponentError::bug(format!("unknown outcome of a check: {other:?}")),
                }),
            },
            Err(reason) => CheckProblem::Impossible {
                reason: Box::new(reason),
            },
        };
        self.check_failed(id, Some(build), problem);
    }

    pub(super) fn check_failed(
        &mut self,
        id: NodeId,
        build: Option<BuildId>,
        problem: CheckProblem,
    ) {
        self.checks.open.remove(&id);
        self.checks.results.insert(id, Some(problem.clone()));
        self.emit(BuildEvent::CheckFailed {
            build: build.map(|build| build.0),
            drv_path: self.graph.path(id).clone(),
            problem,
        });
    }

    /// An open check cannot be made, and has not been started. Does nothing if there is none.
    pub(super) fn check_impossible(&mut self, id: NodeId, reason: FailureCause) {
        if self.checks.open.contains_key(&id) {
            let reason = Box::new(reason);
            self.check_failed(id, None, CheckProblem::Impossible { reason });
        }
    }

    /// An input of a derivation failed, which its check may wait for.
    pub(super) fn skip_check(&mut self, id: NodeId, failure: FailureId) {
        let waits = self.checks.open.get(&id).is_some_and(|it| it.unmet > 0);
        if let Some(entry) = self.failure(failure).filter(|_| waits) {
            let root_cause = entry.drv_path.clone();
            self.check_failed(id, None, CheckProblem::Skipped { root_cause });
        }
    }

    /// Inputs that checks wait for.
    pub(super) fn unmet_inputs_of_checks(&self) -> impl Iterator<Item = NodeId> + '_ {
        let waiting = self.checks.open.iter().filter(|(_, it)| it.unmet > 0);
        let inputs = waiting.flat_map(|(id, _)| self.graph.inputs(*id).iter());
        let unmet = inputs.filter(|edge| !self.graph[edge.input].has(edge.outputs));
        unmet.map(|edge| edge.input)
    }

    pub(super) fn check_reports(&self) -> Vec<CheckReport> {
        let results = self.checks.order.iter().filter_map(|id| {
            let problem = self.checks.results.get(id)?.clone();
            let drv_path = self.graph.path(*id).clone();
            Some(CheckReport { drv_path, problem })
        });
        results.collect()
    }
}
