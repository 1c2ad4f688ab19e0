//! `tvix store path-info`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tvix_store_api::{Store, StoreExt as _};

use super::paths::Readable;
use super::{AnyStoreOption, print};
use crate::error::CliError;
use crate::stores;

/// Say what is known of store paths.
///
/// Prints the paths, or with `--json` what Nix up to 2.18 prints of them.
#[derive(Debug, Parser)]
pub struct Args {
    /// The paths [default: all that is valid, which caches cannot say].
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    #[command(flatten)]
    store: AnyStoreOption,

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
    let (store, paths): (Arc<dyn Store>, _) = if args.paths.is_empty() {
        if let Some(uri) = &args.store.store
            && uri.local_root().is_none()
        {
            return Err(CliError::CannotList(uri.clone()));
        }
        let store = stores::open_to_read(args.store.store).await?;
        let paths = store.all_valid_paths().await.map_err(CliError::store)?;
        (Arc::new(store), paths)
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
