//! `tvix store`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath};
use serde_json::Value;
use tvix_store_api::Store as _;
use tvix_tests::local::{LocalWorld, make_writable, names_in};
use tvix_tests::program::{Ended, run};

/// `tvix store` with these arguments, on the store at `root`.
fn store(root: &Path, arguments: &[&str]) -> Ended {
    let mut command = super::plain();
    run(command
        .arg("store")
        .args(arguments)
        .arg("--store")
        .arg(root))
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.out[0]).unwrap()
}

/// A world whose own handle is of no store that is used here: what it holds would not be collected.
async fn world() -> LocalWorld {
    let world = LocalWorld::new().await;
    let folder = world.beside("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    fs::write(folder.join("sub/file"), "contents").unwrap();
    std::os::unix::fs::symlink("sub/file", folder.join("link")).unwrap();
    world
}

/// A link is added itself, whatever it leads to; links among its parents are followed. The paths are those that
/// `nix store add` of C++ Nix 2.34.8 printed for the same tree.
#[tokio::test]
async fn links_are_added_themselves() {
    let world = LocalWorld::new().await;
    let (root, folder) = (world.beside("new"), world.beside("folder"));
    fs::create_dir_all(folder.join("real")).unwrap();
    fs::write(folder.join("real/file"), "hi\n").unwrap();
    for (link, target) in [
        ("real/flink", "file"),
        ("dlink", "real"),
        ("tofile", "real/file"),
        ("dangling", "nowhere"),
        ("chain", "dlink"),
    ] {
        std::os::unix::fs::symlink(target, folder.join(link)).unwrap();
    }
    for (file, expected) in [
        ("real", "6cgcfl2wg1azd091hp15x2629qirb6na-real"),
        ("dlink", "jvs518p68qpagpac3if71h7n2wcb7syz-dlink"),
        ("tofile", "kid7pm72i88blwsz06hyycswcidyi81c-tofile"),
        ("dangling", "i9s602wqnwlz1rz6979x039a1snpz3wf-dangling"),
        ("chain", "2pwz23bwf142yrcib1ixqbq3xdl7m1im-chain"),
        ("real/flink", "drfrfsvvskqjgv48grac88ahfcgqcyfz-flink"),
        ("dlink/file", "a5ninyv8g00ffl81x1qccsrj5xklh0wb-file"),
        ("dlink/flink", "drfrfsvvskqjgv48grac88ahfcgqcyfz-flink"),
        ("./dlink", "jvs518p68qpagpac3if71h7n2wcb7syz-dlink"),
    ] {
        let mut command = super::plain();
        let command = command.args(["store", "add", file, "--store"]).arg(&root);
        let added = run(command.current_dir(&folder)).expect(0);
        assert_eq!(added.out, [format!("/nix/store/{expected}")], "{file}");
    }
}

#[tokio::test]
async fn what_is_added_can_be_looked_at() {
    let world = world().await;
    let (root, folder) = (world.beside("new"), world.beside("folder"));
    let folder = folder.to_str().unwrap();
    let added = store(&root, &["add", folder, "--name", "x"]).expect(0);
    let path = added.out[0].as_str();
    let again = store(&root, &["add", "--json", "--name", "x", folder]).expect(0);
    assert_eq!(json(&again), serde_json::json!([path]));
    let listed = store(&root, &["ls", "-R", path]).expect(0);
    assert_eq!(listed.out, ["./link", "./sub", "./sub/file"]);
    let listed = store(&root, &["ls", "-lR", path]).expect(0);
    assert!(listed.out[0].ends_with(" ./link -> sub/file"), "{listed:?}");
    let listed = json(&store(&root, &["ls", "--json", "-R", path]).expect(0));
    assert_eq!(listed["entries"]["sub"]["entries"]["file"]["size"], 8);
    let file = format!("{path}/sub/file");
    assert_eq!(store(&root, &["cat", &file]).expect(0).out, ["contents"]);
    // A link may lead out of the store.
    let through = format!("{path}/link/x");
    store(&root, &["cat", &through])
        .expect(1)
        .says(&["symlink"]);
    let out = format!("{path}/../../etc/passwd");
    store(&root, &["cat", &out]).expect(1).says(&["'..'"]);
    let info = json(&store(&root, &["path-info", "--json", path]).expect(0));
    let parsed: StorePath = StoreDir::default().parse(path).unwrap();
    let opened = tvix_store_api::local_fs::LocalStore::open(
        tvix_store_api::local_fs::LocalStoreOptions::new(&root).with_read_only(true),
    );
    let known = opened
        .await
        .unwrap()
        .path_info(&parsed)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(info[0]["narSize"], known.nar_size);
    let mut dump = super::plain();
    let dumped = dump
        .args(["store", "dump", path, "--store"])
        .arg(&root)
        .output();
    let dumped = dumped.unwrap().stdout;
    assert_eq!(dumped.len() as u64, known.nar_size);
    store(&root, &["path-info", "/nix/store/none"])
        .expect(1)
        .says(&["/nix/store/none"]);
    make_writable(&root);
}

/// Queries of a local store also work on a cache.
#[tokio::test]
async fn caches_are_looked_at_as_stores_are() {
    let world = world().await;
    let root = world.beside("new");
    let folder = world.beside("folder");
    let path = store(&root, &["add", folder.to_str().unwrap()])
        .expect(0)
        .out[0]
        .clone();
    fs::create_dir(world.beside("cache")).unwrap();
    let cache = format!("file://{}", world.beside("cache").display());
    let mut copy = super::plain();
    copy.args(["store", "copy", "--json", "--to", &cache, "--from"]);
    let copied = json(&run(copy.arg(&root).arg(&path)).expect(0));
    assert!(copied[&path]["narSize"].is_u64(), "{copied}");
    let cache = Path::new(&cache);
    let file = format!("{path}/sub/file");
    for arguments in [
        &["ls", "-R", &path][..],
        &["ls", "--json", "-R", &path],
        &["cat", &file],
        &["cat", "--json", &file],
        &["dump", "--json", &path],
        &["path-info", "-s", &path],
    ] {
        let here = store(&root, arguments).expect(0);
        assert!(!here.out.is_empty());
        assert_eq!(
            here.out,
            store(cache, arguments).expect(0).out,
            "{arguments:?}"
        );
    }
    let cat = json(&store(cache, &["cat", "--json", &file]).expect(0));
    assert_eq!(
        (&cat["size"], &cat["text"]),
        (&8.into(), &"contents".into())
    );
    let listing = json(&store(&root, &["dump", "--json", &path]).expect(0));
    assert_eq!(listing["root"]["entries"]["link"]["target"], "sub/file");
    // What was damaged is had from there.
    let name = path.rsplit('/').next().unwrap();
    let real = root.join("nix/store").join(name).join("sub/file");
    let damage = || {
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&real, "Contents").unwrap();
    };
    let from = cache.to_str().unwrap();
    damage();
    store(&root, &["repair", &path, "--from", from]).expect(0);
    store(&root, &["verify"]).expect(0);
    damage();
    store(&root, &["verify", "--repair-from", from]).expect(0);
    let key = SigningKey::generate("mine-1").unwrap();
    let key_file = world.beside("key");
    fs::write(&key_file, key.to_secret_text()).unwrap();
    let sign = [
        "sign",
        "--json",
        "--key-file",
        key_file.to_str().unwrap(),
        &path,
    ];
    for store_of in [&root, cache] {
        let signed = json(&store(store_of, &sign).expect(0));
        assert!(
            signed[&path].as_str().unwrap().starts_with("mine-1:"),
            "{signed}"
        );
    }
    make_writable(&root);
}

/// A link to a store path is taken wherever a store path is wanted, as `nix` 2.34.8 does.
#[tokio::test]
async fn links_to_store_paths() {
    use std::os::unix::fs::symlink;
    let world = world().await;
    let (root, cache) = (world.beside("new"), world.beside("cache"));
    let added = store(&root, &["add", world.beside("folder").to_str().unwrap()]).expect(0);
    let path = added.out[0].clone();
    let base = Path::new(&path).file_name().unwrap().to_owned();
    let at = |name: &str| world.beside(name).to_str().unwrap().to_owned();
    // As builds make it, as Nix makes it, a link to a link, and one from elsewhere.
    symlink(root.join("nix/store").join(&base), at("result")).unwrap();
    symlink(&path, at("logical")).unwrap();
    symlink("result", at("chain")).unwrap();
    symlink("../chain", world.beside("folder").join("up")).unwrap();
    let (key, key_file) = (SigningKey::generate("mine-1").unwrap(), at("links-key"));
    fs::write(&key_file, key.to_secret_text()).unwrap();
    let links = [
        at("result"),
        at("result") + "/",
        at("logical"),
        at("chain"),
        at("folder/up"),
    ];
    for (number, link) in links.iter().enumerate() {
        let info = store(&root, &["path-info", link]).expect(0);
        assert_eq!(info.out, [path.as_str()], "{link}");
        store(&root, &["verify", link]).expect(0);
        let dumped = store(&root, &["dump", "--json", link]).expect(0);
        assert_eq!(json(&dumped)["version"], 1);
        let listed = store(&root, &["ls", link]).expect(0);
        assert_eq!(listed.out, ["./link", "./sub"], "{link}");
        let file = format!("{link}/sub/file");
        assert_eq!(store(&root, &["cat", &file]).expect(0).out, ["contents"]);
        let signed = store(&root, &["sign", "--json", "--key-file", &key_file, link]).expect(0);
        assert!(json(&signed)[&path].is_string(), "{link}");
        let made = at(&format!("root-{number}"));
        store(&root, &["roots", "--add", &made, link]).expect(0);
        assert!(Path::new(&made).is_symlink());
        let cache = format!("file://{}-{number}", cache.display());
        // `--store` stands for whichever of the two stores is not given.
        let copied = store(&root, &["copy", "--to", &cache, link]).expect(0);
        assert_eq!(copied.out, [path.as_str()]);
        store(&root, &["repair", "--from", &cache, link]).expect(0);
        let back = at(&format!("back-{number}"));
        // A link into the store that is copied to names the same path.
        let copied = store(
            Path::new(&back),
            &["copy", "--from", &cache, "--no-check-sigs", &at("logical")],
        );
        assert_eq!(copied.expect(0).out, [path.as_str()]);
        let cache_of = |arguments: &[&str]| {
            let mut command = super::plain();
            run(command
                .arg("store")
                .args(arguments)
                .args(["--from", &cache]))
        };
        let info = cache_of(&["path-info", &at("logical")]).expect(0);
        assert_eq!(info.out, [path.as_str()]);
        cache_of(&["path-info", &at("result")])
            .expect(1)
            .says(&["is not in store"]);
        make_writable(Path::new(&back));
    }
    let below = at("result") + "/sub";
    store(&root, &["verify", &below])
        .expect(1)
        .says(&["below a store path"]);
    symlink("loop", at("loop")).unwrap();
    store(&root, &["path-info", &at("loop")])
        .expect(1)
        .says(&["is not in store"]);
    make_writable(&root);
}

/// Errors name their cause, and nothing is created.
#[tokio::test]
async fn errors_name_the_culprit() {
    let world = world().await;
    let root = world.beside("new");
    let folder = world.beside("folder");
    let path = store(&root, &["add", folder.to_str().unwrap()])
        .expect(0)
        .out[0]
        .clone();
    let unknown = format!("{path}x");
    let (sub, gone) = (format!("{path}/sub"), format!("{path}/gone"));
    let nowhere = world.beside("nowhere").display().to_string();
    let no_key = world.beside("no-key");
    fs::write(&no_key, "no key").unwrap();
    let no_key = no_key.to_str().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["path-info", "/nix/store/nothing"],
            &["'/nix/store/nothing'"],
        ),
        (&["path-info", &unknown], &[&unknown[11..], "not valid"]),
        (&["ls", &gone], &[&gone, "No such file"]),
        (&["ls", &unknown], &[&unknown[11..], "not valid"]),
        (&["cat", &sub], &[&sub, "not a file"]),
        (&["cat", &gone], &[&gone, "No such file"]),
        (&["dump", &sub], &[&sub, "below a store path"]),
        (&["dump", &unknown], &[&unknown[11..]]),
        (&["verify", &sub], &[&sub, "below a store path"]),
        (&["add", &nowhere], &[&nowhere, "No such file"]),
        (&["repair", &path, "--from", &nowhere], &[&nowhere]),
        (
            &["repair", &path, "--from", "ftp://x"],
            &["ftp://x", "https://"],
        ),
        (&["sign", "--key-file", no_key, &path], &[no_key, "':'"]),
        (&["sign", "--key-file", &nowhere, &path], &[&nowhere]),
        (
            &["roots", "--add", "/nonexistent/link", &path],
            &["/nonexistent/link"],
        ),
        (&["serve", "--listen", "192.0.2.1:1"], &["192.0.2.1:1"]),
        (&["serve", "--key-file", no_key], &[no_key]),
    ];
    for (arguments, words) in cases {
        let ended = store(&root, arguments).expect(1).says(words);
        assert!(!ended.err.contains("0000000000"), "{}", ended.err);
        assert_eq!(ended.out, [""; 0], "{arguments:?}");
    }
    for (uri, words) in [
        ("ftp://x", &["ftp://x", "https://"][..]),
        ("local?durability=maybe", &["'maybe'", "relaxed"]),
        (
            "file:///nonexistent/cache",
            &["/nonexistent/cache", "nix-cache-info"],
        ),
        ("http://127.0.0.1:1", &["http://127.0.0.1:1"]),
    ] {
        store(Path::new(uri), &["path-info", &path])
            .expect(1)
            .says(words);
    }
    let cache = Path::new("file:///nonexistent/cache");
    let listed = store(cache, &["path-info"]).expect(1);
    listed.says(&["/nonexistent/cache", "specify store paths"]);
    assert_eq!(store(&root, &["path-info"]).expect(0).out, [path]);
    make_writable(&root);
}

#[tokio::test]
async fn garbage_goes_and_roots_stay() {
    let world = world().await;
    let root = world.beside("new");
    let add = |name: &str| {
        let file = world.beside(name);
        fs::write(&file, name).unwrap();
        store(&root, &["add", file.to_str().unwrap()]).expect(0).out[0].clone()
    };
    let (kept, dead) = (add("kept"), add("dead"));
    let link = world.beside("link");
    store(&root, &["roots", "--add", link.to_str().unwrap(), &kept]).expect(0);
    let roots = json(&store(&root, &["roots", "--json"]).expect(0));
    let indirect = roots
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["kind"] == "indirect");
    assert_eq!(indirect.unwrap()["source"], link.to_str().unwrap());
    assert_eq!(
        store(&root, &["gc", "--print-dead"]).expect(0).out,
        vec![dead.clone()]
    );
    assert_eq!(
        store(&root, &["gc", "--print-live"]).expect(0).out,
        vec![kept.clone()]
    );
    store(&root, &["gc", "--max-freed", "0"])
        .expect(0)
        .says(&["0 store paths"]);
    store(&root, &["gc", "--max-freed", "1X"]).expect(1);
    let report = json(&store(&root, &["gc", "--json"]).expect(0));
    assert_eq!(report["paths"], serde_json::json!([dead]));
    assert_eq!(store(&root, &["path-info"]).expect(0).out, [kept]);
    make_writable(&root);
}

#[tokio::test]
async fn damage_is_found_and_repaired() {
    let world = world().await;
    let (root, other) = (world.beside("new"), world.beside("other"));
    let folder = world.beside("folder");
    let folder = folder.to_str().unwrap();
    let path = store(&root, &["add", folder]).expect(0).out[0].clone();
    store(&other, &["add", folder]).expect(0);
    store(&root, &["verify"])
        .expect(0)
        .says(&["1 store paths checked, 0 damaged"]);
    let name = path.rsplit('/').next().unwrap();
    let file = root.join("nix/store").join(name).join("sub/file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "Contents").unwrap();
    let found = store(&root, &["verify", "--json"]).expect(1);
    assert_eq!(json(&found)["damaged"][0]["path"], path);
    store(&root, &["verify", "--no-contents"]).expect(0);
    let from = other.to_str().unwrap();
    store(&root, &["repair", &path, "--from", from]).expect(0);
    store(&root, &["verify", &path]).expect(0);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "Contents").unwrap();
    let repaired = store(&root, &["verify", "--repair-from", from]).expect(0);
    repaired.says(&[name, "repaired"]);
    let optimised = json(&store(&root, &["optimise", "--json"]).expect(0));
    // The file and the symbolic link.
    assert_eq!(optimised["files"], 2);
    assert_eq!(names_in(&root.join("nix/store/.links")).len(), 2);
    make_writable(&root);
    make_writable(&other);
}
