//! A bounded set of connections.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::{CallError, Connection};
use super::options::DaemonOptions;

/// The connections to a daemon. Requests, reads and additions have limits of their own: a read or an
/// addition lasts as long as its caller takes, who may wait for a request.
#[derive(Debug)]
pub(super) struct Pool {
    options: DaemonOptions,
    idle: Mutex<Vec<Connection>>,
    requests: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    additions: Arc<Semaphore>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// A request and its answer.
    Request,
    /// A NAR that is read by the caller.
    Read,
    /// A NAR that comes from the caller.
    Addition,
}

/// A connection in use. It returns to the pool if all of its requests are answered, and is closed
/// otherwise.
#[derive(Debug)]
pub(super) struct Pooled {
    /// `None` only while it is dropped.
    connection: Option<Connection>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub fn new(options: DaemonOptions) -> Self {
        Self {
            idle: Mutex::default(),
            requests: Arc::new(Semaphore::new(options.connections)),
            reads: Arc::new(Semaphore::new(options.connections)),
            additions: Arc::new(Semaphore::new(options.connections)),
            options,
        }
    }

    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// A connection, perhaps a new one. Waits if too many are in use.
    pub async fn acquire(self: &Arc<Self>, purpose: Purpose) -> Result<Pooled, CallError> {
        let permits = match purpose {
            Purpose::Request => &self.requests,
            Purpose::Read => &self.reads,
            Purpose::Addition => &self.additions,
        };
        let permit = permits.clone().acquire_owned().await;
        // Semaphores are never closed.
        let permit = permit.map_err(std::io::Error::other)?;
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => Connection::open(&self.options).await?,
        };
        Ok(Pooled {
            connection: Some(connection),
            pool: self.clone(),
            _permit: permit,
        })
    }

    /// An idle connection that the daemon has not closed meanwhile.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut connection) = idle.pop() {
            if !connection.is_stale() {
                return Some(connection);
            }
        }
        None
    }
}

impl Deref for Pooled {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Connection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.is_idle()
        {
            let mut idle = self
                .pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Requests and reads together may have more than is worth keeping.
            if idle.len() < self.pool.options.connections {
                idle.push(connection);
            }
        }
    }
}
