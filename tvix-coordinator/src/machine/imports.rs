//! Imports from derivations: evaluation waits, and is answered once.

use std::collections::BTreeMap;

use nix_compat::derivation::OutputName;
use rustc_hash::{FxHashMap, FxHashSet};
use tvix_eval_api::{RealiseError, WantedOutputs};

use super::demand::Want;
use super::graph::{Body, FailureId, NodeId, State, Urgency};
use super::{Action, ImportId, ImportedOutput, Machine, Work};
use crate::event::BuildEvent;
use crate::report::FailureCause;

#[derive(Debug, Default)]
pub(super) struct Imports {
    open: BTreeMap<ImportId, Open>,
    /// Which imports wait for a derivation.
    waiting: FxHashMap<NodeId, Vec<ImportId>>,
    /// Whether derivations were given up because an import was dropped.
    pub(super) any_given_up: bool,
}

/// An import that has not been answered.
#[derive(Debug)]
struct Open {
    wanted: Vec<(NodeId, WantedOutputs)>,
    /// Evaluation does not wait for it yet.
    ahead: bool,
}

impl Imports {
    /// What evaluation waits for.
    pub(super) fn wants(&self) -> impl Iterator<Item = NodeId> + '_ {
        let needed = self.open.values().filter(|open| !open.ahead);
        needed.flat_map(|open| &open.wanted).map(|(id, _)| *id)
    }
}

impl Machine {
    pub(super) fn import_requested(
        &mut self,
        import: ImportId,
        wanted: Vec<WantedOutputs>,
        ahead: bool,
    ) {
        if self.stop.is_some() {
            return self.refuse_import(import);
        }
        self.counts.imports += 1;
        let drv_paths = wanted
            .iter()
            .map(|wanted| wanted.drv_path.clone())
            .collect();
        self.emit(BuildEvent::ImportRequested {
            import: import.0,
            drv_paths,
            ahead,
        });
        let mut nodes = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let Some(id) = self.graph.find(&wanted.drv_path) else {
                let error = RealiseError::Unknown(wanted.drv_path.to_string());
                return self.answer_import(import, Err(error));
            };
            let node = &self.graph[id];
            match node.mask(&wanted.outputs) {
                Ok(_) if matches!(node.body, Body::Unknown) => {
                    let error = RealiseError::Unknown(wanted.drv_path.to_string());
                    return self.answer_import(import, Err(error));
                }
                Ok(outputs) => {
                    self.work.push(Work::Want(Want {
                        id,
                        outputs,
                        needed: !ahead,
                        urgency: match ahead {
                            true => Urgency::Ahead,
                            false => Urgency::Stalled,
                        },
                    }));
                }
                Err(output) => {
                    let error = format!("{}!{output}", wanted.drv_path);
                    return self.answer_import(import, Err(RealiseError::Unknown(error)));
                }
            }
            nodes.push((id, wanted));
        }
        for (id, _) in &nodes {
            let waiting = self.imports.waiting.entry(*id).or_default();
            if !waiting.contains(&import) {
                waiting.push(import);
            }
        }
        let open = Open {
            wanted: nodes,
            ahead,
        };
        self.imports.open.insert(import, open);
        // Wants come first: they tell whether something has failed before.
        self.do_work();
        self.try_answer(import);
    }

    /// Evaluation waits for an import that it has requested ahead.
    pub(super) fn import_needed(&mut self, import: ImportId) {
        let Some(open) = self.imports.open.get_mut(&import) else {
            return;
        };
        if !std::mem::replace(&mut open.ahead, false) {
            return;
        }
        let wanted = open.wanted.clone();
        self.emit(BuildEvent::ImportNeeded { import: import.0 });
        for (id, wanted) in wanted {
            if let Ok(outputs) = self.graph[id].mask(&wanted.outputs) {
                self.work.push(Work::Want(Want {
                    id,
                    outputs,
                    needed: true,
                    urgency: Urgency::Stalled,
                }));
            }
        }
        self.do_work();
        self.try_answer(import);
    }

    /// Evaluation does not need an import that it has requested ahead. Its builds are cancelled, as
    /// far as nothing else needs them.
    pub(super) fn import_dropped(&mut self, import: ImportId) {
        let Some(open) = self.close_import(import) else {
            return;
        };
        self.emit(BuildEvent::ImportDropped { import: import.0 });
        self.actions.push_back(Action::DropImport { import });
        if self.stop.is_some() {
            return;
        }
        let dropped = self.unneeded_inputs(open.wanted.iter().map(|(id, _)| *id));
        if dropped.is_empty() {
            return;
        }
        let others = self.imports.open.values().filter(|open| open.ahead);
        let others = others.flat_map(|open| &open.wanted).map(|(id, _)| *id);
        let others = self.unneeded_inputs(others.collect::<Vec<_>>());
        let dropped: FxHashSet<NodeId> = dropped.difference(&others).copied().collect();
        for id in &dropped {
            let node = &mut self.graph[*id];
            node.urgency = Urgency::None;
            if matches!(node.state, State::Waiting { .. } | State::Ready) {
                node.state = State::Unneeded;
                self.imports.any_given_up = true;
            }
        }
        self.cancel_builds(|_, id| dropped.contains(&id));
    }

    /// Derivations and their inputs, as far as nothing that was asked for needs them and they may be
    /// built.
    fn unneeded_inputs(&self, ids: impl IntoIterator<Item = NodeId>) -> FxHashSet<NodeId> {
        let mut rest: Vec<NodeId> = ids.into_iter().collect();
        let mut found = FxHashSet::default();
        while let Some(id) = rest.pop() {
            let node = &self.graph[id];
            let under_way = match node.state {
                State::Waiting { .. } | State::Ready | State::Building => true,
                State::Delegated(resolved) => {
                    rest.push(resolved);
                    true
                }
                _ => false,
            };
            if !node.needed && under_way && found.insert(id) {
                rest.extend(self.graph.inputs(id).iter().map(|edge| edge.input));
            }
        }
        found
    }

    /// Answers imports that wait for this derivation, if they have all they need.
    pub(super) fn progress_imports(&mut self, id: NodeId) {
        let Some(waiting) = self.imports.waiting.get(&id) else {
            return;
        };
        for import in waiting.clone() {
            self.try_answer(import);
        }
    }

    fn try_answer(&mut self, import: ImportId) {
        let Some(open) = self.imports.open.get(&import) else {
            return;
        };
        let mut answer = Vec::new();
        for (id, wanted) in &open.wanted {
            let node = &self.graph[*id];
            let Ok(mask) = node.mask(&wanted.outputs) else {
                return;
            };
            if !node.has(mask) {
                match node.state {
                    // It is answered once evaluation waits for it.
                    _ if open.ahead => return,
                    State::Failed(failure) | State::Skipped(failure) if !self.is_asked(failure) => {
                        return self.fail_import(import, failure);
                    }
                    _ => return,
                }
            }
            let known: BTreeMap<&OutputName, _> = self.graph.outputs(*id, &self.dir).collect();
            for output in &wanted.outputs {
                let Some(Some(path)) = known.get(output) else {
                    return;
                };
                answer.push(ImportedOutput {
                    drv_path: wanted.drv_path.clone(),
                    output: output.clone(),
                    path: path.clone(),
                });
            }
        }
        self.answer_import(import, Ok(answer));
    }

    pub(super) fn fail_imports(&mut self, id: NodeId, failure: FailureId) {
        for import in self.imports.waiting.get(&id).cloned().unwrap_or_default() {
            self.fail_import(import, failure);
        }
    }

    fn fail_import(&mut self, import: ImportId, failure: FailureId) {
        match self.imports.open.get(&import) {
            Some(open) if !open.ahead => {}
            _ => return,
        }
        let error = match self.failure(failure) {
            Some(failure) => {
                let log_tail = match &failure.cause {
                    FailureCause::Build { failure } => failure.log_tail.clone(),
                    _ => Vec::new(),
                };
                let message = failure.cause.to_string();
                RealiseError::Failed {
                    drv_path: failure.drv_path.clone(),
                    message,
                    log_tail,
                }
            }
            _ => RealiseError::Cancelled,
        };
        self.answer_import(import, Err(error));
    }

    fn answer_import(
        &mut self,
        import: ImportId,
        answer: Result<Vec<ImportedOutput>, RealiseError>,
    ) {
        self.close_import(import);
        self.emit(BuildEvent::ImportAnswered {
            import: import.0,
            success: answer.is_ok(),
        });
        self.actions
            .push_back(Action::AnswerImport { import, answer });
    }

    fn close_import(&mut self, import: ImportId) -> Option<Open> {
        let open = self.imports.open.remove(&import)?;
        for (id, _) in &open.wanted {
            if let Some(waiting) = self.imports.waiting.get_mut(id) {
                waiting.retain(|other| *other != import);
                if waiting.is_empty() {
                    self.imports.waiting.remove(id);
                }
            }
        }
        Some(open)
    }

    /// Answers an import that comes when everything ends.
    pub(super) fn refuse_import(&mut self, import: ImportId) {
        let answer = Err(RealiseError::Cancelled);
        self.actions
            .push_back(Action::AnswerImport { import, answer });
    }

    /// Answers all that wait: nothing more will be built.
    pub(super) fn close_imports(&mut self) {
        while let Some((import, _)) = self.imports.open.first_key_value() {
            let import = *import;
            self.answer_import(import, Err(RealiseError::Cancelled));
        }
    }
}
