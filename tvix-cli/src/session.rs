//! Running a session of the coordinator: shown, logged, cancelled by Ctrl-C.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tvix_build_api::BuildLimits;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions};
use tvix_coordinator::{BuildEvent, BuildPolicy, Coordinator, Options, Report, Session};
use tvix_eval_api::{EvalRequest, Evaluator};
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::LocalStore;

use crate::args::BuildingArgs;
use crate::caches;
use crate::display::{Display, show_failures};
use crate::error::CliError;
use crate::events::EventFile;
use crate::logs::{self, BuildLogs};

/// Runs a session to its end, and says what failed. Limits of builds are added to `options`.
pub async fn run(
    args: &BuildingArgs,
    store: &Arc<LocalStore>,
    evaluator: Arc<dyn Evaluator>,
    request: EvalRequest,
    options: Options,
) -> Result<Report, CliError> {
    if args.eval_store.is_some() {
        return Err(CliError::Instead {
            action: "keep derivations in another store",
            instead: "--store",
        });
    }
    let mut events = args.events.clone().map(EventFile::create).transpose()?;
    let dir = store.store_dir().clone();
    let mut logs = BuildLogs::new(logs::folder(store));
    let mut coordinator = coordinator(args, store, evaluator, options)?;
    for (priority, substituter) in
        caches::substituters(&args.substitute, &dir, &args.netrc_file).await
    {
        coordinator = coordinator.with_substituter(substituter, priority);
    }
    let mut session = coordinator.start(request);
    let _cancelling = cancel_on_ctrl_c(&session);
    let mut display = Display::new(dir.clone(), shows_logs(args)?);
    while let Some(event) = session.next().await {
        if is_shown(&event.event, args) {
            display.event(&event.event);
        }
        logs.event(&event.event);
        if let Some(events) = &mut events {
            events.write(&event)?;
        }
    }
    let report = session.report().await;
    display.finish();
    if let Some(events) = &mut events {
        events.flush()?;
    }
    let failures = show_failures(&report, &dir, |drv_path| logs.path(drv_path));
    eprint!("{failures}");
    Ok(report)
}

/// Whether logs are shown on a terminal, too.
fn shows_logs(args: &BuildingArgs) -> Result<bool, CliError> {
    match args.log_format.as_deref() {
        None | Some("raw" | "bar" | "multiline") => Ok(args.print_build_logs),
        Some("bar-with-logs" | "raw-with-logs" | "multiline-with-logs") => Ok(true),
        Some("internal-json") => Err(CliError::Instead {
            action: "write logs as JSON",
            instead: "--events FILE",
        }),
        Some(other) => Err(CliError::Option {
            what: "--log-format".to_owned(),
            message: format!("there is no format '{other}'"),
        }),
    }
}

fn is_shown(event: &BuildEvent, args: &BuildingArgs) -> bool {
    match event {
        BuildEvent::LogLine { .. } => !args.no_build_output && !args.quiet,
        BuildEvent::BuildStarted { .. }
        | BuildEvent::BuildSucceeded { .. }
        | BuildEvent::SubstitutionStarted { .. } => !args.quiet,
        _ => true,
    }
}

/// What every machine has, as Nix has it: these are hints of where to build.
const FEATURES: [&str; 3] = ["benchmark", "big-parallel", "nixos-test"];

/// Where build directories of failed builds are kept, if that was asked for: on the file system that
/// builds write to, as they are moved there.
pub fn keep_failed(args: &BuildingArgs, store: &LocalStore) -> Option<PathBuf> {
    args.keep_failed
        .then(|| store.state_dir().join("tvix-failed"))
}

/// The builder of this machine. `ahead` is for when it is likely that there will be builds.
pub fn builder(
    args: &BuildingArgs,
    store: &Arc<LocalStore>,
    ahead: bool,
) -> Result<SandboxBuilder, CliError> {
    let jobs = args
        .max_jobs
        .map(usize::from)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let features = FEATURES.into_iter().filter(|_| !args.only_system_features);
    let features = features.map(str::to_owned);
    let mut sandbox = SandboxOptions::new("local")
        .max_jobs(jobs.unwrap_or(1))
        .features(features.chain(args.system_features.iter().cloned()))
        .sandbox_paths(args.sandbox_paths.iter().cloned())
        .sandbox(!args.no_sandbox)
        .relaxed(args.relaxed_sandbox)
        .netrc_file(&args.netrc_file)
        .ahead(ahead);
    sandbox
        .systems
        .extend(args.system.iter().chain(&args.extra_platforms).cloned());
    sandbox.keep_failed = keep_failed(args, store);
    sandbox.max_processes = args.max_processes;
    sandbox.max_memory = args.max_memory;
    sandbox.max_disk = args.max_disk;
    sandbox.count_memory = args.count_memory;
    let builder = SandboxBuilder::new(sandbox);
    let builder = builder.map_err(|error| CliError::Builder(Box::new(error)))?;
    Ok(builder.knows(store.clone()))
}

fn coordinator(
    args: &BuildingArgs,
    store: &Arc<LocalStore>,
    evaluator: Arc<dyn Evaluator>,
    options: Options,
) -> Result<Coordinator, CliError> {
    // Where only imports are built, there may well be none.
    let ahead = options.policy != BuildPolicy::Imports;
    let limit = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
    let options = Options {
        cores: args.cores,
        limits: BuildLimits {
            wall_time: limit(args.timeout).map(Duration::from_secs),
            silence: limit(args.max_silent_time).map(Duration::from_secs),
            log_bytes: limit(args.max_log_size),
        },
        max_substitutions: args.substitute.more.max_substitution_jobs,
        ..options
    };
    let coordinator = Coordinator::new(evaluator, store.clone()).with_options(options);
    if args.max_jobs == Some(0) {
        return Ok(coordinator);
    }
    let builder = builder(args, store, ahead)?;
    Ok(coordinator.with_builder(Arc::new(builder)))
}

/// Whether something was found under a name that was asked for: it, or what is below it.
fn belongs(name: &str, asked: &str) -> bool {
    let rest = name.strip_prefix(asked);
    rest.is_some_and(|rest| asked.is_empty() || rest.is_empty() || rest.starts_with('.'))
}

/// The names of what was found, in order; where nothing was, that which was asked for.
pub fn names_found(asked_for: &[String], report: &Report) -> Vec<String> {
    let whole = [String::new()];
    let asked_for = match asked_for.is_empty() {
        true => &whole,
        false => asked_for,
    };
    let names = asked_for.iter().flat_map(|asked| {
        let roots = report.roots.iter().map(|root| &root.name);
        let mut found: Vec<_> = roots.filter(|name| belongs(name, asked)).cloned().collect();
        if found.is_empty() {
            found.push(asked.clone());
        }
        found
    });
    names.collect()
}

/// Puts what was found in the order in which it was asked for: what was found first is a matter of
/// luck, and neither what is printed nor how links are numbered is to depend on it.
pub fn in_order_of(asked_for: &[String], report: &mut Report) {
    let place = |name: &String| asked_for.iter().position(|asked| belongs(name, asked));
    report.roots.sort_by_cached_key(|root| place(&root.name));
}

/// The first Ctrl-C ends the session in order, the second one at once.
fn cancel_on_ctrl_c(session: &Session) -> tokio_util::task::AbortOnDropHandle<()> {
    let cancel = session.cancellation();
    let cancelling = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            cancel.cancel();
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(crate::exit::ERROR));
        }
    });
    tokio_util::task::AbortOnDropHandle::new(cancelling)
}
