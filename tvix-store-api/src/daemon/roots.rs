//! Temporary roots: paths that the garbage collector keeps while the store is open.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{AddTempRoot, QueryValidPaths};

use super::connection::{CallError, Connection};
use super::options::DaemonOptions;

/// The temporary roots of a store. A daemon forgets those of a connection when that ends, so one
/// connection is for them alone.
#[derive(Debug, Default)]
pub(super) struct Roots {
    held: Mutex<HashSet<StorePath>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Roots {
    /// Whether a path is a root, and was valid when it became one.
    pub fn holds(&self, path: &StorePath) -> bool {
        self.lock().contains(path)
    }

    /// Makes paths roots. Returns those among them that were not roots, and are not valid now.
    pub async fn keep(
        &self,
        options: &DaemonOptions,
        paths: Vec<StorePath>,
    ) -> Result<HashSet<StorePath>, CallError> {
        let missing = {
            let held = self.lock();
            let missing = paths.into_iter().filter(|path| !held.contains(path));
            missing.collect::<Vec<_>>()
        };
        if missing.is_empty() {
            return Ok(HashSet::new());
        }
        let mut place = self.connection.lock().await;
        // It does not return if this future is dropped within an answer.
        let kept = place.take();
        let kept = kept.and_then(|mut it| (!it.is_stale()).then_some(it));
        let mut connection = match kept {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(options).await?;
                let held: Vec<_> = self.lock().iter().cloned().collect();
                let gone = root(&mut connection, held).await?;
                self.lock().retain(|path| !gone.contains(path));
                connection
            }
        };
        let gone = root(&mut connection, missing.clone()).await?;
        if connection.is_idle() {
            *place = Some(connection);
        }
        let kept = missing.into_iter().filter(|path| !gone.contains(path));
        self.lock().extend(kept);
        Ok(gone)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<StorePath>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
