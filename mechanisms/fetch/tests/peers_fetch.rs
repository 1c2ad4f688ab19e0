//! Fetching, compared with real Nix: `nix-instantiate`, or the program that `TVIX_PEER_NIX` names.

#![allow(clippy::unwrap_used)]

#[path = "fetch/pack.rs"]
mod pack;
#[path = "fetch/repositories.rs"]
mod repositories;
#[path = "fetch/world.rs"]
#[allow(dead_code, reason = "the tests without Nix need more")]
mod world;

use std::fs;
use std::process::Command;

use serde_json::Value;

use pack::{archive, file, link, special};
use repositories::{git, repository};
use world::World;

/// What real Nix evaluates to, in a store and with a cache of its own.
fn nix(world: &World, text: &str) -> Result<Value, String> {
    let program = std::env::var("TVIX_PEER_NIX").unwrap_or_else(|_| "nix-instantiate".into());
    let output = Command::new(program)
        .args(["--eval", "--strict", "--json", "-E", text, "--store"])
        .arg(world.path().join("peer"))
        .env("XDG_CACHE_HOME", world.path().join("peer-cache"))
        .env("HOME", world.path())
        .output()
        .expect("real Nix is installed");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(log),
    }
}

#[track_caller]
fn same(world: &World, text: &str) {
    let (ours, theirs) = (world.eval(text), nix(world, text));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{text}"),
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{text}: {ours:?} and {theirs:?}"),
    }
}

#[test]
fn files_and_archives() {
    let world = World::new();
    let top = archive([
        special(tar::EntryType::Directory, "top/"),
        file("top/a", "a"),
        file("top/b/c", "c"),
        link(tar::EntryType::Symlink, "top/link", "b/c"),
        link(tar::EntryType::Link, "top/again", "top/a"),
        special(tar::EntryType::Directory, "top/empty"),
    ]);
    fs::write(world.path().join("x.tar"), top).unwrap();
    let url = format!("file://{}/x.tar", world.path().display());
    for text in [
        format!("builtins.fetchurl \"{url}\""),
        format!("builtins.fetchurl {{ url = \"{url}\"; name = \"n\"; }}"),
        format!("builtins.getContext (builtins.fetchurl \"{url}\")"),
        format!("fetchTarball \"{url}\""),
        format!("fetchTarball {{ url = \"{url}\"; name = \"n\"; }}"),
        format!("builtins.readDir (fetchTarball {{ url = \"{url}\"; }})"),
        format!(
            "fetchTarball {{ url = \"{url}\"; sha256 = \"{}\"; }}",
            "0".repeat(52)
        ),
        format!("fetchTarball {{ url = \"{url}\"; what = 1; }}"),
        format!("fetchTarball \"{url}.gone\""),
        format!("builtins.fetchurl \"{url}/\""),
        "fetchTarball { }".to_owned(),
        "fetchTarball 1".to_owned(),
    ] {
        same(&world, &text);
    }
}

#[test]
fn git_trees() {
    let world = World::new();
    let path = world.path().join("repo");
    let rev = repository(&path);
    // The conversions that its attributes ask for are made by old versions.
    fs::write(path.join(".gitattributes"), "sub/ignored export-ignore\n").unwrap();
    git(&path, &["commit", "--quiet", "--all", "--message", "two"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    let url = path.display();
    for text in [
        format!("fetchGit {{ url = \"{url}\"; ref = \"main\"; }}"),
        format!("fetchGit {{ url = \"{url}\"; rev = \"{head}\"; ref = \"main\"; name = \"n\"; }}"),
        format!("(fetchGit {{ url = \"{url}\"; rev = \"{rev}\"; ref = \"main\"; }}).revCount"),
        format!(
            "fetchGit {{ url = \"{url}\"; rev = \"{}\"; }}",
            "1".repeat(40)
        ),
        format!("fetchGit {{ url = \"{url}\"; ref = \"gone\"; }}"),
        format!("fetchGit {{ url = \"{url}\"; what = 1; }}"),
    ] {
        same(&world, &text);
    }
    fs::write(path.join("default.nix"), "changed").unwrap();
    // What is not exported is seen in the working trees of old versions.
    fs::remove_file(path.join("sub/ignored")).unwrap();
    let worktree = format!("(fetchGit {url}).outPath");
    same(&world, &worktree);
}
