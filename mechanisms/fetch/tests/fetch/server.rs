//! A web server on the loopback interface that does what a test tells it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// What is answered to a path.
#[derive(Clone, Default)]
pub struct Page {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// So many requests are answered with 503 before.
    pub failures: u32,
    /// Nothing is answered before so many requests, for whatever paths, are there.
    pub gathers: usize,
    /// It never answers.
    pub silent: bool,
    /// It says that the body is this much longer than it is.
    pub missing: usize,
}

impl Page {
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn redirect(to: &str) -> Self {
        Self {
            status: 302,
            headers: vec![("Location", to.to_owned())],
            ..Self::default()
        }
    }
}

#[derive(Default)]
struct State {
    pages: Mutex<HashMap<String, Page>>,
    seen: Mutex<Vec<String>>,
    arrived: Condvar,
}

/// A server; it stops when the process does.
pub struct Server {
    state: Arc<State>,
    address: String,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(&shared, stream.unwrap()));
            }
        });
        Self { state, address }
    }

    pub fn put(&self, path: &str, page: Page) {
        let mut pages = self.state.pages.lock().unwrap();
        pages.insert(path.to_owned(), page);
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The paths that were asked for, in order.
    pub fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }
}

fn answer(state: &State, mut stream: TcpStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let path = first.split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let mut page = {
        let mut pages = state.pages.lock().unwrap();
        match pages.get_mut(&path) {
            Some(page) if page.failures > 0 => {
                page.failures -= 1;
                Page {
                    status: 503,
                    ..Page::default()
                }
            }
            Some(page) => page.clone(),
            None => Page {
                status: 404,
                ..Page::default()
            },
        }
    };
    let mut seen = state.seen.lock().unwrap();
    seen.push(path);
    state.arrived.notify_all();
    while seen.len() < page.gathers {
        seen = state.arrived.wait(seen).unwrap();
    }
    drop(seen);
    if page.silent {
        // Until the client goes away.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        return;
    }
    let etag = page.headers.iter().find(|(name, _)| *name == "ETag");
    if let Some((_, etag)) = etag {
        let asked = |line: &String| {
            let line = line.to_ascii_lowercase();
            line.starts_with("if-none-match:") && line.contains(&etag.to_ascii_lowercase())
        };
        if headers.iter().any(asked) {
            page.status = 304;
            page.body.clear();
        }
    }
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", page.status);
    head += &format!("Content-Length: {}\r\n", page.body.len() + page.missing);
    for (name, value) in &page.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    // Who has read enough may have gone.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&page.body);
}
