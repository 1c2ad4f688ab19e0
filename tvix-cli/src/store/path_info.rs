//! `tvix store path-info`.

use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::{Store as _, StoreExt as _};

use super::paths::parse_all;
use super::{StoreOption, print};
use crate::error::CliError;
use crate::stores;

/// Say what is known of store paths.
///
/// Prints the paths, or with `--json` what Nix up to 2.18 prints of them.
#[derive(Debug, Parser)]
pub struct Args {
    /// The paths [default: all that is valid].
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    #[command(flatten)]
    store: StoreOption,

    /// All that they need too.
    #[arg(long, short = 'r')]
    recursive: bool,

    /// Print the size of each as a NAR, in bytes.
    #[arg(long, short = 's')]
    size: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let store = stores::open_to_read(args.store.store).await?;
    let paths = match args.paths.is_empty() {
        true => store.all_valid_paths().await.map_err(CliError::store)?,
        false => parse_all(&store, &args.paths)?,
    };
    let mut infos = Vec::new();
    if args.recursive {
        infos = store.closure(&paths).await.map_err(CliError::store)?;
    } else {
        for path in &paths {
            infos.push(store.require(path).await.map_err(CliError::store)?);
        }
    }
    let dir = store.store_dir();
    if args.json {
        let infos: Vec<_> = infos.iter().map(|info| info.to_nix_json(dir)).collect();
        print([serde_json::Value::from(infos)])?;
    } else {
        print(infos.iter().map(|info| match args.size {
            true => format!("{}\t{}", dir.display(&info.path), info.nar_size),
            false => dir.path_text(&info.path),
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}
