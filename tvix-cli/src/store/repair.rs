//! `tvix store repair`.

use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::{Store as _, StoreUri};

use super::paths::parse_all;
use super::{StoreOption, code, print};
use crate::args::NetworkArgs;
use crate::caches::{self, Access};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores::{self, MainStore};

/// Replace the contents of store paths with a copy from another store.
///
/// Prints the paths replaced. The exit code is 1 if a path could not be repaired.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store paths to replace, whether they are damaged or not.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,

    #[command(flatten)]
    pub(super) store: StoreOption,

    /// Store of any kind to copy from. Contents must match the hash that is registered for the path, so
    /// signatures are not required.
    #[arg(long, value_name = "URI")]
    from: StoreUri,

    /// Print the paths replaced as a JSON list.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) netrc: NetworkArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let main = stores::open(args.store.store).await?;
    let MainStore::Local(store) = &main else {
        return Err(CliError::not_with_daemon("repair", &*main));
    };
    let network = args.netrc.network();
    let from = caches::open(Some(args.from), Access::ANYTHING, network).await?;
    let mut repaired = Vec::new();
    let mut fine = true;
    for path in parse_all(&main, &args.paths)? {
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
