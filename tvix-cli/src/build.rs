//! `tvix build`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use tvix_coordinator::{CheckOptions, OnFailure, Options};
use tvix_eval_api::EvalSource;
use tvix_eval_api::drv::DrvEvaluator;

use crate::args::{BuildArgs, BuildingArgs, SourceArgs};
use crate::error::CliError;
use crate::exit;
use crate::out_link::link_outputs;
use crate::output;
use crate::session::Run;
use crate::several::{Part, Several};
use crate::store::{MOST_LINKS, derivation_of_link};
use crate::stores::MainStore;
use crate::{dry_run, session, source, stores, workers};

/// Builds, and returns the exit code.
pub async fn run(mut args: BuildArgs) -> Result<ExitCode, CliError> {
    if args.repair {
        return Err(CliError::Instead {
            action: "repair while building",
            instead: "'tvix store repair'",
        });
    }
    let store = stores::open(args.building.store.clone()).await?;
    let dir = store.store_dir().clone();
    for input in args.inputs.iter_mut().filter(|_| !args.source.expr) {
        *input = derivation_of_link(&store, input);
    }
    let evaluator = Several::new(requests(&args, &store)?);
    let request = evaluator.request();
    if args.dry_run {
        return dry_run::run(&args.building, &store, Arc::new(evaluator), request).await;
    }
    let options = Options::default()
        .with_on_failure(match args.keep_going {
            true => OnFailure::Continue,
            false => OnFailure::Stop,
        })
        .with_record_derivations(true)
        .with_check(args.check.then(|| check_options(&args.building, &store)));
    let run = Run {
        args: &args.building,
        store: &store,
        evaluator: Arc::new(evaluator),
        request,
        options,
    };
    let report = run.reported().await?;
    let mut out = output::stdout();
    for path in report.output_paths() {
        writeln!(out, "{}", dir.display(path)).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)?;
    // Last: the outputs are valid, and printed, even if they cannot be linked to.
    if !args.no_out_link {
        link_outputs(&report, &args.out_link, &store).await?;
    }
    Ok(exit::code(&report))
}

/// Differing outputs are kept beside the directories of failed builds, on the same condition.
fn check_options(building: &BuildingArgs, store: &MainStore) -> CheckOptions {
    match session::keep_failed(building, store) {
        Some(directory) => CheckOptions::default().with_keep(directory),
        None => CheckOptions::default(),
    }
}

/// The sources in the order of the arguments: derivations that follow each other are one.
fn requests(args: &BuildArgs, store: &MainStore) -> Result<Vec<Part>, CliError> {
    let names_derivation = |it: &String| {
        let path = it.split('!').next().unwrap_or_default();
        !args.source.expr && is_derivation(path)
    };
    let derivations = args.inputs.iter().filter(|input| names_derivation(input));
    let only_derivations = derivations.count() == args.inputs.len();
    if let Some(derivation) = args.inputs.first()
        && only_derivations
        && args.source.files.is_empty()
        && !args.source.attrs.is_empty()
    {
        return Err(CliError::AttributesOfDerivations(derivation.clone()));
    }
    let evaluator = source::evaluator(&args.source.search, &args.building, true);
    let evaluator = workers::shared(evaluator, args.workers, !args.keep_going);
    let mut sources = Vec::new();
    if !args.source.files.is_empty() || args.inputs.is_empty() {
        sources.extend(source::sources(&args.source, &[])?);
    }
    let others = SourceArgs {
        files: Vec::new(),
        ..args.source.clone()
    };
    for inputs in args
        .inputs
        .chunk_by(|a, b| names_derivation(a) == names_derivation(b))
    {
        match inputs.first().is_some_and(names_derivation) {
            true => sources.push(EvalSource::Derivations(inputs.to_vec())),
            false => sources.extend(source::sources(&others, inputs)?),
        }
    }
    let files = || store.files().into_iter().collect();
    let requests = source::requests(&args.source, sources)?.into_iter();
    let requests = requests.map(|mut request| -> Part {
        if !matches!(request.source, EvalSource::Derivations(_)) {
            return (evaluator.clone(), request);
        }
        request.attr_paths.clear();
        let evaluator = DrvEvaluator::new(store.store_dir().clone(), files());
        (Arc::new(evaluator), request)
    });
    Ok(requests.collect())
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
