//! The HTTP client: one exchange at a time, with the policy of this project.
//!
//! Proxies come from the environment (`http_proxy`, `https_proxy`, `all_proxy`, and `no_proxy` with
//! `*`, domains and CIDR blocks). Credentials come from the URL, else from the netrc file, and go
//! only to the scheme, host and port of the request, not where that redirects to.

pub mod blocking;
mod environment;
mod error;
mod status;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderName, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER,
    TRANSFER_ENCODING,
};
use reqwest::{RequestBuilder, StatusCode, Version, redirect};
use url::Url;

pub use self::error::{HttpError, describe_status};
pub use self::tls::{Roots, roots_file};

use self::status::retry_after;

use crate::decode::Coding;
use crate::{Netrc, TransferSettings};

/// Redirects that are followed, as in Nix.
const REDIRECTS: usize = 10;

/// Options of a [`Client`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Time limits and retries.
    pub transfer: TransferSettings,
    /// Credentials per host. None by default; credentials in a URL take precedence.
    pub netrc: Option<Netrc>,
    /// The certificate authorities that servers are verified with.
    pub roots: Roots,
    /// Idle connections that are kept per host. Default: 48.
    pub idle_per_host: usize,
    /// Whether redirects from HTTPS to HTTP are followed. Only for contents that are verified
    /// by their hash, or whose origin does not matter. Default: no.
    pub downgrades: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            transfer: TransferSettings::default(),
            netrc: None,
            roots: Roots::default(),
            idle_per_host: 48,
            downgrades: false,
        }
    }
}

impl ClientOptions {
    /// Sets [`transfer`](Self::transfer).
    #[must_use]
    pub fn with_transfer(mut self, transfer: TransferSettings) -> Self {
        self.transfer = transfer;
        self
    }

    /// Sets [`netrc`](Self::netrc).
    #[must_use]
    pub fn with_netrc(mut self, netrc: Option<Netrc>) -> Self {
        self.netrc = netrc;
        self
    }

    /// Sets [`roots`](Self::roots).
    #[must_use]
    pub fn with_roots(mut self, roots: Roots) -> Self {
        self.roots = roots;
        self
    }

    /// Sets [`idle_per_host`](Self::idle_per_host).
    #[must_use]
    pub fn with_idle_per_host(mut self, count: usize) -> Self {
        self.idle_per_host = count;
        self
    }

    /// Sets [`downgrades`](Self::downgrades).
    #[must_use]
    pub fn with_downgrades(mut self, followed: bool) -> Self {
        self.downgrades = followed;
        self
    }
}

/// An HTTP client. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    inner: reqwest::Client,
    netrc: Option<Netrc>,
    transfer: TransferSettings,
}

/// A request for a file, or the rest of one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Get {
    /// The position of the first wanted byte.
    pub offset: u64,
    /// Whether the server may apply content codings. Some servers apply them in any case.
    pub coded: bool,
    /// The `ETag` of a copy that is still useful if the file has not changed.
    pub unless_etag: Option<String>,
    /// The [`Response::validator`] of the version that the bytes before `offset` belong to. If the
    /// file has changed, the response starts at 0.
    pub if_version: Option<String>,
}

impl Get {
    /// The whole file, with content codings welcome if `coded`.
    pub fn whole(coded: bool) -> Self {
        Self {
            coded,
            ..Self::default()
        }
    }

    /// The file from `offset` on, as it is.
    pub fn from(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }
}

/// The contents of a file as they arrive. Nothing follows an error.
pub type Body = BoxStream<'static, Result<Bytes, HttpError>>;

/// A successful response to a [`Get`].
#[non_exhaustive]
pub struct Response {
    /// The contents.
    pub body: Body,
    /// The position in the file at which `body` starts: the requested offset, or 0 if the server
    /// does not support ranges.
    pub starts_at: u64,
    /// The content codings of `body`, in the order in which they were applied. If there are any,
    /// `starts_at` is a position in the coded contents.
    pub codings: Vec<Coding>,
    /// Whether the server marks the end of the body, so that a truncated body is an error.
    pub delimited: bool,
    /// The `ETag` header.
    pub etag: Option<String>,
    /// A header that identifies this version of the file, for [`Get::if_version`].
    pub validator: Option<String>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("starts_at", &self.starts_at)
            .field("codings", &self.codings)
            .finish_non_exhaustive()
    }
}

/// The answer to a [`Get`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Answer {
    /// The file, or the rest of it.
    Contents(Response),
    /// The file still has the [`Get::unless_etag`].
    Unchanged,
}

/// Contents that are uploaded.
#[non_exhaustive]
pub enum Upload {
    /// Contents in memory.
    Bytes(Bytes),
    /// A stream of `size` bytes.
    Stream {
        /// The number of bytes.
        size: u64,
        /// The contents.
        chunks: BoxStream<'static, std::io::Result<Bytes>>,
    },
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Upload")
    }
}

impl Client {
    /// A client. Reads the certificate authorities, which blocks for some milliseconds.
    ///
    /// # Errors
    ///
    /// [`HttpError::Roots`] and [`HttpError::Setup`].
    pub fn new(options: &ClientOptions) -> Result<Self, HttpError> {
        let downgrades = options.downgrades;
        let redirects = redirect::Policy::custom(move |attempt| {
            let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
            if secure && !downgrades && attempt.url().scheme() != "https" {
                attempt.error("it leads from HTTPS to something else")
            } else if attempt.previous().len() > REDIRECTS {
                attempt.error("too many redirections")
            } else {
                attempt.follow()
            }
        });
        let mut client = reqwest::Client::builder();
        if let Some(limit) = options.transfer.connect_timeout {
            client = client.connect_timeout(limit);
        }
        if let Some(limit) = options.transfer.stalled_download_timeout {
            client = client.read_timeout(limit);
        }
        // An entry `*` matches no IP addresses in the library, unlike in curl.
        if environment::excludes_all_hosts() {
            client = client.no_proxy();
        }
        let inner = client
            .tls_backend_preconfigured(tls::config(&options.roots)?)
            .user_agent(concat!("tvix/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(options.idle_per_host)
            .referer(false)
            .redirect(redirects)
            .build()
            .map_err(HttpError::setup)?;
        Ok(Self {
            inner,
            netrc: options.netrc.clone(),
            transfer: options.transfer.clone(),
        })
    }

    /// The time limits and retries.
    pub fn transfer(&self) -> &TransferSettings {
        &self.transfer
    }

    /// A client that shares the connections and uses no netrc file.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self {
            netrc: None,
            ..self.clone()
        }
    }

    /// The client of the underlying library, for libraries that make their own requests. It does
    /// not use the netrc file.
    pub fn inner(&self) -> reqwest::Client {
        self.inner.clone()
    }

    async fn send(
        &self,
        url: &Url,
        request: RequestBuilder,
    ) -> Result<reqwest::Response, HttpError> {
        let in_url = !url.username().is_empty() || url.password().is_some();
        let login = match (&self.netrc, url.host_str()) {
            (Some(netrc), Some(host)) if !in_url => netrc.login(host),
            _ => None,
        };
        let request = match login {
            Some(login) => request.basic_auth(login.name, Some(login.password)),
            None => request,
        };
        let sent = request.send().await;
        sent.map_err(|error| match HttpError::of(url, error) {
            HttpError::Stalled => {
                let limit = self.transfer.stalled_download_timeout;
                let file = url.path().rsplit('/').next().unwrap_or_default();
                HttpError::Unreachable(crate::Unreachable::silent(
                    file,
                    limit.unwrap_or(Duration::MAX),
                ))
            }
            error => error,
        })
    }

    /// Requests a file once.
    ///
    /// # Errors
    ///
    /// [`HttpError`]. The body of the response has errors of its own.
    pub async fn get(&self, url: &Url, get: &Get) -> Result<Answer, HttpError> {
        let accept = match get.coded && get.offset == 0 {
            true => Coding::ACCEPT,
            false => "identity",
        };
        let mut request = self.inner.get(url.clone());
        request = request.header(ACCEPT_ENCODING, accept);
        if get.offset > 0 {
            request = request.header(RANGE, format!("bytes={}-", get.offset));
            if let Some(version) = &get.if_version {
                request = request.header(IF_RANGE, version);
            }
        }
        if let Some(etag) = &get.unless_etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self.send(url, request).await?;
        let headers = response.headers();
        let status = response.status();
        let etag = text(headers, ETAG);
        let starts_at = match status {
            StatusCode::PARTIAL_CONTENT if range_start(headers) == Some(get.offset) => get.offset,
            StatusCode::PARTIAL_CONTENT => return Err(HttpError::WrongRange),
            // Nothing is missing, though the body before broke off.
            StatusCode::RANGE_NOT_SATISFIABLE
                if get.offset > 0 && complete_length(headers) == Some(get.offset) =>
            {
                return Ok(Answer::Contents(Response {
                    body: stream::empty().boxed(),
                    starts_at: get.offset,
                    codings: Vec::new(),
                    delimited: true,
                    validator: get.if_version.clone(),
                    etag,
                }));
            }
            StatusCode::NOT_MODIFIED if get.unless_etag.is_some() => return Ok(Answer::Unchanged),
            // Some servers send an ETag and ignore `If-None-Match`.
            status
                if status.is_success() && get.unless_etag.is_some() && etag == get.unless_etag =>
            {
                return Ok(Answer::Unchanged);
            }
            status if status.is_success() => 0,
            _ => return Err(refused(&response)),
        };
        // Several headers of that name are one list.
        let encodings = headers.get_all(CONTENT_ENCODING);
        let encodings: Vec<_> = encodings.iter().filter_map(|it| it.to_str().ok()).collect();
        let codings = Coding::from_header(&encodings.join(","))?;
        let delimited = response.version() >= Version::HTTP_2
            || headers.contains_key(CONTENT_LENGTH)
            || headers.contains_key(TRANSFER_ENCODING);
        let strong = etag.clone().filter(|etag| !etag.starts_with("W/"));
        let validator = strong.or_else(|| text(headers, LAST_MODIFIED));
        let url = url.clone();
        let body = response.bytes_stream();
        Ok(Answer::Contents(Response {
            body: body
                .map_err(move |error| HttpError::of(&url, error))
                .boxed(),
            starts_at,
            codings,
            delimited,
            etag,
            validator,
        }))
    }

    /// Asks once whether a file exists; a missing one is an error with its status.
    ///
    /// # Errors
    ///
    /// [`HttpError`].
    pub async fn head(&self, url: &Url) -> Result<(), HttpError> {
        let response = self.send(url, self.inner.head(url.clone())).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(refused(&response)),
        }
    }

    /// Uploads a file once.
    ///
    /// # Errors
    ///
    /// [`HttpError`].
    pub async fn put(
        &self,
        url: &Url,
        content_type: &str,
        upload: Upload,
    ) -> Result<(), HttpError> {
        let request = self.inner.put(url.clone());
        let request = request.header(CONTENT_TYPE, content_type);
        let request = match upload {
            Upload::Bytes(bytes) => request.body(bytes),
            Upload::Stream { size, chunks } => {
                let body = reqwest::Body::wrap_stream(chunks);
                request.header(CONTENT_LENGTH, size).body(body)
            }
        };
        let response = self.send(url, request).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(refused(&response)),
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}

fn refused(response: &reqwest::Response) -> HttpError {
    let after = text(response.headers(), RETRY_AFTER);
    HttpError::Status {
        status: response.status().as_u16(),
        not_before: after.and_then(|value| retry_after(&value)),
    }
}

fn content_range(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    value.trim().strip_prefix("bytes ")
}

/// The position of the part that was sent.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    content_range(headers)?.split('-').next()?.parse().ok()
}

/// The size of a file of which the requested part does not exist.
fn complete_length(headers: &HeaderMap) -> Option<u64> {
    content_range(headers)?.strip_prefix("*/")?.parse().ok()
}
