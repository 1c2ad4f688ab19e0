//! `tvix store serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;
use tvix_cache_server::{CacheServer, ServerOptions};
use tvix_store_api::Store;

use super::{AnyStoreOption, print};
use crate::caches::{self, Access};
use crate::error::CliError;
use crate::interrupt::{self, Orderly};
use crate::{logs, stores};

/// Serve a store as a binary cache over HTTP, until it is interrupted.
///
/// SIGINT, SIGTERM and SIGHUP end it: requests under way are answered first, for 10 seconds at most, and
/// the exit code is 0.
/// Where it listens is printed once it does. Whoever can reach that address can read all that is
/// in the store, and the logs of builds of a store on this file system.
#[derive(Debug, Parser)]
pub struct Args {
    #[command(flatten)]
    store: AnyStoreOption,

    /// Address and port to listen at; port 0 for any that is free.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,

    /// A file with a secret key that signs what is sent; may be given several times. Signatures
    /// that the store has are sent too.
    #[arg(long = "key-file", value_name = "FILE")]
    key_files: Vec<PathBuf>,

    /// Of several caches, clients ask that with the least number first.
    #[arg(long, value_name = "N", default_value_t = 50)]
    priority: i32,

    /// Print where it listens as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let access = Access::ANYTHING;
    let network = args.store.netrc.network();
    let uri = args.store.store.unwrap_or_else(stores::usual);
    let mut logs = None;
    let store: Arc<dyn Store> = match uri.local_root() {
        Some(_) => {
            let store = stores::open_to_read(Some(uri)).await?;
            logs = Some(logs::folder(&store));
            Arc::new(store)
        }
        None => caches::open(Some(uri), access, network).await?,
    };
    let keys = args.key_files.iter().map(|file| caches::read_key(file));
    let options = ServerOptions::default()
        .signing_keys(keys.collect::<Result<Vec<_>, _>>()?)
        .priority(args.priority);
    let options = match logs {
        Some(directory) => options.log_directory(directory),
        None => options,
    };
    let failed = |source| CliError::Listen {
        address: args.listen,
        source,
    };
    let listener = TcpListener::bind(args.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let url = format!("http://{address}");
    match args.json {
        true => print([serde_json::json!({ "url": url })])?,
        false => print([url])?,
    }
    let _orderly = Orderly::begin();
    CacheServer::new(store, options)
        .serve(listener, interrupt::token().cancelled_owned())
        .await;
    Ok(ExitCode::SUCCESS)
}
