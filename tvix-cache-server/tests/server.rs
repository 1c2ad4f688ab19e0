//! The server with regular and malicious clients. Requests are written by hand, because no HTTP
//! client would send some of them.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tvix_cache_server::{CacheServer, ServerOptions};
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{MemoryStore, Store, StoreError, StoreExt as _};
use tvix_test_support::directory::make_writable;

struct Served {
    address: String,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(store: Arc<dyn Store>, options: ServerOptions) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = CacheServer::new(store, options);
    let task = tokio::spawn(server.serve(listener, std::future::pending()));
    Served { address, task }
}

fn key() -> SigningKey {
    SigningKey::from_seed("test-1", &[7; 32]).unwrap()
}

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(StoreDir::default()))
}

async fn add(store: &dyn Store, name: &str, contents: &[u8]) -> StorePath {
    let name = name.parse().unwrap();
    store
        .add_text(name, contents, Default::default())
        .await
        .unwrap()
}

/// Sends bytes, and returns all bytes received until the server closes the connection.
async fn raw(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close the connection before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// The status, headers and body.
async fn request(address: &str, line: &str, headers: &str) -> (u16, String, Vec<u8>) {
    let text = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    let answer = raw(address, text.as_bytes()).await;
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec())
        .unwrap()
        .to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, answer[end + 4..].to_vec())
}

async fn get(address: &str, name: &str) -> (u16, String, Vec<u8>) {
    request(address, &format!("GET {name}"), "").await
}

#[tokio::test]
async fn our_client_copies_a_closure() {
    let store = memory();
    let first = add(&*store, "first", &[b'x'; 1_000_000]).await;
    let references = [first.clone()].into();
    let name = "second".parse().unwrap();
    let second = store.add_text(name, b"second", references).await.unwrap();
    let served = serve(
        store.clone(),
        ServerOptions::default().with_signing_keys([key()]),
    )
    .await;
    let uri = format!("http://{}", served.address).parse().unwrap();
    let options = BinaryCacheOptions::new(uri).unwrap();
    let options = options.with_trusted_keys([key().verifying_key()]);
    let cache = BinaryCache::open(options).await.unwrap();
    assert_eq!(cache.info().priority, 50);
    let target = memory();
    let copied = cache
        .copy_closure(&*target, std::slice::from_ref(&second))
        .await;
    assert_eq!(copied.unwrap().len(), 2);
    target.verify(&first).await.unwrap();
    let info = target.require(&second).await.unwrap();
    assert_eq!(info.signatures.len(), 1);
    let dir = StoreDir::default();
    assert!(
        info.signed_by(&dir, &[key().verifying_key()])
            .next()
            .is_some()
    );
}

#[tokio::test]
async fn heads_ranges_and_what_is_not_there() {
    let store = memory();
    let path = add(&*store, "text", b"some text of a file").await;
    let served = serve(store.clone(), ServerOptions::default()).await;
    let address = &served.address;
    let (status, head, body) = get(address, "/nix-cache-info").await;
    assert_eq!(status, 200);
    assert!(head.contains("text/x-nix-cache-info"), "{head}");
    let text = String::from_utf8(body).unwrap();
    assert_eq!(
        text,
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 50\n"
    );
    let (status, _, narinfo) = get(address, &format!("/{}.narinfo", path.hash_part())).await;
    assert_eq!(status, 200);
    let narinfo = String::from_utf8(narinfo).unwrap();
    let url = narinfo
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .unwrap();
    let url = format!("/{url}");
    let (status, head, nar) = get(address, &url).await;
    assert_eq!(status, 200);
    let info = store.require(&path).await.unwrap();
    assert_eq!(nar.len() as u64, info.nar_size);
    assert!(head.contains("accept-ranges: bytes"), "{head}");
    let (status, head, body) = request(address, &format!("HEAD {url}"), "").await;
    assert_eq!((status, body.len()), (200, 0));
    assert!(
        head.contains(&format!("content-length: {}", nar.len())),
        "{head}"
    );
    for (range, expected) in [
        ("0-", 0..nar.len()),
        ("10-19", 10..20),
        ("-5", nar.len() - 5..nar.len()),
    ] {
        let header = format!("Range: bytes={range}\r\n");
        let (status, head, body) = request(address, &format!("GET {url}"), &header).await;
        assert_eq!(
            (status, &body[..]),
            (206, &nar[expected.clone()]),
            "{range}"
        );
        let range = format!(
            "content-range: bytes {}-{}/{}",
            expected.start,
            expected.end - 1,
            nar.len()
        );
        assert!(head.contains(&range), "{head}");
    }
    let header = format!("Range: bytes={}-\r\n", nar.len());
    let (status, ..) = request(address, &format!("GET {url}"), &header).await;
    assert_eq!(status, 416);
    let header = "Range: bytes=5-\r\nIf-Range: \"other\"\r\n";
    let (status, _, body) = request(address, &format!("GET {url}"), header).await;
    assert_eq!((status, body.len()), (200, nar.len()));
    let unknown = "0".repeat(32);
    for name in [
        "/".to_owned(),
        "/x".to_owned(),
        "/index.html".to_owned(),
        format!("/{unknown}.narinfo"),
        format!("/{unknown}.ls"),
        format!("/nar/{unknown}.nar"),
        format!("/nar/{}-{}.nar", path.hash_part(), "0".repeat(52)),
        format!("/nar/{}.nar", path.hash_part()),
        format!("{url}/x"),
    ] {
        assert_eq!(get(address, &name).await.0, 404, "{name}");
    }
    for method in ["PUT", "DELETE", "POST"] {
        let (status, ..) = request(address, &format!("{method} {url}"), "").await;
        assert_eq!(status, 405, "{method}");
    }
}

/// Neither names nor symlinks lead out of the store.
#[tokio::test]
async fn nothing_outside_of_the_store_is_served() {
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a secret").unwrap();
    let root = directory.path().join("root");
    let store = LocalStore::open(LocalStoreOptions::new(&root))
        .await
        .unwrap();
    let link = directory.path().join("link");
    symlink(&secret, &link).unwrap();
    let method = ContentAddressMethod::NixArchive;
    let path = store
        .add_tree(&link, "link".parse().unwrap(), method)
        .await
        .unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let served = serve(store.clone(), ServerOptions::default()).await;
    let address = &served.address;
    // A symlink is served as a symlink.
    let info = store.require(&path).await.unwrap();
    let hash = nix_compat::nixbase32::encode(&info.nar_hash);
    let (status, _, body) = get(address, &format!("/nar/{}-{hash}.nar", path.hash_part())).await;
    assert_eq!(status, 200);
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(
        text.contains("symlink") && !text.contains("a secret"),
        "{text}"
    );
    let secret = secret.display();
    for name in [
        "/../../etc/passwd".to_owned(),
        "/nar/../../../etc/passwd".to_owned(),
        "/nar/..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "/nar/%2fetc%2fpasswd".to_owned(),
        "/..%2f..%2f..%2fetc%2fpasswd".to_owned(),
        "/%2fetc%2fpasswd".to_owned(),
        "/%2e%2e/%2e%2e/etc/passwd".to_owned(),
        "/nar/%2e%2e%5c..".to_owned(),
        "//etc/passwd".to_owned(),
        "/nar//etc/passwd".to_owned(),
        format!("/nar{secret}"),
        format!("{secret}"),
        format!("/{path}"),
        format!("/nar/{path}"),
        format!("/nix/store/{path}"),
        "/nar/%00".to_owned(),
        "/nar/%ff%fe.nar".to_owned(),
        format!("/{}%00.narinfo", path.hash_part()),
    ] {
        let (status, _, body) = get(address, &name).await;
        assert!((400..500).contains(&status), "{name}: {status}");
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            !text.contains("secret") && !text.contains("root:"),
            "{name}: {text}"
        );
    }
    let answer = raw(
        address,
        b"GET http://other/nix-cache-info\0 HTTP/1.1\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    make_writable(&root);
}

#[tokio::test]
async fn headers_have_limits() {
    let served = serve(memory(), ServerOptions::default()).await;
    let head = "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n";
    for (what, text) in [
        (
            "one that is large",
            format!("{head}X: {}\r\n\r\n", "x".repeat(100_000)),
        ),
        (
            "one without end",
            format!("{head}X: {}", "x".repeat(1_000_000)),
        ),
        ("many", format!("{head}{}\r\n", "X: y\r\n".repeat(1000))),
        (
            "a long name",
            format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000)),
        ),
    ] {
        let answer = raw(&served.address, text.as_bytes()).await;
        // The connection may be closed before the response arrives.
        let fine = answer.is_empty()
            || answer.starts_with(b"HTTP/1.1 431")
            || answer.starts_with(b"HTTP/1.1 414");
        assert!(fine, "{what}: {}", String::from_utf8_lossy(&answer));
    }
    // Up to the limit, headers are accepted; the request has two already.
    let (get, many) = ("GET /nix-cache-info", |count| "X: y\r\n".repeat(count));
    let large = |size| format!("X: {}\r\n", "x".repeat(size));
    for (headers, expected) in [
        (many(62), 200),
        (many(63), 431),
        (large(15_000), 200),
        (large(17_000), 431),
    ] {
        let (status, ..) = request(&served.address, get, &headers).await;
        assert_eq!(status, expected, "{} bytes of headers", headers.len());
    }
}

fn impatient() -> ServerOptions {
    ServerOptions::default().with_timeouts(Duration::from_millis(100), Duration::from_millis(100))
}

/// The read ends because the server closes the connection. Without its time-outs, this would wait
/// forever.
#[tokio::test]
async fn slow_senders_are_hung_up_on() {
    let served = serve(memory(), impatient()).await;
    for begun in [
        "",
        "GET /nix",
        "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n",
    ] {
        let answer = raw(&served.address, begun.as_bytes()).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{begun:?}");
    }
}

#[tokio::test]
async fn slow_receivers_are_hung_up_on() {
    let store = memory();
    // More than the buffers on the way can hold.
    let path = add(&*store, "large", &vec![b'x'; 50_000_000]).await;
    let info = store.require(&path).await.unwrap();
    let hash = nix_compat::nixbase32::encode(&info.nar_hash);
    let mut options = impatient();
    options.connections = 1;
    let served = serve(store.clone(), options).await;
    let mut slow = TcpStream::connect(&served.address).await.unwrap();
    let name = format!("/nar/{}-{hash}.nar", path.hash_part());
    let text = format!("GET {name} HTTP/1.1\r\nHost: x\r\n\r\n");
    slow.write_all(text.as_bytes()).await.unwrap();
    let mut some = [0; 100];
    slow.read_exact(&mut some).await.unwrap();
    // There is only one place, which this connection takes until its time-out.
    assert_eq!(get(&served.address, "/nix-cache-info").await.0, 200);
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(rest.len() < 50_000_000, "it was sent all of it");
}

#[tokio::test]
async fn errors_of_the_store_are_not_shown() {
    let directory = TempDir::new().unwrap();
    let root = directory.path().join("root");
    let store = LocalStore::open(LocalStoreOptions::new(&root))
        .await
        .unwrap();
    let path = add(&store, "text", b"text").await;
    let served = serve(Arc::new(store.clone()), ServerOptions::default()).await;
    let info = store.require(&path).await.unwrap();
    let hash = nix_compat::nixbase32::encode(&info.nar_hash);
    std::fs::remove_file(store.real_path(&path)).unwrap();
    let name = format!("/nar/{}-{hash}.nar", path.hash_part());
    let answer = raw(
        &served.address,
        format!("GET {name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    )
    .await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let place = directory.path().display().to_string();
    assert!(!text.contains(&place), "{text}");
    let missing: Result<_, StoreError> = store.find(&[0; 20]).await;
    assert!(missing.unwrap().is_none());
    make_writable(&root);
}

#[tokio::test]
async fn shutting_down_ends_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let server = CacheServer::new(memory(), ServerOptions::default());
    let task = tokio::spawn(server.serve(listener, async {
        let _ = ended.await;
    }));
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 20];
    idle.read_exact(&mut some).await.unwrap();
    end.send(()).unwrap();
    task.await.unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
}

/// A connection from an address of the loopback network.
async fn connect_from(source: &str, target: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(target.parse().unwrap()).await.unwrap()
}

/// The response to a client of this address.
async fn answer_from(source: &str, target: &str) -> String {
    let mut stream = connect_from(source, target).await;
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Time-outs that are longer than the test.
fn patient() -> ServerOptions {
    let hour = Duration::from_secs(3600);
    ServerOptions::default().with_timeouts(hour, hour)
}

#[tokio::test]
async fn one_address_does_not_lock_out_others() {
    let served = serve(memory(), patient().with_connections(8, 4)).await;
    let mut idle = Vec::new();
    for _ in 0..32 {
        idle.push(connect_from("127.0.0.1", &served.address).await);
    }
    // Accepted in this order: those after the fourth are closed immediately.
    for stream in &mut idle[4..] {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    let answer = answer_from("127.0.0.2", &served.address).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The four are open; closing one makes room for another one of its address.
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n";
    for stream in &mut idle[..4] {
        stream.write_all(request).await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
    }
    drop(idle);
    loop {
        let mut stream = connect_from("127.0.0.1", &served.address).await;
        // The server notices closed connections after a moment.
        if stream.write_all(request).await.is_ok()
            && stream.read(&mut [0]).await.is_ok_and(|it| it > 0)
        {
            break;
        }
    }
}

#[tokio::test]
async fn idle_connections_make_room() {
    let served = serve(memory(), patient().with_connections(8, 8)).await;
    // One sends half a header, one has received a response, the others send nothing.
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(connect_from("127.0.0.1", &served.address).await);
    }
    idle[0].write_all(b"GET / HT").await.unwrap();
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n";
    idle[1].write_all(request).await.unwrap();
    let mut byte = [0];
    idle[1].read_exact(&mut byte).await.unwrap();
    // Each takes the place of the one that has been idle longest.
    for _ in 0..12 {
        let answer = answer_from("127.0.0.2", &served.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn answers_under_way_are_not_cut_off_for_others() {
    let store = memory();
    let large = vec![b'x'; 8 << 20];
    let path = add(&*store, "large", &large).await;
    let info = store.require(&path).await.unwrap();
    let served = serve(store, patient().with_connections(2, 2)).await;
    let hash = nix_compat::nixbase32::encode(&info.nar_hash);
    let name = format!("/nar/{}-{hash}.nar", path.hash_part());
    let text = format!("GET {name} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // A slow reader, beside an idle connection.
    let mut slow = connect_from("127.0.0.1", &served.address).await;
    slow.write_all(text.as_bytes()).await.unwrap();
    let mut start = [0; 4096];
    slow.read_exact(&mut start).await.unwrap();
    let _idle = connect_from("127.0.0.1", &served.address).await;
    for _ in 0..3 {
        let answer = answer_from("127.0.0.2", &served.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).await.unwrap();
    let head = start.windows(4).position(|it| it == b"\r\n\r\n").unwrap() + 4;
    assert_eq!((start.len() - head + rest.len()) as u64, info.nar_size);
}

#[tokio::test]
async fn listings() {
    let folder = TempDir::new().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("bin")).unwrap();
    std::fs::write(tree.join("bin/x"), "contents").unwrap();
    symlink("bin/x", tree.join("link")).unwrap();
    let root = folder.path().join("store");
    let store = LocalStore::open(LocalStoreOptions::new(root))
        .await
        .unwrap();
    let method = ContentAddressMethod::NixArchive;
    let path = store
        .add_tree(&tree, "t".parse().unwrap(), method)
        .await
        .unwrap();
    let served = serve(Arc::new(store), ServerOptions::default()).await;
    let name = format!("/{}.ls", path.hash_part());
    let (status, head, body) = get(&served.address, &name).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    // The body has the chunked transfer encoding.
    let body = String::from_utf8(body).unwrap();
    let json = &body[body.find('{').unwrap()..=body.rfind('}').unwrap()];
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let entries = &json["root"]["entries"];
    assert_eq!(json["version"], 1);
    assert_eq!(entries["link"]["target"], "bin/x");
    assert_eq!(entries["bin"]["entries"]["x"]["size"], 8);
    assert!(entries["bin"]["entries"]["x"]["narOffset"].is_u64());
    let (status, head, body) = request(&served.address, &format!("HEAD {name}"), "").await;
    assert_eq!((status, body.len()), (200, 0));
    assert!(!head.contains("content-length"), "{head}");
    let unknown = format!("/{}.ls", "1".repeat(32));
    assert_eq!(get(&served.address, &unknown).await.0, 404);
}

#[tokio::test]
async fn logs_of_builds() {
    let folder = TempDir::new().unwrap();
    let logs = folder.path().join("drvs");
    std::fs::create_dir_all(logs.join("aa")).unwrap();
    let base = |letter: &str, name: &str| format!("{}{}-{name}", "aa", letter.repeat(30));
    let put = |name: &str, bytes: &[u8]| std::fs::write(logs.join("aa").join(name), bytes).unwrap();
    put(&base("b", "plain.drv")[2..], b"a line\n");
    let mut packed = bzip2::read::BzEncoder::new(&b"packed\n"[..], bzip2::Compression::fast());
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut packed, &mut bytes).unwrap();
    put(&format!("{}.bz2", &base("c", "packed.drv")[2..]), &bytes);
    std::fs::write(folder.path().join("secret"), "secret").unwrap();
    symlink(
        folder.path().join("secret"),
        logs.join("aa").join(&base("d", "link.drv")[2..]),
    )
    .unwrap();
    put(&base("f", "no-derivation")[2..], b"x");
    let options = ServerOptions::default().with_log_directory(&logs);
    let served = serve(memory(), options).await;
    for (name, text) in [
        (base("b", "plain.drv"), "a line\n"),
        (base("c", "packed.drv"), "packed\n"),
    ] {
        let (status, head, body) = get(&served.address, &format!("/log/{name}")).await;
        assert_eq!(status, 200, "{name}");
        assert!(head.contains("text/plain"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains(text), "{name}");
        let head = request(&served.address, &format!("HEAD /log/{name}"), "").await;
        assert_eq!((head.0, head.2.len()), (200, 0));
    }
    for name in [
        base("d", "link.drv"),
        base("f", "no-derivation"),
        base("g", "gone.drv"),
        "..%2f..%2fsecret.drv".to_owned(),
        "..".to_owned(),
        "secret.drv".to_owned(),
    ] {
        let (status, _, body) = get(&served.address, &format!("/log/{name}")).await;
        assert!(status >= 400, "{name}: {status}");
        assert!(!String::from_utf8_lossy(&body).contains("secret"), "{name}");
    }
    let without = serve(memory(), ServerOptions::default()).await;
    let name = base("b", "plain.drv");
    assert_eq!(get(&without.address, &format!("/log/{name}")).await.0, 404);
}
