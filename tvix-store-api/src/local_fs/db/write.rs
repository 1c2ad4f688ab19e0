//! Group commit.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix_compat::derivation::OutputName;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::Realisation;
use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::error::DbError;
use super::rows::Rows;

/// A path to register, and the outputs if the path is a derivation.
#[derive(Debug, Clone)]
pub(in crate::local_fs) struct Registration {
    pub info: Arc<PathInfo>,
    pub outputs: Vec<(OutputName, StorePath)>,
}

/// The reason that a registration failed.
#[derive(Debug)]
pub(super) enum WriteError {
    Db(DbError),
    InvalidReference {
        path: StorePath,
        reference: StorePath,
    },
    Cycle {
        path: StorePath,
        other: StorePath,
    },
    NotFound(StorePath),
    /// Syncing the files failed.
    Sync(std::io::Error),
    /// The thread that would have answered has panicked.
    Lost,
}

impl From<DbError> for WriteError {
    fn from(error: DbError) -> Self {
        Self::Db(error)
    }
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Db(error.into())
    }
}

/// A write, which is atomic.
#[derive(Debug)]
pub(super) enum Write {
    Paths(Vec<Registration>),
    Realisation(Realisation),
    Signatures(StorePath, Vec<Signature>),
}

struct Pending {
    write: Write,
    answer: oneshot::Sender<Result<(), WriteError>>,
}

/// The single writing connection.
///
/// Concurrent writers queue up. The thread that gets the connection writes the whole queue in one
/// transaction, in order of arrival. A burst of small additions costs one commit, and a single
/// write is not delayed.
pub(super) struct Writer {
    rows: Rows,
    queue: Mutex<Vec<Pending>>,
    connection: Mutex<Connection>,
    /// Called before each commit.
    before_commit: Box<dyn Fn() -> std::io::Result<()> + Send + Sync>,
}

impl Writer {
    pub fn new(
        connection: Connection,
        rows: Rows,
        before_commit: Box<dyn Fn() -> std::io::Result<()> + Send + Sync>,
    ) -> Self {
        Self {
            rows,
            queue: Mutex::new(Vec::new()),
            connection: Mutex::new(connection),
            before_commit,
        }
    }

    /// Writes, and returns after the commit. Blocks.
    pub fn write(&self, write: Write) -> Result<(), WriteError> {
        let (answer, mut answered) = oneshot::channel();
        lock(&self.queue).push(Pending { write, answer });
        let mut connection = lock(&self.connection);
        // The previous holder of the connection may have written this entry.
        if let Ok(result) = answered.try_recv() {
            return result;
        }
        let group = std::mem::take(&mut *lock(&self.queue));
        self.write_group(&mut connection, group);
        drop(connection);
        answered.try_recv().unwrap_or(Err(WriteError::Lost))
    }

    /// The connection, for operations that are not grouped.
    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        lock(&self.connection)
    }

    fn write_group(&self, connection: &mut Connection, group: Vec<Pending>) {
        if group.len() > 1 {
            let writes = group.iter().map(|pending| &pending.write);
            if let Ok(results) = self.transaction(connection, writes) {
                for (pending, result) in group.into_iter().zip(results) {
                    // The receiver may be gone; the write is committed anyway.
                    let _ = pending.answer.send(result);
                }
                return;
            }
            // One of the writes failed: retry them one by one.
        }
        for Pending { write, answer } in group {
            let result = self.transaction(connection, std::iter::once(&write));
            let _ = answer.send(
                result.and_then(|mut results| results.pop().unwrap_or(Err(WriteError::Lost))),
            );
        }
    }

    /// One transaction. A refused write has no effect and does not affect the others; an error of
    /// the database or the file system fails all of them.
    fn transaction<'w>(
        &self,
        connection: &mut Connection,
        writes: impl Iterator<Item = &'w Write>,
    ) -> Result<Vec<Result<(), WriteError>>, WriteError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut results = Vec::new();
        for write in writes {
            let result = match write {
                Write::Paths(paths) => self.paths(&transaction, paths),
                Write::Realisation(realisation) => self.realisation(&transaction, realisation),
                Write::Signatures(path, signatures) => {
                    match self.rows.add_signatures(&transaction, path, signatures) {
                        Ok(true) => Ok(()),
                        Ok(false) => Err(WriteError::NotFound(path.clone())),
                        Err(error) => Err(error.into()),
                    }
                }
            };
            match result {
                Err(WriteError::Db(error)) => return Err(error.into()),
                result => results.push(result),
            }
        }
        (self.before_commit)().map_err(WriteError::Sync)?;
        transaction.commit()?;
        Ok(results)
    }

    /// Checks everything before it writes, so that there is nothing to undo. Existing paths are
    /// unchanged. They are rare, so they are only looked up when a check fails.
    fn paths(&self, connection: &Connection, paths: &[Registration]) -> Result<(), WriteError> {
        let is_new = |registration: &Registration| -> Result<bool, DbError> {
            let id = self.rows.id(connection, &registration.info.path)?;
            Ok(id.is_none())
        };
        let together: HashSet<&StorePath> = paths.iter().map(|it| &it.info.path).collect();
        let mut ids: HashMap<&StorePath, i64> = HashMap::new();
        for registration in paths {
            for reference in registration.info.references.iter() {
                if together.contains(reference) || ids.contains_key(reference) {
                    continue;
                }
                if let Some(id) = self.rows.id(connection, reference)? {
                    ids.insert(reference, id);
                } else if is_new(registration)? {
                    return Err(WriteError::InvalidReference {
                        path: registration.info.path.clone(),
                        reference: reference.clone(),
                    });
                }
            }
        }
        if find_cycle(&paths.iter().collect::<Vec<_>>()).is_some() {
            let mut new = Vec::new();
            for registration in paths {
                if is_new(registration)? {
                    new.push(registration);
                }
            }
            if let Some((path, other)) = find_cycle(&new) {
                return Err(WriteError::Cycle { path, other });
            }
        }
        let mut new = Vec::with_capacity(paths.len());
        for registration in paths {
            let path = &registration.info.path;
            let id = match self.rows.insert(connection, &registration.info)? {
                Some(id) => {
                    for (output, path) in &registration.outputs {
                        self.rows.insert_output(connection, id, output, path)?;
                    }
                    new.push((id, registration));
                    Some(id)
                }
                None => self.rows.id(connection, path)?,
            };
            ids.extend(id.map(|id| (path, id)));
        }
        for (from, registration) in new {
            for reference in registration.info.references.iter() {
                if let Some(&to) = ids.get(reference) {
                    self.rows.insert_reference(connection, from, to)?;
                }
            }
        }
        Ok(())
    }

    fn realisation(
        &self,
        connection: &Connection,
        realisation: &Realisation,
    ) -> Result<(), WriteError> {
        let Some(output) = self.rows.id(connection, &realisation.out_path)? else {
            return Err(WriteError::NotFound(realisation.out_path.clone()));
        };
        // The realisation may be dropped: by a store that another process had open before the table
        // existed.
        Ok(self.rows.remember(connection, realisation, output)?)
    }
}

/// Two new paths in a cycle, the first of which refers to the second.
fn find_cycle(new: &[&Registration]) -> Option<(StorePath, StorePath)> {
    // Only new paths can refer to a new path.
    let mut left: HashMap<&StorePath, HashSet<&StorePath>> = HashMap::new();
    if new.len() < 2 {
        return None;
    }
    let paths: HashSet<&StorePath> = new.iter().map(|new| &new.info.path).collect();
    // Usually the paths are in order already.
    let mut later = paths.clone();
    if new.iter().all(|registration| {
        let path = &registration.info.path;
        let mut references = registration.info.references.iter();
        let in_order = references.all(|reference| reference == path || !later.contains(reference));
        later.remove(path);
        in_order
    }) {
        return None;
    }
    for registration in new {
        let path = &registration.info.path;
        let references = registration.info.references.iter();
        let within = references.filter(|reference| *reference != path && paths.contains(reference));
        left.insert(path, within.collect());
    }
    // A path without remaining references is in no cycle.
    loop {
        let free: Vec<&StorePath> = left
            .iter()
            .filter(|(_, references)| references.is_empty())
            .map(|(path, _)| *path)
            .collect();
        if free.is_empty() {
            break;
        }
        for path in free {
            left.remove(path);
            for references in left.values_mut() {
                references.remove(path);
            }
        }
    }
    // Each remaining path is in a cycle or leads to one, so following references reaches a cycle.
    let mut path = *left.keys().min()?;
    let mut seen = HashSet::new();
    loop {
        let next = *left.get(path)?.iter().min()?;
        if !seen.insert(path) {
            return Some((path.clone(), next.clone()));
        }
        path = next;
    }
}

// A panic rolls the transaction back and leaves the queue consistent, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
