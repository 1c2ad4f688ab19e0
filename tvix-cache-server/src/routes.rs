//! The routes of the server.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::routing::get;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::narinfo::{Compression, NarInfo};
use nix_compat::nixbase32;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_store_api::{NarStream, StoreError};

use crate::range::{Asked, asked};
use crate::{CacheServer, listing, logs};

const NAR_TYPE: &str = "application/x-nix-nar";
const NARINFO_TYPE: &str = "text/x-nix-narinfo";
const LISTING_TYPE: &str = "application/json";
const LOG_TYPE: &str = "text/plain; charset=utf-8";

pub(crate) fn router(server: CacheServer) -> Router {
    Router::new()
        .route("/nix-cache-info", get(cache_info))
        .route("/{file}", get(top))
        .route("/nar/{file}", get(nar))
        .route("/log/{file}", get(log))
        .with_state(server)
}

type Answer = Response<Body>;

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}

fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, "text/plain", "404\n")
}

/// The operator of the server sees the error; clients do not.
fn failed(error: &StoreError) -> Answer {
    match error {
        StoreError::NotFound { .. } => not_found(),
        error if error.is_retryable() => {
            answer(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "503\n")
        }
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "500\n"),
    }
}

async fn cache_info(State(server): State<CacheServer>) -> Answer {
    let text = format!(
        "StoreDir: {}\nWantMassQuery: 1\nPriority: {}\n",
        server.store.store_dir(),
        server.options.priority
    );
    answer(StatusCode::OK, "text/x-nix-cache-info", text)
}

/// The hash part at the beginning of a name that ends with `rest`.
fn digest_in(name: &str, rest: &str) -> Option<[u8; 20]> {
    nixbase32::decode(name.strip_suffix(rest)?).ok()
}

/// `<hash>.narinfo` and `<hash>.ls`.
async fn top(
    State(server): State<CacheServer>,
    Path(file): Path<String>,
    method: Method,
) -> Answer {
    if let Some(digest) = digest_in(&file, ".narinfo") {
        return narinfo(&server, digest).await;
    }
    match digest_in(&file, ".ls") {
        Some(digest) => listing(&server, digest, &method).await,
        None => not_found(),
    }
}

/// The body of a HEAD response where the length is unknown, so that no length is sent.
fn of_unknown_length() -> Body {
    Body::from_stream(stream::empty::<io::Result<Bytes>>())
}

async fn listing(server: &CacheServer, digest: [u8; 20], method: &Method) -> Answer {
    let info = match server.store.find(&digest).await {
        Ok(Some(info)) => info,
        Ok(None) => return not_found(),
        Err(error) => return failed(&error),
    };
    if method == Method::HEAD {
        return answer(StatusCode::OK, LISTING_TYPE, of_unknown_length());
    }
    match server.store.nar(&info.path).await {
        Ok(nar) => {
            let body = Body::from_stream(listing::of_nar(nar));
            answer(StatusCode::OK, LISTING_TYPE, body)
        }
        Err(error) => failed(&error),
    }
}

async fn log(
    State(server): State<CacheServer>,
    Path(file): Path<String>,
    method: Method,
) -> Answer {
    // The name of a store path is never `..` and contains no slash.
    let drv_path = StorePath::from_base_name(&file).ok();
    let drv_path = drv_path.filter(|path| path.name().as_str().ends_with(".drv"));
    let (Some(drv_path), Some(directory)) = (drv_path, server.options.log_directory.clone()) else {
        return not_found();
    };
    let opened = tokio::task::spawn_blocking(move || logs::open(&directory, &drv_path)).await;
    match opened {
        Ok(Ok(_)) if method == Method::HEAD => {
            answer(StatusCode::OK, LOG_TYPE, of_unknown_length())
        }
        Ok(Ok(log)) => answer(StatusCode::OK, LOG_TYPE, Body::from_stream(log.stream())),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => not_found(),
        _ => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "500\n"),
    }
}

async fn narinfo(server: &CacheServer, digest: [u8; 20]) -> Answer {
    let info = match server.store.find(&digest).await {
        Ok(Some(info)) => info,
        Ok(None) => return not_found(),
        Err(error) => return failed(&error),
    };
    let mut info = Arc::unwrap_or_clone(info);
    for key in &server.options.signing_keys {
        info.sign(server.store.store_dir(), key);
    }
    let hash = nixbase32::encode(&info.nar_hash);
    let narinfo = NarInfo {
        // The name contains the hash of the contents, so the contents under this URL never change.
        url: format!("nar/{}-{hash}.nar", info.path.hash_part()),
        compression: Compression::None,
        file_hash: Some(info.nix_hash()),
        file_size: Some(info.nar_size),
        system: None,
        info,
    };
    let text = narinfo.display(server.store.store_dir()).to_string();
    answer(StatusCode::OK, NARINFO_TYPE, text)
}

async fn nar(
    State(server): State<CacheServer>,
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let info = match find_nar(&server, &file).await {
        Ok(Some(info)) => info,
        Ok(None) => return not_found(),
        Err(error) => return failed(&error),
    };
    let size = info.nar_size;
    let range = headers.get(header::RANGE);
    // A client with an outdated version receives the whole file.
    let tag = format!("\"{}\"", nixbase32::encode(&info.nar_hash));
    let if_range = headers.get(header::IF_RANGE);
    let same = if_range.is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let range = range.filter(|_| same).and_then(|value| value.to_str().ok());
    let (status, first, length) = match asked(range, size) {
        Asked::Whole => (StatusCode::OK, 0, size),
        Asked::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Asked::Nothing => {
            let mut answer = answer(StatusCode::RANGE_NOT_SATISFIABLE, "text/plain", "416\n");
            set(
                &mut answer,
                header::CONTENT_RANGE,
                format!("bytes */{size}"),
            );
            return answer;
        }
    };
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        match server.store.nar(&info.path).await {
            Ok(nar) => Body::from_stream(part(nar, first, length)),
            Err(error) => return failed(&error),
        }
    };
    let mut answer = answer(status, NAR_TYPE, body);
    set(&mut answer, header::CONTENT_LENGTH, length.to_string());
    set(&mut answer, header::ACCEPT_RANGES, "bytes".to_owned());
    set(&mut answer, header::ETAG, tag);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        let text = format!("bytes {first}-{last}/{size}");
        set(&mut answer, header::CONTENT_RANGE, text);
    }
    answer
}

fn set(answer: &mut Answer, name: header::HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.headers_mut().insert(name, value);
    }
}

/// The info for the file name `<hash part>-<NAR hash>.nar`.
async fn find_nar(server: &CacheServer, file: &str) -> Result<Option<Arc<PathInfo>>, StoreError> {
    let names = file.strip_suffix(".nar").and_then(|it| it.split_once('-'));
    let Some((digest, hash)) = names else {
        return Ok(None);
    };
    let (Ok(digest), Ok(hash)) = (
        nixbase32::decode::<20>(digest),
        nixbase32::decode::<32>(hash),
    ) else {
        return Ok(None);
    };
    let info = server.store.find(&digest).await?;
    Ok(info.filter(|info| info.nar_hash == hash))
}

/// A range of a NAR. The NAR is generated from its beginning, and the preceding bytes are
/// discarded.
fn part(
    nar: NarStream,
    first: u64,
    length: u64,
) -> impl futures::Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    stream::unfold(Some((nar, first, length)), |state| async move {
        let (mut nar, mut skip, mut left) = state.filter(|(_, _, left)| *left > 0)?;
        loop {
            let mut chunk = match nar.next().await? {
                Ok(chunk) => chunk,
                Err(error) => return Some((Err(error), None)),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let mut chunk = chunk.split_off(skipped as usize);
            if chunk.is_empty() {
                continue;
            }
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= chunk.len() as u64;
            return Some((Ok(chunk), Some((nar, skip, left))));
        }
    })
}
