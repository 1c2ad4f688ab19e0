//! HTTP servers on the loopback interface.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::tls::{ServerConnection, StreamOwned, self_signed};

/// A connection of a client, encrypted or not.
pub trait Connection: Read + Write {}

impl<C: Read + Write> Connection for C {}

/// A server. It stops when the process does.
#[derive(Debug)]
pub struct Server {
    /// Its URL, without a slash at the end.
    pub url: String,
    /// Its certificate in PEM, for clients that should trust it; `None` without TLS.
    pub certificate: Option<String>,
}

impl Server {
    /// Starts a server. `answer` answers each connection, with the address of the client, on a thread of its own; its
    /// errors are ignored, as clients may close the connection.
    pub fn start<A>(tls: bool, answer: A) -> Self
    where
        A: Fn(&mut dyn Connection, SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    {
        let (config, certificate) = match tls {
            true => {
                let (config, certificate) = self_signed();
                (Some(config), Some(certificate))
            }
            false => (None, None),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, answer) = (config.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let client = stream.peer_addr().unwrap();
                    let _ = match config {
                        Some(config) => {
                            let connection = ServerConnection::new(config).unwrap();
                            answer(&mut StreamOwned::new(connection, stream), client)
                        }
                        None => answer(&mut stream, client),
                    };
                });
            }
        });
        let scheme = if tls { "https" } else { "http" };
        Self {
            url: format!("{scheme}://localhost:{port}"),
            certificate,
        }
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct Head(String);

impl Head {
    /// Reads it, up to the empty line.
    pub fn read(connection: &mut dyn Connection) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok(Self(String::from_utf8_lossy(&head).into_owned()))
    }

    /// The request line.
    pub fn line(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    /// The path that is requested, or the URL if the server is a proxy.
    pub fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}
