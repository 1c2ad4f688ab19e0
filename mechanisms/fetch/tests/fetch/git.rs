//! `fetchGit`.

use std::fs;

use serde_json::{Value, json};
use tvix_eval::error::ErrorKind;

use super::World;
use super::repositories::{git, repository};

const ZEROS: &str = "0000000000000000000000000000000000000000";

fn fetch(world: &World, arguments: &str) -> Value {
    let text = format!("removeAttrs (fetchGit {arguments}) [ \"outPath\" \"narHash\" ]");
    match world.eval(&text) {
        Ok(value) => value,
        Err(failure) => panic!("{}", failure.rendered),
    }
}

#[test]
fn commits_of_a_local_repository() {
    let world = World::new();
    let path = world.path().join("repo");
    let rev = repository(&path);
    let url = path.display();
    let wanted = json!({
        "rev": rev,
        "shortRev": &rev[..7],
        "revCount": 1,
        "lastModified": 1_600_000_000,
        "lastModifiedDate": "20200913122640",
        "submodules": false,
    });
    for arguments in [
        format!("{{ url = \"{url}\"; ref = \"main\"; }}"),
        format!("{{ url = {url}; rev = \"{rev}\"; }}"),
        format!("{{ url = \"file://{url}\"; ref = \"refs/heads/main\"; }}"),
        format!(
            "{{ url = \"git+file://{url}\"; ref = \"main\"; rev = \"{rev}\"; allRefs = true; }}"
        ),
    ] {
        assert_eq!(fetch(&world, &arguments), wanted, "{arguments}");
    }
    let tree = format!("fetchGit {{ url = \"{url}\"; rev = \"{rev}\"; }}");
    let listed = world
        .eval(&format!("builtins.readDir ({tree} + \"/sub\")"))
        .unwrap();
    assert_eq!(
        listed,
        json!({"run": "regular"}),
        "what is not exported is not there"
    );
    assert_eq!(
        world.eval(&format!("(import ({tree})).x")).unwrap(),
        json!(42)
    );
    assert_eq!(
        world.text(&format!("builtins.readFile ({tree} + \"/.gitattributes\")")),
        "sub/ignored export-ignore\n* text eol=crlf\n",
        "nothing is converted"
    );
    let named = format!("(fetchGit {{ url = \"{url}\"; name = \"n\"; }}).outPath");
    assert!(world.text(&named).ends_with("-n"));
    let shallow = fetch(
        &world,
        &format!("{{ url = \"{url}\"; ref = \"main\"; shallow = true; }}"),
    );
    assert_eq!(shallow["revCount"], json!(0));
}

#[test]
fn working_trees() {
    let world = World::new();
    let path = world.path().join("repo");
    let rev = repository(&path);
    let url = path.display().to_string();
    fs::write(path.join("untracked"), "u").unwrap();
    let clean = fetch(&world, &format!("\"{url}\""));
    assert_eq!(clean["rev"], json!(rev));
    assert_eq!(clean["revCount"], json!(1));
    let at_commit = world.text(&format!(
        "(fetchGit {{ url = \"{url}\"; ref = \"main\"; }}).outPath"
    ));
    assert_eq!(world.text(&format!("(fetchGit {url}).outPath")), at_commit);
    fs::write(path.join("default.nix"), "{ x = 43; }").unwrap();
    fs::remove_file(path.join("link")).unwrap();
    fs::write(path.join("staged"), "s").unwrap();
    git(&path, &["add", "staged"]);
    assert_eq!(
        fetch(&world, &url),
        json!({
            "rev": ZEROS,
            "shortRev": &ZEROS[..7],
            "revCount": 0,
            "dirtyRev": format!("{rev}-dirty"),
            "dirtyShortRev": format!("{}-dirty", &rev[..7]),
            "lastModified": 1_600_000_000,
            "lastModifiedDate": "20200913122640",
            "submodules": false,
        })
    );
    let listed = world.eval(&format!(
        "builtins.attrNames (builtins.readDir (fetchGit {url}))"
    ));
    assert_eq!(
        listed.unwrap(),
        json!([".gitattributes", "default.nix", "staged", "sub"])
    );
    assert_eq!(
        world.eval(&format!("(import (fetchGit {url})).x")).unwrap(),
        json!(43)
    );
}

#[test]
fn a_repository_without_commits() {
    let world = World::new();
    let path = world.path().join("repo");
    fs::create_dir(&path).unwrap();
    git(&path, &["init", "--quiet"]);
    let empty = fetch(&world, path.to_str().unwrap());
    assert_eq!(
        (&empty["rev"], &empty["revCount"]),
        (&json!(ZEROS), &json!(0))
    );
    assert_eq!(empty["lastModified"], json!(0));
}

#[test]
fn bare_repositories_are_cloned_and_kept() {
    let world = World::new();
    let (path, bare) = (world.path().join("repo"), world.path().join("bare"));
    let first = repository(&path);
    git(
        world.path(),
        &["clone", "--quiet", "--bare", "repo", "bare"],
    );
    let url = format!("file://{}", bare.display());
    assert_eq!(fetch(&world, &format!("\"{url}\""))["rev"], json!(first));
    git(
        &path,
        &["commit", "--quiet", "--allow-empty", "--message", "two"],
    );
    git(
        &path,
        &[
            "push",
            "--quiet",
            bare.to_str().unwrap(),
            "main",
            "main:refs/other/x",
        ],
    );
    let second = git(&path, &["rev-parse", "HEAD"]);
    assert_eq!(
        fetch(&world, &format!("\"{url}\""))["rev"],
        json!(first),
        "seen just now"
    );
    let locked = format!("{{ url = \"{url}\"; rev = \"{second}\"; }}");
    assert_eq!(fetch(&world, &locked)["revCount"], json!(2));
    let all = format!("{{ url = \"{url}\"; ref = \"refs/other/x\"; allRefs = true; }}");
    assert_eq!(fetch(&world, &all)["rev"], json!(second));
    // What is there needs no repository.
    fs::remove_dir_all(&bare).unwrap();
    fs::create_dir(&bare).unwrap();
    assert_eq!(fetch(&world, &locked)["revCount"], json!(2));
    let gone = format!(
        "fetchGit {{ url = \"{url}\"; rev = \"{}\"; }}",
        "1".repeat(40)
    );
    world.fails(&gone, ErrorKind::Build, "git");
    let shallow = World::new();
    git(
        world.path(),
        &["clone", "--quiet", "--bare", "repo", "again"],
    );
    let url = format!("file://{}/again", world.path().display());
    let arguments = format!("{{ url = \"{url}\"; shallow = true; }}");
    assert_eq!(fetch(&shallow, &arguments)["revCount"], json!(0));
    assert_eq!(fetch(&shallow, &arguments)["rev"], json!(second));
}

#[test]
fn submodules() {
    let world = World::new();
    let (path, inner) = (world.path().join("repo"), world.path().join("inner"));
    repository(&path);
    repository(&inner);
    git(
        &path,
        &["submodule", "--quiet", "add", "../inner", "below/inner"],
    );
    git(&path, &["commit", "--quiet", "--message", "submodule"]);
    let url = path.display();
    let read = |arguments: &str| {
        let folder = format!(
            "builtins.readDir ((fetchGit {{ url = \"{url}\"; {arguments} }}) + \"/below/inner\")"
        );
        world.eval(&folder)
    };
    let all = json!({
        ".gitattributes": "regular", "default.nix": "regular", "link": "symlink", "sub": "directory"
    });
    assert_eq!(read("ref = \"main\"; submodules = true;").unwrap(), all);
    assert_eq!(read("submodules = true;").unwrap(), all);
    assert_eq!(
        read("ref = \"main\";").unwrap(),
        json!({}),
        "the folder is there"
    );
    assert!(read("").is_err(), "a working tree has not even that");
    world.fails(
        &format!("fetchGit {{ url = \"{url}\"; submodules = true; exportIgnore = true; }}"),
        ErrorKind::Unsupported,
        "exportIgnore and submodules are not supported together yet",
    );
}

#[test]
fn wrong_arguments() {
    let world = World::new();
    let other = ErrorKind::Other;
    for (arguments, kind, message) in [
        ("{ }", ErrorKind::Missing, "'url' is missing"),
        (
            "{ url = \"/x\"; type = \"git\"; }",
            other,
            "unexpected argument 'type'",
        ),
        (
            "{ url = \"/x\"; what = 1; }",
            other,
            "input attribute 'what' not supported by scheme 'git'",
        ),
        (
            "{ url = \"/x\"; ref = \"a..b\"; }",
            other,
            "invalid Git branch/tag name 'a..b'",
        ),
        (
            "{ url = \"/x\"; ref = \"--upload-pack=x\"; }",
            other,
            "invalid Git branch/tag name",
        ),
        ("{ url = \"/x\"; rev = \"--output=x\"; }", other, "hash"),
        (
            "{ url = \"/x\"; shallow = 1; }",
            other,
            "'shallow' is not a Boolean",
        ),
        (
            "{ url = \"/x\"; revCount = -1; }",
            other,
            "negative value given for 'fetchGit' argument 'revCount': -1",
        ),
        (
            "{ url = \"/x\"; rev = [ ]; }",
            ErrorKind::Type,
            "argument 'rev' to 'fetchGit' is a list",
        ),
        ("\"example.org:x\"", other, "SCP-like URL"),
        ("\"ext::sh -c x\"", other, "SCP-like URL"),
        (
            "{ url = \"ext://x\"; ref = \"x\"; }",
            ErrorKind::Build,
            "git",
        ),
        (
            "\"/not/there\"",
            ErrorKind::Build,
            "Git repository '/not/there' does not exist.",
        ),
    ] {
        world.fails(&format!("fetchGit {arguments}"), kind, message);
    }
}

#[test]
fn hooks_and_filters_of_a_repository_do_not_run() {
    let world = World::new();
    let path = world.path().join("repo");
    repository(&path);
    let canary = world.path().join("canary");
    let run = format!("touch {}; cat", canary.display());
    for setting in [
        "core.fsmonitor",
        "filter.x.smudge",
        "filter.x.clean",
        "filter.x.process",
    ] {
        git(&path, &["config", setting, &run]);
    }
    fs::write(path.join(".git/info/attributes"), "* filter=x\n").unwrap();
    let url = path.display();
    fetch(&world, &format!("{{ url = \"{url}\"; ref = \"main\"; }}"));
    fs::write(path.join("default.nix"), "{ x = 44; }").unwrap();
    assert!(fetch(&world, &url.to_string()).get("dirtyRev").is_some());
    assert!(!canary.exists());
    // They would.
    git(&path, &["status"]);
    assert!(canary.exists());
}

#[test]
fn hashes() {
    let world = World::new();
    let path = world.path().join("repo");
    repository(&path);
    let url = path.display();
    let hash = world.text(&format!(
        "(fetchGit {{ url = \"{url}\"; ref = \"main\"; }}).narHash"
    ));
    let with = |hash: &str| {
        format!("(fetchGit {{ url = \"{url}\"; ref = \"main\"; narHash = \"{hash}\"; }}).narHash")
    };
    assert_eq!(world.text(&with(&hash)), hash);
    let zeros = format!("sha256-{}=", "A".repeat(43));
    let message = format!("expected '{zeros}' but got '{hash}'");
    world.fails(&with(&zeros), ErrorKind::Build, &message);
}
