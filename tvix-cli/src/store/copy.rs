//! `tvix store copy`.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use nix_compat::signature::VerifyingKey;
use serde_json::json;
use tvix_store_api::{Store, StoreExt as _, StoreUri};

use super::paths::PathNames;
use super::print;
use crate::args::{DEFAULT_PUBLIC_KEY, NetworkArgs};
use crate::caches::{self, Access};
use crate::default_store;
use crate::error::CliError;
use crate::stores::{self, MainStore};

/// Copy store paths and their closures from one store to another.
///
/// A store is an absolute path or `local` (stores on this file system), a binary cache: `file://…`, `http://…`,
/// `https://…` or `s3://…`, or a Nix daemon: `daemon`, `unix://SOCKET?root=DIR` or `ssh-ng://[USER@]HOST`. Paths
/// that the destination already has are skipped. The paths copied are printed.
#[derive(Debug, Parser)]
pub struct Args {
    /// Source store [default: the store of --store].
    #[arg(long, value_name = "URI")]
    from: Option<StoreUri>,

    /// Destination store [default: the store of --store]. A binary cache is created if it does not exist.
    #[arg(long, value_name = "URI", required_unless_present = "from")]
    to: Option<StoreUri>,

    /// Store for whichever of --from and --to is not given [default: NIX_REMOTE, or `auto`: the system's store
    /// if you can write to it, otherwise its daemon if it runs, otherwise ~/.local/share/nix/root].
    #[arg(long, value_name = "URI")]
    pub(super) store: Option<StoreUri>,

    /// Copy the closures of the paths; this is the default.
    #[arg(long)]
    recursive: bool,

    /// Copy only the paths themselves; the destination must have their references.
    #[arg(long, conflicts_with = "recursive")]
    no_recursive: bool,

    /// Public key to trust, as `NAME:BASE64`; may be repeated.
    #[arg(
        long = "trusted-public-key",
        value_name = "KEY",
        default_value = DEFAULT_PUBLIC_KEY
    )]
    pub(super) trusted_public_keys: Vec<VerifyingKey>,

    /// Accept paths from a cache without the signature of a trusted key.
    #[arg(long)]
    no_check_sigs: bool,

    /// Print a JSON object with NAR hash and size of each path copied.
    #[arg(long)]
    json: bool,

    /// Store paths to copy, or links to them.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,

    #[command(flatten)]
    pub(super) netrc: NetworkArgs,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let access = Access::Read {
        keys: args.trusted_public_keys,
        check: !args.no_check_sigs,
    };
    let network = args.netrc.network();
    let other = default_store::resolve(args.store)?;
    let uri = default_store::resolve(Some(args.from.unwrap_or_else(|| other.clone())))?;
    let target = default_store::resolve(Some(args.to.unwrap_or(other)))?;
    let main = match stores::is_main(&uri) {
        true => Some(stores::open_to_read(Some(uri.clone())).await?),
        false => None,
    };
    let from: Arc<dyn Store> = match &main {
        Some(main) => main.any(),
        None => caches::open(Some(uri), access, network).await?,
    };
    let dir = from.store_dir().clone();
    let access = Access::Write { dir: dir.clone() };
    // A link may lead to the files of either store.
    let target_files = stores::root(&target).map(|root| root.join("nix/store"));
    let files = main.as_ref().and_then(MainStore::files);
    let to = caches::open(Some(target), access, network).await?;
    let names = PathNames::new(&*from)
        .with_files(files.as_deref())
        .with_files(target_files.as_deref());
    let paths = names.parse_all(&args.paths)?;
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
    // Realisations tell the destination which outputs of derivations these paths are.
    if let Some(MainStore::Local(local)) = main {
        let paths = match args.no_recursive {
            true => paths,
            false => {
                let closure = local.closure(&paths).await.map_err(CliError::store)?;
                closure.into_iter().map(|info| info.path.clone()).collect()
            }
        };
        let realisations = local.realisations_of(paths).await;
        for realisation in realisations.map_err(CliError::store)? {
            let added = to.add_realisation(&realisation).await;
            added.map_err(CliError::store)?;
        }
    }
    if args.json {
        let infos = copied.iter().map(|info| {
            let path = dir.display(&info.path).to_string();
            (
                path,
                json!({ "narHash": info.nix_hash().to_string(), "narSize": info.nar_size }),
            )
        });
        let infos: serde_json::Map<_, _> = infos.collect();
        print([serde_json::Value::Object(infos)])?;
    } else {
        print(copied.iter().map(|info| dir.display(&info.path)))?;
    }
    Ok(ExitCode::SUCCESS)
}
