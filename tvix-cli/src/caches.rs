//! Stores of any kind that the command line names, and substituters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use futures::future::join_all;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_store_api::cache::{BinaryCache, Tuning};
use tvix_store_api::{OpenOptions, OpenedStore, Store, StoreUri};

use crate::args::SubstituteArgs;
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores;

/// What a store is opened for.
pub enum Access {
    /// To be read. Of a cache, only what one of these keys signed is taken, unless that is not
    /// checked.
    Read {
        keys: Vec<VerifyingKey>,
        check: bool,
    },
    /// To be added to. A cache that is none yet becomes one with this directory.
    Write { dir: StoreDir },
}

impl Access {
    /// To be read, by somebody who knows better what to believe.
    pub const ANYTHING: Self = Self::Read {
        keys: Vec::new(),
        check: false,
    };
}

/// Time limits and retries of transfers, under Nix's names. A parameter of that name in the URI of a
/// cache comes before them.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TransferOptions {
    /// How long a connection to a cache may take to be made; 0 is no limit [default: 5]
    #[arg(long, value_name = "SECONDS")]
    pub connect_timeout: Option<u32>,

    /// How long a transfer from a cache may receive nothing; 0 is no limit [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub stalled_download_timeout: Option<u32>,

    /// How often a transfer from a cache is attempted in all [default: 5]
    #[arg(long, value_name = "COUNT")]
    pub download_attempts: Option<u32>,
}

impl TransferOptions {
    fn tuning(&self) -> Tuning {
        let mut tuning = Tuning::default();
        for (name, value) in [
            ("connect-timeout", self.connect_timeout),
            ("stalled-download-timeout", self.stalled_download_timeout),
            ("download-attempts", self.download_attempts),
        ] {
            if let Some(value) = value {
                // The names are known, and any number is valid.
                let _ = tuning.set(name, &value.to_string());
            }
        }
        tuning
    }
}

/// Access to caches over HTTP(S).
#[derive(Debug, Parser)]
pub struct NetrcOption {
    /// Passwords for caches over HTTP and HTTPS. The file may be missing.
    #[arg(long, value_name = "FILE", default_value = "/etc/nix/netrc")]
    pub netrc_file: PathBuf,

    #[command(flatten)]
    pub transfer: TransferOptions,
}

impl NetrcOption {
    pub fn network(&self) -> Network<'_> {
        Network {
            netrc: &self.netrc_file,
            transfer: &self.transfer,
        }
    }
}

/// How caches over HTTP(S) are accessed.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    pub netrc: &'a Path,
    pub transfer: &'a TransferOptions,
}

/// Opens a store of any kind, or the usual one. One on this file system that is only read may belong
/// to somebody else.
pub async fn open(
    uri: Option<StoreUri>,
    access: Access,
    network: Network<'_>,
) -> Result<Arc<dyn Store>, CliError> {
    let uri = uri.unwrap_or_else(stores::usual);
    match (uri.local_root(), &access) {
        (Some(_), Access::Read { .. }) => Ok(Arc::new(stores::open_to_read(Some(uri)).await?)),
        (Some(_), Access::Write { .. }) => Ok(Arc::new(stores::open(Some(uri)).await?)),
        (None, _) => Ok(Arc::new(open_cache(uri, access, network).await?)),
    }
}

pub async fn open_cache(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<BinaryCache, CliError> {
    let options = OpenOptions::new()
        .netrc_file(network.netrc)
        .tuning(network.transfer.tuning());
    let options = match access {
        Access::Read { keys, check } => options.trusted_keys(keys).allow_unsigned(!check),
        Access::Write { dir } => options.allow_unsigned(true).create(true).store_dir(dir),
    };
    match tvix_store_api::open_kind(&uri, options).await? {
        OpenedStore::BinaryCache(cache) => Ok(cache),
        _ => Err(CliError::UnsupportedStore(uri)),
    }
}

/// The substituters that were asked for and answer, with their priorities. Of those that do not,
/// a warning tells: what they might have is had from others, or built.
pub async fn substituters(
    args: &SubstituteArgs,
    dir: &StoreDir,
    network: Network<'_>,
) -> Vec<(i32, Arc<dyn Store>)> {
    if args.no_substitute {
        return Vec::new();
    }
    let open = args.substituters.iter().map(|uri| {
        let access = Access::Read {
            keys: args.trusted_public_keys.clone(),
            check: !args.more.unsigned,
        };
        open_substituter(uri.clone(), access, network)
    });
    let mut opened = Vec::new();
    for (uri, substituter) in args.substituters.iter().zip(join_all(open).await) {
        match substituter {
            Ok((_, store)) if store.store_dir() != dir => {
                let other = store.store_dir();
                say!("warning: substituter '{uri}' is for '{other}', and is not used");
            }
            Ok(substituter) => opened.push(substituter),
            // It names the substituter, and says all there is to say.
            Err(CliError::Store(error)) => say!("warning: {error}"),
            Err(error) => {
                let why = describe(&error);
                say!("warning: substituter '{uri}' is not used: {why}");
            }
        }
    }
    opened
}

async fn open_substituter(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<(i32, Arc<dyn Store>), CliError> {
    if uri.local_root().is_some() {
        // One on this file system costs nothing to ask.
        return Ok((0, open(Some(uri), access, network).await?));
    }
    let cache = open_cache(uri, access, network).await?;
    Ok((cache.info().priority, Arc::new(cache)))
}

/// Reads a secret key, as `nix-store --generate-binary-cache-key` writes it.
pub fn read_key(file: &Path) -> Result<SigningKey, CliError> {
    let failed = |source: tvix_store_api::BoxError| CliError::Key {
        file: file.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.into()))?;
    text.trim()
        .parse()
        .map_err(|error: nix_compat::signature::SignatureError| failed(error.into()))
}
