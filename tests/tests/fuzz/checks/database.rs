//! Read-only access to an arbitrary database of a local store: any contents of its rows, or of the
//! file, lead to a result or to an error that names the database. No access panics, and results are
//! limited by the size of the database.
//!
//! The first byte tells the kind of the rest: a complete file; changes of single bytes in a valid
//! database (two bytes for the offset, one for the value); or values of columns, separated by bytes
//! of 255.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use tempfile::TempDir;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, VerifyOptions};
use tvix_store_api::{Store as _, StoreError, StoreExt as _};

const PATHS: [&str; 2] = [
    "00bgd045z0d4icpbc2yyz4gx48ak44la-one",
    "01bgd045z0d4icpbc2yyz4gx48ak44la-two.drv",
];

/// The tables with columns that have no type, so that SQLite converts no values.
const BARE: &str = "
    create table ValidPaths (id integer primary key, path, hash, registrationTime, deriver, narSize,
        ultimate, sigs, ca);
    create table Refs (referrer, reference);
    create table DerivationOutputs (drv, id, path);
    create table Realisations (id integer primary key, drvPath, outputName, outputPath, signatures);
    create table BuildTraceV3 (id integer primary key, drvPath, outputName, outputPath, signatures);";

const HASH: &str = "sha256:1b2b9f4b9a2c7ec1e6b1c37a7dd1a2e4a6a4c0fd4b4a8d2f5a0b1c2d3e4f5a6b";

fn ids() -> [DrvOutput; 2] {
    [format!("{HASH}!out"), format!("{}^out", PATHS[1])].map(|id| id.parse().expect("it is one"))
}

pub fn check(input: &[u8]) {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    thread_local! {
        static ROOT: RefCell<Option<TempDir>> = const { RefCell::new(None) };
    }
    ROOT.with_borrow_mut(|root| {
        let root = root.get_or_insert_with(new_root);
        let db = root.path().join("nix/var/nix/db/db.sqlite");
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut name = db.clone().into_os_string();
            name.push(suffix);
            let _ = fs::remove_file(name);
        }
        match kind {
            0 => fs::write(&db, input),
            1 => fs::write(&db, changed(input)),
            _ => {
                fs::write(&db, []).and_then(|()| columns(&db, input).map_err(std::io::Error::other))
            }
        }
        .expect("the database can be written");
        read(root.path(), &db);
    });
}

fn new_root() -> TempDir {
    let memory = Path::new("/dev/shm");
    let root = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let root = root.expect("there is room");
    let db = root.path().join("nix/var/nix/db");
    fs::create_dir_all(&db).expect("there is room");
    fs::create_dir_all(root.path().join("nix/store")).expect("there is room");
    fs::write(db.join("schema"), "10").expect("there is room");
    root
}

/// A small valid database of a store, with these bytes changed.
pub fn changed(changes: &[u8]) -> Vec<u8> {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    let mut file = GOOD.get_or_init(good).clone();
    let size = file.len();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]]));
        file[at % size] = change[2];
    }
    file
}

fn good() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("there is room");
    let connection = Connection::open(file.path()).expect("there is room");
    let text = |text: String| Value::Text(text);
    connection
        .execute_batch(&format!("pragma page_size = 512; {BARE}"))
        .expect("they are SQL");
    for (number, path) in (1i64..).zip(PATHS) {
        let row = [
            number.into(),
            text(format!("/nix/store/{path}")),
            text(HASH.into()),
            1.into(),
            text(format!("/nix/store/{}", PATHS[1])),
            120.into(),
            Value::Null,
            text("cache-1:AAAA".into()),
            text("text:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s".into()),
        ];
        insert(&connection, "ValidPaths", &row);
        insert(&connection, "Refs", &[number.into(), 1.into()]);
    }
    let out = format!("/nix/store/{}", PATHS[0]);
    insert(
        &connection,
        "DerivationOutputs",
        &[2.into(), text("out".into()), text(out)],
    );
    let realisation = [
        1.into(),
        text(HASH.into()),
        text("out".into()),
        1.into(),
        text("cache-1:AAAA".into()),
    ];
    insert(&connection, "Realisations", &realisation);
    let trace = [
        1.into(),
        text(PATHS[1].into()),
        text("out".into()),
        text(format!("/nix/store/{}", PATHS[0])),
        text("cache-1:AAAA".into()),
    ];
    insert(&connection, "BuildTraceV3", &trace);
    drop(connection);
    fs::read(file.path()).expect("it was written")
}

fn insert(connection: &Connection, table: &str, row: &[Value]) {
    let marks = vec!["?"; row.len()].join(",");
    let statement = format!("insert or ignore into {table} values ({marks})");
    connection
        .execute(&statement, params_from_iter(row))
        .expect("any value may be in any column");
}

/// A database with rows of these values. A value that starts with `i`, `b`, `n` or `r` is an
/// integer, a blob, null or a real number; any other value is text as it is, UTF-8 or not.
fn columns(db: &Path, input: &[u8]) -> rusqlite::Result<()> {
    let connection = Connection::open(db)?;
    connection.execute_batch(&format!(
        "pragma page_size = 512; pragma journal_mode = off; pragma synchronous = off; begin; {BARE}"
    ))?;
    let mut values = input.split(|byte| *byte == 255);
    let mut next = |usual: &str| match values.next() {
        None | Some([]) => ("?", Value::Text(usual.to_owned())),
        Some([b'n']) => ("?", Value::Null),
        Some([b'i', number @ ..]) => {
            let mut bytes = [0; 8];
            let len = number.len().min(8);
            bytes[..len].copy_from_slice(&number[..len]);
            ("?", Value::Integer(i64::from_le_bytes(bytes)))
        }
        Some([b'r', ..]) => ("?", Value::Real(0.5)),
        Some([b'b', bytes @ ..]) => ("?", Value::Blob(bytes.to_vec())),
        Some(text) => ("cast(? as text)", Value::Blob(text.to_vec())),
    };
    let (one, two) = (
        format!("/nix/store/{}", PATHS[0]),
        format!("/nix/store/{}", PATHS[1]),
    );
    let rows: [(&str, &[&str]); 8] = [
        (
            "ValidPaths(path,hash,registrationTime,deriver,narSize,ultimate,sigs,ca)",
            &[&one, HASH, "1", &two, "120", "", "", ""],
        ),
        ("ValidPaths(path,hash,registrationTime)", &[&two, HASH, "1"]),
        (
            "ValidPaths(path,hash,registrationTime)",
            &["/nix/store/x", HASH, "1"],
        ),
        ("Refs", &["1", "3"]),
        ("Refs", &["1", "2"]),
        ("DerivationOutputs", &["2", "out", &one]),
        (
            "Realisations(drvPath,outputName,outputPath,signatures)",
            &[HASH, "out", "1", ""],
        ),
        (
            "BuildTraceV3(drvPath,outputName,outputPath,signatures)",
            &[PATHS[1], "out", &one, ""],
        ),
    ];
    for (table, usual) in rows {
        // The first path is the one that is looked up, so it usually stays unchanged.
        let values: Vec<_> = usual.iter().map(|usual| next(usual)).collect();
        let marks: Vec<&str> = values.iter().map(|(mark, _)| *mark).collect();
        let statement = format!("insert into {table} values ({})", marks.join(","));
        connection.execute(
            &statement,
            params_from_iter(values.iter().map(|(_, value)| value)),
        )?;
    }
    connection.execute_batch("commit")
}

/// Calls all methods that read.
fn read(root: &Path, db: &Path) {
    let options = LocalStoreOptions::new(root).with_read_only(true);
    let store = match LocalStore::open_blocking(options) {
        Ok(store) => store,
        Err(error) => return names_the_database(&error),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let size = fs::metadata(db).map_or(0, |it| it.len());
    runtime.expect("there are threads").block_on(async {
        let paths: Vec<StorePath> = PATHS.map(|path| path.parse().expect("it is one")).into();
        for path in &paths {
            match store.path_info(path).await {
                Ok(Some(info)) => assert_eq!(info.path, *path),
                Ok(None) => {}
                Err(error) => names_the_database(&error),
            }
            match store.find(path.digest()).await {
                Ok(found) => assert!(found.is_none_or(|it| it.path.digest() == path.digest())),
                Err(error) => names_the_database(&error),
            }
        }
        let all = store.all_valid_paths().await;
        fine(all.map(|all| assert!(all.len() as u64 * 4 <= size.max(1 << 20))));
        fine(store.referrers(&paths[0]).await.map(drop));
        fine(store.valid_paths(&paths).await.map(drop));
        fine(store.closure(&paths[..1]).await.map(drop));
        for id in ids() {
            fine(store.realisation(&id).await.map(drop));
        }
        fine(store.realisations_of(paths.clone()).await.map(drop));
        fine(store.verify_all(VerifyOptions::default()).await.map(drop));
    });
}

fn fine(result: Result<(), StoreError>) {
    if let Err(error) = result {
        names_the_database(&error);
    }
}

/// Checks that an error names the database or one of the paths.
fn names_the_database(error: &StoreError) {
    let text = error.to_string();
    assert!(
        text.contains("db.sqlite") || matches!(error, StoreError::NotFound { .. }),
        "{error:?}"
    );
    // A value of a row may be as long as a row may be; an error does not repeat it many times.
    assert!(format!("{error:?}").len() < 16 << 20);
}
