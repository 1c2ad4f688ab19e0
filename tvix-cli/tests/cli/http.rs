//! HTTP settings apply to everything that speaks HTTP: `builtins.fetchurl`, `builtin:fetchurl` and
//! binary caches.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix_compat::nixhash::{HashAlgo, NixHash};
use tvix_test_support::http::{self, Connection, Head};
use tvix_test_support::tls::self_signed;
use tvix_tests::local::LocalWorld;
use tvix_tests::program::{Ended, run};

/// The three programs that speak HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Evaluator,
    Builtin,
    Cache,
}

const USERS: [User; 3] = [User::Evaluator, User::Builtin, User::Cache];

const OBJECT: &str = "/nix/store/00000000000000000000000000000000-x";

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Plain,
    /// Refuses requests without credentials.
    Login,
    Down,
    Silent,
    /// Applies a content coding, whether it is asked for or not.
    Coded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    target: String,
    authorization: Option<String>,
}

/// A server, and what it is asked for.
struct Server {
    http: http::Server,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(manner: Manner, tls: bool) -> Self {
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let log = seen.clone();
        let http = http::Server::start(tls, move |stream, _| answer(stream, manner, &log));
        Self { http, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn answer(
    stream: &mut dyn Connection,
    manner: Manner,
    log: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let head = Head::read(stream)?;
    let target = head.target().to_owned();
    let authorization = head.header("authorization").map(str::to_owned);
    let allowed = manner != Manner::Login || authorization.is_some();
    let (mut status, mut body) = match target.rsplit('/').next().unwrap() {
        "nix-cache-info" => (200, b"StoreDir: /nix/store\n".to_vec()),
        "file" => (200, b"contents".to_vec()),
        _ => (404, Vec::new()),
    };
    log.lock().unwrap().push(Seen {
        target,
        authorization,
    });
    let mut coding = "";
    match manner {
        _ if !allowed => (status, body) = (401, Vec::new()),
        Manner::Down => (status, body) = (503, Vec::new()),
        Manner::Silent => {
            std::io::copy(stream, &mut std::io::sink())?;
            return Ok(());
        }
        Manner::Coded if status == 200 => {
            body = zstd::encode_all(&body[..], 3)?;
            coding = "Content-Encoding: zstd\r\n";
        }
        _ => {}
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nConnection: close\r\n{coding}Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(&body)?;
    stream.flush()
}

/// A place for runs, each of which fetches anew.
struct World {
    local: LocalWorld,
    runs: usize,
}

const VARIABLES: [&str; 7] = [
    "NIX_PATH",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

impl World {
    async fn new() -> Self {
        Self {
            local: LocalWorld::new().await,
            runs: 0,
        }
    }

    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let file = self.local.beside(name);
        std::fs::write(&file, contents).unwrap();
        file
    }

    /// Has `user` fetch from the server at `url`.
    fn run(&mut self, user: User, url: &str, arguments: &[&str], env: &[(&str, &str)]) -> Ended {
        self.runs += 1;
        let runs = self.runs;
        let mut command = match user {
            User::Evaluator => {
                let text = format!("builtins.readFile (builtins.fetchurl \"{url}/file\")");
                let mut command = super::plain();
                command.args(["eval", "--raw", "-E", &text, "--store"]);
                command.arg(self.local.root());
                command
            }
            User::Builtin => {
                let hash = NixHash::digest(HashAlgo::Sha256, b"contents");
                let text = format!(
                    "derivation {{ name = \"file-{runs}\"; system = builtins.currentSystem; \
                     builder = \"builtin:fetchurl\"; url = \"{url}/file\"; \
                     outputHash = \"{hash}\"; outputHashMode = \"flat\"; }}"
                );
                let mut command = super::build(&self.local);
                command.args(["--no-out-link", "-E", &text]);
                command
            }
            User::Cache => {
                let mut command = super::plain();
                command.args(["store", "path-info", "--store", url, OBJECT]);
                command
            }
        };
        command
            .args(arguments)
            .env("HOME", self.local.beside("home"))
            .env(
                "XDG_CACHE_HOME",
                self.local.beside(&format!("cache-{runs}")),
            )
            .stdin(Stdio::null());
        VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.envs(env.iter().copied());
        run(&mut command)
    }
}

/// Fails unless `user` got what the server has.
#[track_caller]
fn succeeded(user: User, ended: &Ended, seen: &[Seen]) {
    match user {
        User::Evaluator => assert_eq!(ended.out, ["contents"], "{ended:?}"),
        User::Builtin => assert_eq!(ended.code, Some(0), "{ended:?}"),
        // It asks for paths once it knows that there is a cache.
        User::Cache => assert!(
            seen.iter().any(|it| it.target.ends_with(".narinfo")),
            "{ended:?}: {seen:?}"
        ),
    }
}

#[tokio::test]
async fn certificate_authorities() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Plain, true);
    let (_, unrelated) = self_signed();
    let own = world.file("own.pem", server.http.certificate.as_ref().unwrap());
    let other = world.file("other.pem", &unrelated);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let (own, other) = (text(&own), text(&other));
    for user in USERS {
        for (env, trusted) in [
            (&[("NIX_SSL_CERT_FILE", &*own)][..], true),
            (&[("SSL_CERT_FILE", &*own)], true),
            (
                &[("NIX_SSL_CERT_FILE", &*own), ("SSL_CERT_FILE", &*other)],
                true,
            ),
            (
                &[("NIX_SSL_CERT_FILE", &*other), ("SSL_CERT_FILE", &*own)],
                false,
            ),
            (&[("NIX_SSL_CERT_FILE", &*other)], false),
            (&[("SSL_CERT_FILE", &*other)], false),
        ] {
            let ended = world.run(user, &server.http.url, &[], env);
            let seen = server.seen();
            if trusted {
                succeeded(user, &ended, &seen);
            } else {
                assert_eq!(seen, [], "{user:?} {env:?}");
                assert!(
                    ended.err.contains("certificate"),
                    "{user:?} {env:?}: {ended:?}"
                );
                if user == User::Evaluator {
                    ended.says(&["unable to download 'https://localhost"]);
                }
            }
        }
    }
}

#[tokio::test]
async fn credentials() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Login, false);
    let netrc = world.file("netrc", "machine localhost login me password s3cret\n");
    let netrc = netrc.to_str().unwrap();
    let wrong = world.file("wrong", "machine elsewhere login me password s3cret\n");
    for user in USERS {
        let ended = world.run(user, &server.http.url, &["--netrc-file", netrc], &[]);
        let seen = server.seen();
        succeeded(user, &ended, &seen);
        let basic = Some("Basic bWU6czNjcmV0".to_owned());
        assert!(seen.iter().all(|it| it.authorization == basic), "{seen:?}");

        let arguments = ["--netrc-file", wrong.to_str().unwrap()];
        let ended = world.run(user, &server.http.url, &arguments, &[]);
        assert_ne!(ended.code, Some(0), "{user:?}");
        assert!(ended.err.contains("401"), "{user:?}: {ended:?}");
        let seen = server.seen();
        assert!(seen.iter().all(|it| it.authorization.is_none()), "{seen:?}");
        assert_eq!(seen.len(), 1, "{user:?}: a refusal does not pass");
    }
}

#[tokio::test]
async fn attempts() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Down, false);
    for user in USERS {
        for (attempts, expected) in [("1", 1), ("3", 3)] {
            let arguments = ["--download-attempts", attempts];
            let ended = world.run(user, &server.http.url, &arguments, &[]);
            assert_ne!(ended.code, Some(0), "{user:?}");
            assert!(ended.err.contains("503"), "{user:?}: {ended:?}");
            assert_eq!(server.seen().len(), expected, "{user:?}");
        }
    }
}

#[tokio::test]
async fn servers_that_send_nothing() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Silent, false);
    for user in USERS {
        let arguments = [
            "--stalled-download-timeout",
            "1",
            "--download-attempts",
            "1",
        ];
        let began = Instant::now();
        let ended = world.run(user, &server.http.url, &arguments, &[]);
        assert_ne!(ended.code, Some(0), "{user:?}");
        assert!(ended.err.contains("no answer"), "{user:?}: {ended:?}");
        assert!(began.elapsed() >= Duration::from_secs(1), "{user:?}");
        assert_eq!(server.seen().len(), 1, "{user:?}");
    }
}

#[tokio::test]
async fn proxies() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Plain, false);
    let direct = server.http.url.replace("localhost", "127.0.0.1");
    let proxy = ("http_proxy", &*server.http.url);
    let dead = ("http_proxy", "http://127.0.0.1:9");
    let once = ["--download-attempts", "1"];
    for user in USERS {
        let far = "http://elsewhere.invalid";
        let ended = world.run(user, far, &once, &[proxy]);
        let seen = server.seen();
        succeeded(user, &ended, &seen);
        assert!(seen.iter().all(|it| it.target.starts_with(far)), "{seen:?}");

        let ended = world.run(user, far, &once, &[proxy, ("no_proxy", "*")]);
        assert_ne!(ended.code, Some(0), "{user:?}");
        assert_eq!(server.seen(), [], "{user:?}");

        for exempt in ["*", "127.0.0.0/8", "127.0.0.1"] {
            let ended = world.run(user, &direct, &once, &[dead, ("no_proxy", exempt)]);
            let seen = server.seen();
            succeeded(user, &ended, &seen);
            assert!(seen.iter().all(|it| it.target.starts_with('/')), "{seen:?}");
        }
        let ended = world.run(user, &direct, &once, &[dead, ("no_proxy", "10.0.0.0/8")]);
        assert_ne!(ended.code, Some(0), "{user:?}");
        assert_eq!(server.seen(), [], "{user:?}");
    }
}

#[tokio::test]
async fn content_codings() {
    let mut world = World::new().await;
    let server = Server::start(Manner::Coded, false);
    for user in USERS {
        let ended = world.run(user, &server.http.url, &[], &[]);
        succeeded(user, &ended, &server.seen());
    }
}
