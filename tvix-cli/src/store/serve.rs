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
use crate::{default_store, stores};

/// Serve a store as a binary cache over HTTP.
///
/// Prints its URL when it is ready. There is no access control: every client that can connect can read all of
/// the store and, of a store on this file system, the build logs. On SIGINT, SIGTERM or SIGHUP, the server
/// finishes the requests in progress (for 10 seconds at most) and exits with 0.
#[derive(Debug, Parser)]
pub struct Args {
    /// Address and port to listen on; port 0 selects a free port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5000")]
    listen: SocketAddr,

    /// File with a secret key to sign path information with, in addition to the signatures in the store; may
    /// be repeated.
    #[arg(long = "key-file", value_name = "FILE")]
    key_files: Vec<PathBuf>,

    /// Priority that the cache advertises; clients query caches with lower numbers first.
    #[arg(long, value_name = "N", default_value_t = 50)]
    priority: i32,

    /// Print the URL as a JSON object.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) store: AnyStoreOption,
}

pub async fn run(args: Args) -> Result<ExitCode, CliError> {
    let access = Access::ANYTHING;
    let network = args.store.netrc.network();
    let uri = default_store::resolve(args.store.store)?;
    let mut logs = None;
    let store: Arc<dyn Store> = match uri.local_root() {
        Some(_) => {
            let store = stores::open_to_read(Some(uri)).await?;
            logs = Some(store.logs());
            store.any()
        }
        None => caches::open(Some(uri), access, network).await?,
    };
    let keys = args.key_files.iter().map(|file| caches::read_key(file));
    let options = ServerOptions::default()
        .with_signing_keys(keys.collect::<Result<Vec<_>, _>>()?)
        .with_priority(args.priority);
    let options = match logs {
        Some(directory) => options.with_log_directory(directory),
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
