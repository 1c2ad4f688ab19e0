//! Derivations, sources, roots and errors that evaluation yields.

use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use tvix_eval_api::{EvalFailure, Root};

use super::demand::Want;
use super::graph::{Body, State, Urgency};
use super::lookup::Subject;
use super::sources::{SourceId, SourceState};
use super::{ComponentError, Machine, NodeId, Stop, Work};
use crate::event::BuildEvent;
use crate::options::{BuildPolicy, OnFailure};
use crate::report::{FailureCause, SessionError};

impl Machine {
    pub(super) fn derivation_yielded(
        &mut self,
        path: StorePath,
        derivation: Arc<Derivation>,
        modulo: Option<[u8; 32]>,
    ) {
        let id = self.graph.intern(&path);
        if self.stop.is_some() || !matches!(self.graph[id].body, Body::Unknown) {
            return;
        }
        if self.options.record_derivations {
            self.recordings.derivation(path.clone(), derivation.clone());
        }
        self.counts.instantiated += 1;
        self.emit(BuildEvent::Instantiated { drv_path: path });
        if let Some(modulo) = modulo {
            self.modulos.insert(id, modulo);
        }
        if self.options.check.is_some() {
            self.checks.keep(id, derivation.clone());
        }
        self.introduce(id, derivation);
        // Something may read the file of the derivation, and have come first.
        let path = self.graph.path(id);
        if let Some(source) = self.sources.find(path)
            && self.sources[source].state == SourceState::Missing
            && self.is_to_be_recorded(path)
        {
            self.sources.set(source, SourceState::Awaited);
        }
    }

    /// Whether a path is the `.drv` file of a derivation that was yielded, and the store gets it.
    pub(super) fn is_to_be_recorded(&self, path: &StorePath) -> bool {
        let is_known = |id| !matches!(self.graph[id].body, Body::Unknown);
        self.options.record_derivations && self.graph.find(path).is_some_and(is_known)
    }

    /// Gives a node its derivation.
    pub(super) fn introduce(&mut self, id: NodeId, derivation: Arc<Derivation>) {
        let mut missing = None;
        for (path, outputs) in derivation.input_drvs.iter() {
            let input = self.graph.intern(path);
            match self.graph[input].mask(outputs.iter()) {
                Ok(mask) => self.graph.add_input(id, input, mask),
                Err(output) => missing = Some((path.clone(), output)),
            }
        }
        self.graph[id].system = self.scheduler.system_number(&derivation);
        self.graph.set_derivation(id, derivation, &self.dir);
        self.index_outputs(id);
        let node = &mut self.graph[id];
        if node.state == State::Unknown {
            node.state = State::Idle;
        }
        // Before it was known, requests could not tell its outputs.
        let all = node.all_outputs();
        node.wanted &= all;
        self.graph.limit_dependents(id, all);
        let node = &self.graph[id];
        let (wanted, needed, urgency) = (node.wanted, node.needed, node.urgency);
        self.scheduler.added(&mut self.graph, id);
        if let Some((input, output)) = missing {
            let output = output.to_string();
            return self.fail(id, FailureCause::NoSuchOutput { input, output });
        }
        if wanted != 0 || needed {
            self.work.push(Work::Want(Want {
                id,
                outputs: wanted,
                needed,
                urgency,
            }));
        } else if self.options.policy == BuildPolicy::Eager {
            self.look_up(id);
        }
    }

    pub(super) fn root_found(&mut self, root: Root) {
        let id = self.graph.intern(&root.wanted.drv_path);
        match self.graph[id].mask(&root.wanted.outputs) {
            Ok(_) if self.options.policy == BuildPolicy::Imports => {}
            Ok(outputs) => {
                self.work.push(Work::Want(Want {
                    id,
                    outputs,
                    needed: true,
                    urgency: Urgency::None,
                }));
            }
            Err(output) => {
                self.errors.push(SessionError::NoSuchOutput {
                    drv_path: root.wanted.drv_path.clone(),
                    output: output.to_string(),
                });
            }
        }
        self.emit(BuildEvent::Root { root: root.clone() });
        let moved = root.moved_from.as_ref().and_then(|before| {
            let mut roots = self.roots.iter_mut();
            roots.find(|(known, _)| known.order == *before)
        });
        match moved {
            Some(known) => *known = (root, id),
            None => self.roots.push((root, id)),
        }
    }

    pub(super) fn evaluation_failed(&mut self, error: EvalFailure) {
        self.emit(BuildEvent::EvaluationFailed {
            error: error.clone(),
        });
        if error.attr_path.is_some() || error.order.request_index().is_some() {
            self.failed_roots.push(error.clone());
        }
        self.errors.push(SessionError::Evaluation(error));
        if self.options.on_failure == OnFailure::Stop {
            self.stop(Stop::Failure);
        }
    }

    pub(super) fn evaluation_ended(&mut self) {
        self.evaluated |= self.evaluating;
        if std::mem::replace(&mut self.evaluating, false) {
            self.emit(BuildEvent::EvaluationEnded);
            self.scheduler.refresh_heights(&mut self.graph);
        }
    }

    pub(super) fn source_offered(&mut self, path: &StorePath, references: &[StorePath]) {
        let id = self.sources.intern(path);
        self.sources.set_references(id, references);
        let source = &mut self.sources[id];
        source.offered = true;
        match source.state {
            SourceState::Unknown => self.look_up_source(id),
            SourceState::Missing => self.sources.add(id),
            _ => {}
        }
    }

    pub(super) fn look_up_source(&mut self, id: SourceId) {
        self.sources.set(id, SourceState::Looking);
        self.look_ups.queue(Subject::Source(id));
    }

    pub(super) fn source_added(&mut self, path: &StorePath, result: Result<(), ComponentError>) {
        let Some(id) = self.sources.find(path) else {
            return;
        };
        self.sources.adding = self.sources.adding.saturating_sub(1);
        if self.stop.is_some() {
            return;
        }
        match result {
            Ok(()) => {
                self.counts.sources_added += 1;
                self.emit(BuildEvent::SourceAdded { path: path.clone() });
                self.source_valid(id);
            }
            Err(trouble) => {
                let attempts = self.sources[id].attempts + 1;
                self.sources[id].attempts = attempts;
                if trouble.retryable && attempts < self.options.retry.attempts {
                    self.sources.set(id, SourceState::Adding);
                    self.sources
                        .delay(id, self.now + self.options.retry.delay(attempts));
                } else {
                    self.source_failed(id, SourceState::Failed(trouble));
                }
            }
        }
    }

    pub(super) fn source_valid(&mut self, id: SourceId) {
        self.sources.set(id, SourceState::Valid);
        for dependent in std::mem::take(&mut self.sources[id].waiting) {
            self.input_met(dependent);
        }
    }

    pub(super) fn source_failed(&mut self, id: SourceId, state: SourceState) {
        self.sources.set(id, state);
        for dependent in std::mem::take(&mut self.sources[id].waiting) {
            let cause = self.source_trouble(id);
            if matches!(self.graph[dependent].state, State::Waiting { .. }) {
                self.fail(dependent, cause);
            } else {
                self.check_impossible(dependent, cause);
            }
        }
    }

    /// Why a derivation that needs this source fails.
    pub(super) fn source_trouble(&self, id: SourceId) -> FailureCause {
        let source = &self.sources[id];
        match &source.state {
            SourceState::Failed(error) => FailureCause::Store {
                error: error.clone(),
            },
            _ => FailureCause::MissingInput {
                input: source.path.clone(),
            },
        }
    }
}
