//! Limits on time and memory for reading a malicious database.
//!
//! A database file defines its own views, generated columns and page trees, and several pages may
//! point to the same page. A file of a few kilobytes can therefore have more rows than fit into
//! memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::error::DbError;

/// Size limit of a text or row that is read or written, in bytes. Ten thousand signatures fit.
const LONGEST: i32 = 1024 * 1024;

/// Number of steps of SQLite's virtual machine between two calls of the progress handler.
const STEPS: i32 = 100_000;

/// Number of steps that are allowed regardless of the size of the database.
const FREE_STEPS: u64 = 1_000_000;

/// Number of further steps for each byte of the database. Reading a row of 100 bytes takes about 20
/// steps.
const STEPS_A_BYTE: u64 = 16;

/// Number of bytes that may be read regardless of the size of the database.
const FREE_BYTES: u64 = 1024 * 1024;

const TABLES: [&str; 3] = ["ValidPaths", "Refs", "DerivationOutputs"];

/// A reading connection, and the number of steps since [`Reader::begin`].
pub(super) struct Reader {
    pub connection: Connection,
    steps: Arc<AtomicU64>,
}

impl Reader {
    /// Limits the steps of a connection to the database `path`.
    pub fn new(mut connection: Connection, path: &Path) -> rusqlite::Result<Self> {
        let steps = Arc::<AtomicU64>::default();
        let (taken, path) = (steps.clone(), path.to_owned());
        let is_too_much = move || {
            let taken = taken.fetch_add(STEPS as u64, Ordering::Relaxed);
            taken >= FREE_STEPS && {
                // The write-ahead log holds the rows that are not in the database file yet.
                let size = |path: &Path| std::fs::metadata(path).map_or(0, |it| it.len());
                let mut log = path.clone().into_os_string();
                log.push("-wal");
                let size = size(&path) + size(log.as_ref());
                taken >= FREE_STEPS + size.saturating_mul(STEPS_A_BYTE)
            }
        };
        connection.progress_handler(STEPS, Some(is_too_much))?;
        Ok(Self { connection, steps })
    }

    /// Resets the step count, before a new operation.
    pub fn begin(&self) {
        self.steps.store(0, Ordering::Relaxed);
    }
}

/// Makes SQLite distrust the schema of the database. Called before anything is read.
pub(super) fn restrict(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(())
}

/// Checks that this is a database of Nix: its tables exist and are stored, not computed. Opening a
/// connection reads nothing; this is the first read.
pub(super) fn check(connection: &Connection) -> Result<(), DbError> {
    for table in TABLES {
        if !is_sound_table(connection, table)? {
            return Err(DbError::NotNix(table));
        }
    }
    Ok(())
}

/// Whether the table exists and all its columns are stored, not computed.
pub(super) fn is_sound_table(connection: &Connection, table: &str) -> Result<bool, DbError> {
    let mut is_table = connection.prepare_cached(
        "select rootpage > 0 from sqlite_master where type = 'table' and name = ?",
    )?;
    let mut computed = connection
        .prepare_cached("select name from pragma_table_xinfo(?) where hidden != 0 limit 1")?;
    let mut rows = is_table.query([table])?;
    let holds = match rows.next()? {
        Some(row) => row.get(0)?,
        None => false,
    };
    Ok(holds && !computed.exists([table])?)
}

/// Counts the bytes that are read. More bytes than the size of the database are a contradiction,
/// and would exhaust memory.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: u64,
    size: Option<u64>,
}

impl Room {
    /// Counts another row, of which `bytes` bytes are kept.
    pub fn take(&mut self, connection: &Connection, bytes: usize) -> Result<(), DbError> {
        // Each cell takes at least four bytes of its page.
        self.bytes += bytes as u64 + 4;
        if self.bytes <= FREE_BYTES {
            return Ok(());
        }
        let size = match self.size {
            Some(size) => size,
            None => {
                let pragma = |name| connection.pragma_query_value(None, name, |row| row.get(0));
                let (pages, page): (i64, i64) = (pragma("page_count")?, pragma("page_size")?);
                *self
                    .size
                    .insert(pages.unsigned_abs().saturating_mul(page.unsigned_abs()))
            }
        };
        match self.bytes > size {
            true => Err(DbError::Contradiction(
                "it has more rows than it has room for".to_owned(),
            )),
            false => Ok(()),
        }
    }
}
