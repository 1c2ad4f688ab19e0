//! `tvix instantiate`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use tvix_coordinator::{BuildPolicy, Options};
use tvix_eval::NixEvaluator;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root};
use tvix_store_api::Store as _;

use crate::args::InstantiateArgs;
use crate::error::CliError;
use crate::{session, source, stores};

/// Adds derivations to the store, and returns the exit code.
pub async fn run(mut args: InstantiateArgs) -> Result<ExitCode, CliError> {
    args.source.file = args.source.file.or(args.path);
    let store = Arc::new(stores::open(args.building.store.clone()).await?);
    let dir = store.store_dir().clone();
    let roots = Arc::new(std::sync::Mutex::new(Vec::new()));
    let evaluator = Noting {
        evaluator: source::evaluator(&args.source.search, args.building.store.as_ref(), true),
        roots: roots.clone(),
    };
    let request = source::request(&args.source);
    let asked_for = request.attr_paths.clone();
    let options = Options {
        policy: BuildPolicy::Imports,
        record_derivations: true,
        ..Options::default()
    };
    let evaluator = Arc::new(evaluator);
    let mut report = session::run(&args.building, &store, evaluator, request, options).await?;
    session::in_order_of(&asked_for, &mut report);
    let roots = std::mem::take(
        &mut *roots
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    let mut out = crate::output::stdout();
    for found in &report.roots {
        let root = roots
            .iter()
            .find(|root: &&Root| root.name == found.name && root.wanted.drv_path == found.drv_path);
        for output in root.iter().flat_map(|root| &root.wanted.outputs) {
            let path = dir.display(&found.drv_path);
            let written = match output.as_str() {
                "out" => writeln!(out, "{path}"),
                output => writeln!(out, "{path}!{output}"),
            };
            written.map_err(CliError::Output)?;
        }
    }
    out.flush().map_err(CliError::Output)?;
    Ok(session::exit_code(&report))
}

/// An evaluator that takes note of what was found, with the outputs that were wanted of it.
#[derive(Debug)]
struct Noting {
    evaluator: NixEvaluator,
    roots: Arc<std::sync::Mutex<Vec<Root>>>,
}

#[async_trait]
impl Evaluator for Noting {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let roots = self.roots.clone();
        let events = self.evaluator.evaluate(request).await?;
        let noted = events.inspect(move |event| {
            if let Ok(EvalEvent::Root(root)) = event
                && let Ok(mut roots) = roots.lock()
            {
                roots.push(root.clone());
            }
        });
        Ok(noted.boxed())
    }
}
