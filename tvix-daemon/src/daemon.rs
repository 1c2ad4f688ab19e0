//! The daemon and its listeners.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tvix_worker_protocol::Trust;

use crate::access::Peer;
use crate::backend::Stores;
use crate::connection;
use crate::options::{DaemonOptions, Shared};
use crate::users::Users;

/// How long connections may take to end once the daemon ends.
const GRACE: Duration = Duration::from_secs(5);

/// Pause after a connection could not be accepted, such as for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A daemon for clients of Nix. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Daemon(Arc<Shared>);

impl Daemon {
    /// A daemon that serves these stores.
    pub fn new(stores: Arc<dyn Stores>, options: DaemonOptions) -> Self {
        let users = Users::default();
        Self(Arc::new(Shared {
            stores,
            options,
            users,
        }))
    }

    /// Accepts and serves connections until `shutdown` is cancelled; then ends them, and waits some seconds at most for
    /// operations to stop. Peers are identified by the kernel.
    ///
    /// If the future is dropped, all connections end.
    pub async fn listen(&self, listener: UnixListener, shutdown: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.0.options.max_connections));
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let slot = slots.clone().acquire_owned().await;
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = accepted => accepted,
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (daemon, shutdown) = (self.clone(), shutdown.clone());
            connections.spawn(async move {
                let _slot = slot;
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    // A client that goes, or sends nonsense, ends its own connection only.
                    _ = daemon.socket(stream) => {}
                }
            });
        }
        drop(listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(GRACE, ended).await;
    }

    /// Serves one connection on a socket, whose peer is judged by [`DaemonOptions::access`], to its end.
    ///
    /// # Errors
    ///
    /// That the peer may not connect, has too many connections, or went away.
    pub async fn socket(&self, stream: UnixStream) -> io::Result<()> {
        let credentials = stream.peer_cred()?;
        let mut peer = Peer::new(credentials.uid(), credentials.gid());
        peer.pid = credentials.pid();
        let access = self.0.options.access.clone();
        let judged = tokio::task::spawn_blocking(move || access.judge(peer)).await;
        let trust = judged
            .map_err(io::Error::other)?
            .map_err(io::Error::other)?;
        let options = &self.0.options;
        let _seat = match trust == Trust::Trusted && !options.force_untrusted {
            true => None,
            false => {
                let limit = (options.max_connections / 4).max(1);
                let seat = self.0.users.enter(peer.uid, limit);
                let too_many = || io::Error::other("too many connections of this user");
                Some(seat.ok_or_else(too_many)?)
            }
        };
        let probe = stream.as_fd().try_clone_to_owned().ok().map(closed_probe);
        let (reader, writer) = stream.into_split();
        self.connection(reader, writer, trust, probe).await
    }

    /// Serves one connection on any stream to its end. If the future is dropped, the connection ends.
    ///
    /// `is_closed` is asked now and then after the end of `reader`, while an operation runs: whether nobody reads the
    /// answer. Without it the end of `reader` ends the connection.
    ///
    /// # Errors
    ///
    /// That the stream failed, or a client that is not one.
    pub async fn connection(
        &self,
        reader: impl AsyncRead + Unpin + Send,
        writer: impl AsyncWrite + Unpin + Send,
        trust: Trust,
        is_closed: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    ) -> io::Result<()> {
        let trust = match self.0.options.force_untrusted {
            true => Trust::NotTrusted,
            false => trust,
        };
        connection::serve(self.0.clone(), reader, writer, trust, is_closed).await
    }
}

/// Tells whether the other end of a socket or pipe is closed, for [`Daemon::connection`]. `file` is any handle on it.
pub fn closed_probe(file: OwnedFd) -> Arc<dyn Fn() -> bool + Send + Sync> {
    Arc::new(move || {
        let mut polled = [PollFd::new(&file, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let closed = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(closed)
    })
}
