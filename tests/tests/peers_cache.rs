//! Binary caches and C++ Nix: each substitutes from caches that the other wrote, from files and
//! over HTTP; and a third-party S3 server.
//!
//! `cargo test -p tvix-tests --test peers_cache`; needs `nix`, `nix-store` and
//! `moto_server` (`pip install 'moto[server]'`), in PATH or as MOTO_SERVER.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::narinfo::Compression;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::net::TcpListener;
use tvix_cache_server::{CacheServer, ServerOptions};
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreError, StoreExt as _};
use tvix_tests::local::{LocalWorld, absolute};
use tvix_tests::nix;

// Without `lzma`: Nix 2.8 exits without a message on some small archives.
const COMPRESSIONS: [&str; 7] = ["none", "xz", "bzip2", "gzip", "zstd", "br", "lz4"];

fn key() -> SigningKey {
    SigningKey::from_seed("ours-1", &[3; 32]).unwrap()
}

/// A closure of two input-addressed paths, which need signatures, and a text.
async fn fill(world: &LocalWorld) -> StorePath {
    let tree = world.beside("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::write(tree.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(tree.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(
        tree.join("large"),
        "some text, again and again\n".repeat(100_000),
    )
    .unwrap();
    let method = ContentAddressMethod::NixArchive;
    let made = world
        .store
        .add_tree(&tree, "tree".parse().unwrap(), method)
        .await
        .unwrap();
    let name = "text".parse().unwrap();
    let text = world
        .store
        .add_text(name, b"text", Default::default())
        .await
        .unwrap();
    let mut paths: Vec<StorePath> = vec![text];
    for (index, name) in ["first", "second"].into_iter().enumerate() {
        let made = world.store.require(&made).await.unwrap();
        let path = StorePath::new([index as u8 + 1; 20], name.parse().unwrap());
        let mut info = PathInfo::new(path.clone(), made.nar_hash, made.nar_size);
        info.references = paths.iter().cloned().collect();
        let nar = world.store.nar(&made.path).await.unwrap();
        world.store.add(info, nar).await.unwrap();
        paths.push(path);
    }
    paths.pop().unwrap()
}

/// A program of Nix on an empty store next to the world's.
fn nix_command(program: &str, root: &Path, trusted: &str, substituters: &str) -> Command {
    let mut command = nix::command(program, root);
    command.env(
        "NIX_CONFIG",
        format!(
            "experimental-features = nix-command\nbuild-users-group =\nsandbox = false\n\
             require-sigs = true\ntrusted-public-keys = {trusted}\nsubstituters = {substituters}\n\
             narinfo-cache-negative-ttl = 0\nconnect-timeout = 5"
        ),
    );
    command
}

/// Both substitution commands of Nix copy the closure from `uri`, and only with the key.
async fn expect_nix_substitutes(world: &LocalWorld, uri: &str, path: &StorePath) {
    let trusted = key().verifying_key().to_string();
    let other = SigningKey::from_seed("other-1", &[4; 32]).unwrap();
    let other = other.verifying_key().to_string();
    let target = |name: &str| {
        let root = world.beside(name);
        fs::create_dir_all(&root).unwrap();
        root
    };
    let text = absolute(path);
    let copied = target("copied");
    let mut copy = nix_command("nix", &copied, &trusted, "");
    nix::run(copy.args(["copy", "--from", uri, &text]));
    let realised = target("realised");
    let mut realise = nix_command("nix-store", &realised, &trusted, uri);
    let (out, _) = nix::run(realise.args(["-r", &text]));
    assert_eq!(out, [text.as_str()]);
    let refused = target("refused");
    let mut refuse = nix_command("nix", &refused, &other, "");
    let output = refuse
        .args(["copy", "--from", uri, &text])
        .output()
        .unwrap();
    assert!(!output.status.success(), "copied with another key");
    for root in [copied, realised] {
        let mut verify = nix_command("nix-store", &root, &trusted, "");
        let (_, log) = nix::run(verify.args(["--verify", "--check-contents"]));
        assert!(!log.contains("error") && !log.contains("warning"), "{log}");
        let store = LocalStore::open(LocalStoreOptions::new(&root))
            .await
            .unwrap();
        assert_eq!(
            store
                .closure(std::slice::from_ref(path))
                .await
                .unwrap()
                .len(),
            3
        );
        drop(store);
        tvix_tests::local::make_writable(&root);
        fs::remove_dir_all(&root).unwrap();
    }
}

fn options(uri: &str) -> BinaryCacheOptions {
    BinaryCacheOptions::new(uri.parse().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nix_substitutes_from_our_directories() {
    let world = LocalWorld::new().await;
    let path = fill(&world).await;
    for compression in COMPRESSIONS {
        let uri = format!("file://{}", world.beside(compression).display());
        fs::create_dir(world.beside(compression)).unwrap();
        let options = options(&uri)
            .with_create(StoreDir::default())
            .with_require_signatures(false)
            .with_signing_keys([key()])
            .with_compression(Compression::from(compression));
        let cache = BinaryCache::open(options).await.unwrap();
        let paths = [path.clone()];
        assert_eq!(
            world
                .store
                .copy_closure(&cache, &paths)
                .await
                .unwrap()
                .len(),
            3
        );
        expect_nix_substitutes(&world, &uri, &path).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nix_substitutes_from_our_server() {
    let world = LocalWorld::new().await;
    let path = fill(&world).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let options = ServerOptions::default().with_signing_keys([key()]);
    let server = CacheServer::new(Arc::new(world.store.clone()), options);
    let task = tokio::spawn(server.serve(listener, std::future::pending()));
    expect_nix_substitutes(&world, &uri, &path).await;
    task.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_substitute_from_what_nix_wrote() {
    let world = LocalWorld::new().await;
    let path = fill(&world).await;
    let secret = world.beside("secret");
    fs::write(&secret, key().to_secret_text()).unwrap();
    let text = absolute(&path);
    for compression in COMPRESSIONS {
        let uri = format!("file://{}", world.beside(compression).display());
        let mut copy = nix_command("nix", &world.root(), "", "");
        let to = format!(
            "{uri}?compression={compression}&secret-key={}",
            secret.display()
        );
        nix::run(copy.args(["copy", "--no-check-sigs", "--to", &to, &text]));
        let trusting = options(&uri).with_trusted_keys([key().verifying_key()]);
        let cache = BinaryCache::open(trusting).await.unwrap();
        let narinfo = cache.narinfo(&path).await.unwrap().unwrap();
        assert_eq!(narinfo.compression.as_str(), compression);
        let store = MemoryStore::new(StoreDir::default());
        let paths = [path.clone()];
        assert_eq!(cache.copy_closure(&store, &paths).await.unwrap().len(), 3);
        for info in store.closure(&paths).await.unwrap() {
            store.verify(&info.path).await.unwrap();
            let expected = world.store.require(&info.path).await.unwrap();
            assert_eq!(info.references, expected.references);
            assert_eq!(info.nar_hash, expected.nar_hash);
        }
        let distrusting = BinaryCache::open(options(&uri)).await.unwrap();
        let error = distrusting.path_info(&path).await.unwrap_err();
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error:?}");
        // The narinfo that Nix wrote, read by this project, equals the narinfo that this project
        // wrote.
        let file = world
            .beside(compression)
            .join(format!("{}.narinfo", path.hash_part()));
        let theirs = fs::read_to_string(file).unwrap();
        assert_eq!(narinfo.display(&StoreDir::default()).to_string(), theirs);
    }
}

/// Listings are equal to those of Nix.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings() {
    let world = LocalWorld::new().await;
    let path = fill(&world).await;
    let uri = |name: &str| format!("file://{}", world.beside(name).display());
    fs::create_dir(world.beside("ours")).unwrap();
    let writing = options(&format!("{}?write-nar-listing=true", uri("ours")))
        .with_create(StoreDir::default())
        .with_require_signatures(false);
    let cache = BinaryCache::open(writing).await.unwrap();
    let paths = [path.clone()];
    world.store.copy_closure(&cache, &paths).await.unwrap();
    let mut copy = nix_command("nix", &world.root(), "", "");
    let to = format!("{}?write-nar-listing=true", uri("theirs"));
    nix::run(copy.args(["copy", "--no-check-sigs", "--to", &to, &absolute(&path)]));
    let name = format!("{}.ls", path.hash_part());
    let read = |cache: &str| -> serde_json::Value {
        let text = fs::read(world.beside(cache).join(&name)).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    // The order of fields may differ: 2.8 does not sort them.
    assert_eq!(read("ours"), read("theirs"));
}

/// Nix writes realisations of content-addressed derivations to caches, and this project substitutes
/// by them. The key is the hash of the derivation before its inputs are resolved, so the inputs are
/// not needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floating_outputs_that_nix_built() {
    let world = LocalWorld::new().await;
    let text = r#"
        let make = name: input: derivation {
          inherit name input; system = "x86_64-linux"; builder = "/bin/sh";
          args = [ "-c" "echo ${name} $input > $out" ];
          __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
        in make "top" (make "input" "none")"#;
    let file = world.beside("floating.nix");
    fs::write(&file, text).unwrap();
    let secret = world.beside("secret");
    fs::write(&secret, key().to_secret_text()).unwrap();
    let theirs = world.beside("nix-store");
    fs::create_dir_all(&theirs).unwrap();
    let experimental = ["--extra-experimental-features", "ca-derivations"];
    let keys = ["--secret-key-files", secret.to_str().unwrap()];
    let mut build = nix::command("nix-build", &theirs);
    build.args(experimental).args(keys).arg("--no-out-link");
    let (built, _) = nix::run(build.arg(&file));
    let uri = format!("file://{}", world.beside("cache").display());
    let mut copy = nix_command("nix", &theirs, "", "");
    copy.args(experimental).args(["copy", "--to", &uri]);
    copy.args(["--no-check-sigs", "-f"]).arg(&file);
    nix::run(&mut copy);
    let realisations = fs::read_dir(world.beside("cache/realisations")).unwrap();
    assert!(realisations.count() > 0, "Nix writes realisations");
    let build = |root: &Path, key: &str| {
        let mut command = tvix_tests::program::command(tvix_tests::program::tvix());
        command.args(["build", "--no-out-link", "--substituter", &uri, "-f"]);
        command
            .arg(&file)
            .args(["--trusted-public-key", key, "--store"]);
        command.arg(root).env("HOME", world.beside("home"));
        for path in tvix_tests::local::sandbox_paths() {
            command.arg("--sandbox-path").arg(path.to_string());
        }
        tvix_tests::program::run(&mut command).expect(0)
    };
    let other = SigningKey::from_seed("other-1", &[4; 32]).unwrap();
    // No trusted key has signed the realisation.
    let ended = build(
        &world.beside("distrusting"),
        &other.verifying_key().to_string(),
    );
    assert_eq!(ended.out, built);
    assert!(!ended.err.contains("fetching"), "{}", ended.err);
    let distrusted = ended.err;
    let root = world.beside("trusting");
    let ended = build(&root, &key().verifying_key().to_string());
    assert_eq!(ended.out, built);
    assert!(ended.err.contains("fetching"), "{}", ended.err);
    // The build of its input may start speculatively.
    assert!(!ended.err.contains("-top.drv"), "{}", ended.err);
    // An untrusted realisation is reported once, with its cache.
    let mentioned = |err: &str| err.matches("realisations of").count();
    assert_eq!(mentioned(&distrusted), 1, "{distrusted}");
    assert!(distrusted.contains(&uri), "{distrusted}");
    assert_eq!(mentioned(&ended.err), 0, "{}", ended.err);
    // A cache written by this project has both forms, and Nix substitutes by the form of its
    // version.
    let ours = world.beside("ours");
    let copy = format!("file://{}?secret-key={}", ours.display(), secret.display());
    let mut command = tvix_tests::program::command(tvix_tests::program::tvix());
    command
        .args(["store", "copy", "--from"])
        .arg(world.beside("distrusting"));
    command.args(["--to", &copy]).args(&built);
    tvix_tests::program::run(&mut command).expect(0);
    for folder in ["realisations", "build-trace-v2"] {
        let count = fs::read_dir(ours.join(folder)).unwrap().count();
        assert!(count >= 2, "{folder}: {count}");
    }
    let fresh = world.beside("nix-fresh");
    fs::create_dir_all(&fresh).unwrap();
    let mut command = nix::command("nix-build", &fresh);
    command.args(experimental).arg("--no-out-link").arg(&file);
    command.args(["--substituters", &format!("file://{}", ours.display())]);
    command.args(["--trusted-public-keys", &key().verifying_key().to_string()]);
    let (fetched, log) = nix::run(&mut command);
    assert_eq!(fetched, built);
    assert!(!log.contains("building '"), "{log}");
    // Nix uses a store of this project, and finds the realisations in it.
    let mut command = nix::command("nix-build", &root);
    let (found, log) = nix::run(command.args(experimental).arg("--no-out-link").arg(&file));
    assert_eq!(found, built);
    assert!(!log.contains("building '"), "{log}");
    // The realisation is stored: neither the cache nor the input is needed any more.
    fs::remove_dir_all(world.beside("cache")).unwrap();
    let again = build(&root, &key().verifying_key().to_string());
    assert_eq!(again.out, built);
    assert!(!again.err.contains("-top.drv"), "{}", again.err);
    for name in ["nix-store", "distrusting", "trusting", "nix-fresh"] {
        tvix_tests::local::make_writable(&world.beside(name));
    }
}

/// An S3 server. Dropping it ends the server.
struct S3 {
    child: Child,
    address: String,
}

impl S3 {
    async fn start(world: &LocalWorld) -> Self {
        let program = std::env::var("MOTO_SERVER").unwrap_or("moto_server".to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        drop(listener);
        let log = fs::File::create(world.beside("moto.log")).unwrap();
        let child = Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("these tests need {program}: {error}"));
        let address = format!("127.0.0.1:{port}");
        let server = Self { child, address };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(&server.address)
                .await
                .is_ok()
            {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{program} does not listen");
    }

    async fn put_bucket(&self, name: &str) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let authorization = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";
        let text = format!(
            "PUT /{name} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\
             Authorization: {authorization}\r\n\r\n",
            self.address
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Credentials come from the environment, which can only be set for a new process: this program
/// runs again, with the address of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_in_s3() {
    if let Ok(address) = std::env::var("S3_ADDRESS") {
        return s3_with_credentials(&address).await;
    }
    let world = LocalWorld::new().await;
    let server = S3::start(&world).await;
    server.put_bucket("cache").await;
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_cache_in_s3", "--nocapture"])
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("S3_ADDRESS", &server.address)
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{out}{log}");
    assert!(out.contains("1 passed"), "{out}");
}

async fn s3_with_credentials(address: &str) {
    let world = LocalWorld::new().await;
    let path = fill(&world).await;
    let uri = format!(
        "s3://cache?endpoint={}&scheme=http&region=us-east-1",
        address
    );
    let writing = options(&uri)
        .with_create(StoreDir::default())
        .with_require_signatures(false)
        .with_signing_keys([key()]);
    let writer = BinaryCache::open(writing).await.unwrap();
    let paths = [path.clone()];
    assert_eq!(
        world
            .store
            .copy_closure(&writer, &paths)
            .await
            .unwrap()
            .len(),
        3
    );
    // Larger than a part of a multipart upload.
    let large = world.beside("large");
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    fs::write(&large, noise.take(20_000_000).collect::<Vec<u8>>()).unwrap();
    let method = ContentAddressMethod::NixArchive;
    let uncompressed = BinaryCache::open(
        options(&uri)
            .with_require_signatures(false)
            .with_compression(Compression::None),
    );
    let uncompressed = uncompressed.await.unwrap();
    let name = "large".parse().unwrap();
    let large = uncompressed.add_tree(&large, name, method).await.unwrap();
    let trusting = options(&uri).with_trusted_keys([key().verifying_key()]);
    let reader = BinaryCache::open(trusting).await.unwrap();
    let store = MemoryStore::new(StoreDir::default());
    assert_eq!(reader.copy_closure(&store, &paths).await.unwrap().len(), 3);
    // It is content-addressed, so it needs no signature.
    reader
        .copy_closure(&store, std::slice::from_ref(&large))
        .await
        .unwrap();
    let missing = StorePath::new([9; 20], "missing".parse().unwrap());
    assert!(reader.path_info(&missing).await.unwrap().is_none());
    let nothing = format!(
        "s3://nothing?endpoint={}&scheme=http&region=us-east-1",
        address
    );
    assert!(BinaryCache::open(options(&nothing)).await.is_err());
}
