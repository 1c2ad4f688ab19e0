//! Imports from derivations: evaluation waits, and is answered once.

use std::collections::BTreeMap;

use nix_compat::derivation::OutputName;
use rustc_hash::FxHashMap;
use tvix_eval_api::{RealiseError, WantedOutputs};

use super::demand::Want;
use super::graph::{Body, FailureId, NodeId, State};
use super::{Action, ImportId, ImportedOutput, Machine, Work};
use crate::event::BuildEvent;
use crate::report::FailureCause;

#[derive(Debug, Default)]
pub(super) struct Imports {
    open: BTreeMap<ImportId, Vec<(NodeId, WantedOutputs)>>,
    /// Which imports wait for a derivation.
    waiting: FxHashMap<NodeId, Vec<ImportId>>,
}

impl Imports {
    /// Open imports, with the outputs that they wait for.
    pub(super) fn wants(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.open.values().flatten().map(|(id, _)| *id)
    }
}

impl Machine {
    pub(super) fn import_requested(&mut self, import: ImportId, wanted: Vec<WantedOutputs>) {
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
                        needed: true,
                        urgent: true,
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
        self.imports.open.insert(import, nodes);
        // Wants come first: they tell whether something has failed before.
        self.do_work();
        self.try_answer(import);
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
        let Some(wants) = self.imports.open.get(&import) else {
            return;
        };
        let mut answer = Vec::new();
        for (id, wanted) in wants {
            let node = &self.graph[*id];
            let Ok(mask) = node.mask(&wanted.outputs) else {
                return;
            };
            if !node.has(mask) {
                match node.state {
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
        if !self.imports.open.contains_key(&import) {
            return;
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
        if let Some(wants) = self.imports.open.remove(&import) {
            for (id, _) in wants {
                if let Some(waiting) = self.imports.waiting.get_mut(&id) {
                    waiting.retain(|other| *other != import);
                    if waiting.is_empty() {
                        self.imports.waiting.remove(&id);
                    }
                }
            }
        }
        self.emit(BuildEvent::ImportAnswered {
            import: import.0,
            success: answer.is_ok(),
        });
        self.actions
            .push_back(Action::AnswerImport { import, answer });
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
