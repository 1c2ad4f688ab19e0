//! `tvix instantiate`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt as _;
use tvix_coordinator::{BuildPolicy, Options};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Root};
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::LocalStore;

use crate::args::{EvalArgs, InstantiateArgs};
use crate::error::CliError;
use crate::several::Several;
use crate::{eval, exit, session, source, stores};

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
    let store = Arc::new(stores::open(args.building.store.clone()).await?);
    let dir = store.store_dir().clone();
    let roots = Arc::new(Mutex::new(Vec::new()));
    let evaluator = source::evaluator(&args.source.search, &args.building);
    let evaluator: Arc<dyn Evaluator> = Arc::new(evaluator);
    let sources = source::sources(&args.source, &args.inputs)?;
    let requests = source::requests(&args.source, sources)?.into_iter();
    let several = Several::new(
        requests
            .map(|request| (evaluator.clone(), request))
            .collect(),
    );
    let asked_for = several.asked_for();
    let evaluator = Arc::new(Noting {
        evaluator: several,
        roots: roots.clone(),
    });
    let dry_run = args.dry_run || args.print.readonly_mode;
    let options = Options {
        policy: BuildPolicy::Imports,
        record_derivations: !dry_run,
        ..Options::default()
    };
    let request = EvalRequest::attrs([""; 0]);
    let mut report = session::run(&args.building, &store, evaluator, request, options).await?;
    session::in_order_of(&asked_for, &mut report);
    let roots = std::mem::take(&mut *roots.lock().unwrap_or_else(PoisonError::into_inner));
    let mut number = 0;
    let mut out = std::io::stdout().lock();
    for found in &report.roots {
        let root = roots
            .iter()
            .find(|root: &&Root| root.name == found.name && root.wanted.drv_path == found.drv_path);
        for output in root.iter().flat_map(|root| &root.wanted.outputs) {
            let mut shown = dir.display(&found.drv_path).to_string();
            if let Some(link) = args.add_root.as_ref().filter(|_| !dry_run) {
                number += 1;
                shown = add_root(&store, link, number, &found.drv_path).await?;
            }
            let written = match output.as_str() {
                "out" => writeln!(out, "{shown}"),
                output => writeln!(out, "{shown}!{output}"),
            };
            written.map_err(CliError::Output)?;
        }
    }
    out.flush().map_err(CliError::Output)?;
    Ok(exit::code(&report, &store).await)
}

/// Makes the link with a number, and returns where it is.
async fn add_root(
    store: &LocalStore,
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
    linked.map_err(|error| CliError::OutLink(Box::new(error)))?;
    Ok(link.display().to_string())
}

/// An evaluator that takes note of what was found, with the outputs that were wanted of it.
#[derive(Debug)]
struct Noting {
    evaluator: Several,
    roots: Arc<Mutex<Vec<Root>>>,
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
