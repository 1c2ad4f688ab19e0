//! Temporary roots: paths that the garbage collector keeps while the store is open.

use std::collections::{HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{
    AddTempRoot, FoundPathInfo, QueryPathInfo, QueryValidPaths, RemoteError,
};

use super::connection::{CallError, Connection};
use super::options::DaemonOptions;

/// Connections that hold roots. Small paths are added on them too: a daemon's process keeps what it
/// has added. With two of them, the daemon's processes wait for each other at the database and the
/// store directory: 2,000 small paths took a tenth longer, and on a busy ext4 twice as long.
const CONNECTIONS: usize = 1;

/// The temporary roots of a store. A daemon forgets those of a connection when that ends, so some
/// connections are kept open for them.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// The roots, each with the number of its connection.
    held: Mutex<HashMap<StorePath, usize>>,
    connections: [tokio::sync::Mutex<Option<Connection>>; CONNECTIONS],
    next: AtomicUsize,
}

/// A connection that holds roots, in use. It remains open if all of its requests are answered, and is
/// replaced by another one otherwise.
pub(super) struct Lease<'a> {
    roots: &'a Roots,
    number: usize,
    place: tokio::sync::MutexGuard<'a, Option<Connection>>,
    /// `None` only while it is dropped.
    connection: Option<Connection>,
}

impl Roots {
    /// Whether a path is a root, and was valid when it became one.
    pub fn holds(&self, path: &StorePath) -> bool {
        self.lock().contains_key(path)
    }

    /// Those of the paths that are no roots.
    pub fn without_held(&self, paths: impl IntoIterator<Item = StorePath>) -> Vec<StorePath> {
        let held = self.lock();
        let missing = paths.into_iter().filter(|path| !held.contains_key(path));
        missing.collect()
    }

    /// A connection that holds roots. Waits if all are in use.
    pub async fn lease(&self, options: &DaemonOptions) -> Result<Lease<'_>, CallError> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = CONNECTIONS.min(options.connections);
        let mut numbers = (0..count).map(|number| (first + number) % count);
        let free = numbers.find_map(|number| {
            let place = self.connections[number].try_lock().ok()?;
            Some((number, place))
        });
        let (number, mut place) = match free {
            Some(free) => free,
            None => {
                let number = first % count;
                (number, self.connections[number].lock().await)
            }
        };
        let kept = place.take();
        let kept = kept.and_then(|mut it| (!it.is_stale()).then_some(it));
        let connection = match kept {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(options).await?;
                let held: Vec<_> = {
                    let held = self.lock();
                    let own = held.iter().filter(|(_, of)| **of == number);
                    own.map(|(path, _)| path.clone()).collect()
                };
                let gone = root(&mut connection, held).await?;
                self.lock().retain(|path, _| !gone.contains(path));
                connection
            }
        };
        Ok(Lease {
            roots: self,
            number,
            place,
            connection: Some(connection),
        })
    }

    /// Makes paths roots. Returns those among them that were not roots, and are not valid now.
    pub async fn keep(
        &self,
        options: &DaemonOptions,
        paths: Vec<StorePath>,
    ) -> Result<HashSet<StorePath>, CallError> {
        let missing = self.without_held(paths);
        if missing.is_empty() {
            return Ok(HashSet::new());
        }
        let mut lease = self.lease(options).await?;
        let gone = root(&mut lease, missing.clone()).await?;
        lease.holds(missing.into_iter().filter(|path| !gone.contains(path)));
        Ok(gone)
    }

    /// Makes paths roots, valid or not, and looks them up.
    pub async fn infos(
        &self,
        options: &DaemonOptions,
        paths: &[StorePath],
    ) -> Result<Vec<Result<FoundPathInfo, RemoteError>>, CallError> {
        let mut lease = self.lease(options).await?;
        let Connection {
            sender, receiver, ..
        } = &mut *lease;
        let send = async {
            for path in paths {
                sender.request(&AddTempRoot { path: path.clone() })?;
                sender.request(&QueryPathInfo { path: path.clone() })?;
                if sender.is_full() {
                    sender.flush().await?;
                }
            }
            sender.flush().await
        };
        let receive = async {
            let mut answers = Vec::with_capacity(paths.len());
            for _ in paths {
                let rooted = match receiver.answer::<AddTempRoot>().await {
                    Ok(_) => None,
                    Err(CallError::Remote(error)) => Some(error),
                    Err(error) => return Err(error),
                };
                let found = match receiver.answer::<QueryPathInfo>().await {
                    Ok(found) => Ok(found),
                    Err(CallError::Remote(error)) => Err(error),
                    Err(error) => return Err(error),
                };
                answers.push(rooted.map_or(found, Err));
            }
            Ok(answers)
        };
        let ((), answers) = futures::try_join!(send, receive)?;
        let valid = paths.iter().zip(&answers);
        let valid = valid.filter(|(_, answer)| matches!(answer, Ok(found) if found.0.is_some()));
        lease.holds(valid.map(|(path, _)| path.clone()));
        Ok(answers)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease<'_> {
    /// Remembers valid paths that this connection has made roots.
    pub fn holds(&self, paths: impl IntoIterator<Item = StorePath>) {
        let paths = paths.into_iter().map(|path| (path, self.number));
        self.roots.lock().extend(paths);
    }
}

impl Deref for Lease<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match &self.connection {
            Some(connection) => connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl DerefMut for Lease<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        match &mut self.connection {
            Some(connection) => connection,
            None => unreachable!("it is there until the drop"),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // Not if a future was dropped within an answer.
        *self.place = self.connection.take().filter(Connection::is_idle);
    }
}

/// Makes paths roots of a connection, and then looks which of them are gone.
async fn root(
    connection: &mut Connection,
    paths: Vec<StorePath>,
) -> Result<HashSet<StorePath>, CallError> {
    if paths.is_empty() {
        return Ok(HashSet::new());
    }
    let calls: Vec<_> = paths
        .iter()
        .cloned()
        .map(|path| AddTempRoot { path })
        .collect();
    for rooted in connection.call_all(&calls).await? {
        rooted?;
    }
    let mut gone: HashSet<_> = paths.iter().cloned().collect();
    let substitute = false;
    let valid = connection
        .call(&QueryValidPaths { paths, substitute })
        .await?;
    for path in valid.iter() {
        gone.remove(path);
    }
    Ok(gone)
}
