//! HTTPS servers need a certificate of a trusted authority.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tvix_test_support::tls::{ServerConnection, StreamOwned, self_signed};
use tvix_tests::local::LocalWorld;
use tvix_tests::program::{Ended, run};

/// A server that answers everything with one text; it stops when the process does.
struct Server {
    port: u16,
    certificate: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(body: &'static str) -> Self {
        let (config, certificate) = self_signed();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(config.clone()).unwrap();
                let stream = StreamOwned::new(connection, stream.unwrap());
                // Clients that do not trust it go away.
                let _ = answer(stream, body, &seen);
            }
        });
        Self {
            port,
            certificate,
            requests,
        }
    }
}

fn answer(
    mut stream: impl Read + Write,
    body: &str,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    seen.lock()
        .unwrap()
        .push(head.lines().next().unwrap().to_owned());
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    stream.flush()
}

#[tokio::test]
async fn servers_have_to_be_vouched_for() {
    let world = LocalWorld::new().await;
    let server = Server::start("over TLS\n");
    let fetch = |certificates: &std::path::Path| -> Ended {
        let text = format!(
            "builtins.readFile (builtins.fetchurl \"https://localhost:{}/x\")",
            server.port
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_tvix"));
        command
            .args(["eval", "--raw", "-E", &text, "--store"])
            .arg(world.root())
            .env("HOME", world.beside("home"))
            .env_remove("NIX_PATH")
            .env("XDG_CACHE_HOME", world.beside("cache"))
            .env("NIX_SSL_CERT_FILE", certificates)
            .stdin(Stdio::null());
        run(&mut command)
    };
    let other = world.beside("other.pem");
    let (_, unrelated) = self_signed();
    std::fs::write(&other, unrelated).unwrap();
    let refused = fetch(&other).expect(1);
    refused.says(&["unable to download 'https://localhost", "certificate"]);
    assert_eq!(*server.requests.lock().unwrap(), [""; 0]);

    let own = world.beside("own.pem");
    std::fs::write(&own, &server.certificate).unwrap();
    assert_eq!(fetch(&own).expect(0).out, ["over TLS"]);
    assert_eq!(*server.requests.lock().unwrap(), ["GET /x HTTP/1.1"]);
}
