//! Floating outputs that others have built.
//!
//! Caches know them by the derivation; the path in a realisation is fetched like any other. Nix up
//! to 2.34 names the derivation by its hash, either as instantiated or as resolved. A resolved one
//! has no inputs, so that its hash can be computed here. Nix since 2.35 uses the path of the
//! resolved derivation.

use nix_compat::derivation::{Output, OutputName};
use nix_compat::realisation::DrvKey;
use nix_compat::store_path::StorePath;

use super::goals::Search;
use super::{Machine, NodeId, ProbeId};
use crate::event::BuildEvent;
use crate::machine::graph::{OutputMask, State, bit};
use crate::machine::{Action, FoundRealisation, OutputKeys, Work};

/// The realisations of a floating derivation that caches have.
#[derive(Debug)]
pub(in crate::machine) enum Realised {
    /// They are asked.
    Asked,
    /// This is where all of them would be.
    Known(Vec<(OutputName, StorePath)>),
}

impl Machine {
    /// The keys by which realisations of a floating derivation are known, the best first; none if
    /// nobody can know any.
    ///
    /// The path of a derivation is a key if it is resolved. Its hash is one too if the evaluator
    /// knows it.
    fn drv_keys(&self, id: NodeId) -> Vec<DrvKey> {
        let Some(derivation) = self.graph[id].derivation() else {
            return Vec::new();
        };
        let mut outputs = derivation.outputs.values();
        if outputs.any(|output| matches!(output, Output::Impure { .. })) {
            return Vec::new();
        }
        match self.modulos.get(&id) {
            Some(hash) if derivation.input_drvs.is_empty() => vec![
                DrvKey::Path(self.graph.path(id).clone()),
                DrvKey::HashModulo(*hash),
            ],
            Some(hash) => vec![DrvKey::HashModulo(*hash)],
            None => derivation.realisation_keys(&self.dir, self.graph.path(id)),
        }
    }

    /// The outputs of a floating derivation as realisations name them; none if nobody can know them.
    pub(in crate::machine) fn drv_outputs(&self, id: NodeId) -> Vec<OutputKeys> {
        let keys = self.drv_keys(id);
        let Some(derivation) = self.graph[id].derivation().filter(|_| !keys.is_empty()) else {
            return Vec::new();
        };
        let outputs = derivation.outputs.keys().cloned();
        outputs
            .map(|output| OutputKeys {
                keys: keys.clone(),
                output,
            })
            .collect()
    }

    /// Whether it is known where the outputs of a floating derivation would be. Asks, if nobody was
    /// asked yet.
    pub(super) fn is_realised(&mut self, id: NodeId) -> bool {
        match self.realised.get(&id) {
            Some(Realised::Known(_)) => true,
            Some(Realised::Asked) => false,
            None => {
                self.realised.insert(id, Realised::Asked);
                let outputs = self.drv_outputs(id).into_iter();
                let outputs = outputs.map(|output| (output, None)).collect();
                // The store is always asked.
                self.substitutions.search(0, Search { node: id, outputs });
                false
            }
        }
    }

    /// Where the outputs of a floating derivation would be that are not valid.
    pub(super) fn realised_outputs(&self, id: NodeId) -> Vec<(OutputMask, StorePath)> {
        let Some(Realised::Known(outputs)) = self.realised.get(&id) else {
            return Vec::new();
        };
        let outputs = outputs.iter().enumerate();
        let outputs = outputs.map(|(index, (_, path))| (bit(index), path.clone()));
        outputs
            .filter(|(bit, _)| self.graph[id].valid & bit == 0)
            .collect()
    }

    /// The next question about floating outputs.
    pub(super) fn next_realisations(&mut self) -> Option<Action> {
        let (probe, place, outputs) = self.substitutions.next_search()?;
        Some(Action::FindRealisations {
            probe,
            substituter: place.checked_sub(1),
            outputs,
        })
    }

    pub(in crate::machine) fn realisations_found(
        &mut self,
        probe: ProbeId,
        answers: Vec<FoundRealisation>,
    ) {
        let Some((place, searches)) = self.substitutions.searched(probe) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let mut answers = answers.into_iter();
        for mut search in searches {
            for (_, found) in search.outputs.iter_mut().filter(|(_, it)| it.is_none()) {
                match answers.next() {
                    Some(FoundRealisation::Known { path, conflicts }) => match conflicts.first() {
                        None => *found = Some(path),
                        Some(conflict) => self.realisation_refused(place, conflict.to_string()),
                    },
                    Some(FoundRealisation::Refused { message }) => {
                        self.realisation_refused(place, message);
                    }
                    // If it is in trouble, asking it for paths will tell.
                    Some(FoundRealisation::Absent | FoundRealisation::Failed(_)) | None => {}
                }
            }
            match search.complete() {
                Some(known) => {
                    self.realised.insert(search.node, Realised::Known(known));
                    self.work.push(Work::Build(search.node));
                }
                None => {
                    if let Some(search) = self.substitutions.search(place + 1, search) {
                        self.not_realised(search.node);
                    }
                }
            }
        }
    }

    /// Not all outputs of a floating derivation are known anywhere.
    fn not_realised(&mut self, id: NodeId) {
        self.realised.remove(&id);
        if self.graph[id].state == State::Asking {
            self.refuse(id);
        }
    }

    /// A realisation must not be used. Others of the same substituter are likely to have the same fault:
    /// it is told once.
    fn realisation_refused(&mut self, place: usize, message: String) {
        let Some(substituter) = place.checked_sub(1) else {
            return;
        };
        if self.substitutions.first_refusal(substituter) {
            self.emit(BuildEvent::RealisationRefused {
                substituter: self.substitutions.name(substituter),
                message,
            });
        }
    }

    /// All outputs of a floating derivation were had from substituters: they are where these said.
    pub(super) fn realised_valid(&mut self, id: NodeId) {
        let Some(Realised::Known(outputs)) = self.realised.remove(&id) else {
            return;
        };
        self.record_realisations(id, &outputs);
        let known = outputs.into_iter().map(|(name, path)| (name, Some(path)));
        self.graph.set_outputs(id, known);
        self.graph[id].state = State::Present;
        let all = self.graph[id].all_outputs();
        self.now_valid(id, all);
    }
}
