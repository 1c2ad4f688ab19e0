//! `tvix build`.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
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
use crate::{check, session, source, stores};

/// Symbolic links that an argument may lead through.
const MOST_LINKS: u32 = 1024;

/// Builds, and returns the exit code.
pub async fn run(mut args: BuildArgs) -> Result<ExitCode, CliError> {
    let store = Arc::new(stores::open(args.building.store.clone()).await?);
    let dir = store.store_dir().clone();
    follow_links(&mut args.derivations, &dir, store.real_store_dir());
    take_file(&mut args)?;
    let (evaluator, request): (Arc<dyn Evaluator>, _) = if args.derivations.is_empty() {
        let evaluator = source::evaluator(&args.source.search, args.building.store.as_ref(), true);
        (Arc::new(evaluator), source::request(&args.source))
    } else {
        let files = vec![store.real_store_dir().to_owned()];
        let request = EvalRequest::new(EvalSource::Derivations(args.derivations.clone()));
        (Arc::new(DrvEvaluator::new(dir.clone(), files)), request)
    };
    let asked_for = match args.derivations.is_empty() {
        true => request.attr_paths.clone(),
        false => args.derivations.clone(),
    };
    let options = Options {
        on_failure: match args.keep_going {
            true => OnFailure::Continue,
            false => OnFailure::Stop,
        },
        record_derivations: true,
        ..Options::default()
    };
    let mut report = session::run(&args.building, &store, evaluator, request, options).await?;
    session::in_order_of(&asked_for, &mut report);
    let mut out = crate::output::stdout();
    for path in report.output_paths() {
        writeln!(out, "{}", dir.display(path)).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)?;
    // Last: what was built is there, and printed, even if it cannot be linked to.
    if !args.no_out_link {
        let names = session::names_found(&asked_for, &report);
        link_outputs(&report, &names, &args.out_link, &store).await?;
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

/// Replaces links to derivations in the store, as `nix-instantiate --add-root` makes them, by the
/// paths of these.
fn follow_links(given: &mut [String], dir: &StoreDir, real_dir: &Path) {
    for argument in given {
        let mut path = PathBuf::from(&*argument);
        let mut links = 0;
        while let Ok(target) = std::fs::read_link(&path)
            && links < MOST_LINKS
        {
            path = path.parent().unwrap_or(Path::new("/")).join(target);
            links += 1;
        }
        let Some(name) = path.file_name().filter(|_| links > 0) else {
            continue;
        };
        let is_in_store = path.parent() == Some(dir.as_path()) || path.parent() == Some(real_dir);
        let in_store = dir.as_path().join(name);
        if is_in_store
            && dir
                .parse(in_store.as_os_str().as_bytes())
                .is_ok_and(|it| it.is_derivation())
        {
            *argument = in_store.to_string_lossy().into_owned();
        }
    }
}

/// What was given that is no derivation is the file to evaluate.
fn take_file(args: &mut BuildArgs) -> Result<(), CliError> {
    let is_derivation = |it: &&String| it.split('!').next().is_some_and(|it| it.ends_with(".drv"));
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
