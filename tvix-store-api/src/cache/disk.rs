//! Answers of caches on disk, shared between processes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

/// The form of the database; another one is replaced.
const FORM: i64 = 1;

/// The size limit of the database in pages of 4 KiB: 256 MiB. A full one begins anew.
const PAGES: i64 = 65_536;

/// How long a process waits for another one that writes. An answer that cannot be remembered is asked
/// for again.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often expired answers are removed.
const PURGE: Duration = Duration::from_secs(24 * 60 * 60);

const SCHEMA: &str = "
    create table Caches (
        id   integer primary key not null,
        url  text unique not null,
        at   integer not null,
        info blob not null
    );
    create table Narinfos (
        cache   integer not null,
        digest  blob not null,
        at      integer not null,
        narinfo blob,
        primary key (cache, digest)
    ) without rowid;
    create table Purged (at integer not null);
";

/// Answers of binary caches that are remembered on disk: `nix-cache-info`, narinfos, and that there
/// is none. Clones are handles on the same file. Nix has a file of the same kind and its own form.
///
/// What is remembered is text as the cache sent it. It is parsed and its signatures are verified each
/// time, so that the file is never trusted more than the cache. A file that cannot be used is created
/// anew; if that fails too, nothing is remembered. Processes share it.
#[derive(Debug, Clone)]
pub struct DiskCache {
    inner: Arc<Inner>,
    ttls: Ttls,
}

/// How long answers hold.
#[derive(Debug, Clone, Copy)]
struct Ttls {
    positive: Duration,
    negative: Duration,
    info: Duration,
}

#[derive(Debug)]
struct Inner {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed,
    Open(Connection),
    Unusable,
}

impl DiskCache {
    /// The answers in a file, which is created when it is needed, with its directory. Answers hold as
    /// long as in Nix: narinfos 30 days, the absence of one an hour, `nix-cache-info` seven days.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner {
                file: file.into(),
                state: Mutex::new(State::Closed),
            }),
            ttls: Ttls {
                positive: Duration::from_secs(30 * 24 * 60 * 60),
                negative: Duration::from_secs(60 * 60),
                info: Duration::from_secs(7 * 24 * 60 * 60),
            },
        }
    }

    /// Sets how long a narinfo holds (`narinfo-cache-positive-ttl`); with zero it is asked for again.
    #[must_use]
    pub fn with_positive_ttl(mut self, ttl: Duration) -> Self {
        self.ttls.positive = ttl;
        self
    }

    /// Sets how long the absence of a path holds (`narinfo-cache-negative-ttl`).
    #[must_use]
    pub fn with_negative_ttl(mut self, ttl: Duration) -> Self {
        self.ttls.negative = ttl;
        self
    }

    /// Sets how long `nix-cache-info` holds (`narinfo-cache-meta-ttl`).
    #[must_use]
    pub fn with_info_ttl(mut self, ttl: Duration) -> Self {
        self.ttls.info = ttl;
        self
    }

    /// The `nix-cache-info` of a cache.
    pub(super) async fn info(&self, url: &str) -> Option<Bytes> {
        let (url, ttl) = (url.to_owned(), self.ttls.info);
        let found = self.run(move |db| {
            let row = db.prepare_cached("select at, info from Caches where url = ?")?;
            let mut row = row;
            let found = row.query_row([&url], |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?)));
            found.optional()
        });
        let (at, info) = found.await.flatten()?;
        holds(at, ttl).then(|| info.into())
    }

    /// Remembers the `nix-cache-info` of a cache.
    pub(super) async fn learn_info(&self, url: &str, info: Bytes) {
        let url = url.to_owned();
        self.run(move |db| {
            db.prepare_cached(
                "insert into Caches (url, at, info) values (?1, ?2, ?3)
                 on conflict (url) do update set at = ?2, info = ?3",
            )?
            .execute(params![url, now(), &info[..]])
        })
        .await;
    }

    /// The narinfo of a path; the inner `None` is that the cache does not have it.
    pub(super) async fn narinfo(&self, url: &str, digest: [u8; 20]) -> Option<Option<Bytes>> {
        let url = url.to_owned();
        let found = self.run(move |db| {
            let mut query = db.prepare_cached(
                "select n.at, n.narinfo from Narinfos n join Caches c on c.id = n.cache
                 where c.url = ? and n.digest = ?",
            )?;
            let row = query.query_row(params![url, digest], |row| {
                Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?))
            });
            row.optional()
        });
        let (at, narinfo) = found.await.flatten()?;
        let ttl = match narinfo {
            Some(_) => self.ttls.positive,
            None => self.ttls.negative,
        };
        holds(at, ttl).then(|| narinfo.map(Bytes::from))
    }

    /// Remembers the narinfo of a path, or that there is none.
    pub(super) async fn learn(&self, url: &str, digest: [u8; 20], narinfo: Option<Bytes>) {
        let url = url.to_owned();
        self.run(move |db| {
            let insert = "insert or replace into Narinfos (cache, digest, at, narinfo)
                          select id, ?2, ?3, ?4 from Caches where url = ?1";
            let row = params![url, digest, now(), narinfo.as_deref()];
            if db.prepare_cached(insert)?.execute(row)? > 0 {
                return Ok(());
            }
            // The file is a new one. What the cache says about itself is asked for the next time.
            let add = "insert or ignore into Caches (url, at, info) values (?, 0, x'')";
            db.prepare_cached(add)?.execute([&url])?;
            db.prepare_cached(insert)?.execute(row)?;
            Ok(())
        })
        .await;
    }

    /// Does something with the database; `None` if that is impossible.
    async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Option<T> {
        let (inner, ttls) = (self.inner.clone(), self.ttls);
        let done = tokio::task::spawn_blocking(move || inner.run(ttls, work));
        done.await.ok().flatten()
    }
}

impl Inner {
    fn run<T>(&self, ttls: Ttls, work: impl Fn(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Once more with a new file, if this one cannot be used.
        for _ in 0..2 {
            if let State::Closed = *state {
                *state = open(&self.file, ttls).map_or(State::Unusable, State::Open);
            }
            let State::Open(db) = &*state else {
                return None;
            };
            match work(db) {
                Ok(done) => return Some(done),
                Err(error) if is_broken(&error) => {
                    *state = State::Closed;
                    if remove(&self.file).is_err() {
                        *state = State::Unusable;
                    }
                }
                // Another process writes for long, or the disk is full: nothing is remembered.
                Err(_) => return None,
            }
        }
        None
    }
}

/// Whether an error is one of the file, which is then created anew: it is damaged, is of another
/// form, or has reached its limit.
fn is_broken(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(error, _) => matches!(
            error.code,
            ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::DiskFull
                | ErrorCode::SchemaChanged
                | ErrorCode::TypeMismatch
                | ErrorCode::Unknown
        ),
        // Tables of another form.
        rusqlite::Error::SqlInputError { .. }
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::FromSqlConversionFailure(..) => true,
        _ => false,
    }
}

/// Opens the file; a file that cannot be used is replaced.
fn open(file: &Path, ttls: Ttls) -> Option<Connection> {
    std::fs::create_dir_all(file.parent()?).ok()?;
    match try_open(file, ttls) {
        Ok(db) => Some(db),
        Err(error) if is_broken(&error) => {
            remove(file).ok()?;
            try_open(file, ttls).ok()
        }
        Err(_) => None,
    }
}

fn try_open(file: &Path, ttls: Ttls) -> rusqlite::Result<Connection> {
    let db = Connection::open(file)?;
    db.busy_timeout(PATIENCE)?;
    // What a power failure takes away is asked for again.
    db.execute_batch("pragma journal_mode = wal; pragma synchronous = off;")?;
    db.pragma_update(None, "max_page_count", PAGES)?;
    let form =
        |db: &Connection| db.query_row("pragma user_version", [], |row| row.get::<_, i64>(0));
    match form(&db)? {
        FORM => {}
        0 => {
            db.execute_batch("begin immediate")?;
            // Another process may have come first.
            if form(&db)? == 0 {
                db.execute_batch(SCHEMA)?;
                db.pragma_update(None, "user_version", FORM)?;
            }
            db.execute_batch("commit")?;
        }
        _ => {
            let message = Some("another form".to_owned());
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
            return Err(rusqlite::Error::SqliteFailure(code, message));
        }
    }
    purge(&db, ttls)?;
    Ok(db)
}

/// Removes expired answers, now and then.
fn purge(db: &Connection, ttls: Ttls) -> rusqlite::Result<()> {
    let last = db.query_row("select max(at) from Purged", [], |row| {
        row.get::<_, Option<i64>>(0)
    })?;
    if last.is_some_and(|at| holds(at, PURGE)) {
        return Ok(());
    }
    let before = |ttl: Duration| now().saturating_sub(seconds(ttl));
    db.execute(
        "delete from Narinfos where (narinfo is null and at < ?1) or at < ?2",
        [before(ttls.negative), before(ttls.positive)],
    )?;
    db.execute("delete from Purged", [])?;
    db.execute("insert into Purged (at) values (?)", [now()])?;
    Ok(())
}

fn remove(file: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    elapsed.map_or(0, seconds)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Whether an answer of a time holds. One of the future does not: the clock was wrong.
fn holds(at: i64, ttl: Duration) -> bool {
    let now = now();
    at <= now && now - at < seconds(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://cache";
    const THERE: [u8; 20] = [1; 20];
    const MISSING: [u8; 20] = [2; 20];

    async fn filled(file: &Path) -> DiskCache {
        let cache = DiskCache::new(file);
        cache.learn_info(URL, "StoreDir: /nix/store\n".into()).await;
        cache.learn(URL, THERE, Some("text".into())).await;
        cache.learn(URL, MISSING, None).await;
        cache
    }

    #[tokio::test]
    async fn answers_are_remembered_for_their_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/b/answers");
        filled(&file).await;
        // Another process.
        let cache = DiskCache::new(&file);
        assert!(cache.info(URL).await.is_some());
        assert_eq!(cache.narinfo(URL, THERE).await, Some(Some("text".into())));
        assert_eq!(cache.narinfo(URL, MISSING).await, Some(None));
        assert_eq!(cache.narinfo(URL, [3; 20]).await, None);
        assert_eq!(cache.narinfo("https://other", THERE).await, None);
        let expired = cache.clone().with_positive_ttl(Duration::ZERO);
        assert_eq!(expired.narinfo(URL, THERE).await, None);
        assert_eq!(expired.narinfo(URL, MISSING).await, Some(None));
        let expired = cache.with_negative_ttl(Duration::ZERO);
        assert_eq!(expired.narinfo(URL, MISSING).await, None);
        let expired = expired.with_info_ttl(Duration::ZERO);
        assert!(expired.info(URL).await.is_none());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_used_is_created_anew() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("answers");
        let damages: [&dyn Fn(&Path); 4] = [
            &|file| std::fs::write(file, "no database, but a text that is long enough").unwrap(),
            &|file| {
                let mut bytes = std::fs::read(file).unwrap();
                bytes[100..].fill(0xa5);
                std::fs::write(file, bytes).unwrap();
            },
            &|file| {
                let db = Connection::open(file).unwrap();
                db.execute_batch("drop table Narinfos; create table Narinfos (x)")
                    .unwrap();
            },
            &|file| {
                let db = Connection::open(file).unwrap();
                db.pragma_update(None, "user_version", 77).unwrap();
            },
        ];
        for damage in damages {
            drop(filled(&file).await);
            damage(&file);
            let cache = filled(&file).await;
            assert_eq!(cache.narinfo(URL, THERE).await, Some(Some("text".into())));
        }
        // A place where nothing can be created.
        std::fs::write(directory.path().join("file"), "").unwrap();
        let cache = filled(&directory.path().join("file/answers")).await;
        assert_eq!(cache.narinfo(URL, THERE).await, None);
    }
}
