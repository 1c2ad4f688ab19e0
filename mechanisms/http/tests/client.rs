//! The HTTP client against scripted servers on the loopback interface.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tvix_http::client::blocking::{Client, Download, Downloaded, Target};
use tvix_http::client::{Answer, ClientOptions, Get, HttpError, Roots};
use tvix_http::decode::Coding;
use tvix_http::{Netrc, TransferSettings};
use url::Url;

/// One response: the head after `HTTP/1.1 `, the body, and bytes that are announced and not sent.
type Reply = (&'static str, Vec<u8>, usize);

/// A server that gives one response after the other, and then hangs up.
struct Server {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = heads.clone();
        let mut replies: VecDeque<_> = replies.into_iter().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
                    head.push(byte[0]);
                }
                log.lock().unwrap().push(String::from_utf8(head).unwrap());
                let Some((head, body, missing)) = replies.pop_front() else {
                    continue;
                };
                let length = body.len() + missing;
                let head = format!(
                    "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&body);
            }
        });
        Self { url, heads }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.heads.lock().unwrap().len()
    }
}

fn ok(body: impl Into<Vec<u8>>) -> Reply {
    ("200 OK", body.into(), 0)
}

fn settings() -> TransferSettings {
    let mut settings = TransferSettings::default();
    settings.first_pause = Duration::from_millis(1);
    settings.stalled_download_timeout = Some(Duration::from_secs(20));
    settings
}

fn options() -> ClientOptions {
    ClientOptions::default()
        .with_transfer(settings())
        .with_roots(Roots::None)
}

#[derive(Default)]
struct Kept {
    contents: Arc<Mutex<Vec<u8>>>,
    cancel: Arc<AtomicBool>,
    restarts: usize,
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Target for Kept {
    type Writer = Writer;

    fn restart(&mut self) -> io::Result<Writer> {
        self.restarts += 1;
        self.contents.lock().unwrap().clear();
        Ok(Writer(self.contents.clone()))
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

impl Kept {
    fn get(&mut self, options: &ClientOptions, url: &str) -> Result<Downloaded, HttpError> {
        let download = Download::new(Url::parse(url).unwrap()).with_content_codings(true);
        Client::new(options).unwrap().download(&download, self)
    }

    fn text(&self) -> String {
        String::from_utf8(self.contents.lock().unwrap().clone()).unwrap()
    }
}

fn written(etag: Option<&str>) -> Downloaded {
    let mut kept = Kept::default();
    let head = match etag {
        Some(_) => "200 OK\r\nETag: \"v1\"",
        None => "200 OK",
    };
    let server = Server::start([(head, Vec::new(), 0)]);
    kept.get(&options(), &server.url).unwrap()
}

#[test]
fn transfers_that_break_off_are_resumed() {
    let first = ("200 OK\r\nETag: \"v1\"", b"0123".to_vec(), 6);
    let rest = "206 Partial Content\r\nETag: \"v1\"\r\nContent-Range: bytes 4-9/10";
    let server = Server::start([first, (rest, b"456789".to_vec(), 0)]);
    let mut kept = Kept::default();
    let done = kept.get(&options(), &server.url).unwrap();
    assert_eq!(done, written(Some("\"v1\"")));
    assert_eq!((kept.text().as_str(), kept.restarts), ("0123456789", 1));
    let second = server.heads()[1].to_lowercase();
    assert!(second.contains("range: bytes=4-\r\n"), "{second}");
    assert!(second.contains("if-range: \"v1\"\r\n"), "{second}");
}

#[test]
fn files_that_have_changed_or_cannot_be_recognised_start_again() {
    // The server has another version: it sends all of it.
    let changed = ("200 OK\r\nETag: \"v2\"", b"abcdef".to_vec(), 0);
    let server = Server::start([("200 OK\r\nETag: \"v1\"", b"0123".to_vec(), 6), changed]);
    let mut kept = Kept::default();
    kept.get(&options(), &server.url).unwrap();
    assert_eq!((kept.text().as_str(), kept.restarts), ("abcdef", 2));
    // Without a validator, or with a weak one, no part is asked for.
    for head in ["200 OK", "200 OK\r\nETag: W/\"v1\""] {
        let server = Server::start([(head, b"0123".to_vec(), 6), ok("abcdef")]);
        let mut kept = Kept::default();
        kept.get(&options(), &server.url).unwrap();
        assert_eq!((kept.text().as_str(), kept.restarts), ("abcdef", 2));
        assert!(!server.heads()[1].to_lowercase().contains("range:"));
    }
}

#[test]
fn content_codings_are_undone() {
    let contents = "contents ".repeat(1000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(contents.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(contents.as_bytes(), 3).unwrap();
    let both = zstd::encode_all(&gzip[..], 3).unwrap();
    for (head, body) in [
        ("200 OK\r\nContent-Encoding: gzip", gzip.clone()),
        ("200 OK\r\nContent-Encoding: zstd", zstd.clone()),
        ("200 OK\r\nContent-Encoding: gzip, zstd", both.clone()),
        (
            "200 OK\r\nContent-Encoding: gzip\r\nContent-Encoding: zstd",
            both,
        ),
        (
            "200 OK\r\nContent-Encoding: identity",
            contents.clone().into(),
        ),
    ] {
        let server = Server::start([(head, body, 0)]);
        let mut kept = Kept::default();
        kept.get(&options(), &server.url).unwrap();
        assert!(kept.text() == contents, "{head}");
        let asked = server.heads()[0].to_lowercase();
        let accept = format!("accept-encoding: {}\r\n", Coding::ACCEPT);
        assert!(asked.contains(&accept), "{asked}");
    }
    // Cut off, it starts again; a position in coded contents is none in the file.
    let head = "200 OK\r\nETag: \"v1\"\r\nContent-Encoding: zstd";
    let cut = (head, zstd[..zstd.len() - 4].to_vec(), 4);
    let server = Server::start([cut, (head, zstd, 0)]);
    let mut kept = Kept::default();
    kept.get(&options(), &server.url).unwrap();
    assert!(kept.text() == contents);
    assert!(!server.heads()[1].to_lowercase().contains("range:"));
    for head in [
        "200 OK\r\nContent-Encoding: rot13",
        "200 OK\r\nContent-Encoding: gzip",
    ] {
        let server = Server::start([(head, b"no such thing".to_vec(), 0)]);
        let error = Kept::default().get(&options(), &server.url).unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        assert_eq!(server.count(), 1, "{error}");
    }
    // Without contents there is nothing to decode.
    let server = Server::start([("200 OK\r\nContent-Encoding: gzip", Vec::new(), 0)]);
    let mut kept = Kept::default();
    kept.get(&options(), &server.url).unwrap();
    assert_eq!(kept.text(), "");
}

#[test]
fn errors_that_pass_and_errors_that_do_not() {
    let down = || ("503 Service Unavailable", Vec::new(), 0);
    let server = Server::start([down(), down(), ok("x")]);
    let mut kept = Kept::default();
    kept.get(&options(), &server.url).unwrap();
    assert_eq!((kept.text().as_str(), server.count()), ("x", 3));
    for (head, message) in [
        ("404 x", "HTTP error 404 Not Found"),
        ("403 x", "HTTP error 403 Forbidden"),
        ("501 x", "HTTP error 501 Not Implemented"),
        // It asks for more patience than there is.
        (
            "503 x\r\nRetry-After: 100000",
            "HTTP error 503 Service Unavailable",
        ),
    ] {
        let server = Server::start([(head, Vec::new(), 0), ok("x")]);
        let error = Kept::default().get(&options(), &server.url).unwrap_err();
        assert_eq!((error.to_string().as_str(), server.count()), (message, 1));
    }
    let mut few = settings();
    few.download_attempts = 2;
    let server = Server::start([down(), down(), ok("x")]);
    let error = Kept::default().get(&options().with_transfer(few), &server.url);
    assert_eq!(
        (error.unwrap_err().status(), server.count()),
        (Some(503), 2)
    );
}

#[test]
fn servers_are_waited_for_as_long_as_they_ask() {
    let server = Server::start([("429 x\r\nRetry-After: 1", Vec::new(), 0), ok("x")]);
    let began = std::time::Instant::now();
    Kept::default().get(&options(), &server.url).unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[test]
fn redirects_and_credentials() {
    let other = Server::start([ok("x")]);
    let elsewhere: &'static str = format!("302 x\r\nLocation: {}/file", other.url).leak();
    let first = Server::start([
        ("302 x\r\nLocation: /moved", Vec::new(), 0),
        (elsewhere, Vec::new(), 0),
    ]);
    let netrc = Netrc::parse("default login me password s3cret");
    let options = options().with_netrc(Some(netrc));
    let mut kept = Kept::default();
    kept.get(&options, &first.url).unwrap();
    assert_eq!(kept.text(), "x");
    let basic = "authorization: basic bwu6cznjcmv0";
    let heads = first.heads();
    assert!(
        heads.iter().all(|it| it.to_lowercase().contains(basic)),
        "{heads:?}"
    );
    let heads = other.heads();
    assert!(
        !heads[0].to_lowercase().contains("authorization"),
        "{heads:?}"
    );
    assert!(!heads[0].to_lowercase().contains("referer"), "{heads:?}");
    // Credentials in the URL take precedence.
    let server = Server::start([ok("x")]);
    let url = server.url.replace("http://", "http://u:p@");
    Kept::default().get(&options, &url).unwrap();
    assert!(server.heads()[0].contains("Basic dTpw"));
    let replies = (0..20).map(|_| ("302 x\r\nLocation: /", Vec::new(), 0));
    let server = Server::start(replies);
    let error = Kept::default().get(&options, &server.url).unwrap_err();
    assert!(matches!(error, HttpError::Redirect(_)), "{error}");
    assert_eq!(server.count(), 11);
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    for head in ["304 x", "200 OK\r\nETag: \"v1\""] {
        let server = Server::start([(head, Vec::new(), 0)]);
        let url = Url::parse(&server.url).unwrap();
        let download = Download::new(url).with_known_etag(Some("\"v1\"".into()));
        let client = Client::new(&options()).unwrap();
        let done = client.download(&download, &mut Kept::default()).unwrap();
        assert_eq!(done, Downloaded::Unchanged, "{head}");
        assert!(
            server.heads()[0]
                .to_lowercase()
                .contains("if-none-match: \"v1\"")
        );
    }
}

#[test]
fn limits_hold_for_decoded_contents() {
    let zeros = zstd::encode_all(&vec![0; 1 << 20][..], 3).unwrap();
    let server = Server::start([
        ok("0123456789"),
        ("200 OK\r\nContent-Encoding: zstd", zeros, 0),
    ]);
    let client = Client::new(&options()).unwrap();
    for limit in [9, 100_000] {
        let download = Download::new(Url::parse(&server.url).unwrap()).with_limit(limit);
        let error = client.download(&download, &mut Kept::default());
        let error = error.unwrap_err();
        assert!(matches!(error, HttpError::TooLarge { .. }), "{error}");
    }
    assert_eq!(server.count(), 2);
}

#[test]
fn downloads_can_be_cancelled() {
    // It accepts connections and answers none.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut kept = Kept::default();
    let cancel = kept.cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        cancel.store(true, Ordering::Relaxed);
    });
    let error = kept.get(&options(), &url).unwrap_err();
    assert!(matches!(error, HttpError::Cancelled), "{error}");
}

#[test]
fn servers_that_stall() {
    let mut short = settings();
    short.stalled_download_timeout = Some(Duration::from_millis(50));
    short.download_attempts = 1;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    let error = Kept::default().get(&options().with_transfer(short), &url);
    assert_eq!(
        error.unwrap_err().to_string(),
        "no answer for 'file' within 0.05 s"
    );
}

/// The blocking client has a runtime of its own, so it works on the thread of another one.
#[tokio::test]
async fn blocking_on_the_thread_of_a_runtime() {
    let server = Server::start([ok("x"), ok("y")]);
    let mut kept = Kept::default();
    kept.get(&options(), &server.url).unwrap();
    assert_eq!(kept.text(), "x");
    let client = tvix_http::client::Client::new(&options()).unwrap();
    let url = Url::parse(&server.url).unwrap();
    let answer = client.get(&url, &Get::whole(false)).await.unwrap();
    let Answer::Contents(response) = answer else {
        panic!("{answer:?}")
    };
    assert!(response.delimited && response.codings.is_empty());
}

#[test]
fn roots_that_are_missing() {
    let options = options().with_roots(Roots::File("/nowhere/at/all.pem".into()));
    let error = Client::new(&options).unwrap_err();
    assert_eq!(error.to_string(), "cannot read '/nowhere/at/all.pem'");
}
