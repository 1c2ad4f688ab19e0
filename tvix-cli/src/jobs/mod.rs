//! `tvix jobs`.

mod cache_status;
mod gc_roots;
mod held;
mod line;
mod lines;
mod listing;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;
use tvix_coordinator::{BuildEvent, BuildPolicy, OnFailure, OnVanished, Options};
use tvix_eval_api::{JobOptions, Workers};

use crate::args::JobsArgs;
use crate::error::CliError;
use crate::session::Run;
use crate::several::{Part, Several};
use crate::{exit, interrupt, output, source, stores, workers};
use cache_status::CacheStatus;
use gc_roots::GcRoots;
use line::{Format, Line};
use lines::Lines;
use listing::Listing;

/// Batches of lines for which caches are queried at the same time.
const QUERIES: usize = 4;

/// The time in which lines gather to be written together: each write costs more than several lines.
const PAUSE: Duration = Duration::from_millis(2);

/// Evaluates jobs, prints them, and returns the exit code.
pub async fn run(args: JobsArgs) -> Result<ExitCode, CliError> {
    args.check()?;
    let store = stores::open(args.building.store.clone()).await?;
    let count = args.workers.unwrap_or_else(workers::usual_count);
    let memory = args.memory(count).or_else(workers::usual_memory);
    let mut evaluator = source::evaluator(&args.source.search, &args.building, !args.dry_run);
    if let Some(memory) = memory.and_then(|memory| usize::try_from(memory).ok()) {
        let limits = evaluator.settings().limits.clone();
        let memory = limits.memory.map_or(memory, |limit| limit.min(memory));
        evaluator = evaluator.with_limits(limits.with_memory(memory));
    }
    let evaluator = Workers::new(evaluator, count).with_memory(workers::share(memory, count));
    let sources = source::sources(&args.source, &args.inputs)?;
    let requests = source::requests(&args.source, sources)?.into_iter();
    let parts = requests.map(|request| -> Part {
        let options = JobOptions::default()
            .with_meta(args.meta)
            .with_force_recurse(args.force_recurse);
        (Arc::new(evaluator.clone()), request.with_jobs(options))
    });
    let several = Several::new(parts.collect());
    let request = several.request();
    let lines = Arc::new(Lines::new(!args.dry_run));
    let failed = Arc::new(AtomicBool::new(false));
    let listing = Listing {
        evaluator: Arc::new(several),
        format: Format {
            dir: store.store_dir().clone(),
            input_drvs: args.show_input_drvs,
        },
        requested: request.attr_paths.clone(),
        lines: lines.clone(),
        failed: failed.clone(),
        records: !args.dry_run,
        reports: args.building.events.is_some(),
    };
    let status = match args.check_cache_status {
        true => Some(CacheStatus::new(&args.building, &store).await),
        false => None,
    };
    let roots = match args.gc_roots_dir {
        Some(dir) => Some(GcRoots::new(dir, store.clone())?),
        None => None,
    };
    let additions = Arc::new(Additions { status, roots });
    let printing = AbortOnDropHandle::new(tokio::spawn(print(lines.clone(), additions)));
    let options = Options::default()
        .with_policy(BuildPolicy::Imports)
        .with_on_failure(OnFailure::Continue)
        // Lines that are printed cannot be taken back.
        .with_on_vanished(OnVanished::Fail)
        .with_record_derivations(!args.dry_run);
    let recorded = lines.clone();
    let run = Run {
        args: &args.building,
        store: &store,
        evaluator: Arc::new(listing),
        request,
        options,
    };
    let observe = &mut move |event: &BuildEvent| {
        if let BuildEvent::Recorded { drv_paths } = event {
            recorded.recorded(drv_paths);
        }
    };
    let report = run.observed(observe).await;
    lines.end();
    match printing.await {
        Ok(printed) => printed?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
    let report = report?;
    match failed.load(Ordering::Relaxed) {
        true => Ok(ExitCode::from(exit::ERROR)),
        false if report.errors.is_empty() => Ok(ExitCode::SUCCESS),
        false => Ok(exit::code(&report)),
    }
}

/// Prints lines until they end, the reader has read enough, or a signal comes.
async fn print(lines: Arc<Lines>, additions: Arc<Additions>) -> Result<(), CliError> {
    let _close = lines.close_on_drop();
    let batches = stream::unfold((lines.clone(), false), |(lines, pauses)| async move {
        if pauses {
            tokio::time::sleep(PAUSE).await;
        }
        let batch = lines.next().await?;
        Some((batch, (lines, true)))
    });
    let batches = batches.map(move |batch| completed(batch, additions.clone()));
    let mut batches = std::pin::pin!(batches.buffered(QUERIES));
    let print = async {
        while let Some(batch) = batches.next().await {
            let write = move || output::print(batch?);
            match tokio::task::spawn_blocking(write).await {
                Ok(written) => written?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        Ok(())
    };
    tokio::select! {
        printed = print => printed,
        () = interrupt::interrupted() => Ok(()),
    }
}

/// What is done for each line before it is printed.
struct Additions {
    status: Option<CacheStatus>,
    roots: Option<GcRoots>,
}

async fn completed(mut batch: Vec<Line>, additions: Arc<Additions>) -> Result<Vec<Line>, CliError> {
    if let Some(roots) = &additions.roots {
        for drv_path in batch.iter().filter_map(|line| line.drv_path.as_ref()) {
            roots.add(drv_path).await?;
        }
    }
    if let Some(status) = &additions.status {
        status.annotate(&mut batch).await?;
    }
    Ok(batch)
}
