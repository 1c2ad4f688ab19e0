//! What keeps a database that somebody has made on purpose from taking time or memory without end.
//!
//! A database comes with its own views, generated columns and trees of pages, and pages may lead to
//! the same pages again and again: a few kilobytes can have more rows than there is memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;

use super::rows::DbError;

/// The longest text that is read or written, and the longest row, in bytes. Ten thousand signatures fit.
const LONGEST: i32 = 1024 * 1024;

/// Steps of SQLite's machine between two looks at how many there were.
const STEPS: i32 = 100_000;

/// So many steps are taken without looking at how large the database is.
const FREE_STEPS: u64 = 1_000_000;

/// For each byte of the database. Reading a row of 100 bytes takes about 20.
const STEPS_A_BYTE: u64 = 16;

/// So much is read without looking at how large the database is, in bytes.
const FREE_BYTES: u64 = 1024 * 1024;

const TABLES: [&str; 3] = ["ValidPaths", "Refs", "DerivationOutputs"];

/// A connection that reads, and the steps that it has taken since [`Reader::begin`].
pub(super) struct Reader {
    pub connection: Connection,
    steps: Arc<AtomicU64>,
}

impl Reader {
    /// Sets limits to what a connection to the database `path` does.
    pub fn new(mut connection: Connection, path: &Path) -> rusqlite::Result<Self> {
        let steps = Arc::<AtomicU64>::default();
        let (taken, path) = (steps.clone(), path.to_owned());
        let is_too_much = move || {
            let taken = taken.fetch_add(STEPS as u64, Ordering::Relaxed);
            taken >= FREE_STEPS && {
                // What is not in the database yet is in the log.
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

    /// What follows may take its own time.
    pub fn begin(&self) {
        self.steps.store(0, Ordering::Relaxed);
    }
}

/// Has SQLite believe little of what the database says of itself. Before anything is read.
pub(super) fn restrict(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LONGEST)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    Ok(())
}

/// Opening reads nothing; this does, and finds out whether it is Nix's database: its tables are
/// there, and hold what is in them rather than compute it.
pub(super) fn check(connection: &Connection) -> Result<(), DbError> {
    for table in TABLES {
        if !is_sound_table(connection, table)? {
            return Err(DbError::NotNix(table));
        }
    }
    Ok(())
}

/// Whether there is such a table, and it holds its columns rather than computes them.
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

/// Counts what is read of a database: more than there is in it is a contradiction, and takes memory.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: u64,
    size: Option<u64>,
}

impl Room {
    /// Another row has come, of which so many bytes are kept.
    pub fn take(&mut self, connection: &Connection, bytes: usize) -> Result<(), DbError> {
        // Each cell takes four of its page at least.
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
