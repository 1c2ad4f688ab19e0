//! Caches on the command line: copied to, signed, built from, served.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix_compat::derivation::Instantiated;
use nix_compat::signature::SigningKey;
use tvix_tests::local::{LocalWorld, absolute, instantiate, shell};
use tvix_tests::program::{Ended, run};

use super::build;

fn store_command(arguments: &[&str]) -> Ended {
    let mut command = super::plain();
    run(command.arg("store").args(arguments).stdin(Stdio::null()))
}

fn greeting() -> Instantiated {
    instantiate(shell("greeting", "echo hello > $out"))
}

/// A world where the greeting is built, and a key in a file.
async fn origin() -> (LocalWorld, SigningKey, String) {
    let world = LocalWorld::new().await;
    let drv = world.write(&greeting()).await;
    run(build(&world).arg(&drv).arg("--no-out-link")).expect(0);
    let key = SigningKey::from_seed("ours-1", &[3; 32]).unwrap();
    let file = world.beside("key");
    fs::write(&file, key.to_secret_text()).unwrap();
    (world, key, file.display().to_string())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Builds the greeting in a new world, with these arguments besides.
async fn built_elsewhere(arguments: &[&str]) -> Ended {
    let world = LocalWorld::new().await;
    let drv = world.write(&greeting()).await;
    let ended = run(build(&world).arg(&drv).arg("--no-out-link").args(arguments)).expect(0);
    let out = absolute(&greeting().output_path("out").unwrap());
    assert_eq!(ended.out, [out]);
    world.expect_clean().await;
    ended
}

#[tokio::test]
async fn what_was_copied_to_a_cache_is_not_built_again() {
    let (world, key, key_file) = origin().await;
    let out = absolute(&greeting().output_path("out").unwrap());
    let uri = format!("file://{}", text(&world.beside("cache")));
    fs::create_dir(world.beside("cache")).unwrap();
    let root = text(&world.root());
    let copied = store_command(&["copy", "--from", &root, "--to", &uri, &out]).expect(0);
    assert_eq!(copied.out, [out.as_str()]);
    let again = store_command(&["copy", "--from", &root, "--to", &uri, &out]).expect(0);
    assert!(again.out.is_empty(), "{again:?}");
    let public = key.verifying_key().to_string();
    let from_cache = ["--substituter", &uri, "--trusted-public-key", &public];
    // Nobody has signed it yet.
    let ended = built_elsewhere(&from_cache).await;
    ended.says(&["building", "without a signature of a trusted key"]);
    store_command(&["sign", "--store", &uri, "--key-file", &key_file, &out]).expect(0);
    let ended = built_elsewhere(&from_cache).await.says(&["fetching"]);
    assert!(!ended.err.contains("building"), "{ended:?}");
    let mut not = from_cache.to_vec();
    not.push("--no-substitute");
    let ended = built_elsewhere(&not).await.says(&["building"]);
    assert!(!ended.err.contains("fetching"), "{ended:?}");
    // One that is not there is no reason to fail.
    let nowhere = ["--substituter", "file:///nonexistent/cache"];
    built_elsewhere(&nowhere)
        .await
        .says(&["warning", "is not used", "building"]);
    let missing = text(&world.beside("missing"));
    let ended = built_elsewhere(&["--substituter", &missing]).await;
    let warning = ended
        .err
        .lines()
        .find(|line| line.starts_with("warning:"))
        .unwrap();
    assert!(warning.contains("is not used: cannot open"), "{warning}");
    assert!(!warning.contains("cannot open store"), "{warning}");
    let ended = built_elsewhere(&nowhere).await;
    assert_eq!(
        ended.err.matches("file:///nonexistent/cache").count(),
        1,
        "{ended:?}"
    );
}

#[tokio::test]
async fn signatures_of_a_local_store_go_with_the_paths() {
    let (world, key, key_file) = origin().await;
    let out = absolute(&greeting().output_path("out").unwrap());
    let root = text(&world.root());
    for _ in 0..2 {
        store_command(&["sign", "--store", &root, "--key-file", &key_file, &out]).expect(0);
    }
    let uri = format!("file://{}", text(&world.beside("cache")));
    fs::create_dir(world.beside("cache")).unwrap();
    store_command(&["copy", "--from", &root, "--to", &uri, &out]).expect(0);
    let public = key.verifying_key().to_string();
    let elsewhere = LocalWorld::new().await;
    let to = text(&elsewhere.root());
    let copy = ["copy", "--from", &uri, "--to", &to, &out];
    store_command(&copy).expect(1).says(&["trusted key"]);
    let trusting = [&copy[..], &["--trusted-public-key", &public]].concat();
    store_command(&trusting).expect(0);
    elsewhere.expect_clean().await;
    store_command(&["copy", "--from", &uri, "--to", &to, "nonsense"]).expect(1);
    let nothing = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-nothing";
    store_command(&["sign", "--store", &root, "--key-file", &key_file, nothing]).expect(1);
}

/// Realisations of floating outputs are copied with them, signed by the uploader.
#[tokio::test]
async fn floating_outputs_are_fetched_by_what_they_turned_out_to_be() {
    let method = nix_compat::content_address::ContentAddressMethod::NixArchive;
    let algo = nix_compat::nixhash::HashAlgo::Sha256;
    let floating = |name: &str, script: &str| shell(name, script).floating(method, algo);
    let input = instantiate(floating("input", "echo input > $out"));
    let top = floating("top", "read it < $input; echo $it and top > $out");
    let top = instantiate(top.input_env("input", &input, "out"));
    let build_top = |world: &LocalWorld, arguments: &[&str]| {
        let mut command = build(world);
        command.arg("--no-out-link").arg(absolute(&top.path));
        run(command.args(arguments)).expect(0)
    };
    let origin = LocalWorld::new().await;
    origin.write(&input).await;
    origin.write(&top).await;
    let built = build_top(&origin, &[]).says(&["building"]);
    let key = SigningKey::from_seed("ours-1", &[3; 32]).unwrap();
    fs::write(origin.beside("key"), key.to_secret_text()).unwrap();
    fs::create_dir(origin.beside("cache")).unwrap();
    let uri = format!("file://{}", text(&origin.beside("cache")));
    let to = format!("{uri}?secret-key={}", text(&origin.beside("key")));
    let root = text(&origin.root());
    store_command(&["copy", "--from", &root, "--to", &to, &built.out[0]]).expect(0);
    let public = key.verifying_key().to_string();
    let from_cache = ["--substituter", &uri, "--trusted-public-key", &public];
    let elsewhere = LocalWorld::new().await;
    elsewhere.write(&input).await;
    elsewhere.write(&top).await;
    let ended = build_top(&elsewhere, &from_cache).says(&["fetching"]);
    assert_eq!(ended.out, built.out);
    // The input is not in the cache: it is begun on the chance, and nobody needs it.
    assert!(!ended.err.contains("-top.drv"), "{ended:?}");
    elsewhere.expect_clean().await;
    let other = SigningKey::from_seed("ours-1", &[4; 32]).unwrap();
    let other = other.verifying_key().to_string();
    let distrusting = LocalWorld::new().await;
    distrusting.write(&input).await;
    distrusting.write(&top).await;
    let untrusted = ["--substituter", &uri, "--trusted-public-key", &other];
    let ended = build_top(&distrusting, &untrusted).says(&["building"]);
    assert_eq!(ended.out, built.out);
}

/// A server, ended with this.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_is_served_is_not_built_again() {
    let (world, key, key_file) = origin().await;
    let mut server = Served(
        super::plain()
            .args(["store", "serve", "--listen", "127.0.0.1:0"])
            .args(["--key-file", &key_file, "--store"])
            .arg(world.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut uri = String::new();
    let out = server.0.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut uri).unwrap();
    let public = key.verifying_key().to_string();
    let arguments = ["--substituter", uri.trim(), "--trusted-public-key", &public];
    let ended = built_elsewhere(&arguments).await.says(&["fetching"]);
    assert!(!ended.err.contains("building"), "{ended:?}");
    // The first interrupt ends it in order.
    let id = i32::try_from(server.0.id()).unwrap();
    // SAFETY: it is our child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(id, libc::SIGINT) }, 0);
    assert!(server.0.wait().unwrap().success());
}

/// A server that fails every request, and the number of requests so far.
fn failing_server() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines();
            // The header ends with an empty line.
            if lines.map_while(Result::ok).any(|line| line.is_empty()) {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            let _ = (&stream).write_all(
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    (url, requests)
}

#[tokio::test]
async fn transfers_are_attempted_as_often_as_set() {
    for (parameters, arguments, expected) in [
        ("", &["--download-attempts", "3"][..], 3),
        ("", &["--option", "download-attempts", "2"], 2),
        ("?download-attempts=2", &[], 2),
        // The URI is about this cache only.
        ("?download-attempts=1", &["--download-attempts", "3"], 1),
    ] {
        let (url, requests) = failing_server();
        let uri = format!("{url}{parameters}");
        let arguments = [&["--substituter", &uri], arguments].concat();
        let ended = built_elsewhere(&arguments).await;
        ended.says(&["warning", &url, "502", "building"]);
        assert_eq!(requests.load(Ordering::SeqCst), expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn connections_may_take_as_long_as_set() {
    // The kernel drops packets for a socket whose queue is full.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let waiting: Vec<_> = (0..8)
        .map(|_| tokio::spawn(tokio::net::TcpStream::connect(address)))
        .collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut builds = tokio::task::JoinSet::new();
    // More than the default of five seconds, as an upper bound would depend on the machine.
    for (parameters, arguments) in [
        ("", &["--connect-timeout", "7"][..]),
        ("", &["--option", "connect-timeout", "7"]),
        ("?connect-timeout=7", &["--connect-timeout", "1"]),
    ] {
        let uri = format!("http://{address}{parameters}");
        builds.spawn(async move {
            let arguments = [
                &["--substituter", &uri, "--download-attempts", "1"],
                arguments,
            ]
            .concat();
            let began = Instant::now();
            let ended = built_elsewhere(&arguments).await;
            ended.says(&["warning", "timed out", "building"]);
            let took = began.elapsed();
            assert!(took >= Duration::from_secs(7), "{arguments:?}: {took:?}");
        });
    }
    builds.join_all().await;
    waiting.iter().for_each(|task| task.abort());
}

#[tokio::test]
async fn settings_of_transfers_that_make_no_sense() {
    let (world, _, _) = origin().await;
    let drv = absolute(&greeting().path);
    for arguments in [
        &["--connect-timeout", "soon"][..],
        &["--download-attempts", "often"],
        &["--option", "connect-timeout", "soon"],
        &["--option", "download-attempts", "often"],
    ] {
        let ended = run(build(&world).arg(&drv).arg("--no-out-link").args(arguments));
        let name = if arguments.concat().contains("connect-timeout") {
            "connect-timeout"
        } else {
            "download-attempts"
        };
        assert!(ended.err.contains(name), "{arguments:?}: {ended:?}");
        assert_ne!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    }
    // One of a cache makes that cache unusable.
    let uri = "http://127.0.0.1:9?connect-timeout=soon";
    let ended = built_elsewhere(&["--substituter", uri]).await;
    ended.says(&["warning", uri, "'soon'", "a number of seconds"]);
}
