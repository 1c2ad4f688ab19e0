//! Running a session of the coordinator: display, logs, cancellation by signals.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use nix_compat::store_path::StorePath;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use tvix_build_api::BuildLimits;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions};
use tvix_coordinator::{
    BuildEvent, BuildPolicy, Coordinator, Options, Report, Session, SessionError, Status,
};
use tvix_eval_api::{EvalRequest, Evaluator};

use tvix_store_api::daemon::DaemonStore;

use crate::args::BuildingArgs;
use crate::builders;
use crate::caches;
use crate::display::{Display, LOCAL, show_failures};
use crate::error::CliError;
use crate::events::EventFile;
use crate::exit::Failures;
use crate::interrupt::{self, Orderly};
use crate::logs::BuildLogs;
use crate::output::say;
use crate::stores::{self, MainStore};
use crate::untrusted::Untrusted;

/// A session of a command.
pub struct Run<'a> {
    pub args: &'a BuildingArgs,
    pub store: &'a MainStore,
    pub evaluator: Arc<dyn Evaluator>,
    pub request: EvalRequest,
    /// Limits of builds are added to these.
    pub options: Options,
}

impl Run<'_> {
    /// Runs the session to its end and prints failures.
    pub async fn reported(self) -> Result<Report, CliError> {
        self.printing(&mut |_| (), |_| ()).await
    }

    /// Calls `observe` for each event. Prints no failure that ends an evaluation or a build: the command reports
    /// them itself.
    pub async fn observed(
        self,
        observe: &mut (dyn FnMut(&BuildEvent) + Send),
    ) -> Result<Report, CliError> {
        let leave_out = |report: &mut Report| {
            leave_out_builds(report);
            let evaluation = |error: &_| matches!(error, SessionError::Evaluation(_));
            report.errors.retain(|error| !evaluation(error));
        };
        self.printing(observe, leave_out).await
    }

    /// Builds imports of an evaluation, and returns the kinds of failures. Prints no failed build: the evaluation reports
    /// them.
    pub async fn imports(self) -> Result<Failures, CliError> {
        let mut failures = None;
        let leave_out = |report: &mut Report| {
            failures = Some(Failures::of(report));
            leave_out_builds(report);
        };
        let report = self.printing(&mut |_| (), leave_out).await?;
        Ok(failures.unwrap_or_else(|| Failures::of(&report)))
    }

    /// Runs the session to its end. Prints the failures that `leave_out` leaves in the report.
    async fn printing(
        self,
        observe: &mut (dyn FnMut(&BuildEvent) + Send),
        leave_out: impl FnOnce(&mut Report),
    ) -> Result<Report, CliError> {
        let store = self.store;
        let (mut report, log_shown) = self.quietly(observe).await?;
        leave_out(&mut report);
        show(&report, store, log_shown);
        match report.status {
            Status::Cancelled if interrupt::has_come() => Err(interrupt::error()),
            _ => Ok(report),
        }
    }

    /// Runs the session to its end. Returns the report, and whether build logs were shown.
    async fn quietly(
        self,
        observe: &mut (dyn FnMut(&BuildEvent) + Send),
    ) -> Result<(Report, bool), CliError> {
        let Self {
            args,
            store,
            evaluator,
            request,
            options,
        } = self;
        if args.eval_store.is_some() {
            return Err(CliError::Instead {
                action: "keep derivations in another store",
                instead: "--store",
            });
        }
        let dir = store.store_dir().clone();
        let events = args.events.clone();
        let events = events.map(|path| EventFile::create(path, dir.clone()));
        let mut events = events.transpose()?;
        let mut logs = BuildLogs::new(store.logs());
        let mut coordinator = coordinator(args, store, evaluator, options)?;
        for (priority, substituter) in caches::substituters(args, &**store).await {
            coordinator = coordinator.with_substituter(substituter, priority);
        }
        let mut session = coordinator.start(request);
        let mut handed_on = JoinSet::new();
        let _orderly = Orderly::begin();
        let _cancelling = cancel_when_interrupted(&session);
        let mut display = Display::new(dir.clone(), shows_logs(args)?);
        let log_shown = display.shows_logs();
        loop {
            let event = match session.next().now_or_never() {
                Some(event) => event,
                // Nothing more has happened so far: the files hold all of it while this waits.
                None => {
                    logs.flush();
                    events.as_mut().map_or(Ok(()), EventFile::flush)?;
                    session.next().await
                }
            };
            let Some(event) = event else {
                break;
            };
            if is_shown(&event.event, args) {
                display.event(&event.event);
            }
            if let Some((drv_path, file)) = logs.event(&event.event)
                && let MainStore::Daemon(daemon) = store
                && daemon.daemon().trusted != Some(false)
            {
                handed_on.spawn(hand_on_log(daemon.clone(), drv_path, file));
            }
            observe(&event.event);
            if let Some(events) = &mut events {
                events.write(&event)?;
            }
        }
        let report = session.report().await;
        while handed_on.join_next().await.is_some() {}
        display.finish();
        events.as_mut().map_or(Ok(()), EventFile::flush)?;
        Ok((report, log_shown))
    }
}

/// Gives the log of a build to the daemon, so that Nix finds it. As any log, it is no reason for a failure.
async fn hand_on_log(daemon: Arc<DaemonStore>, drv_path: StorePath, file: PathBuf) {
    if let Ok(log) = tokio::fs::File::open(file).await {
        let _ = daemon.add_build_log(&drv_path, log).await;
    }
}

fn leave_out_builds(report: &mut Report) {
    report.failures.clear();
    report.skipped.clear();
}

fn show(report: &Report, store: &MainStore, log_shown: bool) {
    let (dir, logs) = (store.store_dir(), BuildLogs::new(store.logs()));
    let failures = show_failures(report, dir, log_shown, |drv_path| logs.path(drv_path));
    if !failures.is_empty() {
        say!("{}", failures.trim_end());
    }
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
            message: format!("unknown format '{other}', expected 'raw', 'bar' or 'bar-with-logs'"),
        }),
    }
}

fn is_shown(event: &BuildEvent, args: &BuildingArgs) -> bool {
    match event {
        BuildEvent::LogLine { .. } => !args.no_build_output && !args.quiet,
        BuildEvent::BuildStarted { .. }
        | BuildEvent::BuildSucceeded { .. }
        | BuildEvent::CheckStarted { .. }
        | BuildEvent::SubstitutionStarted { .. } => !args.quiet,
        _ => true,
    }
}

/// Features that every machine has, as with Nix: they are hints of where to build.
const FEATURES: [&str; 3] = ["benchmark", "big-parallel", "nixos-test"];

/// Where build directories of failed builds are kept, if that was asked for: on the file system that
/// builds write to, as they are moved there.
pub fn keep_failed(args: &BuildingArgs, store: &MainStore) -> Option<PathBuf> {
    args.keep_failed.then(|| store.failed_builds())
}

/// The builder of this machine. `ahead` is for when it is likely that there will be builds.
fn builder(
    args: &BuildingArgs,
    store: &MainStore,
    ahead: bool,
) -> Result<SandboxBuilder, CliError> {
    let jobs = args
        .max_jobs
        .map(usize::from)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from));
    let features = FEATURES.into_iter().filter(|_| !args.only_system_features);
    let features = features.map(str::to_owned);
    let mut sandbox = SandboxOptions::new(LOCAL)
        .with_max_jobs(jobs.unwrap_or(1))
        .with_sandbox_paths(args.sandbox_paths.iter().cloned())
        .with_sandbox(!args.no_sandbox)
        .with_relaxed(args.relaxed_sandbox)
        .with_netrc_file(&args.netrc_file)
        .with_transfer(args.transfer.settings())
        .with_ahead(ahead);
    // Beside what the machine was found to have, unless the setting says what there is.
    if args.only_system_features {
        sandbox.features.clear();
    }
    sandbox.features.extend(features);
    sandbox
        .features
        .extend(args.system_features.iter().cloned());
    sandbox
        .systems
        .extend(args.system.iter().chain(&args.extra_platforms).cloned());
    sandbox.keep_failed = keep_failed(args, store);
    sandbox.max_processes = args.max_processes;
    sandbox.max_memory = args.max_memory;
    sandbox.max_disk = args.max_disk;
    sandbox.count_memory = args.count_memory;
    if let MainStore::Daemon(_) = store {
        sandbox.scratch = Some(stores::directory_of_builds());
        // Without one, a build would have to write to the daemon's store directory.
        if !std::mem::replace(&mut sandbox.sandbox, true) && ahead {
            say!(
                "warning: builds for the store of a daemon run in a sandbox, although 'sandbox' is false"
            );
        }
    }
    let builder = SandboxBuilder::new(sandbox);
    let builder = builder.map_err(|error| CliError::Builder(Box::new(error)))?;
    Ok(match store {
        MainStore::Local(store) => builder.with_local_store(store.clone()),
        MainStore::Daemon(store) => builder.with_store(store.clone()),
    })
}

/// The coordinator of a store, without substituters.
pub fn coordinator(
    args: &BuildingArgs,
    store: &MainStore,
    evaluator: Arc<dyn Evaluator>,
    options: Options,
) -> Result<Coordinator, CliError> {
    // Where only imports are built, there may well be none.
    let ahead = options.policy != BuildPolicy::Imports;
    let limit = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
    let options = options
        .with_cores(args.cores)
        .with_limits(
            BuildLimits::default()
                .with_wall_time(limit(args.timeout).map(Duration::from_secs))
                .with_silence(limit(args.max_silent_time).map(Duration::from_secs))
                .with_log_bytes(limit(args.max_log_size)),
        )
        .with_max_substitutions(args.substitute.more.max_substitution_jobs);
    let mut coordinator = Coordinator::new(evaluator, store.any()).with_options(options);
    if args.max_jobs != Some(0) {
        let builder = builder(args, store, ahead)?;
        coordinator = coordinator.with_builder(match store {
            MainStore::Daemon(store) if store.daemon().trusted == Some(false) => {
                Arc::new(Untrusted {
                    builder,
                    store: store.clone(),
                })
            }
            _ => Arc::new(builder),
        });
    }
    for builder in builders::remote(args, store.store_dir())? {
        coordinator = coordinator
            .try_with_builder(builder)
            .map_err(CliError::Setup)?;
    }
    Ok(coordinator)
}

/// An interrupt ends the session in order.
fn cancel_when_interrupted(session: &Session) -> AbortOnDropHandle<()> {
    let cancel = session.cancellation();
    let cancelling = tokio::spawn(async move {
        interrupt::interrupted().await;
        cancel.cancel();
    });
    AbortOnDropHandle::new(cancelling)
}
