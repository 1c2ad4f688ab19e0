//! Realisations in the database of a local store: the table of Nix up to 2.34, that of 2.35, or
//! both.
#![cfg(feature = "local-fs")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::Root;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, OutputName};
use nix_compat::nixhash::HashAlgo;
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};
use rusqlite::Connection;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreError, StoreExt as _};

fn open(root: &Path) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root)).unwrap()
}

fn open_to_read(root: &Path) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root).with_read_only(true)).unwrap()
}

fn database(root: &Path) -> Connection {
    Connection::open(root.join("nix/var/nix/db/db.sqlite")).unwrap()
}

fn drv(name: &str) -> StorePath {
    format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}.drv")
        .parse()
        .unwrap()
}

/// The keys of an output: by hash and by derivation path.
fn ids(seed: u8) -> [DrvOutput; 2] {
    [
        DrvOutput::by_hash([seed; 32], OutputName::out()),
        DrvOutput::by_path(drv(&seed.to_string()), OutputName::out()),
    ]
}

async fn text(store: &LocalStore, contents: &str) -> StorePath {
    let name = "text".parse().unwrap();
    let added = store.add_text(name, contents.as_bytes(), Default::default());
    added.await.unwrap()
}

fn signed(id: DrvOutput, path: &StorePath) -> Realisation {
    Realisation {
        signatures: vec!["a-1:AAAA".parse().unwrap(), "b-1:BBBB".parse().unwrap()],
        ..Realisation::new(id, path.clone())
    }
}

fn tables(connection: &Connection) -> Vec<String> {
    let query = "select name from sqlite_master where type = 'table' and name not like 'sqlite%'
                 order by name";
    let mut statement = connection.prepare(query).unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

#[tokio::test]
async fn rows_are_where_nix_has_them() {
    let root = Root::new();
    let store = open(root.path());
    let path = text(&store, "x").await;
    for id in ids(7) {
        let realisation = signed(id.clone(), &path);
        store.add_realisation(&realisation).await.unwrap();
        assert_eq!(store.realisation(&id).await.unwrap(), Some(realisation));
    }
    let connection = database(root.path());
    let row = |query: &str| -> (String, String, String, String) {
        let columns =
            |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        connection.query_row(query, [], columns).unwrap()
    };
    let absolute = format!("/nix/store/{path}");
    let signatures = "a-1:AAAA b-1:BBBB".to_owned();
    let old = row(
        "select drvPath, outputName, path, signatures from Realisations
                   join ValidPaths on ValidPaths.id = outputPath",
    );
    let hash = format!("sha256:{}", "07".repeat(32));
    assert_eq!(
        old,
        (hash, "out".into(), absolute.clone(), signatures.clone())
    );
    let new = row("select drvPath, outputName, outputPath, signatures from BuildTraceV3");
    assert_eq!(
        new,
        (drv("7").to_string(), "out".into(), absolute, signatures)
    );
    // The migrations of each version are done and recorded.
    let migrations: i64 = connection
        .query_row(
            "select count(*) from SchemaMigrations where migration in
             ('20220326-ca-derivations', '20251017-ca-derivations',
              '20260309-drop-redundant-indexreferrer')",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(migrations, 3);
    let version = fs::read_to_string(root.path().join("nix/var/nix/db/ca-schema"));
    assert_eq!(version.unwrap(), "3");
}

#[tokio::test]
async fn a_database_with_one_of_the_tables() {
    const OLD: &str = "drop table RealisationsRefs; drop trigger DeleteSelfRefsViaRealisations;
                       drop table Realisations;";
    const NEW: &str = "drop table BuildTraceV3; drop table SchemaMigrations;";
    for dropped in [OLD, NEW, &[OLD, NEW].concat()] {
        let root = Root::new();
        let store = open(root.path());
        let path = text(&store, "x").await;
        for id in ids(1) {
            store.add_realisation(&signed(id, &path)).await.unwrap();
        }
        drop(store);
        let connection = database(root.path());
        connection.execute_batch(dropped).unwrap();
        let before = tables(&connection);
        drop(connection);
        let read = open_to_read(root.path());
        for id in ids(1) {
            let is_dropped = match id.drv {
                DrvKey::HashModulo(_) => dropped.contains(OLD),
                DrvKey::Path(_) => dropped.contains(NEW),
            };
            let found = read.realisation(&id).await.unwrap();
            assert_eq!(found.is_none(), is_dropped, "{id}");
            let error = read.add_realisation(&signed(id, &path)).await.unwrap_err();
            assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
        }
        let found = read.realisations_of(vec![path.clone()]).await.unwrap();
        assert_eq!(
            found.len(),
            2 - dropped.matches("BuildTraceV3").count()
                - dropped.matches("drop table Realisations;").count()
        );
        drop(read);
        assert_eq!(
            tables(&database(root.path())),
            before,
            "reading changes nothing"
        );
        // Opening for writing adds the table of 2.35 and keeps the existing one.
        let store = open(root.path());
        for id in ids(2) {
            store
                .add_realisation(&signed(id.clone(), &path))
                .await
                .unwrap();
            let found = store.realisation(&id).await.unwrap();
            let kept = matches!(id.drv, DrvKey::Path(_)) || !dropped.contains(OLD);
            assert_eq!(found.is_some(), kept, "{id}");
        }
        assert!(tables(&database(root.path())).contains(&"BuildTraceV3".to_owned()));
    }
}

/// The schema was recorded from Nix 2.34.8 (`goldens/make-nix-2.34.sh`).
#[tokio::test]
async fn a_store_of_nix_2_34() {
    let root = Root::new();
    let db = root.path().join("nix/var/nix/db");
    fs::create_dir_all(&db).unwrap();
    fs::create_dir_all(root.path().join("nix/store")).unwrap();
    fs::write(db.join("schema"), "10").unwrap();
    let schema = include_str!("goldens/nix-2.34/schema.sql");
    let connection = database(root.path());
    connection.execute_batch(schema).unwrap();
    connection
        .execute_batch("insert into SchemaMigrations values ('20220326-ca-derivations')")
        .unwrap();
    drop(connection);
    assert!(
        open_to_read(root.path())
            .realisation(&ids(1)[1])
            .await
            .unwrap()
            .is_none()
    );
    let store = open(root.path());
    let path = text(&store, "x").await;
    for id in ids(1) {
        store
            .add_realisation(&signed(id.clone(), &path))
            .await
            .unwrap();
        assert!(store.realisation(&id).await.unwrap().is_some(), "{id}");
    }
    let found = store.realisations_of(vec![path]).await.unwrap();
    assert_eq!(found.len(), 2);
    // A new store of this crate has the same schema, except for the index that 2.35 drops.
    let ours = Root::new();
    drop(open(ours.path()));
    let names = |connection: &Connection| -> Vec<String> {
        let query = "select name from sqlite_master where name not like 'sqlite%' order by name";
        let mut statement = connection.prepare(query).unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names
            .map(Result::unwrap)
            .filter(|name| name != "IndexReferrer")
            .collect()
    };
    assert_eq!(names(&database(root.path())), names(&database(ours.path())));
}

#[tokio::test]
async fn a_trace_outlives_its_path_until_there_is_another() {
    let root = Root::new();
    let store = open(root.path());
    let (path, other) = (text(&store, "x").await, text(&store, "y").await);
    for id in ids(1) {
        store
            .add_realisation(&signed(id.clone(), &path))
            .await
            .unwrap();
        // The existing realisation stays.
        store
            .add_realisation(&signed(id.clone(), &other))
            .await
            .unwrap();
        assert_eq!(
            store.realisation(&id).await.unwrap().unwrap().out_path,
            path
        );
    }
    let connection = database(root.path());
    let absolute = format!("/nix/store/{path}");
    connection
        .pragma_update(None, "foreign_keys", true)
        .unwrap();
    connection
        .execute("delete from ValidPaths where path = ?", [absolute])
        .unwrap();
    let [by_hash, by_path] = ids(1);
    assert_eq!(store.realisation(&by_hash).await.unwrap(), None);
    assert_eq!(
        store.realisation(&by_path).await.unwrap().unwrap().out_path,
        path
    );
    for id in ids(1) {
        store
            .add_realisation(&signed(id.clone(), &other))
            .await
            .unwrap();
        assert_eq!(
            store.realisation(&id).await.unwrap().unwrap().out_path,
            other
        );
    }
}

#[tokio::test]
async fn what_one_version_knows_is_told_to_the_other() {
    let dir = StoreDir::default();
    let (method, algo) = (ContentAddressMethod::NixArchive, HashAlgo::Sha256);
    let made = DerivationBuilder::new("made", "x86_64-linux", "/bin/sh")
        .floating(method, algo)
        .instantiate(&dir)
        .unwrap();
    let keys = made.derivation.realisation_keys(&dir, &made.path);
    assert_eq!(keys.len(), 2);
    for key in &keys {
        let root = Root::new();
        let store = open(root.path());
        let contents = made.derivation.to_aterm(&dir);
        let name = made.path.name().clone();
        let added = store.add_text(name, &contents, Default::default()).await;
        assert_eq!(added.unwrap(), made.path);
        let path = text(&store, "x").await;
        let absolute = format!("/nix/store/{}", made.path);
        database(root.path())
            .execute(
                "update ValidPaths set deriver = ? where path like '%-text'",
                [absolute],
            )
            .unwrap();
        let id = |drv: &DrvKey| DrvOutput {
            drv: drv.clone(),
            output: OutputName::out(),
        };
        // An unresolved derivation has another hash, and no key by path.
        for id in [id(key), ids(9)[0].clone()] {
            store
                .add_realisation(&Realisation::new(id, path.clone()))
                .await
                .unwrap();
        }
        let found = store.realisations_of(vec![path]).await.unwrap();
        let mut found: Vec<_> = found.into_iter().map(|it| it.id).collect();
        let mut expected: Vec<_> = keys.iter().map(id).chain([ids(9)[0].clone()]).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn rows_that_make_no_sense() {
    let root = Root::new();
    let store = open(root.path());
    let path = text(&store, "x").await;
    let connection = database(root.path());
    let insert = |drv: &str, output: &str, path: &str| {
        connection
            .execute(
                "insert into BuildTraceV3 (drvPath, outputName, outputPath) values (?, ?, ?)",
                [drv, output, path],
            )
            .unwrap();
    };
    let absolute = format!("/nix/store/{path}");
    let [_, id] = ids(1);
    // A row of an unrelated path with an invalid value.
    insert(&drv("2").to_string(), "out", "/etc/passwd");
    insert("nonsense", "..", "nonsense");
    assert!(
        store
            .realisations_of(vec![path.clone()])
            .await
            .unwrap()
            .is_empty()
    );
    for bad in ["/etc/passwd", "nonsense", "", &path.to_string()] {
        insert(&drv("1").to_string(), "out", bad);
        let error = store.realisation(&id).await.unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{error:?}");
        connection.execute("delete from BuildTraceV3", []).unwrap();
    }
    for (drv, output) in [
        ("nonsense", "out"),
        ("../x.drv", "out"),
        (&drv("1").to_string(), ".."),
    ] {
        insert(drv, output, &absolute);
        let error = store.realisations_of(vec![path.clone()]).await.unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{error:?}");
        connection.execute("delete from BuildTraceV3", []).unwrap();
    }
    drop(store);
    // Tables with computed columns, and views, are rejected.
    for made in [
        "create table BuildTraceV3 (drvPath text, outputName text, signatures text,
         outputPath text generated always as ('/nix/store/' || drvPath))",
        "create view BuildTraceV3 as select '' as drvPath, '' as outputName, '' as outputPath,
         '' as signatures",
    ] {
        for kind in ["table", "view"] {
            let _ = connection.execute_batch(&format!("drop {kind} if exists BuildTraceV3"));
        }
        connection.execute_batch(made).unwrap();
        let read = open_to_read(root.path());
        assert_eq!(read.realisation(&id).await.unwrap(), None, "{made}");
        let write = open(root.path());
        write
            .add_realisation(&signed(id.clone(), &path))
            .await
            .unwrap();
        assert_eq!(write.realisation(&id).await.unwrap(), None, "{made}");
    }
}
