//! What becomes of dependents and imports when outputs become valid or derivations fail.

use super::graph::{FailureId, NodeId, OutputMask, State};
use super::{Action, Machine, QuestionId, Stop, Work};
use crate::event::BuildEvent;
use crate::options::{Decision, OnFailure};
use crate::report::{Failure, FailureCause};

impl Machine {
    pub(super) fn spread_validity(&mut self, id: NodeId, before: OutputMask) {
        let valid = self.graph[id].valid;
        let mut next = self.graph.first_dependent(id);
        while let Some(edge) = next {
            let (edge, following) = self.graph.next_dependent(edge);
            next = following;
            let newly =
                valid & edge.outputs == edge.outputs && before & edge.outputs != edge.outputs;
            if newly {
                self.input_met(edge.dependent);
            }
        }
        if self.delegates.contains_key(&id) {
            self.satisfy_delegates(id);
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
        self.failures.push(Some(Failure {
            drv_path,
            cause,
            needed: false,
        }));
        self.counts.failed += 1;
        self.graph[id].state = State::Failed(failure);
        if self.graph[id].needed {
            self.failure_needed(id, failure);
        } else {
            // Whatever resolved to it is in the same position, and may be needed later.
            let origins = self.delegates.get(&id).cloned().unwrap_or_default();
            for origin in origins {
                self.graph[origin].state = State::Failed(failure);
            }
        }
    }

    /// Something that was asked for needs what failed.
    pub(super) fn failure_needed(&mut self, id: NodeId, failure: FailureId) {
        let Some(Some(entry)) = self.failures.get_mut(failure.0 as usize) else {
            return;
        };
        let first_time = !std::mem::replace(&mut entry.needed, true);
        let entry = entry.clone();
        if !first_time {
            self.work.push(Work::Spread { id, failure });
            return;
        }
        match self.options.on_failure {
            OnFailure::Ask => {
                self.last_question += 1;
                let question = QuestionId(self.last_question);
                self.questions.insert(question, (id, failure));
                let failure = Box::new(entry);
                self.actions
                    .push_back(Action::AskAboutFailure { question, failure });
            }
            OnFailure::Continue => self.work.push(Work::Spread { id, failure }),
            OnFailure::Stop => {
                self.work.push(Work::Spread { id, failure });
                self.do_work();
                self.stop(Stop::Failure);
            }
        }
    }

    pub(super) fn decided(&mut self, question: QuestionId, decision: Decision) {
        let Some((id, failure)) = self.questions.remove(&question) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        // Only what was tried can be tried again.
        let tried = self.failures[failure.0 as usize]
            .as_ref()
            .is_some_and(|failure| {
                matches!(
                    failure.cause,
                    FailureCause::Build { .. } | FailureCause::Builder { .. }
                )
            });
        match decision {
            Decision::Retry if tried => {
                self.failures[failure.0 as usize] = None;
                self.counts.failed -= 1;
                self.scheduler.forget_attempts(id);
                self.work.push(Work::Build(id));
            }
            Decision::Continue | Decision::Retry => {
                self.work.push(Work::Spread { id, failure });
            }
            Decision::Stop => {
                self.work.push(Work::Spread { id, failure });
                self.do_work();
                self.stop(Stop::Failure);
            }
        }
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
            }
        }
        self.fail_imports(id, failure);
    }

    fn skip(&mut self, id: NodeId, failure: FailureId) {
        self.graph[id].state = State::Skipped(failure);
        self.counts.skipped += 1;
        self.skipped.push((id, failure));
        if let Some(Some(entry)) = self.failures.get(failure.0 as usize) {
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
        let failed = self.graph.inputs(id).iter().find_map(|edge| {
            let input = &self.graph[edge.input];
            match input.state {
                State::Failed(failure) | State::Skipped(failure) if !input.has(edge.outputs) => {
                    Some(failure)
                }
                _ => None,
            }
        });
        let Some(failure) = failed else { return };
        let spread = self
            .failures
            .get(failure.0 as usize)
            .is_some_and(|entry| entry.as_ref().is_some_and(|entry| entry.needed));
        let asked = self.questions.values().any(|(_, asked)| *asked == failure);
        if spread && !asked {
            self.skip(id, failure);
        }
    }
}
