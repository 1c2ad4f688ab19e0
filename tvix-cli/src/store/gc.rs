//! `tvix store gc`.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::{GcAction, GcOptions, GcReport, LocalStore};

use super::{StoreOption, code, print, size};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores;

/// Remove what no root needs.
///
/// May run beside builds, and beside Nix. What was removed is told on standard error; `--print-dead`
/// and `--print-live` print paths to standard output and remove nothing. The exit code is 1 if
/// something could not be removed.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    store: StoreOption,

    /// End once so many bytes are freed; K, M, G and T stand for powers of 1024.
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    max_freed: Option<u64>,

    /// Print what would be removed.
    #[arg(long, conflicts_with_all = ["print_live", "max_freed"])]
    print_dead: bool,

    /// Print what would stay.
    #[arg(long, conflicts_with = "max_freed")]
    print_live: bool,

    /// Keep the outputs of derivations that stay.
    #[arg(long)]
    keep_outputs: bool,

    /// Do not keep the derivations that what stays was built by.
    #[arg(long)]
    no_keep_derivations: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store).await?;
    let action = match (args.print_dead, args.print_live) {
        (true, _) => GcAction::ListDead,
        (_, true) => GcAction::ListLive,
        _ => GcAction::Delete,
    };
    let mut options = GcOptions::default()
        .action(action)
        .keep_outputs(args.keep_outputs)
        .keep_derivations(!args.no_keep_derivations);
    options.max_freed = args.max_freed;
    let mut report = store
        .collect_garbage(options)
        .await
        .map_err(CliError::store)?;
    report.paths.sort();
    report.strays.sort();
    if args.json {
        print([as_json(&store, &report)])?;
    } else if action != GcAction::Delete {
        let paths = report.paths.iter();
        print(paths.map(|path| store.store_dir().display(path)))?;
        let strays = report.strays.iter();
        print(strays.map(|name| format!("{}/{name}", store.store_dir())))?;
    } else {
        say!(
            "{} store paths removed, {} freed",
            report.paths.len() + report.strays.len(),
            size::show(report.bytes_freed)
        );
    }
    for failure in &report.failures {
        say!("error: {}", describe(failure));
    }
    Ok(code(report.failures.is_empty()))
}

fn as_json(store: &LocalStore, report: &GcReport) -> serde_json::Value {
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
