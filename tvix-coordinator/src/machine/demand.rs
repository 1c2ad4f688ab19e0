//! From being wanted to being ready.

use nix_compat::store_path::StorePath;

use super::graph::{NodeId, OutputMask, State, Urgency};
use super::lookup::{Batch, Subject};
use super::sources::SourceState;
use super::{Action, BatchId, ComponentError, Machine, Work};
use crate::event::BuildEvent;
use crate::options::BuildPolicy;
use crate::report::FailureCause;

/// A request for outputs of a derivation to become valid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) id: NodeId,
    pub(super) outputs: OutputMask,
    /// Something that was asked for needs them. Otherwise they are built on the chance.
    pub(super) needed: bool,
    pub(super) urgency: Urgency,
}

impl Machine {
    pub(super) fn want(&mut self, want: Want) {
        let Want {
            id,
            outputs,
            needed,
            urgency,
        } = want;
        let node = &mut self.graph[id];
        let newly_needed = needed && !node.needed;
        let more_urgent = urgency > node.urgency;
        node.wanted |= outputs;
        node.needed |= needed;
        node.urgency = node.urgency.max(urgency);
        let satisfied = node.has(node.wanted);
        let more = newly_needed || more_urgent;
        match node.state {
            State::Unknown => {}
            State::Idle => self.look_up(id),
            State::Looking | State::Building => {}
            State::Present | State::Unneeded if satisfied => {}
            State::Present | State::Unneeded => self.work.push(Work::Build(id)),
            State::Offered | State::Asking | State::Fetching => self.work.push(Work::Build(id)),
            State::Waiting { .. } if more => self.want_inputs(id),
            State::Waiting { .. } => {}
            State::Ready if more => self.enqueue(id),
            State::Ready => {}
            State::Delegated(resolved) if more => self.want_all(resolved, needed, urgency),
            State::Delegated(_) => {}
            State::Failed(failure) | State::Skipped(failure) if newly_needed => {
                self.failure_needed(failure);
            }
            State::Failed(_) | State::Skipped(_) => {}
        }
    }

    pub(super) fn want_all(&mut self, id: NodeId, needed: bool, urgency: Urgency) {
        let outputs = self.graph[id].all_outputs();
        self.work.push(Work::Want(Want {
            id,
            outputs,
            needed,
            urgency,
        }));
    }

    /// Marks the inputs of a waiting derivation as needed or urgent, like the derivation itself.
    fn want_inputs(&mut self, id: NodeId) {
        let (needed, urgency) = (self.graph[id].needed, self.graph[id].urgency);
        if let Some(cause) = self.hopeless(id) {
            return self.fail(id, cause);
        }
        for edge in self.graph.inputs(id) {
            if !self.graph[edge.input].has(edge.outputs) {
                let (id, outputs) = (edge.input, edge.outputs);
                self.work.push(Work::Want(Want {
                    id,
                    outputs,
                    needed,
                    urgency,
                }));
            }
        }
    }

    /// The reason why a derivation that evaluation waits for can never be built: an input is
    /// missing that should have been yielded before, and nothing else is yielded while evaluation
    /// waits.
    fn hopeless(&self, id: NodeId) -> Option<FailureCause> {
        if self.graph[id].urgency != Urgency::Stalled {
            return None;
        }
        if let Some(input) = self.unknown_input(id) {
            return Some(FailureCause::MissingInput { input });
        }
        let mut sources = self.graph[id].derivation()?.input_srcs.iter();
        sources.find_map(|path| {
            let source = self.sources.find(path)?;
            let missing = self.sources[source].state == SourceState::Missing;
            missing.then(|| self.source_trouble(source))
        })
    }

    /// An input that was never yielded.
    pub(super) fn unknown_input(&self, id: NodeId) -> Option<StorePath> {
        let mut inputs = self.graph.inputs(id).iter().map(|edge| edge.input);
        inputs
            .find(|input| self.graph[*input].state == State::Unknown)
            .map(|input| self.graph.path(input).clone())
    }

    /// Finds out which outputs are valid, as far as that can be told yet.
    pub(super) fn look_up(&mut self, id: NodeId) {
        let node = &self.graph[id];
        if node.derivation().is_none() {
            return;
        }
        if !node.floating {
            self.graph[id].state = State::Looking;
            self.look_ups.queue(Subject::Outputs(id));
            return;
        }
        if !self.drv_outputs(id).is_empty() {
            self.graph[id].state = State::Looking;
            self.look_ups.queue(Subject::Realisations(id));
        } else {
            // Where its outputs are is known once its inputs are.
            self.looked_up(id, 0);
        }
    }

    pub(super) fn next_query(&mut self) -> Option<Action> {
        let (batch, Batch { subjects, .. }) = self.look_ups.next(self.now)?;
        let subjects = subjects.clone();
        let mut paths = Vec::with_capacity(subjects.len());
        let mut outputs = Vec::new();
        for subject in &subjects {
            match subject {
                Subject::Source(id) => paths.push(self.sources[*id].path.clone()),
                Subject::Goal(id) => paths.push(self.substitutions.path(*id).clone()),
                Subject::Outputs(id) => match self.graph.only_out(*id) {
                    Some(path) => paths.push(path.clone()),
                    None => {
                        let outputs = self.graph.outputs(*id, &self.dir);
                        paths.extend(outputs.filter_map(|(_, path)| path));
                    }
                },
                Subject::Realisations(id) => {
                    outputs.extend(self.drv_outputs(*id));
                }
            }
        }
        Some(if outputs.is_empty() {
            Action::QueryPaths { batch, paths }
        } else {
            Action::QueryRealisations { batch, outputs }
        })
    }

    pub(super) fn paths_queried(&mut self, id: BatchId, result: Result<Vec<bool>, ComponentError>) {
        let Some(batch) = self.look_ups.answered(id) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let valid = match result {
            Ok(valid) => valid,
            Err(trouble) => return self.query_failed(id, batch, trouble),
        };
        let mut valid = valid.into_iter();
        for subject in batch.subjects {
            match subject {
                Subject::Outputs(id) => {
                    let count = self.graph[id].output_count();
                    let mask = super::graph::mask_of_all(valid.by_ref().take(count));
                    self.looked_up(id, mask);
                    // What follows from it is seen to while it is at hand, and in order.
                    self.do_work();
                    if self.stop.is_some() {
                        return;
                    }
                }
                Subject::Goal(id) => {
                    let is_valid = valid.next().unwrap_or(false);
                    self.goal_looked_up(id, is_valid);
                }
                Subject::Source(id) => {
                    let is_valid = valid.next().unwrap_or(false);
                    if self.sources[id].state == SourceState::Valid {
                        // A file that was recorded meanwhile.
                    } else if is_valid {
                        self.source_valid(id);
                    } else if self.sources[id].offered {
                        self.sources.add(id);
                    } else if self.is_to_be_recorded(&self.sources[id].path) {
                        self.sources.set(id, SourceState::Awaited);
                    } else if self.evaluating {
                        // Evaluation may still offer it, unless it waits itself.
                        self.sources.set(id, SourceState::Missing);
                        for dependent in self.sources[id].waiting.clone() {
                            if matches!(self.graph[dependent].state, State::Waiting { .. })
                                && let Some(cause) = self.hopeless(dependent)
                            {
                                self.fail(dependent, cause);
                            }
                        }
                    } else {
                        self.source_failed(id, SourceState::Missing);
                    }
                }
                Subject::Realisations(_) => {}
            }
        }
    }

    pub(super) fn query_failed(&mut self, id: BatchId, mut batch: Batch, trouble: ComponentError) {
        batch.attempts += 1;
        if trouble.retryable && batch.attempts < self.options.retry.attempts {
            let until = self.now + self.options.retry.delay(batch.attempts);
            self.look_ups.delay(id, batch, until);
        } else {
            self.store_failed(trouble);
        }
    }

    /// Which outputs are valid is known.
    pub(super) fn looked_up(&mut self, id: NodeId, valid: OutputMask) {
        self.graph[id].state = State::Present;
        self.now_valid(id, valid);
        let node = &mut self.graph[id];
        let all = node.all_outputs();
        let missing = node.wanted & !node.valid;
        // On the chance, only what is missing as a whole is built: if a part is there, nobody may
        // want the rest.
        let on_the_chance =
            self.options.policy == BuildPolicy::Eager && node.valid == 0 && node.wanted == 0;
        if missing != 0 || (on_the_chance && !self.pruned) {
            self.work.push(Work::Build(id));
        } else if node.valid != 0 {
            self.counts.found += 1;
            if node.valid == all {
                self.graph.shrink(id, &self.dir);
            }
            let drv_path = self.graph.path(id).clone();
            self.emit(BuildEvent::Found { drv_path });
        }
    }

    /// Makes a derivation wait until all its inputs are valid.
    pub(super) fn wait_for_inputs(&mut self, id: NodeId) {
        let node = &self.graph[id];
        // It may have been found twice that it has to be built.
        if !matches!(node.state, State::Present | State::Unneeded) {
            return;
        }
        let (needed, urgency) = (node.needed, node.urgency);
        let has_sources = node.has_sources;
        if node.derivation().is_none() {
            return;
        }
        let mut unmet = 0;
        for edge in self.graph.inputs(id) {
            if !self.graph[edge.input].has(edge.outputs) {
                unmet += 1;
                let (id, outputs) = (edge.input, edge.outputs);
                self.work.push(Work::Want(Want {
                    id,
                    outputs,
                    needed,
                    urgency,
                }));
            }
        }
        let derivation = self.graph[id].derivation().filter(|_| has_sources).cloned();
        for path in derivation.iter().flat_map(|it| it.input_srcs.iter()) {
            let source = self.sources.intern(path);
            match self.sources[source].state {
                SourceState::Valid => continue,
                SourceState::Failed(_) => {
                    let cause = self.source_trouble(source);
                    return self.fail(id, cause);
                }
                SourceState::Missing if !self.evaluating => {
                    let cause = self.source_trouble(source);
                    return self.fail(id, cause);
                }
                SourceState::Unknown => self.look_up_source(source),
                SourceState::Looking
                | SourceState::Adding
                | SourceState::Awaited
                | SourceState::Missing => {}
            }
            unmet += 1;
            // What was given up and is needed after all may wait for it already.
            let waiting = &mut self.sources[source].waiting;
            let again = self.pruned || self.substitutions.any() || self.imports.any_given_up;
            if !again || !waiting.contains(&id) {
                waiting.push(id);
            }
        }
        self.graph[id].state = State::Waiting { unmet };
        if unmet == 0 {
            self.make_ready(id);
        } else if let Some(cause) = self.hopeless(id) {
            self.fail(id, cause);
        } else {
            self.skip_if_an_input_failed(id);
        }
    }

    /// One more input of a waiting derivation is valid.
    pub(super) fn input_met(&mut self, id: NodeId) {
        if let State::Waiting { unmet } = self.graph[id].state {
            let unmet = unmet.saturating_sub(1);
            self.graph[id].state = State::Waiting { unmet };
            if unmet == 0 {
                self.work.push(Work::Ready(id));
            }
        } else {
            self.check_input_met(id);
        }
    }

    pub(super) fn make_ready_if_waiting(&mut self, id: NodeId) {
        if self.graph[id].state == (State::Waiting { unmet: 0 }) {
            self.make_ready(id);
        }
    }

    /// All inputs are valid: the derivation is resolved if it has to be, and waits for a builder.
    pub(super) fn make_ready(&mut self, id: NodeId) {
        let node = &self.graph[id];
        let Some(derivation) = node.derivation() else {
            return;
        };
        if self.pruned && !node.needed {
            self.graph[id].state = State::Unneeded;
            return;
        }
        // Another path may have been substituted that refers to it.
        if self.substitutions.any() && node.wanted != 0 && node.has(node.wanted) {
            self.graph[id].state = State::Present;
            return;
        }
        let mut inputs = self.graph.inputs(id).iter();
        let unresolved = self.graph.any_floating()
            && !derivation.input_drvs.is_empty()
            && (node.floating || inputs.any(|edge| self.graph[edge.input].floating));
        if unresolved {
            return self.resolve(id);
        }
        self.graph[id].state = State::Ready;
        self.enqueue(id);
    }

    pub(super) fn enqueue(&mut self, id: NodeId) {
        let Some(derivation) = self.graph[id].derivation() else {
            return;
        };
        let suitable = self
            .scheduler
            .suitable(id, self.graph[id].system, derivation);
        if suitable == 0 {
            let reasons = self.scheduler.why_unsuitable(derivation);
            let message = format!("no builder can build it: {reasons}");
            return self.fail(id, FailureCause::Unsuitable { message });
        }
        if let Some(error) = self.scheduler.pool.given_up(suitable, self.now) {
            let error = error.clone();
            return self.fail(id, FailureCause::Builder { error });
        }
        self.scheduler.push(&self.graph, id, suitable);
    }
}
