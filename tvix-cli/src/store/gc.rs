//! `tvix store gc`.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tvix_store_api::Store;
use tvix_store_api::daemon::{CollectionAction, DaemonStore};
use tvix_store_api::local_fs::{GcAction, GcOptions, GcReport};

use super::{StoreOption, code, print, size};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores::{self, MainStore};

/// Delete store paths that are not reachable from a garbage collector root.
///
/// Safe to run at the same time as builds, and as Nix on the same store. A summary goes to standard error. With
/// `--print-dead` or `--print-live`, paths are printed to standard output and nothing is deleted. The exit
/// code is 1 if a path could not be deleted.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Stop after freeing this much, in bytes; the suffixes K, M, G and T are powers of 1024 [default: no
    /// limit].
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    max_freed: Option<u64>,

    /// Print the paths that would be deleted, and delete nothing.
    #[arg(long, conflicts_with_all = ["print_live", "max_freed"])]
    print_dead: bool,

    /// Print the paths that would be kept, and delete nothing.
    #[arg(long, conflicts_with = "max_freed")]
    print_live: bool,

    /// Keep the outputs of live derivations.
    #[arg(long)]
    keep_outputs: bool,

    /// Do not keep the derivers of live paths.
    #[arg(long)]
    no_keep_derivations: bool,

    /// Print the report as a JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store.clone()).await?;
    let store = match store {
        MainStore::Local(store) => store,
        MainStore::Daemon(store) => return in_daemon(&args, &store).await,
    };
    let action = match (args.print_dead, args.print_live) {
        (true, _) => GcAction::ListDead,
        (_, true) => GcAction::ListLive,
        _ => GcAction::Delete,
    };
    let mut options = GcOptions::default()
        .with_action(action)
        .with_keep_outputs(args.keep_outputs)
        .with_keep_derivations(!args.no_keep_derivations);
    options.max_freed = args.max_freed;
    let report = store.collect_garbage(options).await;
    let report = report.map_err(CliError::store)?;
    show(&args, &*store, report, action == GcAction::Delete)
}

fn show(
    args: &Args,
    store: &dyn Store,
    mut report: GcReport,
    deleted: bool,
) -> Result<ExitCode, CliError> {
    report.paths.sort();
    report.strays.sort();
    if args.json {
        print([as_json(store, &report)])?;
    } else if !deleted {
        let paths = report.paths.iter();
        print(paths.map(|path| store.store_dir().display(path)))?;
        let strays = report.strays.iter();
        print(strays.map(|name| format!("{}/{name}", store.store_dir())))?;
    } else {
        say!(
            "{} store paths deleted, {} freed",
            report.paths.len() + report.strays.len(),
            size::show(report.bytes_freed)
        );
    }
    for failure in &report.failures {
        say!("error: {}", describe(failure));
    }
    Ok(code(report.failures.is_empty()))
}

/// Has a daemon collect garbage.
async fn in_daemon(args: &Args, store: &DaemonStore) -> Result<ExitCode, CliError> {
    if args.keep_outputs || args.no_keep_derivations {
        let action = "choose which derivations and outputs are kept";
        return Err(CliError::not_with_daemon(action, store));
    }
    let action = match (args.print_dead, args.print_live) {
        (true, _) => CollectionAction::ListDead,
        (_, true) => CollectionAction::ListLive,
        _ => CollectionAction::Delete,
    };
    let collected = store.collect_garbage(action, args.max_freed).await;
    let collected = collected.map_err(CliError::store)?;
    let mut report = GcReport::default();
    report.paths = collected.paths;
    report.strays = collected.strays;
    report.bytes_freed = collected.bytes_freed;
    show(args, store, report, action == CollectionAction::Delete)
}

fn as_json(store: &dyn Store, report: &GcReport) -> serde_json::Value {
    let paths = report.paths.iter();
    let paths: Vec<_> = paths
        .map(|path| store.store_dir().path_text(path))
        .collect();
    let failures = report.failures.iter().map(|failure| {
        json!({ "path": failure.path.to_string_lossy(), "error": failure.source.to_string() })
    });
    json!({
        "paths": paths,
        "strays": report.strays,
        "bytesFreed": report.bytes_freed,
        "unusedLinks": report.unused_links,
        "failures": failures.collect::<Vec<_>>(),
    })
}
