//! What becomes of dependents and imports when outputs become valid or derivations fail.

use super::graph::{FailureId, NodeId, OutputMask, State};
use super::{Action, Machine, QuestionId, Stop, Work};
use crate::event::BuildEvent;
use crate::options::{Decision, OnFailure};
use crate::report::{Failure, FailureCause};

impl Machine {
    /// More outputs of a derivation are valid. Dependents hear of it at the same moment, so that
    /// none counts an input twice.
    pub(super) fn now_valid(&mut self, id: NodeId, outputs: OutputMask) {
        let node = &mut self.graph[id];
        let before = node.valid;
        node.valid |= outputs;
        let valid = node.valid;
        let mut next = self.graph.first_dependent(id);
        while let Some(edge) = next {
            let (edge, following) = self.graph.next_dependent(edge);
            next = following;
            let used = edge.outputs;
            if valid & used == used && before & used != used {
                self.input_met(edge.dependent);
            }
        }
        if self.delegates.contains_key(&id) {
            self.work.push(Work::Satisfy(id));
        }
        self.progress_imports(id);
    }

    /// A derivation fails in itself.
    pub(super) fn fail(&mut self, id: NodeId, cause: FailureCause) {
        let drv_path = self.known_path(id).clone();
        if !matches!(cause, FailureCause::Build { .. }) {
            let message = cause.to_string();
            self.emit(BuildEvent::Failed {
                drv_path: drv_path.clone(),
                message,
            });
        }
        let failure = FailureId(self.failures.len() as u32);
        let derivation = self.graph[id].derivation();
        let entry = Failure {
            drv_path,
            cause,
            needed: false,
            fixed_output: derivation.is_some_and(|it| it.is_fixed_output()),
        };
        self.failures.push(Some((id, entry)));
        self.counts.failed += 1;
        self.graph[id].state = State::Failed(failure);
        if self.graph[id].needed {
            self.failure_needed(failure);
        } else {
            // Whatever resolved to it is in the same position, and may be needed later.
            let origins = self.delegates.get(&id).cloned().unwrap_or_default();
            for origin in origins {
                self.graph[origin].state = State::Failed(failure);
            }
        }
    }

    pub(super) fn failure(&self, failure: FailureId) -> Option<&Failure> {
        Some(&self.failures.get(failure.0 as usize)?.as_ref()?.1)
    }

    /// Something that was asked for needs what failed.
    pub(super) fn failure_needed(&mut self, failure: FailureId) {
        let Some(Some((id, entry))) = self.failures.get(failure.0 as usize) else {
            return;
        };
        let (id, first_time) = (*id, !entry.needed);
        if !first_time {
            if !self.is_asked(failure) {
                self.work.push(Work::Spread { id, failure });
            }
            return;
        }
        let known_path = self.known_path(id).clone();
        let Some(Some((_, entry))) = self.failures.get_mut(failure.0 as usize) else {
            return;
        };
        entry.needed = true;
        // Of those that resolved to it, one that is needed now.
        entry.drv_path = known_path;
        match self.options.on_failure {
            OnFailure::Ask => {
                let entry = Box::new(entry.clone());
                self.last_question += 1;
                let question = QuestionId(self.last_question);
                self.questions.insert(question, failure);
                self.actions.push_back(Action::AskAboutFailure {
                    question,
                    failure: entry,
                });
            }
            OnFailure::Continue => self.work.push(Work::Spread { id, failure }),
            OnFailure::Stop => self.spread_and_stop(id, failure),
        }
    }

    fn spread_and_stop(&mut self, id: NodeId, failure: FailureId) {
        self.work.push(Work::Spread { id, failure });
        self.do_work();
        self.stop(Stop::Failure);
    }

    /// Whether what becomes of a failure is not decided yet.
    pub(super) fn is_asked(&self, failure: FailureId) -> bool {
        self.questions.values().any(|asked| *asked == failure)
    }

    pub(super) fn decided(&mut self, question: QuestionId, decision: Decision) {
        let Some(failure) = self.questions.remove(&question) else {
            return;
        };
        let Some(Some((id, entry))) = self.failures.get(failure.0 as usize) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        // Only what was tried can be tried again.
        let tried = matches!(
            entry.cause,
            FailureCause::Build { .. }
                | FailureCause::Builder { .. }
                | FailureCause::Unsuitable { .. }
        );
        let id = *id;
        match decision {
            Decision::Retry if tried => self.retry(id, failure),
            Decision::Continue | Decision::Retry => {
                self.work.push(Work::Spread { id, failure });
            }
            Decision::Stop => self.spread_and_stop(id, failure),
        }
    }

    /// Forgets a failure that nothing has heard of yet.
    fn retry(&mut self, id: NodeId, failure: FailureId) {
        self.failures[failure.0 as usize] = None;
        self.counts.failed -= 1;
        self.scheduler.forget_attempts(id);
        for origin in self.delegates.get(&id).cloned().unwrap_or_default() {
            if self.graph[origin].state == State::Failed(failure) {
                self.graph[origin].state = State::Delegated(id);
            }
        }
        self.graph[id].needed = true;
        self.graph[id].state = State::Present;
        self.work.push(Work::Build(id));
    }

    /// A failure reaches whatever waits for this derivation.
    pub(super) fn spread_failure(&mut self, id: NodeId, failure: FailureId) {
        let origins = self.delegates.get(&id).cloned().unwrap_or_default();
        for origin in origins {
            if self.graph[origin].state == State::Delegated(id) {
                self.graph[origin].state = State::Failed(failure);
                self.work.push(Work::Spread {
                    id: origin,
                    failure,
                });
            } else if self.graph[origin].state == State::Failed(failure) {
                self.work.push(Work::Spread {
                    id: origin,
                    failure,
                });
            }
        }
        let mut next = self.graph.first_dependent(id);
        while let Some(edge) = next {
            let (edge, following) = self.graph.next_dependent(edge);
            next = following;
            let waits = matches!(self.graph[edge.dependent].state, State::Waiting { .. });
            if waits && !self.graph[id].has(edge.outputs) {
                self.skip(edge.dependent, failure);
            } else if !self.graph[id].has(edge.outputs) {
                self.skip_check(edge.dependent, failure);
            }
        }
        self.fail_imports(id, failure);
    }

    fn skip(&mut self, id: NodeId, failure: FailureId) {
        self.graph[id].state = State::Skipped(failure);
        self.counts.skipped += 1;
        self.skipped.push((id, failure));
        if let Some(entry) = self.failure(failure) {
            let root_cause = entry.drv_path.clone();
            let drv_path = self.known_path(id).clone();
            self.emit(BuildEvent::Skipped {
                drv_path,
                root_cause,
            });
        }
        self.work.push(Work::Spread { id, failure });
    }

    /// A derivation that begins to wait may wait for something that has failed before.
    pub(super) fn skip_if_an_input_failed(&mut self, id: NodeId) {
        if let Some(failure) = self.spread_failure_of_input(id) {
            self.skip(id, failure);
        }
    }

    /// The failure of an input that dependents are not held back from any more.
    pub(super) fn spread_failure_of_input(&self, id: NodeId) -> Option<FailureId> {
        let failed = self.graph.inputs(id).iter().find_map(|edge| {
            let input = &self.graph[edge.input];
            match input.state {
                State::Failed(failure) | State::Skipped(failure) if !input.has(edge.outputs) => {
                    Some(failure)
                }
                _ => None,
            }
        });
        failed.filter(|failure| {
            let spread = self.failure(*failure).is_some_and(|entry| entry.needed);
            spread && !self.is_asked(*failure)
        })
    }
}
