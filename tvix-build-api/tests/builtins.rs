//! Built-in builders: their outputs, the servers that they trust, and their isolation.
#![cfg(all(feature = "builtins", feature = "local-fs", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;

tvix_build_api::sandbox::init_before_main!();

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::{Directory, again_as_an_ordinary_user};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions};
use tvix_build_api::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, Builder, FailureKind,
};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreExt as _};
use tvix_test_support::http::{self, Connection, Head};

/// A request, as received by a server.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    authorization: Option<String>,
    /// The user that owns the socket of the client.
    user: Option<u32>,
}

/// A server, and what it is asked for.
struct Server {
    http: http::Server,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Serves these paths; contents that begin with `->` are the target of a redirect.
    fn new(files: &[(&str, &[u8])], tls: bool) -> Self {
        let files: HashMap<String, Vec<u8>> = files
            .iter()
            .map(|(path, contents)| ((*path).to_owned(), contents.to_vec()))
            .collect();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let shared = seen.clone();
        let http = http::Server::start(tls, move |stream, client| {
            serve(stream, &files, owner_of(client), &shared)
        });
        Self { http, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.http.url)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    stream: &mut dyn Connection,
    files: &HashMap<String, Vec<u8>>,
    user: Option<u32>,
    seen: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let head = Head::read(stream)?;
    let path = head.target().to_owned();
    let authorization = head.header("authorization").map(str::to_owned);
    let body = files.get(&path).cloned();
    seen.lock().unwrap().push(Seen {
        path,
        authorization,
        user,
    });
    let (status, more, body) = match body {
        None => ("404 Not Found", String::new(), Vec::new()),
        Some(body) => match body.strip_prefix(b"->") {
            None => ("200 OK", String::new(), body),
            Some(to) => {
                let to = format!("Location: {}\r\n", String::from_utf8_lossy(to));
                ("302 Found", to, Vec::new())
            }
        },
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n"
    )?;
    stream.write_all(&body)?;
    stream.flush()
}

/// The user that owns a socket of this machine, according to the kernel.
fn owner_of(address: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let line = sockets
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(&local))?;
    line.split_whitespace().nth(7)?.parse().ok()
}

struct Fixture {
    builder: SandboxBuilder,
    store: LocalStore,
    directory: Directory,
}

impl Fixture {
    fn new(change: impl FnOnce(SandboxOptions, &Directory) -> SandboxOptions) -> Self {
        let directory = Directory::new();
        let options = LocalStoreOptions::new(directory.path().join("root"));
        let store = LocalStore::open_blocking(options).unwrap();
        let options = change(SandboxOptions::new("test"), &directory);
        Self {
            builder: SandboxBuilder::new(options)
                .unwrap()
                .with_local_store(&store),
            store,
            directory,
        }
    }

    async fn build(
        &self,
        builder: DerivationBuilder,
        inputs: &[Arc<PathInfo>],
    ) -> Result<PathBuf, BuildFailure> {
        let made: Instantiated = builder.instantiate(self.store.store_dir()).unwrap();
        let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        request.store = Some(self.store.uri().clone());
        request.inputs = inputs.to_vec();
        let context = BuildContext::new(Arc::new(self.store.clone()));
        match self.builder.build(request, context).await.unwrap() {
            BuildOutcome::Failure(failure) => Err(failure),
            BuildOutcome::Success(success) => {
                Ok(self.store.real_path(&success.delivery.outputs()[0].1.path))
            }
        }
    }
}

fn builtin(name: &str) -> DerivationBuilder {
    DerivationBuilder::new("x", "builtin", format!("builtin:{name}"))
}

fn fetch(url: &str, contents: &[u8]) -> DerivationBuilder {
    let hash = NixHash::digest(HashAlgo::Sha256, contents);
    builtin("fetchurl")
        .env("url", url)
        .fixed(ContentAddressMethod::Flat, hash)
}

fn archive(contents: &[u8]) -> Vec<u8> {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(true, contents).unwrap();
    writer.finish().unwrap()
}

fn log_lines(failure: &BuildFailure) -> impl Iterator<Item = &str> {
    failure.log_tail.iter().map(String::as_str)
}

fn log(failure: &BuildFailure) -> String {
    failure.log_tail.join("\n")
}

#[tokio::test]
async fn files_come_from_servers() {
    let fixture = Fixture::new(|options, _| options);
    let packed = archive(b"packed");
    let server = Server::new(
        &[
            ("/file", b"contents"),
            ("/moved", b"->/file"),
            ("/x.nar", &packed),
            ("/loop", b"->/loop"),
        ],
        false,
    );
    let out = fixture
        .build(fetch(&server.url("/moved"), b"contents"), &[])
        .await
        .unwrap();
    assert_eq!(fs::read(out).unwrap(), b"contents");
    for unpack in ["unpack", "executable"] {
        let (hash, url) = match unpack {
            "unpack" => (archive(b"packed"), server.url("/x.nar")),
            _ => (archive(b"contents"), server.url("/file")),
        };
        let hash = NixHash::digest(HashAlgo::Sha256, hash);
        let builder = builtin("fetchurl").env("url", url).env(unpack, "1");
        let builder = builder.fixed(ContentAddressMethod::NixArchive, hash);
        let out = fixture.build(builder, &[]).await.unwrap();
        assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o555);
    }
    let failure = fixture
        .build(fetch(&server.url("/gone"), b"x"), &[])
        .await
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::ExitCode { code: 1 });
    assert!(log(&failure).contains("404"), "{failure:?}");
    fixture
        .build(fetch(&server.url("/loop"), b"x"), &[])
        .await
        .unwrap_err();
    let failure = fixture
        .build(fetch(&server.url("/file"), b"other"), &[])
        .await
        .unwrap_err();
    let text = failure.to_string();
    let sri = |bytes: &[u8]| NixHash::digest(HashAlgo::Sha256, bytes).to_string();
    assert!(
        text.contains(&format!("specified: {}", sri(b"other"))),
        "{text}"
    );
    assert!(
        text.contains(&format!("got:    {}", sri(b"contents"))),
        "{text}"
    );
    assert!(sri(b"x").starts_with("sha256-"));
}

/// CVE-2024-51481. The server sees the user of its clients: without the sandbox, that would be the
/// user of the test.
#[tokio::test]
async fn built_in_builders_run_as_any_other() {
    let fixture = Fixture::new(|options, directory| {
        let canary = directory.path().join("canary");
        fs::write(&canary, "secret").unwrap();
        options
    });
    let server = Server::new(&[("/file", b"contents")], false);
    fixture
        .build(fetch(&server.url("/file"), b"contents"), &[])
        .await
        .unwrap();
    let user = server.seen()[0].user.unwrap();
    if rustix::process::geteuid().is_root() {
        assert!(user >= tvix_sandbox::DEFAULT_FIRST_ID, "{user}");
    } else {
        assert_eq!(user, rustix::process::geteuid().as_raw());
    }
    // File access is that of the sandbox.
    let canary = fixture.directory.path().join("canary");
    let url = format!("file://{}", canary.display());
    let failure = fixture
        .build(fetch(&url, b"secret"), &[])
        .await
        .unwrap_err();
    assert!(log(&failure).contains("No such file"), "{failure:?}");
    let name = "input".parse().unwrap();
    let input = fixture
        .store
        .add_text(name, b"text", [].into())
        .await
        .unwrap();
    let input = fixture.store.require(&input).await.unwrap();
    let url = format!("file://{}", fixture.store.store_dir().display(&input.path));
    let builder = fetch(&url, b"text").source(&input.path);
    let out = fixture.build(builder, &[input]).await.unwrap();
    assert_eq!(fs::read(out).unwrap(), b"text");
}

/// Command injection through derivation attributes, as in Guix in 2025: attributes are data, and
/// must neither be executed nor change the program. The attribute here names a library for the
/// dynamic linker to load. Needs `cc`. Fails if `Builtin::start` passes the environment of the
/// derivation on.
#[tokio::test]
async fn attributes_are_never_executed() {
    let fixture = Fixture::new(|options, _| options);
    let server = Server::new(&[("/file", b"contents")], false);
    let build = fixture.directory.path().join("build");
    fs::create_dir(&build).unwrap();
    let source = "#include <unistd.h>\n__attribute__((constructor)) static void run(void) {
        write(2, \"EXECUTED\\n\", 9); }";
    fs::write(build.join("run.c"), source).unwrap();
    let folder = fixture.directory.path().join("evil");
    fs::create_dir(&folder).unwrap();
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([folder.join("run.so"), build.join("run.c")])
        .status();
    assert!(compiled.expect("this test needs cc in PATH").success());
    // The library is executed if it is loaded.
    let output = std::process::Command::new("true")
        .env("LD_PRELOAD", folder.join("run.so"))
        .output();
    assert_eq!(output.unwrap().stderr, b"EXECUTED\n");

    let (name, method) = ("evil".parse().unwrap(), ContentAddressMethod::NixArchive);
    let library = fixture.store.add_tree(&folder, name, method).await.unwrap();
    let library = fixture.store.require(&library).await.unwrap();
    let file = format!(
        "{}/run.so",
        fixture.store.store_dir().display(&library.path)
    );
    let run = "echo EXECUTED >&2";
    let builder = fetch(&server.url("/file"), b"contents")
        .source(&library.path)
        .args(["-c", run])
        .env("LD_LIBRARY_PATH", "/nowhere")
        .env(
            "content-addressed-mirrors",
            "(system \"echo EXECUTED >&2\")",
        )
        .env("mirrors", format!("$({run}) `{run}`"));
    let builder = ["LD_PRELOAD", "LD_AUDIT"]
        .into_iter()
        .fold(builder, |builder, name| builder.env(name, &*file));
    let commands = [
        "postFetch",
        "preHook",
        "BASH_ENV",
        "ENV",
        "curlOpts",
        "NIX_CURL_FLAGS",
    ];
    let builder = commands
        .into_iter()
        .fold(builder, |builder, name| builder.env(name, run));
    let made = builder.instantiate(fixture.store.store_dir()).unwrap();
    let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
    request.inputs = vec![library];
    let (log, mut lines) = tvix_build_api::log_channel(64);
    let mut context = BuildContext::new(Arc::new(fixture.store.clone()));
    context.log = log;
    let outcome = fixture.builder.build(request, context).await.unwrap();
    assert!(matches!(outcome, BuildOutcome::Success(_)), "{outcome:?}");
    while let Some(line) = lines.recv().await {
        let text = String::from_utf8_lossy(&line.text);
        assert!(!text.contains("EXECUTED"), "{text}");
    }
    for url in [
        "|echo EXECUTED >&2",
        "ext::sh -c 'echo EXECUTED >&2'",
        "--config=/proc/self/environ",
    ] {
        let failure = fixture.build(fetch(url, b"x"), &[]).await.unwrap_err();
        assert!(
            !log_lines(&failure).any(|line| line.trim() == "EXECUTED"),
            "{failure:?}"
        );
    }
}

/// CVE-2024-47174: a server without a trusted certificate receives no password, and no request at
/// all.
#[tokio::test]
async fn servers_have_to_be_vouched_for() {
    let server = Server::new(&[("/file", b"contents")], true);
    let netrc = |directory: &Directory| {
        let file = directory.path().join("netrc");
        fs::write(&file, "machine localhost login me password s3cret\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file
    };
    let stranger = Fixture::new(|options, directory| {
        options
            .with_netrc_file(netrc(directory))
            .with_keep_failed(directory.path().join("kept"))
    });
    let builder = || fetch(&server.url("/file"), b"contents");
    let failure = stranger.build(builder(), &[]).await.unwrap_err();
    assert!(log(&failure).contains("certificate"), "{failure:?}");
    assert!(server.seen().is_empty(), "{:?}", server.seen());
    assert!(!log(&failure).contains("s3cret"));
    assert!(!stranger.directory.path().join("kept").exists());

    let friend = Fixture::new(|options, directory| {
        let file = directory.path().join("ca.pem");
        fs::write(&file, server.http.certificate.as_ref().unwrap()).unwrap();
        options.with_netrc_file(netrc(directory)).with_ca_file(file)
    });
    friend.build(builder(), &[]).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].path, "/file");
    assert_eq!(seen[0].authorization.as_deref(), Some("Basic bWU6czNjcmV0"));
}

/// A password is not sent to another host after a redirect.
#[tokio::test]
async fn passwords_do_not_follow_redirects() {
    let other = Server::new(&[("/file", b"contents")], false);
    let elsewhere = format!("->{}", other.url("/file").replace("localhost", "127.0.0.1"));
    let first = Server::new(&[("/moved", elsewhere.as_bytes())], false);
    let fixture = Fixture::new(|options, directory| {
        let file = directory.path().join("netrc");
        fs::write(&file, "machine localhost login me password s3cret\n").unwrap();
        options.with_netrc_file(file)
    });
    fixture
        .build(fetch(&first.url("/moved"), b"contents"), &[])
        .await
        .unwrap();
    assert!(first.seen()[0].authorization.is_some());
    assert_eq!(other.seen()[0].authorization, None);
}

#[tokio::test]
async fn channels_and_profiles() {
    let fixture = Fixture::new(|options, _| options);
    let dir = StoreDir::default();
    let folder = fixture.directory.path().join("package");
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::write(folder.join("bin/run"), "run").unwrap();
    let package = fixture
        .store
        .add_tree(
            &folder,
            "package".parse().unwrap(),
            ContentAddressMethod::NixArchive,
        )
        .await
        .unwrap();
    let package = fixture.store.require(&package).await.unwrap();
    let path = dir.display(&package.path).to_string();
    let profile = builtin("buildenv")
        .env("derivations", format!("true 5 1 {path}"))
        .env("manifest", &*path)
        .source(&package.path);
    let out = fixture
        .build(profile, std::slice::from_ref(&package))
        .await
        .unwrap();
    assert_eq!(
        fs::read_link(out.join("bin")).unwrap(),
        PathBuf::from(format!("{path}/bin"))
    );
    assert_eq!(
        fs::read_link(out.join("manifest.nix")).unwrap(),
        PathBuf::from(path)
    );

    let mut tar = tar::Builder::new(Vec::new());
    tar.append_dir_all("nixpkgs-1", &folder).unwrap();
    let name = "channel.tar".parse().unwrap();
    let source = fixture
        .store
        .add_text(name, &tar.into_inner().unwrap(), [].into())
        .await
        .unwrap();
    let source = fixture.store.require(&source).await.unwrap();
    let channel = builtin("unpack-channel")
        .env("channelName", "nixpkgs")
        .env("src", dir.display(&source.path).to_string())
        .source(&source.path);
    let out = fixture.build(channel, &[source]).await.unwrap();
    assert_eq!(fs::read(out.join("nixpkgs/bin/run")).unwrap(), b"run");
    let failure = fixture
        .build(builtin("unpack-channel"), &[])
        .await
        .unwrap_err();
    assert!(
        log(&failure).contains("attribute 'channelName' missing"),
        "{failure:?}"
    );
}

/// A build can be cancelled while a server does not respond.
#[tokio::test]
async fn fetching_can_be_cancelled() {
    let fixture = Fixture::new(|options, _| options);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let made = fetch(&url, b"x")
        .instantiate(fixture.store.store_dir())
        .unwrap();
    let request = BuildRequest::new(made.path, made.derivation);
    let context = BuildContext::new(Arc::new(fixture.store.clone()));
    let cancel = context.cancel.clone();
    let accepted =
        tokio::task::spawn_blocking(move || -> TcpStream { listener.accept().unwrap().0 });
    let cancelling = async {
        let stream = accepted.await.unwrap();
        cancel.cancel();
        stream
    };
    let (outcome, mut stream) = tokio::join!(fixture.builder.build(request, context), cancelling);
    let BuildOutcome::Failure(failure) = outcome.unwrap() else {
        panic!("it was cancelled");
    };
    assert_eq!(failure.kind, FailureKind::Cancelled);
    // The process is dead: its end of the connection is closed.
    let mut rest = Vec::new();
    let _ = tokio::task::spawn_blocking(move || stream.read_to_end(&mut rest)).await;
}

#[test]
fn as_an_ordinary_user() {
    again_as_an_ordinary_user();
}
