//! Floating derivations: resolving them, and the paths that their outputs turned out to have.

use std::sync::Arc;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::Realisation;
use nix_compat::store_path::StorePath;

use super::graph::{Body, NodeId, State, mask_of_all};
use super::{BatchId, ComponentError, Machine, Work};
use crate::event::BuildEvent;
use crate::report::FailureCause;

impl Machine {
    /// Replaces a derivation by one that names the outputs of its inputs, all of which are built. Others may
    /// have resolved to the same one: it is built once.
    pub(super) fn resolve(&mut self, id: NodeId) {
        let Some(derivation) = self.graph[id].derivation().cloned() else {
            return;
        };
        let resolved = self.resolved(&derivation);
        let resolved = resolved.and_then(|(resolved, used)| {
            let path = resolved.path(&self.dir);
            let path = path.map_err(|error| error.to_string())?;
            Ok((path, resolved, used))
        });
        let (path, resolved, used) = match resolved {
            Ok(resolved) => resolved,
            Err(message) => return self.fail(id, FailureCause::Invalid { message }),
        };
        // They need not be looked up as sources.
        for path in &used {
            let source = self.sources.intern(path);
            self.source_valid(source);
        }
        let resolved_id = self.graph.intern(&path);
        self.graph[id].state = State::Delegated(resolved_id);
        let drv_path = self.graph.path(id).clone();
        self.emit(BuildEvent::Resolved {
            drv_path,
            resolved: path,
        });
        self.delegates.entry(resolved_id).or_default().push(id);
        if matches!(self.graph[resolved_id].body, Body::Unknown) {
            self.introduce(resolved_id, Arc::new(resolved));
        }
        let (needed, urgency) = (self.graph[id].needed, self.graph[id].urgency);
        self.want_all(resolved_id, needed, urgency);
        // It may have come to its end before.
        match self.graph[resolved_id].state {
            State::Failed(failure) => {
                self.graph[id].state = State::Failed(failure);
                if needed {
                    self.failure_needed(failure);
                }
            }
            _ => self.work.push(Work::Satisfy(resolved_id)),
        }
    }

    /// A derivation with its inputs replaced by their outputs, all of which are known, and the store
    /// paths of these outputs.
    pub(super) fn resolved(
        &self,
        derivation: &Derivation,
    ) -> Result<(Derivation, Vec<StorePath>), String> {
        let mut used = Vec::new();
        let built = |drv_path: &StorePath, output: &OutputName| {
            let input = self.graph.find(drv_path)?;
            let mut outputs = self.graph.outputs(input, &self.dir);
            let path = outputs.find(|(name, _)| *name == output)?.1?;
            used.push(path.clone());
            Some(path)
        };
        let resolved = derivation.resolve(&self.dir, built);
        let resolved = resolved.map_err(|error| error.to_string())?;
        Ok((resolved, used))
    }

    /// The derivation that the user knows a node by. A resolved derivation is known by one that
    /// resolved to it, preferably one that is needed.
    pub(super) fn known_path(&self, id: NodeId) -> &StorePath {
        let origins = self
            .delegates
            .get(&id)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let needed = origins.iter().find(|origin| self.graph[**origin].needed);
        self.graph.path(*needed.or(origins.first()).unwrap_or(&id))
    }

    /// Makes the outputs of derivations valid that resolved to this one.
    pub(super) fn satisfy_delegates(&mut self, resolved: NodeId) {
        let valid = self.graph[resolved].valid;
        if valid != self.graph[resolved].all_outputs() || valid == 0 {
            return;
        }
        let origins = self.delegates.get(&resolved).cloned().unwrap_or_default();
        for origin in origins {
            if self.graph[origin].state != State::Delegated(resolved) {
                continue;
            }
            let outputs = self.graph.outputs(resolved, &self.dir);
            let outputs = outputs.map(|(name, path)| (name.clone(), path));
            let outputs: Vec<_> = outputs.collect();
            // The next time it need not be resolved to be found.
            if self.modulos.contains_key(&origin) {
                let built = outputs.iter().cloned();
                let built = built.filter_map(|(name, path)| Some((name, path?)));
                self.record_realisations(origin, &built.collect::<Vec<_>>());
            }
            self.graph.set_outputs(origin, outputs.into_iter());
            self.graph[origin].state = State::Present;
            self.now_valid(origin, valid);
        }
    }

    pub(super) fn realisations_queried(
        &mut self,
        id: BatchId,
        result: Result<Vec<Option<StorePath>>, ComponentError>,
    ) {
        let Some(batch) = self.look_ups.answered(id) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let paths = match result {
            Ok(paths) => paths,
            Err(trouble) => return self.query_failed(id, batch, trouble),
        };
        let mut paths = paths.into_iter();
        for subject in batch.subjects {
            let super::lookup::Subject::Realisations(id) = subject else {
                continue;
            };
            let count = self.graph[id].output_count();
            let found: Vec<Option<StorePath>> = paths.by_ref().take(count).collect();
            let mask = mask_of_all(found.iter().map(Option::is_some));
            if mask == self.graph[id].all_outputs() && found.len() == count {
                let outputs = self.graph.outputs(id, &self.dir);
                let names: Vec<_> = outputs.map(|(name, _)| name.clone()).collect();
                self.graph.set_outputs(id, names.into_iter().zip(found));
                self.looked_up(id, mask);
            } else {
                // Of a floating derivation, all is built or nothing.
                self.looked_up(id, 0);
            }
        }
    }

    /// Records the output paths of a floating derivation in the store.
    pub(super) fn record_realisations(&mut self, id: NodeId, outputs: &[(OutputName, StorePath)]) {
        let mut realisations = Vec::new();
        for known_as in self.drv_outputs(id) {
            let output = outputs.iter().find(|(name, _)| *name == known_as.output);
            let Some((_, path)) = output else {
                continue;
            };
            // By each key, so that any version of Nix finds it.
            let ids = known_as.ids();
            realisations.extend(ids.map(|id| Realisation::new(id, path.clone())));
        }
        self.recordings.realisations(realisations.into_iter());
    }
}
