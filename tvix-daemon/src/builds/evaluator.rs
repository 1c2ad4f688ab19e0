//! An evaluator of derivations that are in memory.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::StorePath;
use tvix_eval_api::{
    EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root, RootOrder, WantedOutputs,
};

/// Yields derivations and roots.
#[derive(Debug)]
pub(super) struct Given {
    /// Inputs before dependents, with the hash that identifies realisations.
    pub derivations: Vec<(StorePath, Arc<Derivation>, Option<[u8; 32]>)>,
    pub roots: Vec<(StorePath, Vec<OutputName>)>,
}

#[async_trait]
impl Evaluator for Given {
    async fn evaluate(&self, _: EvalRequest) -> Result<EvalStream, EvalError> {
        let derivations = self.derivations.iter().cloned();
        let derivations = derivations.map(|(path, derivation, modulo)| EvalEvent::Derivation {
            path,
            derivation,
            modulo,
        });
        let roots = self.roots.iter().cloned().enumerate();
        let roots = roots.map(|(number, (drv_path, outputs))| {
            let name = drv_path.to_string();
            let root = Root::new(name, WantedOutputs::new(drv_path, outputs));
            EvalEvent::Root(root.with_order(RootOrder::of(number)))
        });
        let events: Vec<_> = derivations.chain(roots).map(Ok).collect();
        Ok(stream::iter(events).boxed())
    }
}

/// The derivations of a graph, inputs first. Chains are long: a stack, not recursion.
pub(super) fn inputs_first(graph: &super::drvs::Graph) -> Vec<(StorePath, Arc<Derivation>)> {
    let mut ordered = Vec::with_capacity(graph.len());
    let mut seen = std::collections::HashSet::new();
    let mut paths: Vec<&StorePath> = graph.keys().collect();
    // As in Nix: by name.
    paths.sort_unstable_by_key(|path| (path.name(), *path));
    let mut stack: Vec<(&StorePath, bool)> =
        paths.into_iter().rev().map(|it| (it, false)).collect();
    while let Some((path, inputs_done)) = stack.pop() {
        let Some(derivation) = graph.get(path) else {
            continue;
        };
        if inputs_done {
            ordered.push((path.clone(), derivation.clone()));
        } else if seen.insert(path) {
            stack.push((path, true));
            stack.extend(derivation.input_drvs.keys().map(|input| (input, false)));
        }
    }
    ordered
}
