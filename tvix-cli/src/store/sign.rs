//! `tvix store sign`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tvix_store_api::cache::BinaryCache;
use tvix_store_api::{Store, StoreExt as _, StoreUri};

use super::paths::PathNames;
use super::print;
use crate::args::NetworkArgs;
use crate::caches::{self, Access};
use crate::default_store;
use crate::error::CliError;
use crate::stores::{self, MainStore};

/// Sign store paths, in addition to the signatures they have.
#[derive(Debug, Parser)]
pub struct Args {
    /// Store with the paths: an absolute path, `local`, a daemon, or a binary cache [default: NIX_REMOTE, or
    /// `auto`: the system's store if you can write to it, otherwise its daemon if it runs, otherwise
    /// ~/.local/share/nix/root].
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
    Main(MainStore),
    Cache(BinaryCache),
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let key = caches::read_key(&args.key_file)?;
    let uri = default_store::resolve(args.store)?;
    let signable = match stores::is_main(&uri) {
        true => Signable::Main(stores::open(Some(uri)).await?),
        false => {
            let access = Access::ANYTHING;
            Signable::Cache(caches::open_cache(uri, access, args.netrc.network()).await?)
        }
    };
    let store: &dyn Store = match &signable {
        Signable::Main(store) => &**store,
        Signable::Cache(store) => store,
    };
    let dir = store.store_dir().clone();
    let files = match &signable {
        Signable::Main(store) => store.files(),
        Signable::Cache(_) => None,
    };
    let paths = PathNames::new(store)
        .with_files(files.as_deref())
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
            Signable::Main(MainStore::Local(store)) => {
                store.add_signatures(&info.path, vec![signature]).await
            }
            Signable::Main(MainStore::Daemon(store)) => {
                store.add_signatures(&info.path, vec![signature]).await
            }
            Signable::Cache(store) => store.add_signatures(&info.path, vec![signature]).await,
        };
        added.map_err(CliError::store)?;
    }
    if args.json {
        print([serde_json::Value::from(signed)])?;
    }
    Ok(ExitCode::SUCCESS)
}
