//! `tvix store dump`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use futures::StreamExt as _;
use tvix_store_api::Store as _;

use super::StoreOption;
use super::paths::parse_whole;
use crate::error::CliError;
use crate::stores;

/// Write a store path as a NAR to standard output.
#[derive(Debug, Parser)]
pub struct Args {
    /// The store path.
    #[arg(value_name = "PATH")]
    path: String,

    #[command(flatten)]
    store: StoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open_to_read(args.store.store).await?;
    let path = parse_whole(&store, &args.path)?;
    let mut nar = store.nar(&path).await.map_err(CliError::store)?;
    let mut out = std::io::stdout().lock();
    while let Some(chunk) = nar.next().await.transpose().map_err(CliError::store)? {
        out.write_all(&chunk).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)?;
    Ok(ExitCode::SUCCESS)
}
