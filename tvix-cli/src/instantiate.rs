//! `tvix instantiate`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

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
    let noted = Arc::new(Mutex::new(Noted::default()));
    let evaluator = Noting {
        evaluator: source::evaluator(&args.source.search, args.building.store.as_ref(), true),
        noted: noted.clone(),
    };
    let request = source::request(&args.source);
    let asked_for = request.attr_paths.clone();
    let options = Options {
        policy: BuildPolicy::Imports,
        record_derivations: true,
        ..Options::default()
    };
    let evaluator = Arc::new(evaluator);
    let report = session::run(&args.building, &store, evaluator, request, options).await?;
    let noted = std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner));
    // As in Nix, an attribute path is printed when all of it was evaluated, in their order.
    let failed = noted.failed.iter().map(|name| {
        let asked = asked_for.iter().position(|asked| belongs(name, asked));
        asked.unwrap_or_default()
    });
    let failed = failed.min().unwrap_or(usize::MAX);
    let mut out = crate::output::stdout();
    for found in &report.roots {
        if found.order.asked() >= Some(failed) {
            break;
        }
        let mut roots = noted.roots.iter();
        let root =
            roots.find(|root| root.order == found.order && root.wanted.drv_path == found.drv_path);
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

/// Whether a name is an attribute path that was asked for, or one below it.
fn belongs(name: &str, asked: &str) -> bool {
    let rest = name.strip_prefix(asked);
    rest.is_some_and(|rest| asked.is_empty() || rest.is_empty() || rest.starts_with('.'))
}

/// What an evaluation yielded.
#[derive(Debug, Default)]
struct Noted {
    /// With the outputs that were wanted.
    roots: Vec<Root>,
    /// The attribute paths that could not be evaluated.
    failed: Vec<String>,
}

/// An evaluator that takes note of what is found.
#[derive(Debug)]
struct Noting {
    evaluator: NixEvaluator,
    noted: Arc<Mutex<Noted>>,
}

#[async_trait]
impl Evaluator for Noting {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let noted = self.noted.clone();
        let events = self.evaluator.evaluate(request).await?;
        let noted = events.inspect(move |event| {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Ok(EvalEvent::Root(root)) => noted.roots.push(root.clone()),
                Ok(_) => {}
                Err(error) => {
                    let name = error.attr_path().unwrap_or_default();
                    noted.failed.push(name.to_owned());
                }
            }
        });
        Ok(noted.boxed())
    }
}
