//! A daemon for clients of Nix, in front of any store and coordinator.
//!
//! [`Daemon`] serves connections: those of a socket ([`Daemon::listen`]), and any stream ([`Daemon::connection`]). What
//! it serves is a [`Stores`], which gives each connection a store. A [`Backend`] is one store for all; [`local`]
//! (feature `local-fs`) has sessions of a local store, with everything that Nix's own daemon can do.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use tokio::net::UnixListener;
//! use tokio_util::sync::CancellationToken;
//! use tvix_daemon::{Backend, Daemon, DaemonOptions};
//! use tvix_store_api::MemoryStore;
//!
//! # async fn example() -> std::io::Result<()> {
//! let store = MemoryStore::new(Default::default());
//! let daemon = Daemon::new(Arc::new(Backend::new(Arc::new(store))), DaemonOptions::default());
//! let listener = UnixListener::bind("/tmp/socket")?;
//! daemon.listen(listener, CancellationToken::new()).await;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod access;
mod backend;
mod builds;
mod client;
mod connection;
mod daemon;
mod failure;
mod input;
#[cfg(feature = "local-fs")]
pub mod local;
mod log;
mod operations;
mod options;
mod socket;
mod users;

pub use access::{Access, NotAllowed, Peer};
pub use backend::{Backend, Collection, Lease, Maintenance, RootLink, Stores};
pub use builds::{Builds, LogSender, PostBuildHook};
pub use client::{Client, ClientSettings};
pub use daemon::{Daemon, closed_probe};
pub use log::Log;
pub use options::DaemonOptions;
pub use socket::{BindError, bind};

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use tvix_coordinator;
#[doc(no_inline)]
pub use tvix_store_api;
#[doc(no_inline)]
pub use tvix_worker_protocol;
