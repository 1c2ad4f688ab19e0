//! Real clients of Nix beside `tvix daemon`: what they print is what they print beside Nix's own daemon.
//!
//! `cargo test -p tvix-cli --test peers_clients`; needs `nix-daemon`. TVIX_NIX_PREFIX is put before each program of
//! Nix, to test with a Nix in another root.
#![allow(clippy::unwrap_used)]

#[path = "peers_clients/world.rs"]
mod world;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Stdio;
use std::time::{Duration, Instant};

use world::{Server, World};

/// Every query and change that `nix-store` knows, with what it prints. Both daemons have their stores at the same place, one
/// after the other.
fn session(world: &World) -> Vec<String> {
    let mut all = Vec::new();
    let mut run = |line: &str| {
        let (shown, out) = world.shown(line);
        all.push(format!("$ {line}\n{shown}"));
        out.trim().to_owned()
    };
    let path = run("nix-store --add SRC");
    let file = run("nix-store --add-fixed sha256 SRC/file");
    run("nix-store --add-fixed sha1 SRC/file");
    run("nix-store --add-fixed --recursive md5 SRC");
    let drv = run("nix-instantiate EXPR");
    for query in [
        "--references",
        "--requisites",
        "--outputs",
        "--tree",
        "--graph",
        "--hash",
        "--size",
        "--binding name",
    ] {
        run(&format!("nix-store -q {query} {drv}"));
    }
    for query in [
        "--referrers",
        "--referrers-closure",
        "--deriver",
        "--roots",
        "--hash",
        "--size",
    ] {
        run(&format!("nix-store -q {query} {path}"));
        run(&format!("nix-store -q {query} {path}x"));
    }
    run(&format!("nix-store --check-validity {path} {file}"));
    run(&format!("nix-store --check-validity {path} {path}x"));
    run(&format!("nix-store --verify-path {path}"));
    run("nix-store --dump-db");
    run("nix-store --verify --check-contents");
    run("nix path-info --all");
    run(&format!("nix path-info -rsSh {path}"));
    run(&format!(
        "nix-store -r {path} --add-root ROOT/root --indirect"
    ));
    run("nix-store --gc --print-roots");
    run(&format!("nix-store -q --roots {path}"));
    run("nix-store --gc --print-dead");
    run("nix-store --gc --print-live");
    run(&format!("nix-store --delete {path}"));
    run(&format!("nix-store --delete {file}"));
    run(&format!("nix-store --delete {file}"));
    run("nix-store --gc --max-freed 0");
    run("nix-store --optimise");
    run(&format!("nix-store -q --hash {file}"));
    run(&format!("nix-store --export {path} > ROOT/export"));
    fs::remove_file(world.root().join("root")).unwrap();
    run("nix-store --gc --print-dead");
    run("nix-store --gc");
    run("nix-store --import < ROOT/export");
    run("nix-store --generate-binary-cache-key test-1 ROOT/secret ROOT/public");
    run(&format!("nix store sign --key-file ROOT/secret {path}"));
    run(&format!("nix store verify --no-trust {path}"));
    run(&format!("nix copy --to file://ROOT/cache {path}"));
    run(&format!("nix-store --delete {path}"));
    run(&format!("nix copy --from file://ROOT/cache {path}"));
    run(&format!(
        "nix copy --no-check-sigs --from file://ROOT/cache {path}"
    ));
    run(&format!("nix-store -q --hash {path}"));
    run(&format!("nix-store --dump {path} > ROOT/dump"));
    run(&format!("nix store ls -lR {path}"));
    run(&format!("nix store cat {path}/file"));
    // Corrupt, then gone.
    let contents = format!("{path}/file");
    let writable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(&contents, writable).unwrap();
    fs::write(&contents, "corrupt\n").unwrap();
    run("nix-store --verify --check-contents");
    run(&format!("nix-store --verify-path {path}"));
    tvix_test_support::directory::make_writable(path.as_ref());
    fs::remove_dir_all(&path).unwrap();
    run("nix-store --verify");
    run("nix-store --verify");
    run("nix store gc");
    run("nix-store --query --hash /nix/store/nonsense");
    all
}

/// Lines that differ on purpose: sizes on disk, stale links of other processes, keys, times.
fn comparable(text: &str) -> String {
    let is_meant = |line: &&str| {
        !line.contains("removing stale")
            && !line.contains("hard linking")
            && !line.starts_with("added 1 signatures")
    };
    let mut lines: Vec<String> = text
        .lines()
        .filter(is_meant)
        .map(|line| {
            if let Some((count, _)) = line.split_once(" deleted, ") {
                return format!("{count} deleted");
            }
            match line.split_once(" freed by ") {
                Some((_, files)) => format!("freed by {files}"),
                None => line.replace('"', "'"),
            }
        })
        .collect();
    // Lists have no order of their own, in 2.34 nor here.
    if text.contains("--gc") {
        lines[1..].sort();
    }
    lines.join("\n")
}

#[test]
fn clients_print_what_they_print_beside_nix() {
    let world = World::new("");
    let theirs = {
        let _server = world.serve(Server::Nix);
        session(&world)
    };
    world.clear();
    let ours = {
        let _server = world.serve(Server::Tvix);
        session(&world)
    };
    assert_eq!(ours.len(), theirs.len());
    let mut differences = Vec::new();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let (ours, theirs) = (comparable(ours), comparable(theirs));
        if ours != theirs {
            differences.push(format!("--- Nix\n{theirs}\n+++ tvix\n{ours}\n"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_build_its_log_and_garbage() {
    let world = World::new("");
    let _server = world.serve(Server::Tvix);
    let out = world.output("nix-build EXPR -o ROOT/result");
    assert_eq!(fs::read_to_string(&out).unwrap(), "built\n");
    assert_eq!(
        world.output(&format!("nix-store --read-log {out}")),
        "building it"
    );
    world.output("nix-store --gc");
    assert!(fs::exists(&out).unwrap());
    fs::remove_file(world.root().join("result")).unwrap();
    // The connection that has built it is gone, and with it its temporary roots.
    for _ in 0..100 {
        world.output("nix-store --gc");
        if !fs::exists(&out).unwrap() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{out} is kept");
}

#[test]
fn clients_that_are_killed_and_several_at_once() {
    let world = World::new("");
    let _server = world.serve(Server::Tvix);
    let tree = world.root().join("tree");
    fs::create_dir(&tree).unwrap();
    for number in 0..50 {
        fs::write(tree.join(number.to_string()), vec![number; 100_000]).unwrap();
    }
    for pause in [0, 5, 20, 50, 100, 150] {
        let mut client = world.command("nix-store --add ROOT/tree");
        let mut client = client
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let _ = client.kill();
        client.wait().unwrap();
    }
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let file = world.root().join(format!("file-{number}"));
            fs::write(&file, number.to_string()).unwrap();
            let mut client =
                world.command(&format!("nix-store --add {} ROOT/tree", file.display()));
            client.stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 2);
    }
    let (verified, _) = world.shown("nix-store --verify --check-contents");
    assert!(
        !verified.contains("modified") && !verified.contains("error"),
        "{verified}"
    );
}

/// A store that is deleted and made anew serves the next connection.
#[test]
fn a_store_made_anew() {
    let world = World::new("");
    let _server = world.serve(Server::Tvix);
    let path = world.output("nix-store --add SRC");
    world.clear();
    assert_eq!(world.output("nix-store --add SRC"), path);
    assert!(fs::exists(&path).unwrap());
}

#[test]
fn sigterm_ends_it_and_the_socket_is_replaced() {
    let world = World::new("");
    let mut server = world.serve(Server::Tvix);
    world.output("nix-store --add SRC");
    let mode = fs::metadata(world.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
    let before = Instant::now();
    assert!(server.terminate().success());
    assert!(before.elapsed() < Duration::from_secs(10));
    drop(server);
    // The socket that was left, and a link in its place.
    let _server = world.serve(Server::Tvix);
    world.output("nix-store --verify --check-contents");
}

/// `ssh-ng://` stores start a daemon on pipes.
#[test]
fn over_pipes() {
    let mut world = World::new("");
    let bin = world.root().join("bin");
    fs::create_dir(&bin).unwrap();
    let daemon = bin.join("nix-daemon");
    let script = format!(
        "#!/bin/sh\nunset NIX_REMOTE\nexec {} daemon \"$@\"\n",
        env!("CARGO_BIN_EXE_tvix")
    );
    fs::write(&daemon, script).unwrap();
    fs::set_permissions(&daemon, fs::Permissions::from_mode(0o755)).unwrap();
    let _ = symlink("file", world.root().join("src/again"));
    world.remote = format!("ssh-ng://localhost?remote-program={}", daemon.display());
    let path = world.output("nix-store --add SRC");
    assert!(fs::exists(&path).unwrap());
    let info = world.output(&format!("nix path-info {path}"));
    assert_eq!(info, path);
}
