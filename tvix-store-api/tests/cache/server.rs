//! A writable HTTP server of files in memory, with fault injection.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use futures::stream::{self, StreamExt as _};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// The injected faults.
#[derive(Debug, Default)]
pub struct Faults {
    /// For each file, the number of requests that are refused first, and the status.
    pub refuse: HashMap<String, (u32, StatusCode)>,
    /// Longer bodies are truncated to this number of bytes.
    pub cut: Option<usize>,
    /// Number of bodies that are still to be truncated.
    pub cuts: u32,
    /// Range requests are ignored.
    pub no_ranges: bool,
    /// No request is answered.
    pub silent: bool,
    /// All requests are redirected below this URL.
    pub moved_to: Option<String>,
    /// The required value of `Authorization`.
    pub login: Option<String>,
}

#[derive(Debug, Default)]
pub struct Files {
    pub files: BTreeMap<String, Bytes>,
    pub faults: Faults,
    /// The requests: method and name, and the requested range.
    pub requests: Vec<(String, Option<String>)>,
    /// The value of `Authorization` of each request.
    pub logins: Vec<Option<String>>,
}

#[derive(Clone)]
pub struct Server {
    files: Arc<Mutex<Files>>,
    pub url: String,
    task: AbortHandle,
}

impl Server {
    pub async fn start() -> Self {
        let files = Arc::<Mutex<Files>>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .fallback(handle)
            .layer(DefaultBodyLimit::disable())
            .with_state(files.clone());
        let task = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        let task = task.abort_handle();
        Self { files, url, task }
    }

    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap()
    }

    /// Number of requests with a name that ends with `suffix`.
    pub fn count(&self, suffix: &str) -> usize {
        let files = self.files();
        let matching = files.requests.iter().filter(|(it, _)| it.ends_with(suffix));
        matching.count()
    }

    pub fn stop(&self) {
        self.task.abort();
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

async fn handle(
    State(files): State<Arc<Mutex<Files>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let name = uri.path().trim_start_matches('/').to_owned();
    let range = headers.get(header::RANGE).map(|it| it.to_str().unwrap());
    let range = range.map(str::to_owned);
    let silent = {
        let mut files = files.lock().unwrap();
        let request = (format!("{method} {name}"), range.clone());
        files.requests.push(request);
        let login = headers.get(header::AUTHORIZATION);
        let login = login.map(|it| it.to_str().unwrap().to_owned());
        files.logins.push(login.clone());
        if files.faults.login.is_some() && files.faults.login != login {
            return status(StatusCode::UNAUTHORIZED);
        }
        if let Some(place) = &files.faults.moved_to {
            let mut response = status(StatusCode::TEMPORARY_REDIRECT);
            let place = format!("{place}/{name}").parse().unwrap();
            response.headers_mut().insert(header::LOCATION, place);
            return response;
        }
        files.faults.silent
    };
    if silent {
        std::future::pending::<()>().await;
    }
    let mut files = files.lock().unwrap();
    if let Some((left, refusal)) = files.faults.refuse.get_mut(&name)
        && *left > 0
    {
        *left -= 1;
        return status(*refusal);
    }
    if method == Method::PUT {
        files.files.insert(name, body);
        return status(StatusCode::CREATED);
    }
    let Some(contents) = files.files.get(&name).cloned() else {
        return status(StatusCode::NOT_FOUND);
    };
    let first = range.filter(|_| !files.faults.no_ranges);
    let first = first.map(|it| {
        let it = it.strip_prefix("bytes=").unwrap().strip_suffix('-');
        it.unwrap().parse::<usize>().unwrap()
    });
    let part = contents.slice(first.unwrap_or(0)..);
    let mut response = Response::new(match files.faults.cut {
        Some(cut) if part.len() > cut && files.faults.cuts > 0 && method == Method::GET => {
            files.faults.cuts -= 1;
            let head: Result<_, std::io::Error> = Ok(part.slice(..cut));
            let broken = Err(std::io::Error::other("broken"));
            // Gives the preceding data time to be sent.
            let broken = stream::once(async {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                broken
            });
            Body::from_stream(stream::iter([head]).chain(broken))
        }
        _ => Body::from(part.clone()),
    });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, part.len().into());
    if let Some(first) = first {
        let range = format!("bytes {first}-{}/{}", contents.len() - 1, contents.len());
        headers.insert(header::CONTENT_RANGE, range.parse().unwrap());
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}
