//! `tvix build --dry-run`: the derivations to build and the paths to fetch.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::StorePath;
use tvix_coordinator::{BuildPolicy, Options, Status};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, WantedOutputs};
use tvix_store_api::{Store, StoreExt as _};

use crate::args::BuildingArgs;
use crate::error::CliError;
use crate::output::say;
use crate::session::Run;
use crate::stores::MainStore;
use crate::{caches, exit};

/// Evaluates, and shows missing paths on standard error. Imports from derivations are built.
pub async fn run(
    building: &BuildingArgs,
    store: &MainStore,
    evaluator: Arc<dyn Evaluator>,
    request: EvalRequest,
) -> Result<ExitCode, CliError> {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let noting = Arc::new(Noting {
        evaluator,
        graph: graph.clone(),
    });
    let run = Run {
        args: building,
        store,
        evaluator: noting,
        request,
        options: Options::default().with_policy(BuildPolicy::Imports),
    };
    let report = run.reported().await?;
    if report.status != Status::Success {
        return Ok(exit::code(&report));
    }
    let graph = std::mem::take(&mut *graph.lock().unwrap_or_else(PoisonError::into_inner));
    let dir = store.store_dir().clone();
    let substituters = caches::substituters(building, &**store).await;
    let substituters = substituters.into_iter().map(|(_, store)| store).collect();
    let missing = graph.missing(store, substituters).await?;
    let list = |one: &str, many: &str, paths: &[StorePath]| {
        match paths.len() {
            0 => return,
            1 => say!("{one}:"),
            count => say!("these {count} {many}:"),
        }
        for path in paths {
            say!("  {}", dir.display(path));
        }
    };
    list(
        "this derivation will be built",
        "derivations will be built",
        &missing.built,
    );
    list(
        "this path will be fetched",
        "paths will be fetched",
        &missing.fetched,
    );
    Ok(ExitCode::SUCCESS)
}

/// The derivations and roots of an evaluation.
#[derive(Debug, Default)]
struct Graph {
    derivations: HashMap<StorePath, Arc<Derivation>>,
    roots: Vec<WantedOutputs>,
}

/// Paths that are not in the store.
#[derive(Debug, Default)]
struct Missing {
    /// Derivations to build, inputs first.
    built: Vec<StorePath>,
    /// Paths to fetch, without their references.
    fetched: Vec<StorePath>,
}

impl Graph {
    async fn missing(
        &self,
        store: &MainStore,
        substituters: Vec<Arc<dyn Store>>,
    ) -> Result<Missing, CliError> {
        let mut missing = Missing::default();
        let mut seen: HashSet<(StorePath, OutputName)> = HashSet::new();
        let mut built = HashSet::new();
        // Chains of inputs may be long: a stack rather than recursion. A derivation is listed when it
        // is met again below its inputs.
        let mut stack: Vec<(WantedOutputs, bool)> = Vec::new();
        stack.extend(self.roots.iter().rev().map(|root| (root.clone(), false)));
        while let Some((wanted, inputs_done)) = stack.pop() {
            let path = wanted.drv_path.clone();
            if inputs_done {
                missing.built.push(path);
                continue;
            }
            let Some(derivation) = self.derivations.get(&path) else {
                continue;
            };
            let mut build = false;
            for output in &wanted.outputs {
                if !seen.insert((path.clone(), output.clone())) {
                    continue;
                }
                let mut paths = derivation.output_paths(store.store_dir());
                let known = paths.find(|(name, _)| *name == output);
                let Some(out_path) = known.and_then(|(_, path)| path) else {
                    build = true;
                    continue;
                };
                if store.is_valid(&out_path).await.map_err(CliError::store)? {
                    continue;
                }
                match offered(&substituters, &out_path).await {
                    true => missing.fetched.push(out_path),
                    false => build = true,
                }
            }
            if build && built.insert(path) {
                stack.push((wanted, true));
                for (input, outputs) in derivation.input_drvs.iter().rev() {
                    let input =
                        WantedOutputs::new(input.clone(), outputs.iter().cloned().collect());
                    stack.push((input, false));
                }
            }
        }
        Ok(missing)
    }
}

async fn offered(substituters: &[Arc<dyn Store>], path: &StorePath) -> bool {
    for substituter in substituters {
        if matches!(substituter.path_info(path).await, Ok(Some(_))) {
            return true;
        }
    }
    false
}

/// An evaluator that records derivations and roots.
#[derive(Debug)]
struct Noting {
    evaluator: Arc<dyn Evaluator>,
    graph: Arc<Mutex<Graph>>,
}

#[async_trait]
impl Evaluator for Noting {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let graph = self.graph.clone();
        let events = self.evaluator.evaluate(request).await?;
        let noted = events.inspect(move |event| {
            let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Ok(EvalEvent::Derivation {
                    path, derivation, ..
                }) => {
                    graph.derivations.insert(path.clone(), derivation.clone());
                }
                Ok(EvalEvent::Root(root)) => graph.roots.push(root.wanted.clone()),
                _ => {}
            }
        });
        Ok(noted.boxed())
    }
}
