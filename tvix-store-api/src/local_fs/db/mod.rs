//! The database of a local store.

mod collect;
mod distrust;
mod error;
mod realisations;
mod rows;
mod schema;
mod write;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::signature::Signature;
use nix_compat::store_path::{StoreDir, StorePath};
use rusqlite::{Connection, ErrorCode, OpenFlags};

#[cfg(test)]
pub(super) use self::collect::PathRow;
pub(super) use self::collect::Snapshot;
use self::distrust::{Reader, Room, check, restrict};
use self::error::DbError;
use self::rows::Rows;
pub(super) use self::write::Registration;
use self::write::{Write, WriteError, Writer};
use super::options::Durability;
use crate::{StoreError, StoreUri};

/// Number of idle reading connections that are kept. More do not help: each takes a thread, and has
/// to prepare its statements.
pub(super) const READERS: usize = 4;

/// Enough for every statement of this module.
const CACHED_STATEMENTS: usize = 48;

/// Number of pages in the write-ahead log before a checkpoint, which takes a sync. As in Nix: ten
/// times SQLite's default.
const CHECKPOINT_PAGES: u32 = 10_000;

/// Options of [`Database::open`].
pub(super) struct DatabaseOptions {
    pub uri: StoreUri,
    pub path: PathBuf,
    pub store_dir: StoreDir,
    pub read_only: bool,
    pub durability: Durability,
    pub busy_timeout: Duration,
    /// Called before each commit.
    pub before_commit: Box<dyn Fn() -> std::io::Result<()> + Send + Sync>,
}

/// The database. Every method blocks.
pub(super) struct Database {
    uri: StoreUri,
    path: PathBuf,
    rows: Rows,
    busy_timeout: Duration,
    /// A read-only file system cannot hold a write-ahead log beside the database.
    immutable: bool,
    /// Device and inode.
    identity: Option<(u64, u64)>,
    writer: Option<Writer>,
    idle: Mutex<Vec<Reader>>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Database {
    /// Creates the database of a new store, including the tables of realisations.
    pub fn create(uri: &StoreUri, path: &Path, busy_timeout: Duration) -> Result<(), StoreError> {
        let created = || -> rusqlite::Result<()> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
                | OpenFlags::SQLITE_OPEN_CREATE
                | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(busy_timeout)?;
            // No other process uses it yet, so one sync at the end is enough.
            connection.pragma_update(None, "synchronous", "off")?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            schema::create(&connection)
        };
        created().map_err(|error| failed(uri, "create", path, error.into()))?;
        let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
        synced.map_err(|error| StoreError::Backend {
            store: uri.clone(),
            action: format!("sync '{}'", path.display()),
            retryable: false,
            source: error.into(),
        })
    }

    /// Adds the tables of realisations by hash.
    pub fn add_realisations(
        uri: &StoreUri,
        path: &Path,
        busy_timeout: Duration,
    ) -> Result<(), StoreError> {
        let added = || -> Result<(), DbError> {
            let connection = open_writer(path, busy_timeout, Durability::Relaxed)?;
            Ok(schema::create_realisations(&connection)?)
        };
        added().map_err(|error| failed(uri, "open", path, error))
    }

    pub fn open(options: DatabaseOptions) -> Result<Self, StoreError> {
        let rows = Rows {
            store_dir: options.store_dir,
        };
        let mut database = Self {
            uri: options.uri,
            path: options.path,
            rows: rows.clone(),
            busy_timeout: options.busy_timeout,
            immutable: false,
            identity: None,
            writer: None,
            idle: Mutex::default(),
        };
        if options.read_only {
            let (connection, immutable) = database
                .open_reader()
                .map(|connection| (connection, false))
                .or_else(|first| {
                    // Where a log can be created, other processes may be writing, and the log must
                    // be read.
                    let folder = database.path.parent().unwrap_or(&database.path);
                    if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok() {
                        return Err(first);
                    }
                    database.immutable = true;
                    let opened = database.open_reader();
                    opened.map(|connection| (connection, true)).or(Err(first))
                })
                .map_err(|error| database.failed("open", error))?;
            database.immutable = immutable;
            database.idle = Mutex::new(vec![connection]);
        } else {
            let mut connection =
                open_writer(&database.path, database.busy_timeout, options.durability)
                    .map_err(|error| database.failed("open", error))?;
            // Without the table, realisations of that form are not remembered.
            let _ = schema::create_build_trace(&mut connection);
            database.writer = Some(Writer::new(connection, rows, options.before_commit));
        }
        database.identity = identity(&database.path);
        Ok(database)
    }

    /// Whether the file is still the one that was opened.
    pub fn is_there(&self) -> bool {
        self.identity == identity(&self.path)
    }

    pub fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.read(|rows, connection| rows.info(connection, path))
    }

    /// The info of a path, with the id of its row. A path that is registered again gets a new id.
    pub fn row(&self, path: &StorePath) -> Result<Option<(i64, Arc<PathInfo>)>, StoreError> {
        self.read(|rows, connection| {
            let id = rows.id(connection, path)?;
            let info = rows.info(connection, path)?;
            Ok(id.zip(info))
        })
    }

    pub fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        self.read_each(paths, |rows, connection, path| rows.info(connection, path))
    }

    pub fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.read(|rows, connection| match rows.find(connection, digest)? {
            Some(path) => rows.info(connection, &path),
            None => Ok(None),
        })
    }

    pub fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let ids = self.read_each(paths, |rows, connection, path| rows.id(connection, path))?;
        let valid = paths.iter().zip(ids).filter(|(_, id)| id.is_some());
        Ok(valid.map(|(path, _)| path.clone()).collect())
    }

    pub fn is_valid(&self, path: &StorePath) -> Result<bool, StoreError> {
        self.read(|rows, connection| Ok(rows.id(connection, path)?.is_some()))
    }

    /// The valid paths that refer to `path`.
    pub fn referrers(&self, path: &StorePath) -> Result<Vec<StorePath>, StoreError> {
        self.list(
            "select referring.path from ValidPaths as referred
             join Refs on reference = referred.id
             join ValidPaths as referring on referring.id = referrer
             where referred.path = ?",
            Some(path),
        )
    }

    /// The valid derivations with the output `path`.
    pub fn derivers(&self, path: &StorePath) -> Result<Vec<StorePath>, StoreError> {
        self.list(
            "select v.path from DerivationOutputs d join ValidPaths v on d.drv = v.id where d.path = ?",
            Some(path),
        )
    }

    /// All valid paths.
    pub fn all_paths(&self) -> Result<Vec<StorePath>, StoreError> {
        self.list("select path from ValidPaths", None)
    }

    pub fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.read(|rows, connection| rows.realisation(connection, id))
    }

    /// The realisations with these output paths.
    pub fn realisations_of(&self, paths: &[StorePath]) -> Result<Vec<Realisation>, StoreError> {
        let by_hash = self.read_each(paths, Rows::realisations_of)?;
        let by_path = self.read(|rows, connection| rows.traces_of(connection, paths))?;
        Ok(by_hash.into_iter().flatten().chain(by_path).collect())
    }

    /// Registers all of `paths` or none. Rows of paths that are already valid are unchanged.
    pub fn register(&self, paths: Vec<Registration>) -> Result<(), StoreError> {
        self.write(Write::Paths(paths))
    }

    pub fn add_realisation(&self, realisation: Realisation) -> Result<(), StoreError> {
        self.write(Write::Realisation(realisation))
    }

    pub fn add_signatures(
        &self,
        path: StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError> {
        self.write(Write::Signatures(path, signatures))
    }

    /// The result is sorted by text.
    fn list(&self, query: &str, path: Option<&StorePath>) -> Result<Vec<StorePath>, StoreError> {
        self.read(|rows, connection| {
            let mut statement = connection.prepare_cached(query)?;
            let parameter = path.map(|path| rows.store_dir.display(path).to_string());
            let found = statement.query_map(rusqlite::params_from_iter(parameter), |row| {
                row.get::<_, String>(0)
            })?;
            let (mut paths, mut room) = (Vec::new(), Room::default());
            for text in found {
                let text = text?;
                room.take(connection, text.len())?;
                paths.push((rows.parse(&text, "path", &text)?, text));
            }
            // Sorted here: SQLite would first collect every row that a malicious database produces.
            paths.sort_by(|(_, one), (_, other)| one.cmp(other));
            Ok(paths.into_iter().map(|(path, _)| path).collect())
        })
    }

    /// Runs queries on one state of the database.
    fn read<T>(
        &self,
        query: impl FnOnce(&Rows, &Connection) -> Result<T, DbError>,
    ) -> Result<T, StoreError> {
        self.with_reader(|reader| query(&self.rows, &reader.connection))
    }

    /// As [`read`](Self::read), for any number of `paths`.
    fn read_each<T>(
        &self,
        paths: &[StorePath],
        query: impl Fn(&Rows, &Connection, &StorePath) -> Result<T, DbError>,
    ) -> Result<Vec<T>, StoreError> {
        self.with_reader(|reader| {
            let each = paths.iter().map(|path| {
                reader.begin();
                query(&self.rows, &reader.connection, path)
            });
            each.collect()
        })
    }

    fn with_reader<T>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, DbError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle().pop();
        let result = (|| -> Result<T, DbError> {
            let reader = match idle {
                Some(reader) => reader,
                None => self.open_reader()?,
            };
            reader.begin();
            let transaction = reader.connection.unchecked_transaction()?;
            let result = query(&reader)?;
            transaction.finish()?;
            let mut idle = self.idle();
            if idle.len() < READERS {
                idle.push(reader);
            }
            Ok(result)
        })();
        result.map_err(|error| self.failed("read", error))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_reader(&self) -> Result<Reader, DbError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if self.immutable {
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(&self.path), flags)?
        } else {
            Connection::open_with_flags(&self.path, flags)?
        };
        connection.busy_timeout(self.busy_timeout)?;
        connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
        restrict(&connection)?;
        let reader = Reader::new(connection, &self.path)?;
        check(&reader.connection)?;
        Ok(reader)
    }

    fn writer(&self) -> Result<&Writer, StoreError> {
        self.writer.as_ref().ok_or_else(|| StoreError::ReadOnly {
            store: self.uri.clone(),
        })
    }

    fn write(&self, write: Write) -> Result<(), StoreError> {
        let written = self.writer()?.write(write);
        written.map_err(|error| self.write_error(error))
    }

    fn write_error(&self, error: WriteError) -> StoreError {
        let store = || self.uri.clone();
        match error {
            WriteError::Db(error) => self.failed("write", error),
            WriteError::InvalidReference { path, reference } => StoreError::InvalidReference {
                store: store(),
                path,
                reference,
            },
            WriteError::Cycle { path, other } => StoreError::Cycle { path, other },
            WriteError::NotFound(path) => StoreError::NotFound {
                store: store(),
                path,
            },
            WriteError::Sync(source) => StoreError::Backend {
                store: store(),
                action: "sync new files to disk".to_owned(),
                retryable: false,
                source: source.into(),
            },
            WriteError::Lost => StoreError::Bug {
                store: store(),
                message: "a write to the database was not answered".to_owned(),
            },
        }
    }

    fn failed(&self, action: &str, error: DbError) -> StoreError {
        failed(&self.uri, action, &self.path, error)
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn open_writer(
    path: &Path,
    busy_timeout: Duration,
    durability: Durability,
) -> Result<Connection, DbError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    restrict(&connection)?;
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    let synchronous = match durability {
        Durability::Relaxed => "normal",
        Durability::Full => "full",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "wal")?;
    }
    check(&connection)?;
    Ok(connection)
}

fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(byte as char);
            }
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri + "?immutable=1"
}

fn failed(uri: &StoreUri, action: &str, path: &Path, error: DbError) -> StoreError {
    let busy = matches!(
        &error,
        DbError::Sqlite(rusqlite::Error::SqliteFailure(failure, _))
            if matches!(failure.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    );
    StoreError::Backend {
        store: uri.clone(),
        action: format!("{action} the database '{}'", path.display()),
        retryable: busy,
        source: match error {
            DbError::Sqlite(rusqlite::Error::SqliteFailure(failure, _))
                if failure.code == ErrorCode::OperationInterrupted =>
            {
                DbError::Contradiction("reading it takes no end".to_owned()).into()
            }
            DbError::Sqlite(error) => error.into(),
            other => other.into(),
        },
    }
}
