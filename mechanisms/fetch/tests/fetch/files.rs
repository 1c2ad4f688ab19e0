//! `fetchurl`.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tvix_eval::error::ErrorKind;

use super::World;
use super::server::{Page, Server};

const HELLO: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

#[test]
fn a_local_file_becomes_a_store_path() {
    let world = World::new();
    let file = world.path().join("a b.txt");
    fs::write(&file, "hello\n").unwrap();
    let url = format!("file://{}", file.display()).replace(' ', "%20");
    let fetched = format!("builtins.fetchurl {{ url = \"{url}\"; name = \"hello\"; }}");
    // `nix-store --add-fixed sha256` on a file of that name says the same.
    assert_eq!(
        world.text(&fetched),
        "/nix/store/8zv8i345w2xn27jrxj4cyjc6x3b4am1q-hello"
    );
    assert_eq!(
        world.text(&format!("builtins.readFile ({fetched})")),
        "hello\n"
    );
    let context = format!("builtins.getContext ({fetched})");
    assert_eq!(
        world.eval(&context).unwrap(),
        json!({"/nix/store/8zv8i345w2xn27jrxj4cyjc6x3b4am1q-hello": {"path": true}})
    );
    // It is looked at anew whenever it is fetched.
    fs::write(&file, "hello, hello\n").unwrap();
    assert_eq!(
        world.text(&format!("builtins.readFile ({fetched})")),
        "hello, hello\n"
    );
    world.fails(
        &format!("builtins.fetchurl \"{url}\""),
        ErrorKind::Other,
        "Please pass an attribute set with 'url' and 'name' attributes to 'fetchurl'",
    );
    world.fails(
        "builtins.fetchurl \"file:///not/there\"",
        ErrorKind::Build,
        "unable to download 'file:///not/there'",
    );
}

#[test]
fn hashes_are_checked_and_shown() {
    let world = World::new();
    let server = Server::start();
    server.put("/x", Page::of("hello\n"));
    let url = server.url("/x");
    let with =
        |hash: &str| format!("builtins.fetchurl {{ url = \"{url}\"; sha256 = \"{hash}\"; }}");
    for hash in [
        HELLO,
        "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
    ] {
        assert!(world.text(&with(hash)).ends_with("-x"));
    }
    let zeros = "0".repeat(64);
    world.fails(
        &with(&zeros),
        ErrorKind::Build,
        "hash mismatch in file downloaded from",
    );
    world.fails(
        &with(&zeros),
        ErrorKind::Build,
        "(sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=)",
    );
    world.fails(
        &with(""),
        ErrorKind::Build,
        "(sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=)",
    );
    world.fails(
        &format!("builtins.fetchurl {{ url = \"{url}\"; md5 = \"\"; }}"),
        ErrorKind::Other,
        "unsupported argument 'md5' to 'fetchurl'",
    );
    world.fails(
        "builtins.fetchurl { }",
        ErrorKind::Missing,
        "'url' argument required",
    );
}

#[test]
fn what_is_known_needs_no_network() {
    let world = World::new();
    let server = Server::start();
    server.put("/x", Page::of("hello\n"));
    let url = server.url("/x");
    let unlocked = format!("builtins.fetchurl \"{url}\"");
    let first = world.text(&unlocked);
    assert_eq!(world.text(&unlocked), first);
    assert_eq!(server.seen(), ["/x"], "the second one was in time");
    // Neither the name nor the URL matters when the hash is known.
    let locked = format!(
        "builtins.fetchurl {{ url = \"http://127.0.0.1:1/gone\"; name = \"y\"; sha256 = \"{HELLO}\"; }}"
    );
    assert!(world.text(&locked).ends_with("-y"));
    // Nor does the cache, when the store has it.
    let other = World::new();
    let path = world.text(&locked);
    let in_store = other
        .path()
        .join("store")
        .join(path.strip_prefix('/').unwrap());
    fs::create_dir_all(in_store.parent().unwrap()).unwrap();
    fs::write(&in_store, "hello\n").unwrap();
    assert_eq!(other.text(&locked), path);
    // But only if it is what it should be.
    fs::write(&in_store, "hollo\n").unwrap();
    other.fails(
        &locked,
        ErrorKind::Build,
        "unable to download 'http://127.0.0.1:1/gone'",
    );
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let mut world = World::new();
    world.options.ttl = Duration::ZERO;
    let server = Server::start();
    let mut page = Page::of("one");
    page.headers.push(("ETag", "\"v1\"".to_owned()));
    server.put("/x", page.clone());
    let read = format!(
        "builtins.readFile (builtins.fetchurl \"{}\")",
        server.url("/x")
    );
    assert_eq!(world.text(&read), "one");
    // The server would send this if it were not told what is known.
    page.body = b"two".to_vec();
    server.put("/x", page.clone());
    assert_eq!(world.text(&read), "one");
    page.headers[0].1 = "\"v2\"".to_owned();
    server.put("/x", page);
    assert_eq!(world.text(&read), "two");
    assert_eq!(server.seen().len(), 3);
    // When the server is of no use, what is known has to do.
    server.put(
        "/x",
        Page {
            status: 404,
            ..Page::default()
        },
    );
    assert_eq!(world.text(&read), "two");
}

#[test]
fn servers_that_fail() {
    let mut world = World::new();
    let server = Server::start();
    server.put("/moved", Page::redirect(&server.url("/x")));
    server.put(
        "/x",
        Page {
            failures: 1,
            ..Page::of("x")
        },
    );
    server.put(
        "/short",
        Page {
            missing: 10,
            ..Page::of("x")
        },
    );
    server.put(
        "/silent",
        Page {
            silent: true,
            ..Page::of("x")
        },
    );
    server.put("/loop", Page::redirect(&server.url("/loop")));
    let fetch = |path: &str| {
        format!(
            "builtins.readFile (builtins.fetchurl \"{}\")",
            server.url(path)
        )
    };
    let error = ErrorKind::Build;
    world.fails(&fetch("/x"), error, "HTTP error 503");
    assert_eq!(world.text(&fetch("/moved")), "x");
    world.fails(&fetch("/gone"), error, "HTTP error 404");
    world.fails(&fetch("/short"), error, "unable to download");
    world.fails(&fetch("/loop"), error, "unable to download");
    world.options.stall_timeout = Duration::from_millis(50);
    world.fails(&fetch("/silent"), error, "unable to download");
    world.options.stall_timeout = Duration::from_secs(30);
    // Some failures pass.
    world.options.attempts = 2;
    server.put(
        "/x",
        Page {
            failures: 1,
            ..Page::of("xx")
        },
    );
    assert_eq!(world.text(&fetch("/x")), "xx");
    let asked = server.seen().len();
    world.fails(&fetch("/gone"), error, "HTTP error 404");
    assert_eq!(
        server.seen().len(),
        asked + 1,
        "that it is not there does not pass"
    );
    world.options.download_limit = 1;
    server.put("/large", Page::of("xxx"));
    world.fails(&fetch("/large"), error, "more than 1 bytes");
    assert_eq!(world.kept("tmp"), 0);
}

#[test]
fn without_a_fetcher_it_says_so() {
    let failure = tvix_eval::NixEvaluator::default()
        .eval_to::<String>("builtins.fetchurl \"http://127.0.0.1:1/x\"")
        .unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unsupported);
    assert!(
        failure.message.contains("without a fetcher"),
        "{}",
        failure.message
    );
}

#[test]
fn schemes() {
    let world = World::new();
    world.fails(
        "builtins.fetchurl \"ftp://x/y\"",
        ErrorKind::Other,
        "scheme 'ftp'",
    );
    world.fails(
        "builtins.fetchurl \"nothing\"",
        ErrorKind::Other,
        "'nothing' doesn't have a scheme",
    );
}
