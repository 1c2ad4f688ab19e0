//! Serves any [`Store`] as a binary cache over HTTP, as a substituter for Nix.
//!
//! Requests name files by hashes, which are looked up in the store's own records. A name from a
//! client is never used as a file system path, so it cannot lead out of the store, and the targets
//! of symlinks are never read. NARs are served uncompressed, with range requests. Narinfos are
//! signed with the server's keys. Listings (`<hash>.ls`) are generated from the NARs, and build
//! logs (`log/<name>.drv`) are served from a directory.
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
//! let options = ServerOptions::default().with_signing_keys([SigningKey::generate("mine-1")?]);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let server = CacheServer::new(store, options);
//! let shutdown = async { /* until it should end */ };
//! server.serve(listener, shutdown).await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod connections;
mod listing;
mod logs;
mod range;
mod routes;
mod table;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use axum;
#[doc(no_inline)]
pub use nix_compat;
#[doc(no_inline)]
pub use tokio;
#[doc(no_inline)]
pub use tvix_store_api;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::signature::SigningKey;
use tokio::net::TcpListener;
use tvix_store_api::Store;

/// Options of the server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Keys that sign the narinfos. Signatures in the store are sent too.
    pub signing_keys: Vec<SigningKey>,
    /// The advertised priority; clients query caches with lower numbers first. Default: 50.
    pub priority: i32,
    /// Maximum number of connections. At the limit, the connection that has been idle longest is
    /// closed; if none is idle, new connections wait. Default: 1024.
    pub connections: usize,
    /// Maximum number of connections of one address (with IPv6, of one /64 network); further ones
    /// are closed immediately. Default: 256.
    pub connections_per_address: usize,
    /// Time limit for receiving the header of a request, and for an idle connection. Default: 30
    /// seconds.
    pub header_timeout: Duration,
    /// How long a client may accept no data of a response. Default: 30 seconds.
    pub write_timeout: Duration,
    /// Nix's directory of build logs, such as `/nix/var/log/nix/drvs`, served as `log/<name>.drv`
    /// to every client. Default: none.
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
    pub fn with_signing_keys(mut self, keys: impl IntoIterator<Item = SigningKey>) -> Self {
        self.signing_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`priority`](Self::priority).
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Sets [`connections`](Self::connections) and
    /// [`connections_per_address`](Self::connections_per_address).
    #[must_use]
    pub fn with_connections(mut self, all: usize, per_address: usize) -> Self {
        (self.connections, self.connections_per_address) = (all, per_address);
        self
    }

    /// Sets [`log_directory`](Self::log_directory).
    #[must_use]
    pub fn with_log_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.log_directory = Some(directory.into());
        self
    }

    /// Sets [`header_timeout`](Self::header_timeout) and [`write_timeout`](Self::write_timeout).
    #[must_use]
    pub fn with_timeouts(mut self, header: Duration, write: Duration) -> Self {
        (self.header_timeout, self.write_timeout) = (header, write);
        self
    }
}

/// A server for a store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheServer {
    store: Arc<dyn Store>,
    options: Arc<ServerOptions>,
}

impl CacheServer {
    /// Creates a server for `store`.
    pub fn new(store: Arc<dyn Store>, options: ServerOptions) -> Self {
        Self {
            store,
            options: Arc::new(options),
        }
    }

    /// The request handler, for use in another server. That server is responsible for time-outs.
    pub fn router(&self) -> axum::Router {
        routes::router(self.clone())
    }

    /// Serves until `shutdown` completes. Requests in progress may then continue for up to 10
    /// seconds. Dropping the future ends all connections immediately.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        connections::serve(self.router(), &self.options, listener, shutdown).await;
    }
}
