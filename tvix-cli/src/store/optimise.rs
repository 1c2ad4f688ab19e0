//! `tvix store optimise`.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tvix_store_api::local_fs::OptimiseOptions;

use super::{StoreOption, print, size};
use crate::error::CliError;
use crate::output::say;
use crate::stores::{self, MainStore};

/// Replace identical files in the store by hard links to one copy.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Share the blocks of identical files (reflinks) instead of creating hard links, on file systems with
    /// support for it (Btrfs, XFS).
    #[arg(long)]
    reflink: bool,

    /// Print the report as a JSON object.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store).await?;
    let store = match store {
        MainStore::Local(store) => store,
        MainStore::Daemon(store) if args.reflink => {
            return Err(CliError::not_with_daemon("share blocks", &*store));
        }
        // It does not say how much that was.
        MainStore::Daemon(store) => {
            store.optimise().await.map_err(CliError::store)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let options = OptimiseOptions::default().with_reflink(args.reflink);
    let report = store.optimise(options).await.map_err(CliError::store)?;
    if args.json {
        print([json!({
            "files": report.files,
            "shared": report.shared,
            "bytesFreed": report.bytes_freed,
            "badLinks": report.bad_links,
        })])?;
    } else {
        let freed = size::show(report.bytes_freed);
        say!(
            "{} of {} files deduplicated, {freed} freed",
            report.shared,
            report.files
        );
    }
    Ok(ExitCode::SUCCESS)
}
