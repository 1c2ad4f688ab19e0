//! `tvix build`.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tvix_build_api::BuildLimits;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions};
use tvix_coordinator::{Coordinator, OnFailure, Options, Report, Session, Status};
use tvix_eval_api::drv::DrvEvaluator;
use tvix_eval_api::{EvalRequest, EvalSource};
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::LocalStore;

use crate::args::BuildArgs;
use crate::display::{Display, show_failures};
use crate::error::CliError;
use crate::events::EventFile;
use crate::logs::{self, BuildLogs};
use crate::out_link::link_outputs;
use crate::stores;

/// Builds, and returns the exit code.
pub async fn run(args: BuildArgs) -> Result<ExitCode, CliError> {
    let mut events = args.events.clone().map(EventFile::create).transpose()?;
    let store = Arc::new(stores::open(args.store.clone()).await?);
    let dir = store.store_dir().clone();
    let mut logs = BuildLogs::new(logs::folder(&store));

    let mut session = coordinator(&args, &store)?.start(EvalRequest::new(EvalSource::Derivations(
        args.derivations.clone(),
    )));
    cancel_on_ctrl_c(&session);
    let mut display = Display::new(dir.clone(), args.print_build_logs);
    while let Some(event) = session.next().await {
        display.event(&event.event);
        logs.event(&event.event);
        if let Some(events) = &mut events {
            events.write(&event)?;
        }
    }
    let mut report = session.report().await;
    in_order_of(&args.derivations, &mut report);
    display.finish();
    if let Some(events) = &mut events {
        events.flush()?;
    }

    eprint!(
        "{}",
        show_failures(&report, &dir, |drv_path| logs.path(drv_path))
    );
    let mut out = std::io::stdout().lock();
    for path in report.output_paths() {
        writeln!(out, "{}", dir.display(path)).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)?;
    // Last: what was built is there, and printed, even if it cannot be linked to.
    if !args.no_out_link {
        link_outputs(&report, &args.derivations, &args.out_link, &store)?;
    }
    Ok(exit_code(&report))
}

fn coordinator(args: &BuildArgs, store: &Arc<LocalStore>) -> Result<Coordinator, CliError> {
    let jobs = args
        .max_jobs
        .map(usize::from)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let sandbox = SandboxOptions::new("local")
        .max_jobs(jobs.unwrap_or(1))
        .sandbox_paths(args.sandbox_paths.iter().cloned())
        .sandbox(!args.no_sandbox);
    let builder = SandboxBuilder::new(sandbox)
        .map_err(|error| CliError::Builder(Box::new(error)))?
        .knows(store.clone());
    let evaluator = DrvEvaluator::new(
        store.store_dir().clone(),
        vec![store.real_store_dir().to_owned()],
    );
    let options = Options {
        on_failure: if args.keep_going {
            OnFailure::Continue
        } else {
            OnFailure::Stop
        },
        cores: args.cores,
        limits: BuildLimits {
            wall_time: args.timeout.map(Duration::from_secs),
            silence: args.max_silent_time.map(Duration::from_secs),
            log_bytes: None,
        },
        record_derivations: true,
        ..Options::default()
    };
    Ok(Coordinator::new(Arc::new(evaluator), store.clone())
        .with_builder(Arc::new(builder))
        .with_options(options))
}

/// Puts what was found in the order in which it was asked for: which file was read first is a
/// matter of luck, and neither what is printed nor how links are numbered is to depend on it.
fn in_order_of(asked_for: &[String], report: &mut Report) {
    let place = |name: &String| asked_for.iter().position(|asked| asked == name);
    report.roots.sort_by_cached_key(|root| place(&root.name));
}

/// The first Ctrl-C ends the session in order, the second one at once.
fn cancel_on_ctrl_c(session: &Session) {
    let cancel = session.cancellation();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(2);
        }
    });
}

fn exit_code(report: &Report) -> ExitCode {
    match report.status {
        Status::Success => ExitCode::SUCCESS,
        Status::BuildFailed => ExitCode::from(1),
        Status::Error | Status::Cancelled => ExitCode::from(2),
    }
}
