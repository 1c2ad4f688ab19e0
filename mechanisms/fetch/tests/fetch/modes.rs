//! Pure and restricted evaluation. The messages are those of C++ Nix 2.34.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use tvix_eval::error::ErrorKind;

use super::World;
use super::server::{Page, Server};

const PURE: &str = "is forbidden in pure evaluation mode (use '--impure' to override)";
const RESTRICTED: &str = "is forbidden in restricted mode";
const FORBIDDEN: ErrorKind = ErrorKind::Forbidden;

fn pure() -> World {
    let mut world = World::new();
    world.settings.pure = true;
    world.settings.search_path = vec![("x".into(), "/etc".into())];
    world
}

fn restricted() -> World {
    let mut world = World::new();
    world.settings.allowed_paths = Some(Vec::new());
    let allowed = world.path().join("allowed");
    fs::create_dir(&allowed).unwrap();
    fs::write(allowed.join("x.nix"), "1").unwrap();
    fs::write(world.path().join("secret"), "secret").unwrap();
    symlink("../secret", allowed.join("tunnel")).unwrap();
    symlink("..", allowed.join("up")).unwrap();
    symlink("x.nix", allowed.join("inside")).unwrap();
    let allowed = allowed.to_str().unwrap().to_owned();
    world.settings.search_path = vec![("a".into(), allowed)];
    world
}

#[test]
fn pure_evaluation_sees_nothing() {
    let world = pure();
    assert_eq!(world.text("builtins.getEnv \"PATH\""), "");
    for absent in ["currentTime", "currentSystem"] {
        assert_eq!(
            world.eval(&format!("builtins ? {absent}")).unwrap(),
            json!(false)
        );
    }
    assert_eq!(world.eval("builtins.nixPath").unwrap(), json!([]));
    let cannot = "cannot look up '<x>' in pure evaluation mode (use '--impure' to override)";
    world.fails("<x>", ErrorKind::Thrown, cannot);
    for text in [
        "builtins.readFile /etc/passwd",
        "import /etc/passwd",
        "\"${/etc/passwd}\"",
        "builtins.path { path = /etc/passwd; }",
        "builtins.filterSource (_: _: true) /etc/passwd",
        "builtins.hashFile \"sha256\" /etc/passwd",
        "builtins.readDir /etc",
        "builtins.readDir /nix/store",
        "builtins.readFileType /etc/passwd",
    ] {
        world.fails(text, FORBIDDEN, PURE);
    }
    let not_allowed = "'builtins.storePath' is not allowed in pure evaluation mode";
    world.fails("builtins.storePath /nix/store/x", FORBIDDEN, not_allowed);
    for path in ["/etc/passwd", "/etc", "/nix/store"] {
        assert_eq!(
            world.eval(&format!("builtins.pathExists {path}")).unwrap(),
            json!(false)
        );
    }
    // What it makes itself it may read.
    assert_eq!(
        world.text("builtins.readFile (builtins.toFile \"x\" \"y\")"),
        "y"
    );
}

#[test]
fn pure_evaluation_fetches_what_is_locked() {
    let world = pure();
    let server = Server::start();
    server.put("/x", Page::of("hello\n"));
    let url = server.url("/x");
    for who in ["fetchurl", "fetchTarball"] {
        world.fails(
            &format!("builtins.{who} \"{url}\""),
            FORBIDDEN,
            &format!("in pure evaluation mode, '{who}' requires a 'sha256' argument"),
        );
    }
    world.fails(
        "fetchGit { url = \"https://x.org/a\"; ref = \"b\"; }",
        FORBIDDEN,
        "in pure evaluation mode, 'fetchGit' doesn't fetch unlocked input 'git+https://x.org/a?exportIgnore=1&ref=b'",
    );
    assert!(server.seen().is_empty());
    let hash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
    let locked = format!("builtins.fetchurl {{ url = \"{url}\"; sha256 = \"{hash}\"; }}");
    assert_eq!(
        world.text(&format!("builtins.readFile ({locked})")),
        "hello\n"
    );
}

#[test]
fn restricted_evaluation_sees_the_search_path() {
    let world = restricted();
    let folder = world.path().to_str().unwrap();
    assert_eq!(world.text("builtins.getEnv \"PATH\""), "");
    assert_eq!(world.eval("builtins ? currentTime").unwrap(), json!(true));
    assert_eq!(world.eval("import <a/x.nix>").unwrap(), json!(1));
    assert_eq!(world.eval("import <a/inside>").unwrap(), json!(1));
    for text in [
        format!("builtins.readFile {folder}/secret"),
        format!("builtins.readFile {folder}/allowed/../secret"),
        format!("\"${{{folder}/secret}}\""),
        "builtins.readFile <a/tunnel>".to_owned(),
        "builtins.readFile <a/up/secret>".to_owned(),
        "builtins.readFile (<a> + \"/tunnel\")".to_owned(),
        "builtins.readDir /etc".to_owned(),
        "builtins.readDir /nix/store".to_owned(),
    ] {
        world.fails(&text, FORBIDDEN, RESTRICTED);
    }
    for (path, seen) in [
        (format!("{folder}/secret"), false),
        (format!("{folder}/allowed/x.nix"), true),
        (folder.to_owned(), true),
        ("/etc/passwd".to_owned(), false),
    ] {
        assert_eq!(
            world.eval(&format!("builtins.pathExists {path}")).unwrap(),
            json!(seen),
            "{path}"
        );
    }
    // Of a folder that is on the way, only the way is seen, and copied.
    let listed = format!("builtins.attrNames (builtins.readDir {folder})");
    assert_eq!(world.eval(&listed).unwrap(), json!(["allowed"]));
    let way = world.eval(&format!("builtins.seq \"${{{folder}}}\" true"));
    assert_eq!(way.unwrap(), json!(true));
    let hidden = World {
        folder: tempfile::TempDir::new().unwrap(),
        options: world.options.clone(),
        settings: world.settings.clone(),
    };
    let all = format!("builtins.unsafeDiscardStringContext \"${{{folder}}}\"");
    let restricted_path = hidden.text(&all);
    let mut open = hidden;
    open.settings.allowed_paths = None;
    assert_ne!(open.text(&all), restricted_path);
}

#[test]
fn restricted_evaluation_fetches_what_is_allowed() {
    let mut world = restricted();
    let server = Server::start();
    server.put("/x", Page::of("x"));
    server.put("/xy", Page::of("y"));
    let url = server.url("/x");
    let fetch = |url: &str| format!("builtins.readFile (builtins.fetchurl \"{url}\")");
    let uri = format!("access to URI '{url}' {RESTRICTED}");
    world.fails(&fetch(&url), FORBIDDEN, &uri);
    world.fails(&format!("fetchTarball \"{url}\""), FORBIDDEN, &uri);
    world.fails(
        "fetchGit \"file:///x/y\"",
        FORBIDDEN,
        "access to URI 'git+file:///x/y?exportIgnore=1' is forbidden in restricted mode",
    );
    let made_up = format!("builtins.findFile [ {{ prefix = \"q\"; path = \"{url}\"; }} ] \"q\"");
    world.fails(&made_up, FORBIDDEN, &uri);
    let folder = world.path().to_str().unwrap().to_owned();
    world.fails(
        &fetch(&format!("file://{folder}/secret")),
        FORBIDDEN,
        RESTRICTED,
    );
    world.fails(
        &fetch(&format!("file://{folder}/allowed/tunnel")),
        FORBIDDEN,
        RESTRICTED,
    );
    world.fails(
        &fetch(&format!("file:{folder}/allowed/../secret")),
        FORBIDDEN,
        RESTRICTED,
    );
    assert_eq!(
        world.text(&fetch(&format!("file://{folder}/allowed/x.nix"))),
        "1"
    );
    assert!(server.seen().is_empty());
    world.settings.allowed_uris = vec![url.clone()];
    assert_eq!(world.text(&fetch(&url)), "x");
    world.fails(&fetch(&server.url("/xy")), FORBIDDEN, RESTRICTED);
    world.settings.allowed_uris = vec!["http:".into()];
    assert_eq!(world.text(&fetch(&server.url("/xy"))), "y");
}
