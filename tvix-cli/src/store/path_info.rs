//! `tvix store path-info`.

use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::StoreExt as _;

use super::paths::Readable;
use super::{AnyStoreOption, print};
use crate::error::CliError;
use crate::stores;

/// Show information about store paths.
///
/// Without `--size` or `--json`, prints the paths alone.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store paths to show [default: all valid paths; binary caches cannot list theirs].
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    /// Show the closures of the paths.
    #[arg(long, short = 'r')]
    recursive: bool,

    /// Show the NAR size of each path, in bytes.
    #[arg(long, short = 's')]
    size: bool,

    /// Print JSON in the format of `nix path-info --json` of Nix up to 2.18.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) store: AnyStoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let (store, paths) = if args.paths.is_empty() {
        if let Some(uri) = &args.store.store
            && uri.scheme() != "auto"
            && !stores::is_main(uri)
        {
            return Err(CliError::CannotList(uri.clone()));
        }
        let store = stores::open_to_read(args.store.store).await?;
        let paths = store.all_valid_paths().await.map_err(CliError::store)?;
        (store.any(), paths)
    } else {
        let from = Readable::open(args.store).await?;
        let paths = args.paths.iter().map(|text| from.parse_whole(text));
        let paths = paths.collect::<Result<Vec<_>, _>>()?;
        (from.store, paths)
    };
    let mut infos = Vec::new();
    if args.recursive {
        infos = store.closure(&paths).await.map_err(CliError::store)?;
    } else {
        let found = store.path_infos(&paths).await.map_err(CliError::store)?;
        for (path, info) in paths.iter().zip(found) {
            match info {
                Some(info) => infos.push(info),
                // The error of a single path.
                None => infos.push(store.require(path).await.map_err(CliError::store)?),
            }
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
