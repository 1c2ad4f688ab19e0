//! An evaluator of one's own: the front end of another language, reduced to a table of packages. It
//! runs in the suite that every evaluator has to pass.
//!
//! `cargo run --example own_evaluator`

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::StorePath;
use tvix_eval_api::conformance::{Capabilities, Subject, TestGraph, TestValue, run_all};
use tvix_eval_api::{
    EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root, RootOrder, WantedOutputs,
};

type Event = Result<EvalEvent, EvalError>;

#[derive(Debug, Default)]
struct OwnEvaluator {
    derivations: HashMap<StorePath, Arc<Derivation>>,
    packages: HashMap<String, WantedOutputs>,
}

impl OwnEvaluator {
    /// Everything that a package consists of, inputs first.
    fn package(&self, name: &str, order: RootOrder, sent: &mut HashSet<StorePath>) -> Vec<Event> {
        let Some(wanted) = self.packages.get(name) else {
            return vec![Err(EvalError::attribute_not_found(name).with_order(order))];
        };
        let mut events = Vec::new();
        // Not by recursion: chains of inputs may be long.
        let mut stack = vec![(wanted.drv_path.clone(), false)];
        while let Some((path, inputs_sent)) = stack.pop() {
            let Some(derivation) = self.derivations.get(&path) else {
                continue;
            };
            if inputs_sent {
                let derivation = derivation.clone();
                let modulo = None;
                events.push(Ok(EvalEvent::Derivation {
                    path,
                    derivation,
                    modulo,
                }));
            } else if sent.insert(path.clone()) {
                stack.push((path, true));
                let inputs = derivation.input_drvs.keys().cloned();
                stack.extend(inputs.map(|input| (input, false)));
            }
        }
        let root = Root::new(name, wanted.clone()).with_order(order);
        events.push(Ok(EvalEvent::Root(root)));
        events
    }
}

/// A handle: evaluations outlive the call that starts them.
#[derive(Debug, Clone)]
struct Handle(Arc<OwnEvaluator>);

#[async_trait]
impl Evaluator for Handle {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let evaluator = self.0.clone();
        let mut sent = HashSet::new();
        let names = request.attr_paths.into_iter().enumerate();
        // A package is looked at when the stream gets to it, so a slow reader is waited for.
        let events = names.flat_map(move |(number, name)| {
            evaluator.package(&name, RootOrder::of(number), &mut sent)
        });
        Ok(stream::iter(events).boxed())
    }
}

/// The table of a graph of the suite.
fn subject(graph: TestGraph) -> Subject {
    let mut evaluator = OwnEvaluator::default();
    for made in graph.derivations {
        evaluator.derivations.insert(made.path, made.derivation);
    }
    for attribute in graph.attributes {
        let TestValue::Root(made, outputs) = attribute.value else {
            continue;
        };
        let all = made.derivation.outputs.iter().map(|(name, _)| name.clone());
        let outputs: Vec<OutputName> = match outputs {
            Some(names) => names.iter().filter_map(|name| name.parse().ok()).collect(),
            None => all.collect(),
        };
        let drv_path = made.path;
        let wanted = WantedOutputs::new(drv_path, outputs);
        evaluator.packages.insert(attribute.name, wanted);
    }
    Subject::new(Handle(Arc::new(evaluator)))
}

#[tokio::main]
async fn main() {
    // Without sources, imports from derivations and lazy attributes: their cases are skipped.
    let report = run_all(subject, Capabilities::default()).await;
    println!("{report}");
    report.assert_all();
}
