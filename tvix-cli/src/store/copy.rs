//! `tvix store copy`.

use std::process::ExitCode;

use clap::Parser;
use nix_compat::signature::VerifyingKey;
use serde_json::json;
use tvix_store_api::{Store as _, StoreExt as _, StoreUri};

use crate::caches::{self, Access};
use crate::error::CliError;

/// Copy store paths, with all that they refer to, from one store to another.
///
/// A store is an absolute path or `local` (on this file system), or a binary cache: `file://…`,
/// `http://…`, `https://…` or `s3://…`. What is in the other store already is not read. The paths
/// that were copied are printed.
#[derive(Debug, Parser)]
pub struct Args {
    /// The store to copy from [default: the usual one].
    #[arg(long, value_name = "URI")]
    from: Option<StoreUri>,

    /// The store to copy to [default: the usual one]. A cache that is none yet becomes one.
    #[arg(long, value_name = "URI", required_unless_present = "from")]
    to: Option<StoreUri>,

    /// Copy all that the paths refer to as well, which is the default.
    #[arg(long)]
    recursive: bool,

    /// Copy only the paths themselves: what they refer to must be there.
    #[arg(long, conflicts_with = "recursive")]
    no_recursive: bool,

    /// A key that paths of a cache may be signed by; may be given several times.
    #[arg(long = "trusted-public-key", value_name = "KEY")]
    trusted_public_keys: Vec<VerifyingKey>,

    /// Take paths from a cache that no trusted key has signed.
    #[arg(long)]
    no_check_sigs: bool,

    /// Print JSON: what is known of each path that was copied.
    #[arg(long)]
    json: bool,

    /// Paths to copy.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let access = Access::Read {
        keys: args.trusted_public_keys,
        check: !args.no_check_sigs,
    };
    let from = caches::open(args.from, access).await?;
    let dir = from.store_dir().clone();
    let to = caches::open(args.to, Access::Write { dir: dir.clone() }).await?;
    let paths = caches::parse_paths(&dir, &args.paths)?;
    let copied = if args.no_recursive {
        let mut copied = Vec::new();
        let valid = to.valid_paths(&paths).await.map_err(CliError::store)?;
        for path in paths.iter().filter(|path| !valid.contains(path)) {
            let info = from.require(path).await.map_err(CliError::store)?;
            let done = from.copy_path(&*to, &info).await;
            done.map_err(CliError::store)?;
            copied.push(info);
        }
        copied
    } else {
        let copied = from.copy_closure(&*to, &paths).await;
        copied.map_err(CliError::store)?
    };
    if args.json {
        let infos = copied.iter().map(|info| {
            let path = dir.display(&info.path).to_string();
            (
                path,
                json!({ "narHash": info.nix_hash().to_string(), "narSize": info.nar_size }),
            )
        });
        let infos: serde_json::Map<_, _> = infos.collect();
        caches::print([serde_json::Value::Object(infos)])?;
    } else {
        caches::print(copied.iter().map(|info| dir.display(&info.path)))?;
    }
    Ok(ExitCode::SUCCESS)
}
