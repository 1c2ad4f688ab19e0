//! `tvix instantiate`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use tvix_coordinator::{BuildPolicy, Options};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root};

use crate::args::{EvalArgs, InstantiateArgs};
use crate::error::CliError;
use crate::session::Run;
use crate::several::{Part, Several, asked_for};
use crate::stores::MainStore;
use crate::{eval, exit, source, stores, workers};

/// Adds derivations to the store, and returns the exit code.
pub async fn run(args: InstantiateArgs) -> Result<ExitCode, CliError> {
    if args.eval || args.print.parse || args.print.find_file {
        return eval::run(EvalArgs {
            inputs: args.inputs,
            source: args.source,
            building: args.building,
            print: args.print,
            eval: true,
        })
        .await;
    }
    let store = stores::open(args.building.store.clone()).await?;
    let dir = store.store_dir().clone();
    let noted = Arc::new(Mutex::new(Noted::default()));
    let evaluator = source::evaluator(&args.source.search, &args.building, true);
    let evaluator = workers::shared(evaluator, args.workers, true);
    let sources = source::sources(&args.source, &args.inputs)?;
    let mut before = 0;
    let requests = source::requests(&args.source, sources)?.into_iter();
    let requests = requests.map(|request| -> Part {
        let noting = Noting {
            evaluator: evaluator.clone(),
            asked_for: request.attr_paths.clone(),
            before,
            noted: noted.clone(),
        };
        before += asked_for(&request);
        (Arc::new(noting), request)
    });
    let evaluator = Arc::new(Several::new(requests.collect()));
    let dry_run = args.dry_run || args.print.readonly_mode;
    let options = Options::default()
        .with_policy(BuildPolicy::Imports)
        .with_record_derivations(!dry_run);
    let run = Run {
        args: &args.building,
        store: &store,
        request: evaluator.request(),
        evaluator,
        options,
    };
    let report = run.reported().await?;
    let noted = std::mem::take(&mut *noted.lock().unwrap_or_else(PoisonError::into_inner));
    // As in Nix, an attribute path is printed when all of it was evaluated, in their order.
    let failed = noted.failed.into_iter().min().unwrap_or(usize::MAX);
    let mut number = 0;
    let mut out = crate::output::stdout();
    for found in &report.roots {
        if found.order.request_index() >= Some(failed) {
            break;
        }
        let Some(drv_path) = &found.drv_path else {
            continue;
        };
        let mut roots = noted.roots.iter();
        let root =
            roots.find(|root| root.order == found.order && root.wanted.drv_path == *drv_path);
        for output in root.iter().flat_map(|root| &root.wanted.outputs) {
            let mut shown = dir.display(drv_path).to_string();
            if let Some(link) = args.add_root.as_ref().filter(|_| !dry_run) {
                number += 1;
                shown = add_root(&store, link, number, drv_path).await?;
            }
            let written = match output.as_str() {
                "out" => writeln!(out, "{shown}"),
                output => writeln!(out, "{shown}!{output}"),
            };
            written.map_err(CliError::Output)?;
        }
    }
    out.flush().map_err(CliError::Output)?;
    Ok(exit::code(&report))
}

/// Makes the link with a number, and returns where it is.
async fn add_root(
    store: &MainStore,
    link: &Path,
    number: usize,
    path: &nix_compat::store_path::StorePath,
) -> Result<String, CliError> {
    let mut name = link.as_os_str().to_owned();
    if number > 1 {
        name.push(format!("-{number}"));
    }
    let link = std::path::absolute(PathBuf::from(name)).map_err(|source| CliError::File {
        action: "make the link",
        file: link.to_owned(),
        source,
    })?;
    let linked = store.add_root(&link, path).await;
    linked.map_err(|error| CliError::out_link(&link, error))?;
    Ok(link.display().to_string())
}

/// Whether a name is an attribute path that was asked for, or one below it.
fn belongs(name: &str, asked: &str) -> bool {
    let rest = name.strip_prefix(asked);
    rest.is_some_and(|rest| asked.is_empty() || rest.is_empty() || rest.starts_with('.'))
}

/// The roots of an evaluation.
#[derive(Debug, Default)]
struct Noted {
    /// With the outputs that were wanted.
    roots: Vec<Root>,
    /// The places of attribute paths that could not be evaluated.
    failed: Vec<usize>,
}

/// An evaluator that records roots and failures.
#[derive(Debug)]
struct Noting {
    evaluator: Arc<dyn Evaluator>,
    asked_for: Vec<String>,
    /// How many attribute paths come before those of this one.
    before: usize,
    noted: Arc<Mutex<Noted>>,
}

#[async_trait]
impl Evaluator for Noting {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let (noted, before) = (self.noted.clone(), self.before);
        let asked_for = self.asked_for.clone();
        let events = self.evaluator.evaluate(request).await?;
        let noted = events.inspect(move |event| {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            match event {
                Ok(EvalEvent::Root(root)) => noted.roots.push(root.clone().with_offset(before)),
                Ok(_) => {}
                Err(error) => {
                    let place = error.place().and_then(|place| place.order.request_index());
                    let asked = place.or_else(|| {
                        let name = error.attr_path().unwrap_or_default();
                        asked_for.iter().position(|asked| belongs(name, asked))
                    });
                    noted.failed.push(before + asked.unwrap_or_default());
                }
            }
        });
        Ok(noted.boxed())
    }
}
