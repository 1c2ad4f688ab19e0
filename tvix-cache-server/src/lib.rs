//! Serves any [`Store`] as a binary cache over HTTP, from which Nix substitutes.
//!
//! Files are named by hashes alone, which are looked up in the store's own records: no name that
//! a client sends is ever a path of a file system, so none leads out of the store, and what a
//! symlink of a store path points to is never read. NARs are served as they are, without
//! compression, with ranges. Descriptions are signed with the server's keys. Listings (`<hash>.ls`)
//! are made from the NARs, and logs of builds (`log/<name>.drv`) are served from a directory.
//!
//! ```
//! use std::sync::Arc;
//! use nix_compat::signature::SigningKey;
//! use nix_compat::store_path::StoreDir;
//! use tvix_cache_server::{CacheServer, ServerOptions};
//! use tvix_store_api::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new(StoreDir::default()));
//! let options = ServerOptions::default().signing_keys([SigningKey::generate("mine-1")?]);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let server = CacheServer::new(store, options);
//! let shutdown = async { /* until it should end */ };
//! server.serve(listener, shutdown).await;
//! # Ok(())
//! # }
//! ```

mod connections;
mod listing;
mod logs;
mod range;
mod routes;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::signature::SigningKey;
use tokio::net::TcpListener;
use tvix_store_api::Store;

/// How a store is served.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Keys that sign the descriptions that are sent. Signatures in the store are sent too.
    pub signing_keys: Vec<SigningKey>,
    /// Of several caches, clients ask that with the least number first. 50.
    pub priority: i32,
    /// Connections at once. Beyond that the connection that has been idle longest is closed; if
    /// none is idle, new ones wait. 1024.
    pub connections: usize,
    /// Connections at once of one address (of a /64 network with IPv6); more are closed at once.
    /// 256.
    pub connections_per_address: usize,
    /// How long the header of a request may take to come, and a connection may be idle. 30 seconds.
    pub header_timeout: Duration,
    /// How long a client may take nothing of what is sent. 30 seconds.
    pub write_timeout: Duration,
    /// Where Nix keeps the logs of builds, such as `/nix/var/log/nix/drvs`; they are served as
    /// `log/<name>.drv` to whoever asks. None.
    pub log_directory: Option<PathBuf>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            signing_keys: Vec::new(),
            priority: 50,
            connections: 1024,
            connections_per_address: 256,
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            log_directory: None,
        }
    }
}

impl ServerOptions {
    /// Sets [`signing_keys`](Self::signing_keys).
    #[must_use]
    pub fn signing_keys(mut self, keys: impl IntoIterator<Item = SigningKey>) -> Self {
        self.signing_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets [`connections`](Self::connections) and
    /// [`connections_per_address`](Self::connections_per_address).
    #[must_use]
    pub fn connections(mut self, all: usize, per_address: usize) -> Self {
        (self.connections, self.connections_per_address) = (all, per_address);
        self
    }

    /// Sets [`log_directory`](Self::log_directory).
    #[must_use]
    pub fn log_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.log_directory = Some(directory.into());
        self
    }

    /// Sets [`header_timeout`](Self::header_timeout) and [`write_timeout`](Self::write_timeout).
    #[must_use]
    pub fn timeouts(mut self, header: Duration, write: Duration) -> Self {
        (self.header_timeout, self.write_timeout) = (header, write);
        self
    }
}

/// A store that is served. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheServer {
    store: Arc<dyn Store>,
    options: Arc<ServerOptions>,
}

impl CacheServer {
    /// A server of `store`.
    pub fn new(store: Arc<dyn Store>, options: ServerOptions) -> Self {
        Self {
            store,
            options: Arc::new(options),
        }
    }

    /// What answers requests, to be part of another server, which then has to see to time limits.
    pub fn router(&self) -> axum::Router {
        routes::router(self.clone())
    }

    /// Serves until `shutdown`, after which requests under way are answered, for 10 seconds at
    /// most. Dropping the future ends it at once.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        connections::serve(self.router(), &self.options, listener, shutdown).await;
    }
}
