//! Floating outputs that others have built.
//!
//! Caches know them by the derivation, and what they lead to is a path as any other. Nix up to 2.34
//! names it by the hash of the derivation as it was instantiated, or of what it resolved to, which has
//! no inputs and needs nobody else to tell it; Nix since 2.35 by the path of the latter.

use nix_compat::derivation::{Output, OutputName};
use nix_compat::realisation::DrvKey;
use nix_compat::store_path::StorePath;

use super::{Machine, NodeId, ProbeId};
use crate::event::BuildEvent;
use crate::machine::graph::{OutputMask, State, bit};
use crate::machine::{Action, OutputKeys, RefusedRealisation, Work};

/// What caches say of the outputs of a floating derivation.
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
    /// The path of a derivation is one if it is resolved. Its hash may be known by what evaluated it
    /// even if it is not.
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
                self.substitutions.realise(id);
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
        loop {
            let (probe, nodes) = self.substitutions.next_realisations()?;
            let outputs: Vec<_> = nodes.iter().flat_map(|id| self.drv_outputs(*id)).collect();
            if !outputs.is_empty() {
                return Some(Action::FindRealisations { probe, outputs });
            }
            // Their derivations are gone: they were built meanwhile.
            self.realisations_found(probe, Vec::new(), Vec::new());
            self.do_work();
        }
    }

    pub(in crate::machine) fn realisations_found(
        &mut self,
        probe: ProbeId,
        paths: Vec<Option<StorePath>>,
        refused: Vec<RefusedRealisation>,
    ) {
        let Some(nodes) = self.substitutions.realisations_found(probe) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        for RefusedRealisation {
            substituter,
            message,
        } in refused
        {
            // What is wrong with one is wrong with most: it is said once.
            if self.substitutions.first_refusal(substituter) {
                self.emit(BuildEvent::RealisationRefused {
                    substituter: self.substitutions.name(substituter),
                    message,
                });
            }
        }
        let mut paths = paths.into_iter();
        for id in nodes {
            // The same ones as when the question was asked, unless it was built since.
            let outputs = self.drv_outputs(id);
            let found: Vec<_> = paths.by_ref().take(outputs.len()).collect();
            let outputs = outputs.into_iter().zip(found);
            let known: Option<Vec<_>> = outputs
                .map(|(output, path)| Some((output.output, path?)))
                .collect();
            match known {
                Some(known) if known.len() == self.graph[id].output_count() => {
                    self.realised.insert(id, Realised::Known(known));
                    self.work.push(Work::Build(id));
                }
                _ => {
                    self.realised.remove(&id);
                    if self.graph[id].state == State::Asking {
                        self.refuse(id);
                    }
                }
            }
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
