//! `tvix build`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix_compat::store_path::StoreDir;

use tvix_coordinator::{OnFailure, Options, Status};
use tvix_eval_api::drv::DrvEvaluator;
use tvix_eval_api::{EvalRequest, EvalSource, Evaluator};
use tvix_store_api::Store as _;

use crate::args::BuildArgs;
use crate::error::CliError;
use crate::out_link::link_outputs;
use crate::store::{MOST_LINKS, derivation_of_link};
use crate::{check, session, source, stores};

/// Builds, and returns the exit code.
pub async fn run(mut args: BuildArgs) -> Result<ExitCode, CliError> {
    let store = Arc::new(stores::open(args.building.store.clone()).await?);
    let dir = store.store_dir().clone();
    for derivation in &mut args.derivations {
        *derivation = derivation_of_link(&store, derivation);
    }
    take_file(&mut args)?;
    let (evaluator, request): (Arc<dyn Evaluator>, _) = if args.derivations.is_empty() {
        let evaluator = source::evaluator(&args.source.search, args.building.store.as_ref(), true);
        (Arc::new(evaluator), source::request(&args.source))
    } else {
        let files = vec![store.real_store_dir().to_owned()];
        let request = EvalRequest::new(EvalSource::Derivations(args.derivations.clone()));
        (Arc::new(DrvEvaluator::new(dir.clone(), files)), request)
    };
    let options = Options {
        on_failure: match args.keep_going {
            true => OnFailure::Continue,
            false => OnFailure::Stop,
        },
        record_derivations: true,
        ..Options::default()
    };
    let report = session::run(&args.building, &store, evaluator, request, options).await?;
    let mut out = crate::output::stdout();
    for path in report.output_paths() {
        writeln!(out, "{}", dir.display(path)).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)?;
    // Last: what was built is there, and printed, even if it cannot be linked to.
    if !args.no_out_link {
        link_outputs(&report, &args.out_link, &store).await?;
    }
    if args.check && report.status == Status::Success {
        let builder = session::builder(&args.building, &store, true)?;
        let keep = session::keep_failed(&args.building, &store);
        let mut roots: Vec<_> = report
            .roots
            .iter()
            .map(|root| root.drv_path.clone())
            .collect();
        roots.dedup();
        let cores = args.building.cores;
        if !check::run(&builder, &store, &roots, cores, keep.as_deref()).await? {
            // As in Nix.
            return Ok(ExitCode::from(104));
        }
    }
    Ok(session::exit_code(&report))
}

/// What was given that is no derivation is the file to evaluate.
fn take_file(args: &mut BuildArgs) -> Result<(), CliError> {
    let is_derivation = |it: &&String| it.split('!').next().is_some_and(is_derivation);
    let Some(file) = args.derivations.iter().find(|it| !is_derivation(it)) else {
        return match args.derivations.first() {
            Some(derivation) if !args.source.attrs.is_empty() => {
                Err(CliError::AttributesOfDerivations(derivation.clone()))
            }
            _ => Ok(()),
        };
    };
    if args.derivations.len() > 1 {
        return Err(CliError::SeveralSources(file.clone()));
    }
    args.source.file = args.derivations.pop();
    Ok(())
}

/// Whether a file has the name of a derivation, or is a link that leads to such a file.
fn is_derivation(file: &str) -> bool {
    let is_named = |file: &Path| file.extension().is_some_and(|it| it == "drv");
    let mut file = PathBuf::from(file);
    for _ in 0..MOST_LINKS {
        if is_named(&file) {
            return true;
        }
        match file.read_link() {
            Ok(target) => {
                file.pop();
                file.push(target);
            }
            Err(_) => return false,
        }
    }
    false
}
