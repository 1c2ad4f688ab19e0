//! `tvix store sign`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::cache::BinaryCache;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store, StoreExt as _, StoreUri};

use super::paths::PathNames;
use super::print;
use crate::args::NetworkArgs;
use crate::caches::{self, Access};
use crate::error::CliError;
use crate::stores;

/// Sign store paths, in addition to the signatures they have.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store with the paths: an absolute path, `local`, or a binary cache [default: `local` if you own /nix,
    /// otherwise ~/.local/share/nix/root].
    #[arg(long, value_name = "URI")]
    store: Option<StoreUri>,

    /// File with the secret key, as written by `nix-store --generate-binary-cache-key`.
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,

    /// Sign the closures of the paths.
    #[arg(long, short)]
    recursive: bool,

    /// Print a JSON object with the signature of each path.
    #[arg(long)]
    json: bool,

    /// Store paths to sign.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,

    #[command(flatten)]
    pub(super) netrc: NetworkArgs,
}

/// A store that accepts further signatures.
enum Signable {
    Local(LocalStore),
    Cache(BinaryCache),
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let key = caches::read_key(&args.key_file)?;
    let uri = args.store.unwrap_or_else(stores::usual);
    let signable = match uri.local_root() {
        Some(_) => Signable::Local(stores::open(Some(uri)).await?),
        None => {
            let access = Access::ANYTHING;
            Signable::Cache(caches::open_cache(uri, access, args.netrc.network()).await?)
        }
    };
    let store: &dyn Store = match &signable {
        Signable::Local(store) => store,
        Signable::Cache(store) => store,
    };
    let dir = store.store_dir().clone();
    let files = match &signable {
        Signable::Local(store) => Some(store.real_store_dir()),
        Signable::Cache(_) => None,
    };
    let paths = PathNames::new(store)
        .with_files(files)
        .parse_all(&args.paths)?;
    let infos = match args.recursive {
        true => store.closure(&paths).await.map_err(CliError::store)?,
        false => {
            let mut infos = Vec::with_capacity(paths.len());
            for path in &paths {
                infos.push(store.require(path).await.map_err(CliError::store)?);
            }
            infos
        }
    };
    let mut signed = serde_json::Map::new();
    for info in infos {
        let signature = key.sign(info.fingerprint(&dir));
        if args.json {
            signed.insert(dir.path_text(&info.path), signature.to_string().into());
        }
        let added = match &signable {
            Signable::Local(store) => store.add_signatures(&info.path, vec![signature]).await,
            Signable::Cache(store) => store.add_signatures(&info.path, vec![signature]).await,
        };
        added.map_err(CliError::store)?;
    }
    if args.json {
        print([serde_json::Value::from(signed)])?;
    }
    Ok(ExitCode::SUCCESS)
}
