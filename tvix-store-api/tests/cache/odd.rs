//! Unusual servers: content codings, URLs, wrong lengths, time-outs.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix_compat::store_path::StoreDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::{MemoryStore, PathInfo, StoreError, StoreExt as _};

use crate::{contents, object, tuning};

/// A request, as received.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    text: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.text.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(it, _)| it.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }
}

/// A response, as sent.
struct Reply {
    bytes: Vec<u8>,
    /// Sends nothing more afterwards, and keeps the connection open.
    hangs: bool,
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n");
    let bytes = [head.as_bytes(), body].concat();
    Reply {
        bytes,
        hangs: false,
    }
}

/// A complete response with additional headers.
fn ok(headers: &str, body: &[u8]) -> Reply {
    let headers = format!("Content-Length: {}\r\n{headers}", body.len());
    reply("200 OK", &headers, body)
}

struct Odd {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Odd {
    /// `answer` receives the request, and the number of previous requests for the same path.
    async fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (seen, answer) = (requests.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, seen.clone(), answer.clone()));
            }
        });
        Self { url, requests }
    }

    /// The requests with a path that ends with `suffix`.
    fn requests(&self, suffix: &str) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        let of = requests.iter().filter(|it| it.path.ends_with(suffix));
        of.cloned().collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    seen: Arc<Mutex<Vec<Request>>>,
    answer: Arc<impl Fn(&Request, usize) -> Reply>,
) {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => text.push(byte),
            Err(_) => return,
        }
    }
    let text = String::from_utf8(text).unwrap();
    let path = text.split(' ').nth(1).unwrap().to_owned();
    let request = Request { path, text };
    let reply = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|it| it.path == request.path).count();
        seen.push(request.clone());
        answer(&request, before)
    };
    let _ = stream.write_all(&reply.bytes).await;
    let _ = stream.flush().await;
    if reply.hangs {
        std::future::pending::<()>().await;
    }
    let _ = stream.shutdown().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn encode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    match coding.to_ascii_lowercase().trim() {
        "gzip" | "x-gzip" => gzip(bytes),
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(bytes, 1).unwrap(),
        "br" => {
            let mut to = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut to, 4096, 1, 22);
            encoder.write_all(bytes).unwrap();
            drop(encoder);
            to
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "" | "identity" | "none" => bytes.to_vec(),
        other => panic!("{other}"),
    }
}

/// A path with its narinfo; the URL and further lines are arguments.
fn described(url: &str, compression: &str, more: &str) -> (PathInfo, Vec<u8>, String) {
    let (info, nar) = object("odd", &contents(300_000));
    let text = format!(
        "StorePath: {}\nURL: {url}\nCompression: {compression}\n{more}NarHash: {}\nNarSize: {}\nReferences: \n",
        StoreDir::default().display(&info.path),
        info.nix_hash().base32(),
        info.nar_size
    );
    (info, nar.to_vec(), text)
}

fn options(uri: &str) -> BinaryCacheOptions {
    BinaryCacheOptions::new(uri.parse().unwrap())
        .unwrap()
        .with_require_signatures(false)
        .with_tuning(tuning())
}

async fn copy(uri: &str, info: &PathInfo) -> Result<(), StoreError> {
    let cache = BinaryCache::open(options(uri)).await?;
    let store = MemoryStore::new(StoreDir::default());
    let paths = [info.path.clone()];
    cache.copy_closure(&store, &paths).await?;
    store.verify(&info.path).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_codings_of_every_file() {
    let headers = [
        "",
        "gzip",
        "X-GZip",
        "br",
        "zstd",
        "deflate",
        "xz",
        "identity",
        "none",
        "gzip, br",
        "gzip,identity , zstd",
    ];
    for compression in ["none", "identity", "gzip"] {
        for header in headers {
            let (info, nar, text) = described("nar/x", compression, "");
            let nar = if compression == "gzip" {
                gzip(&nar)
            } else {
                nar
            };
            let coded = move |body: &[u8]| {
                let codings = header.split(',');
                let body = codings.fold(body.to_vec(), |body, coding| encode(coding, &body));
                ok(&format!("Content-Encoding: {header}\r\n"), &body)
            };
            let server = Odd::start(move |request, _| match request.path.as_str() {
                "/nix-cache-info" => coded(b"StoreDir: /nix/store\n"),
                "/nar/x" => coded(&nar),
                _ => coded(text.as_bytes()),
            })
            .await;
            let copied = copy(&server.url, &info).await;
            copied.unwrap_or_else(|error| panic!("{compression}, {header}: {error:?}"));
            // Compressed files need no additional content coding.
            let asked = |suffix: &str| {
                let requests = server.requests(suffix);
                requests[0].header("accept-encoding").unwrap().to_owned()
            };
            assert_eq!(asked("-cache-info"), "zstd, br, gzip, deflate");
            assert_eq!(asked(".narinfo"), "zstd, br, gzip, deflate");
            let plain = compression != "gzip";
            let expected = if plain {
                "zstd, br, gzip, deflate"
            } else {
                "identity"
            };
            assert_eq!(asked("/nar/x"), expected);
        }
    }
}

#[tokio::test]
async fn codings_in_two_headers_and_unknown_ones() {
    let (info, nar, text) = described("nar/x", "none", "");
    let server = Odd::start(move |request, _| match request.path.as_str() {
        "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
        "/nar/x" => {
            let body = encode("br", &gzip(&nar));
            ok("Content-Encoding: gzip\r\nContent-Encoding: br\r\n", &body)
        }
        _ => ok("", text.as_bytes()),
    })
    .await;
    copy(&server.url, &info).await.unwrap();
    let (info, nar, text) = described("nar/x", "none", "");
    let server = Odd::start(move |request, _| match request.path.as_str() {
        "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
        "/nar/x" => ok("Content-Encoding: rot13\r\n", &nar),
        _ => ok("", text.as_bytes()),
    })
    .await;
    let error = copy(&server.url, &info).await.unwrap_err();
    assert!(format!("{error:?}").contains("rot13"), "{error:?}");
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_wrong_file_size_or_hash_does_not_matter() {
    let zero = format!("FileHash: sha256:{}\n", "0".repeat(52));
    for compression in ["none", "gzip"] {
        for more in [
            "FileSize: 1\n",
            "FileSize: 299999\n",
            "FileSize: 9999999\n",
            &zero,
        ] {
            let (info, nar, text) = described("nar/x", compression, more);
            let nar = if compression == "gzip" {
                gzip(&nar)
            } else {
                nar
            };
            let server = Odd::start(move |request, _| match request.path.as_str() {
                "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
                "/nar/x" => ok("", &nar),
                _ => ok("", text.as_bytes()),
            })
            .await;
            let copied = copy(&server.url, &info).await;
            copied.unwrap_or_else(|error| panic!("{compression}, {more}: {error:?}"));
            assert_eq!(server.requests("/nar/x").len(), 1, "{compression}, {more}");
        }
    }
}

#[tokio::test]
async fn urls_are_resolved_as_relative_to_the_cache() {
    for (url, asked) in [
        ("nar/x", "/a/b/nar/x"),
        ("./nar/x", "/a/b/nar/x"),
        ("/nar/x", "/nar/x"),
        ("../nar/x", "/a/nar/x"),
        ("nar/x?hash=y&z=%20", "/a/b/nar/x?hash=y&z=%20"),
        ("nar/a%2Bb%2fc", "/a/b/nar/a%2Bb%2fc"),
    ] {
        let (info, nar, text) = described(url, "none", "");
        let server = Odd::start(move |request, _| match request.path.as_str() {
            "/a/b/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
            path if path.ends_with(".narinfo") => ok("", text.as_bytes()),
            path if path == asked => ok("", &nar),
            _ => reply("404 Not Found", "Content-Length: 0\r\n", b""),
        })
        .await;
        let copied = copy(&format!("{}/a/b", server.url), &info).await;
        copied.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    }
}

#[tokio::test]
async fn another_host_is_asked_only_if_that_is_allowed() {
    let (info, nar, _) = described("", "none", "");
    let other = Odd::start(move |_, _| ok("", &nar)).await;
    let (_, _, text) = described(&format!("{}/x", other.url), "none", "");
    let server = Odd::start(move |request, _| match request.path.as_str() {
        "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
        _ => ok("", text.as_bytes()),
    })
    .await;
    let error = copy(&server.url, &info).await.unwrap_err();
    assert!(
        format!("{error:?}").contains("allow-other-hosts"),
        "{error:?}"
    );
    assert!(other.requests("").is_empty());
    let allowing = format!("{}?allow-other-hosts=true", server.url);
    copy(&allowing, &info).await.unwrap();
    assert_eq!(other.requests("").len(), 1);
}

#[tokio::test]
async fn content_codings_keep_to_the_limit_of_memory() {
    let (info, nar, text) = described("nar/x", "none", "");
    // A frame with a window of 256 MiB and uncompressed blocks.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (28 - 10) << 3];
    let blocks = nar.chunks(100_000);
    let last = blocks.len() - 1;
    for (index, block) in blocks.enumerate() {
        let header = (block.len() as u32) << 3 | u32::from(index == last);
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(block);
    }
    let server = Odd::start(move |request, _| match request.path.as_str() {
        "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
        "/nar/x" => ok("Content-Encoding: zstd\r\n", &frame),
        _ => ok("", text.as_bytes()),
    })
    .await;
    let uri = format!("{}?decode-memory-limit=100000000", server.url);
    let error = format!("{:?}", copy(&uri, &info).await.unwrap_err());
    assert!(error.contains("decode-memory-limit"), "{error}");
    copy(&server.url, &info).await.unwrap();
}

/// Without `no_parts`, the second half of the encoded contents would be taken for that of the plain
/// contents.
#[tokio::test]
async fn coded_contents_that_break_off_are_not_continued_by_a_part() {
    let (info, nar, text) = described("nar/x", "none", "");
    let server = Odd::start(move |request, before| {
        let coded = gzip(&nar);
        let headers = format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\n",
            coded.len()
        );
        match request.path.as_str() {
            "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
            "/nar/x" if before == 0 => reply("200 OK", &headers, &coded[..coded.len() / 2]),
            "/nar/x" => match request.header("range") {
                None => reply("200 OK", &headers, &coded),
                Some(range) => {
                    let start: usize = range["bytes=".len()..range.len() - 1].parse().unwrap();
                    let start = start.min(coded.len() - 1);
                    let headers = format!(
                        "Content-Encoding: gzip\r\nContent-Range: bytes {start}-{}/{}\r\n",
                        coded.len() - 1,
                        coded.len()
                    );
                    reply("206 Partial Content", &headers, &coded[start..])
                }
            },
            _ => ok("", text.as_bytes()),
        }
    })
    .await;
    copy(&server.url, &info).await.unwrap();
    let requests = server.requests("/nar/x");
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].header("range"), None);
}

/// The first response is plain; ranges of a later one are encoded.
#[tokio::test]
async fn a_coded_part_does_not_continue_plain_contents() {
    let (info, nar, text) = described("nar/x", "none", "");
    let server = Odd::start(move |request, before| {
        let coded = gzip(&nar);
        let length = format!("Content-Length: {}\r\n", nar.len());
        match request.path.as_str() {
            "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
            "/nar/x" if before == 0 => reply("200 OK", &length, &nar[..100_000]),
            "/nar/x" if request.header("range").is_some() => {
                let range = format!(
                    "Content-Range: bytes 100000-{}/{}\r\n",
                    nar.len() - 1,
                    nar.len()
                );
                let headers = format!("{range}Content-Encoding: gzip\r\n");
                reply("206 Partial Content", &headers, &gzip(&nar[100_000..]))
            }
            "/nar/x" => ok("Content-Encoding: gzip\r\n", &coded),
            _ => ok("", text.as_bytes()),
        }
    })
    .await;
    copy(&server.url, &info).await.unwrap();
    assert_eq!(server.requests("/nar/x").len(), 3);
}

#[tokio::test]
async fn lengths_that_lie() {
    // Longer than the contents; then the server answers that there is no more data.
    let (info, nar, text) = described("nar/x", "none", "");
    let size = nar.len();
    let server = Odd::start(move |request, before| {
        let length = format!("Content-Length: {}\r\n", size + 1000);
        match request.path.as_str() {
            "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
            "/nar/x" if before == 0 => reply("200 OK", &length, &nar),
            "/nar/x" => {
                let range = format!("Content-Range: bytes */{size}\r\nContent-Length: 0\r\n");
                reply("416 Range Not Satisfiable", &range, b"")
            }
            _ => ok("", text.as_bytes()),
        }
    })
    .await;
    copy(&server.url, &info).await.unwrap();
    // Shorter than the contents, so that these are truncated.
    for compression in ["none", "gzip"] {
        let (info, nar, text) = described("nar/x", compression, "");
        let nar = if compression == "gzip" {
            gzip(&nar)
        } else {
            nar
        };
        let server = Odd::start(move |request, _| match request.path.as_str() {
            "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
            "/nar/x" => {
                let length = format!("Content-Length: {}\r\n", nar.len() - 10);
                reply("200 OK", &length, &nar)
            }
            _ => ok("", text.as_bytes()),
        })
        .await;
        let error = copy(&server.url, &info).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
}

/// A server without `Content-Length`: a body that ends early is requested again. If it ends at the
/// same place, the announced size is wrong.
#[tokio::test]
async fn bodies_that_end_with_their_connection() {
    for cut in [100_000, usize::MAX] {
        let (info, nar, _) = described("nar/x", "none", "");
        let said = if cut == usize::MAX {
            nar.len() + 5
        } else {
            nar.len()
        };
        let (_, _, text) = described("nar/x", "none", &format!("FileSize: {said}\n"));
        let server = Odd::start(move |request, before| match request.path.as_str() {
            "/nix-cache-info" => reply("200 OK", "", b"StoreDir: /nix/store\n"),
            "/nar/x" if before == 0 => reply("200 OK", "", &nar[..nar.len().min(cut)]),
            "/nar/x" => reply("200 OK", "", &nar),
            _ => reply("200 OK", "", text.as_bytes()),
        })
        .await;
        copy(&server.url, &info).await.unwrap();
        assert_eq!(server.requests("/nar/x").len(), 2, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_transfer_that_stalls_goes_on_elsewhere() {
    let (info, nar, text) = described("nar/x", "none", "");
    let size = nar.len();
    let server = Odd::start(move |request, before| match request.path.as_str() {
        "/nix-cache-info" => ok("", b"StoreDir: /nix/store\n"),
        "/nar/x" if before == 0 => {
            let length = format!("Content-Length: {size}\r\n");
            let mut reply = reply("200 OK", &length, &nar[..100_000]);
            reply.hangs = true;
            reply
        }
        "/nar/x" => {
            let range = request.header("range").unwrap().trim_end_matches('-');
            let start: usize = range["bytes=".len()..].parse().unwrap();
            let range = format!("Content-Range: bytes {start}-{}/{size}\r\n", size - 1);
            reply("206 Partial Content", &range, &nar[start..])
        }
        _ => ok("", text.as_bytes()),
    })
    .await;
    let uri = format!("{}?stalled-download-timeout=1", server.url);
    copy(&uri, &info).await.unwrap();
    assert_eq!(server.requests("/nar/x").len(), 2);
}

/// Opens an unreachable cache. Returns the text of the error and the elapsed time.
async fn unreachable(uri: &str) -> (String, Duration) {
    let began = Instant::now();
    let error = BinaryCache::open(options(uri)).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let source = std::error::Error::source(&error);
    assert!(source.is_none(), "it is said once: {source:?}");
    (error.to_string(), began.elapsed())
}

#[tokio::test]
async fn reasons_why_a_cache_is_unreachable() {
    // A port without a listener.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (text, _) = unreachable(&format!("http://me:secret@{address}/c?priority=3")).await;
    assert_eq!(
        text,
        format!("cannot reach http://{address}/c: connection refused")
    );
    // A listener with a full queue: the kernel drops further packets.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let waiting: Vec<_> = (0..8)
        .map(|_| tokio::spawn(TcpStream::connect(address)))
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (text, took) = unreachable(&format!("http://{address}?connect-timeout=1")).await;
    assert!(text.contains("timed out"), "{text}");
    assert!(took >= Duration::from_secs(2), "two attempts: {took:?}");
    waiting.iter().for_each(|task| task.abort());
    // A server that accepts connections and does not respond.
    let silent = Odd::start(|_, _| Reply {
        bytes: Vec::new(),
        hangs: true,
    })
    .await;
    let uri = format!("{}?stalled-download-timeout=1", silent.url);
    let (text, _) = unreachable(&uri).await;
    assert!(
        text.contains("no answer for 'nix-cache-info' within 1 s"),
        "{text}"
    );
    assert_eq!(silent.requests("").len(), 1);
    // A server without TLS.
    let plain = Odd::start(|_, _| ok("", b"")).await;
    let uri = plain.url.replace("http://", "https://");
    let (text, _) = unreachable(&uri).await;
    assert!(text.starts_with(&format!("cannot reach {uri}: ")), "{text}");
}

#[tokio::test]
async fn servers_that_ask_for_patience() {
    for (status, after, attempts) in [
        ("429 Too Many Requests", "Retry-After: 1\r\n", 2),
        ("503 Service Unavailable", "", 2),
        ("520 Whatever", "", 2),
        // A longer delay than the limit.
        ("429 Too Many Requests", "Retry-After: 3600\r\n", 1),
        ("501 Not Implemented", "", 1),
    ] {
        let headers = format!("{after}Content-Length: 0\r\n");
        let server = Odd::start(move |_, before| match before {
            0 => reply(status, &headers, b""),
            _ => ok("", b"StoreDir: /nix/store\n"),
        })
        .await;
        let began = Instant::now();
        let opened = BinaryCache::open(options(&server.url)).await;
        assert_eq!(opened.is_ok(), attempts == 2, "{status}: {opened:?}");
        assert_eq!(server.requests("").len(), attempts, "{status}");
        if after.contains(": 1\r") {
            assert!(began.elapsed() >= Duration::from_secs(1), "{status}");
        }
    }
    // As many attempts as configured.
    let server = Odd::start(|_, _| reply("502 Bad Gateway", "Content-Length: 0\r\n", b"")).await;
    let uri = format!("{}?download-attempts=3", server.url);
    assert!(BinaryCache::open(options(&uri)).await.is_err());
    assert_eq!(server.requests("").len(), 3);
}

#[cfg(feature = "s3")]
const CREDENTIALS: &str = "[default]\naws_access_key_id = D\naws_secret_access_key = d\n\
    [work]\naws_access_key_id = W\naws_secret_access_key = w\naws_session_token = t\n";

/// Credentials depend on the environment, which can only be set for a new process: this test runs
/// itself again, with the URI to open.
#[cfg(feature = "s3")]
#[tokio::test]
async fn credentials_of_s3() {
    if let Ok(uri) = std::env::var("TVIX_S3_URI") {
        BinaryCache::open(options(&uri)).await.unwrap();
        return;
    }
    let home = tempfile::TempDir::new().unwrap();
    let place = home.path().join(".aws");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("credentials"), CREDENTIALS).unwrap();
    let home = home.path().to_str().unwrap();
    let nowhere = "/nowhere";
    let both = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "e")];
    for (parameters, env, expected) in [
        ("", vec![("HOME", nowhere)], None),
        ("", vec![("HOME", home)], Some("Credential=D/")),
        ("&profile=work", vec![("HOME", home)], Some("Credential=W/")),
        (
            "",
            vec![("HOME", home), ("AWS_PROFILE", "work")],
            Some("Credential=W/"),
        ),
        (
            "&region=eu-west-1",
            both.to_vec(),
            Some("/eu-west-1/s3/aws4_request"),
        ),
        (
            "&addressing-style=path",
            both.to_vec(),
            Some("Credential=E/"),
        ),
        // The region is taken from the URI only, as in Nix.
        (
            "",
            [&both[..], &[("AWS_REGION", "eu-west-1")]].concat(),
            Some("/us-east-1/s3/"),
        ),
    ] {
        let server = Odd::start(|_, _| ok("", b"StoreDir: /nix/store\n")).await;
        let host = server.url.strip_prefix("http://").unwrap();
        let uri = format!("s3://bucket?endpoint={host}&scheme=http{parameters}");
        let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
        for (name, _) in std::env::vars() {
            if name.starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.args(["--exact", "odd::credentials_of_s3", "--nocapture"]);
        command.envs(env.iter().copied()).env("TVIX_S3_URI", &uri);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{uri}, {env:?}: {output:?}");
        let requests = server.requests("/bucket/nix-cache-info");
        assert!(!requests.is_empty(), "{uri}: {:?}", server.requests(""));
        for request in requests {
            let found = request.header("authorization");
            match expected {
                None => assert_eq!(found, None, "{uri}"),
                Some(text) => assert!(found.unwrap().contains(text), "{uri}, {env:?}: {found:?}"),
            }
        }
    }
}
