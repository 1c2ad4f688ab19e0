//! Queries and deletions of garbage collection.

use nix_compat::store_path::StorePath;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};

use super::Database;
use super::distrust::{Room, is_sound_table};
use super::error::DbError;
use super::schema::REALISATIONS;
use super::write::{WriteError, Writer};
use crate::StoreError;

/// All valid paths and their edges, from one state of the database.
#[derive(Debug, Default)]
pub(in crate::local_fs) struct Snapshot {
    pub paths: Vec<PathRow>,
    /// Pairs of ids: referrer and reference.
    pub references: Vec<(i64, i64)>,
    /// The id of a derivation and the text of an output path; empty unless requested.
    pub outputs: Vec<(i64, String)>,
}

/// The columns of a valid path that a collection needs.
#[derive(Debug)]
pub(in crate::local_fs) struct PathRow {
    pub id: i64,
    /// The text in the database, with the store directory.
    pub path: String,
    pub deriver: Option<String>,
    pub registration_time: i64,
}

impl Database {
    /// Reads all rows. A malformed row is passed on, because only a collector can remove it.
    pub fn snapshot(&self, outputs: bool) -> Result<Snapshot, StoreError> {
        self.read(|_, connection| {
            let (mut snapshot, mut room) = (Snapshot::default(), Room::default());
            let mut statement = connection
                .prepare_cached("select id, path, deriver, registrationTime from ValidPaths")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let row = PathRow {
                    id: row.get(0)?,
                    path: row.get(1)?,
                    deriver: row.get(2)?,
                    registration_time: row.get(3)?,
                };
                let deriver = row.deriver.as_ref().map_or(0, String::len);
                room.take(connection, row.path.len() + deriver)?;
                snapshot.paths.push(row);
            }
            let mut statement = connection.prepare_cached(
                "select referrer, reference from Refs where referrer != reference",
            )?;
            let mut rows = statement.query([])?;
            let mut room = Room::default();
            while let Some(row) = rows.next()? {
                room.take(connection, 0)?;
                snapshot.references.push((row.get(0)?, row.get(1)?));
            }
            if outputs {
                let mut statement =
                    connection.prepare_cached("select drv, path from DerivationOutputs")?;
                let mut rows = statement.query([])?;
                let mut room = Room::default();
                while let Some(row) = rows.next()? {
                    let output: (i64, String) = (row.get(0)?, row.get(1)?);
                    room.take(connection, output.1.len())?;
                    snapshot.outputs.push(output);
                }
            }
            Ok(snapshot)
        })
    }

    /// Runs SQLite's integrity check.
    pub fn check_integrity(&self) -> Result<(), StoreError> {
        self.read(|_, connection| {
            for (check, expected) in [
                ("select * from pragma_quick_check", Some("ok")),
                ("select \"table\" from pragma_foreign_key_check", None),
            ] {
                let mut statement = connection.prepare(check)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    let found: String = row.get(0)?;
                    if expected != Some(found.as_str()) {
                        return Err(DbError::Contradiction(found));
                    }
                }
            }
            Ok(())
        })
    }

    /// Deletes the rows of those of `paths` without referrers, and returns the deleted paths.
    pub fn forget(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        let mut left = self.read(|rows, connection| {
            let mut left = Vec::new();
            for path in paths {
                if let Some(id) = rows.id(connection, path)? {
                    left.push((id, path));
                }
            }
            Ok(left)
        })?;
        let mut forgotten = Vec::new();
        // Paths may refer to each other.
        while !left.is_empty() {
            let ids: Vec<i64> = left.iter().map(|(id, _)| *id).collect();
            let referred_to = self.remove(&ids)?;
            let before = left.len();
            left.retain(|(id, path)| {
                let stays = referred_to.contains(id);
                if !stays {
                    forgotten.push((*path).clone());
                }
                stays
            });
            if left.len() == before {
                break;
            }
        }
        Ok(forgotten)
    }

    /// Deletes the rows with these ids, in this order, in one transaction. The transaction is on
    /// disk when this returns: files may only be deleted when no power failure can restore their
    /// row. Returns the ids with other referrers; their rows stay.
    pub fn remove(&self, ids: &[i64]) -> Result<Vec<i64>, StoreError> {
        let removed = self.writer()?.remove(ids);
        removed.map_err(|error| self.write_error(error))
    }
}

/// Page cache limit during deletion, in KiB as SQLite expects it. The rows of a group are spread
/// over the whole database, and each page should be written once.
const REMOVAL_CACHE: i64 = -64 * 1024;

impl Writer {
    fn remove(&self, ids: &[i64]) -> Result<Vec<i64>, WriteError> {
        let mut connection = self.connection();
        let settings = [("synchronous", 2), ("cache_size", REMOVAL_CACHE)];
        let mut before = Vec::with_capacity(settings.len());
        for (name, value) in settings {
            let old: i64 = connection.pragma_query_value(None, name, |row| row.get(0))?;
            connection.pragma_update(None, name, value)?;
            before.push((name, old));
        }
        let removed = remove(&mut connection, ids);
        for (name, value) in before {
            connection.pragma_update(None, name, value)?;
        }
        Ok(removed?)
    }
}

fn remove(connection: &mut Connection, ids: &[i64]) -> Result<Vec<i64>, DbError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut referred_to = Vec::new();
    {
        let realisations = is_sound_table(&transaction, "RealisationsRefs")?
            && is_sound_table(&transaction, REALISATIONS)?
            && transaction
                .prepare_cached("select 1 from RealisationsRefs limit 1")?
                .exists([])?;
        let mut realisations = match realisations {
            true => Some(transaction.prepare_cached(
                // The foreign key of references would prevent the deletion of their target.
                "delete from RealisationsRefs where realisationReference in
                 (select id from Realisations where outputPath = ?)",
            )?),
            false => None,
        };
        let mut delete = transaction.prepare_cached("delete from ValidPaths where id = ?")?;
        for &id in ids {
            if let Some(statement) = &mut realisations {
                statement.execute([id])?;
            }
            match delete.execute([id]) {
                Err(rusqlite::Error::SqliteFailure(
                    ffi::Error {
                        code: ErrorCode::ConstraintViolation,
                        ..
                    },
                    _,
                )) => referred_to.push(id),
                deleted => {
                    deleted?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(referred_to)
}
