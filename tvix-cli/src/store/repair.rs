//! `tvix store repair`.

use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::{Store as _, StoreUri};

use super::paths::parse_all;
use super::{StoreOption, code, print};
use crate::caches::{self, Access, NetrcOption};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores;

/// Replace the files of store paths by what another store has of them.
///
/// Prints what was replaced. The exit code is 1 if some of it could not be.
#[derive(Debug, Parser)]
pub struct Args {
    /// What to replace, whether it is damaged or not.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,

    #[command(flatten)]
    store: StoreOption,

    /// The store to get it from, of any kind. What it has must be what is known here, so that it need
    /// not be signed.
    #[arg(long, value_name = "URI")]
    from: StoreUri,

    #[command(flatten)]
    netrc: NetrcOption,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open(args.store.store).await?;
    let network = args.netrc.network();
    let from = caches::open(Some(args.from), Access::ANYTHING, network).await?;
    let mut repaired = Vec::new();
    let mut fine = true;
    for path in parse_all(&store, &args.paths)? {
        match store.repair(&path, &*from).await {
            Ok(()) => repaired.push(store.store_dir().path_text(&path)),
            Err(error) => {
                fine = false;
                say!(
                    "error: cannot repair '{path}': {}",
                    describe(&CliError::store(error))
                );
            }
        }
    }
    match args.json {
        true => print([serde_json::Value::from(repaired)])?,
        false => print(repaired)?,
    }
    Ok(code(fine))
}
