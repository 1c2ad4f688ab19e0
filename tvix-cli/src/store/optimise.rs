//! `tvix store optimise`.

use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use tvix_store_api::local_fs::OptimiseOptions;

use super::{StoreOption, print, size};
use crate::error::CliError;
use crate::output::say;
use crate::stores;

/// Have equal files share their space on the disk.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    store: StoreOption,

    /// Have them share blocks, on file systems that can (Btrfs, XFS), instead of being links to one
    /// file.
    #[arg(long)]
    reflink: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store).await?;
    let options = OptimiseOptions::default().reflink(args.reflink);
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
            "{} of {} files share now, {freed} freed",
            report.shared,
            report.files
        );
    }
    Ok(ExitCode::SUCCESS)
}
