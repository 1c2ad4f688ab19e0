//! Files that cannot be added to a store, and stores to which nothing can be added: errors name the
//! file or the store, and nothing is added partially.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use tvix_tests::local::{LocalWorld, make_writable};
use tvix_tests::program::{Ended, run, tvix};

use super::Nobody;

fn store(root: &Path, arguments: &[&str]) -> Ended {
    let mut command = tvix_tests::program::command(tvix());
    command
        .arg("store")
        .args(arguments)
        .arg("--store")
        .arg(root);
    run(&mut command)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Checks that nothing is valid and that no files are left over.
fn expect_empty(root: &Path) {
    let left = fs::read_dir(root.join("nix/store")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [".links"]);
    assert!(store(root, &["path-info"]).expect(0).out.is_empty());
}

#[tokio::test]
async fn that_are_no_files() {
    let world = LocalWorld::new().await;
    let root = world.beside("new");
    let folder = world.beside("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("fine"), "fine").unwrap();
    let odd = folder.join("sub/odd");
    let listener = UnixListener::bind(&odd).unwrap();
    let refused = store(&root, &["add", text(&folder)]).expect(1);
    refused.says(&[text(&odd), "socket"]);
    drop(listener);
    fs::remove_file(&odd).unwrap();
    // Opening a pipe would wait for its other end.
    assert!(Command::new("mkfifo").arg(&odd).status().unwrap().success());
    for file in [&folder, &odd] {
        let refused = store(&root, &["add", text(file)]).expect(1);
        refused.says(&[text(&odd), "fifo"]);
    }
    let refused = store(&root, &["add", "/dev/null"]).expect(1);
    refused.says(&["/dev/null", "character device"]);
    for missing in [folder.join("missing"), odd.join("below")] {
        let refused = store(&root, &["add", text(&missing)]).expect(1);
        refused.says(&[text(&missing)]);
    }
    // A valid file is not added together with invalid ones.
    let fine = folder.join("fine");
    store(&root, &["add", "--name", "..", text(&fine)])
        .expect(1)
        .says(&["--name", text(&fine)]);
    expect_empty(&root);
}

/// Root can read everything, so this test runs as an ordinary user.
#[tokio::test]
async fn that_an_ordinary_user_cannot_read() {
    let world = LocalWorld::new().await;
    let nobody = Nobody::new(&world);
    let folder = world.beside("sources");
    fs::create_dir_all(folder.join("open/sub")).unwrap();
    let (file, closed) = (folder.join("open/secret"), folder.join("open/sub"));
    fs::write(&file, "secret").unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(&file, 0);
    let add = || {
        let mut command = nobody.command();
        command.args(["store", "add", text(&folder.join("open")), "--store"]);
        run(command.arg(nobody.home.join("store")))
    };
    add().expect(1).says(&[text(&file), "Permission denied"]);
    mode(&file, 0o644);
    mode(&closed, 0);
    add().expect(1).says(&[text(&closed), "Permission denied"]);
    mode(&closed, 0o755);
    add().expect(0);
    make_writable(&nobody.home);
}

/// Any user can read the store, and only its owner can change it. The error names the owner.
#[tokio::test]
async fn for_a_store_that_belongs_to_another_user() {
    let world = LocalWorld::new().await;
    let nobody = Nobody::new(&world);
    let file = world.beside("file");
    fs::write(&file, "contents").unwrap();
    let root = world.beside("theirs");
    let path = store(&root, &["add", text(&file)]).expect(0).out[0].clone();
    let owner = fs::metadata(&root).unwrap().uid();
    let theirs = |arguments: &[&str]| {
        let mut command = nobody.command();
        command.arg("store").args(arguments).arg("--store");
        run(command.arg(&root))
    };
    assert_eq!(theirs(&["cat", &path]).expect(0).out, ["contents"]);
    theirs(&["verify"]).expect(0);
    theirs(&["ls", "-l", &path]).expect(0);
    if nobody.is_other {
        let whose = format!("it belongs to user {owner}, this is user");
        for change in [&["add", text(&file)][..], &["gc"], &["optimise"]] {
            theirs(change).expect(1).says(&[text(&root), &whose]);
        }
    }
    make_writable(&root);
}

/// On a read-only file system, existing paths can be read, and no change is attempted.
#[tokio::test]
async fn for_a_store_on_a_read_only_file_system() {
    let world = LocalWorld::new().await;
    let file = world.beside("file");
    fs::write(&file, "contents").unwrap();
    let root = world.beside("sealed");
    let path = store(&root, &["add", text(&file)]).expect(0).out[0].clone();
    let sealed = |arguments: &[&str]| {
        let mut command =
            mounting("mount --bind \"$ROOT\" \"$ROOT\" && mount -o remount,bind,ro \"$ROOT\"");
        command.env("ROOT", &root);
        command.arg(tvix()).arg("store").args(arguments);
        run(command.arg("--store").arg(&root))
    };
    let expect_readable = || {
        assert_eq!(sealed(&["cat", &path]).expect(0).out, ["contents"]);
        sealed(&["verify"]).expect(0);
        assert_eq!(sealed(&["path-info"]).expect(0).out, [path.as_str()]);
    };
    expect_readable();
    // When the last connection closes the database, SQLite removes its log, and cannot create a new
    // one there.
    let database = root.join("nix/var/nix/db/db.sqlite");
    let connection = rusqlite::Connection::open(&database).unwrap();
    let pragma = "pragma wal_checkpoint(truncate)";
    connection.query_row(pragma, [], |_| Ok(())).unwrap();
    drop(connection);
    assert!(!database.with_extension("sqlite-wal").exists());
    expect_readable();
    for change in [&["add", text(&file)][..], &["gc"], &["optimise"]] {
        let refused = sealed(change).expect(1);
        refused.says(&[text(&root), "Read-only file system"]);
    }
    make_writable(&root);
}

/// The first addition that does not fit fails as a whole, and existing paths stay.
#[tokio::test]
async fn for_a_full_disk() {
    let world = LocalWorld::new().await;
    let (small, large) = (world.beside("small"), world.beside("large"));
    fs::write(&small, "contents").unwrap();
    fs::write(&large, vec![b'x'; 30 << 20]).unwrap();
    let root = world.beside("small-disk");
    fs::create_dir(&root).unwrap();
    let script = "
        path=$(\"$TVIX\" store add --store \"$ROOT\" \"$SMALL\") || exit 90
        \"$TVIX\" store add --store \"$ROOT\" \"$LARGE\" && exit 91
        [ \"$(\"$TVIX\" store cat --store \"$ROOT\" \"$path\")\" = contents ] || exit 92
        [ \"$(\"$TVIX\" store path-info --store \"$ROOT\")\" = \"$path\" ] || exit 93
        [ \"$(ls \"$ROOT/nix/store\")\" = \"$(basename \"$path\")\" ] || exit 94
        \"$TVIX\" store verify --store \"$ROOT\" || exit 95
        \"$TVIX\" store gc --store \"$ROOT\" || exit 96";
    let mut command = mounting("mount -t tmpfs -o size=20m none \"$ROOT\"");
    command.args(["sh", "-c", script]);
    command.env("ROOT", &root).env("TVIX", tvix());
    command.env("SMALL", &small).env("LARGE", &large);
    let ended = run(&mut command).expect(0);
    ended.says(&[
        "error:",
        "'large'",
        "No space left on device",
        "1 store paths deleted",
    ]);
}

/// A command that runs in a mount namespace of its own, after `mount`.
fn mounting(mount: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(format!("{mount} && exec \"$@\"")).arg("sh");
    command
}
