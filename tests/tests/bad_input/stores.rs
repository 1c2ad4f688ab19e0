//! Unusable stores.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tvix_tests::local::{LocalWorld, names_in};
use tvix_tests::program::{Ended, bare_build, run, tvix};

use super::{Before, Nobody, good};

fn build_in(world: &LocalWorld, store: &str, drv: &Path) -> Ended {
    let mut command = bare_build(tvix(), world);
    let ended = run(command.args(["--no-out-link", "--store", store]).arg(drv));
    assert_eq!(ended.out, [""; 0]);
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    ended
}

/// The valid derivation as a local file, for an empty store.
fn drv_file(world: &LocalWorld) -> std::path::PathBuf {
    let made = good();
    let file = world.beside(&made.path.to_string());
    fs::write(&file, made.derivation.to_aterm(&made.store_dir)).unwrap();
    file
}

#[tokio::test]
async fn of_a_kind_that_is_not_supported() {
    let world = LocalWorld::new().await;
    let drv = drv_file(&world);
    for uri in ["https://cache.example.org", "s3://bucket", "ssh://host"] {
        build_in(&world, uri, &drv).expect(1).says(&[uri, "store"]);
    }
}

#[tokio::test]
async fn a_daemon_that_does_not_run() {
    let world = LocalWorld::new().await;
    let drv = drv_file(&world);
    let socket = world.beside("no-socket");
    let uri = format!("unix://{}", socket.display());
    build_in(&world, &uri, &drv)
        .expect(1)
        .says(&["cannot reach", &uri]);
}

/// This error occurs for root too, although root has all permissions.
#[tokio::test]
async fn a_file_in_place_of_a_directory() {
    let world = LocalWorld::new().await;
    let drv = drv_file(&world);
    let parts = ["", "nix", "nix/store", "nix/var/nix/db"];
    for (number, part) in parts.into_iter().enumerate() {
        let root = world.beside(&format!("spoiled-{number}"));
        let spoiled = root.join(part);
        fs::create_dir_all(spoiled.parent().unwrap()).unwrap();
        let spoiled = spoiled.to_str().unwrap().trim_end_matches('/');
        fs::write(spoiled, "in the way").unwrap();
        let root = root.to_str().unwrap();
        let ended = build_in(&world, root, &drv).expect(1);
        ended.says(&["cannot open store", root]);
        assert_eq!(fs::read_to_string(spoiled).unwrap(), "in the way");
    }
}

#[tokio::test]
async fn that_an_ordinary_user_cannot_write() {
    let before = Before::new().await;
    let world = &before.world;
    let drv = drv_file(world);
    // The user can read the store, but not write.
    let nobody = Nobody::new(world);
    if !nobody.is_other {
        // The tests own these directories, so they remove their own write permission.
        let read_only = fs::Permissions::from_mode(0o555);
        for part in ["nix/store", "nix/var/nix/db", "nix/var/nix"] {
            fs::set_permissions(world.root().join(part), read_only.clone()).unwrap();
        }
    }
    let mut command = nobody.command();
    command.args(["build", "--no-out-link", "--store"]);
    command.arg(world.root()).arg(&drv);
    let root = world.root();
    run(&mut command)
        .expect(1)
        .says(&["cannot open store", root.to_str().unwrap()]);
    for part in ["nix/var/nix", "nix/var/nix/db", "nix/store"] {
        fs::set_permissions(root.join(part), fs::Permissions::from_mode(0o755)).unwrap();
    }
    before.expect_unchanged().await;
}

#[tokio::test]
async fn whose_database_is_garbage() {
    let world = LocalWorld::new().await;
    let drv = drv_file(&world);
    let root = world.beside("garbage");
    let db = root.join("nix/var/nix/db");
    fs::create_dir_all(&db).unwrap();
    fs::create_dir_all(root.join("nix/store")).unwrap();
    let file = db.join("db.sqlite");
    let garbage = "this is no database, and whoever reads it should say so. ".repeat(100);
    fs::write(&file, &garbage).unwrap();
    let root = root.to_str().unwrap();
    let ended = build_in(&world, root, &drv).expect(1);
    ended.says(&["cannot open store", root, "db.sqlite", "not a database"]);
    // The file may be the user's only copy, so it stays unchanged.
    assert_eq!(fs::read_to_string(&file).unwrap(), garbage);
    let names = names_in(&Path::new(root).join("nix/store"));
    assert!(names.iter().all(|name| name.starts_with('.')), "{names:?}");
}
