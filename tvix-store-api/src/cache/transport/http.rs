//! A cache over HTTP(S).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use nix_compat::netrc::{self, Login};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE,
    RETRY_AFTER, TRANSFER_ENCODING,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Version, redirect};
use tvix_http::Unreachable;
use tvix_http::decode::Coding;
use url::Url;

use super::{Body, Fetch, Object, Transport, TransportError, Upload};
use crate::cache::key;
use crate::cache::options::Tuning;
use crate::{BoxError, StoreUri};

/// As many redirections are followed as Nix's client follows by default.
const REDIRECTIONS: usize = 10;

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    /// Ends in a slash.
    base: Url,
    /// The name and password for it.
    login: Option<Login>,
    /// Whether other hosts may be asked too.
    other_hosts: bool,
    /// How long a server may send nothing.
    stalled: Option<Duration>,
}

impl Http {
    pub fn new(uri: &StoreUri, tuning: &Tuning, netrc: Option<&Path>) -> Result<Self, BoxError> {
        let location = uri.location().trim_end_matches('/');
        let base = Url::parse(&format!("{}://{location}/", uri.scheme()))?;
        let login = match (netrc, base.host_str()) {
            (Some(netrc), Some(host)) if base.username().is_empty() => login(netrc, host)?,
            _ => None,
        };
        Ok(Self {
            client: client(tuning)?,
            base,
            login,
            other_hosts: tuning.other_hosts,
            stalled: tuning.transfer.stalled_download_timeout,
        })
    }

    /// The URL of a file, relative to that of the cache. `Err` with the reason if it is on another
    /// host, which is not asked unless that is allowed.
    fn url(&self, key: &str) -> Result<Url, String> {
        let url = match key::is_url(key) {
            true => self.base.join(key).ok(),
            false => None,
        };
        let url = url.filter(|url| url.path() != self.base.path());
        let mut url = url.ok_or_else(|| format!("its URL '{key}' is not the name of a file"))?;
        url.set_fragment(None);
        if self.is_own(&url) {
            // A name and password in the URL of the cache are for all of it.
            let password = self.base.password();
            let _ = url.set_username(self.base.username());
            let _ = url.set_password(password);
            return Ok(url);
        }
        let secure = self.base.scheme() != "https" || url.scheme() == "https";
        match self.other_hosts && secure && matches!(url.scheme(), "http" | "https") {
            true => Ok(url),
            false => Err(format!(
                "its URL '{key}' leads to another host (parameter 'allow-other-hosts')"
            )),
        }
    }

    fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    fn file(&self, key: &str) -> Result<Url, TransportError> {
        self.url(key)
            .map_err(|message| TransportError::new(message, false))
    }

    /// The password goes to the cache, and to no other host that it names or redirects to.
    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, TransportError> {
        let request = match &self.login {
            Some(login) if self.is_own(url) => {
                request.basic_auth(&login.name, Some(&login.password))
            }
            _ => request,
        };
        request.send().await.map_err(|error| {
            let late = error.is_timeout() && !error.is_connect();
            match self.stalled.filter(|_| late) {
                Some(limit) => no_answer(url.path(), limit),
                None => failed(url, error),
            }
        })
    }
}

fn login(netrc: &Path, host: &str) -> Result<Option<Login>, BoxError> {
    match std::fs::read_to_string(netrc) {
        Ok(text) => Ok(netrc::login(&text, host)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read '{}': {error}", netrc.display()).into()),
    }
}

/// A client that verifies servers by the roots of this system.
pub(super) fn client(tuning: &Tuning) -> Result<Client, BoxError> {
    let mut roots = rustls::RootCertStore::empty();
    // Those that cannot be read verify nothing; whether any can is seen when one is needed.
    let found = match std::env::var_os("NIX_SSL_CERT_FILE").filter(|file| !file.is_empty()) {
        Some(file) => rustls_native_certs::load_certs_from_paths(Some(Path::new(&file)), None),
        None => rustls_native_certs::load_native_certs(),
    };
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let redirects = redirect::Policy::custom(|attempt| {
        let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
        if secure && attempt.url().scheme() != "https" {
            attempt.error("it leads from HTTPS to something else")
        } else if attempt.previous().len() > REDIRECTIONS {
            attempt.error("too many redirections")
        } else {
            attempt.follow()
        }
    });
    let settings = &tuning.transfer;
    let mut client = Client::builder();
    if let Some(limit) = settings.connect_timeout {
        client = client.connect_timeout(limit);
    }
    if let Some(limit) = settings.stalled_download_timeout {
        client = client.read_timeout(limit);
    }
    Ok(client
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("tvix/", env!("CARGO_PKG_VERSION")))
        .pool_max_idle_per_host(tuning.requests)
        .redirect(redirects)
        .build()?)
}

/// The server has accepted a request and does not answer.
fn no_answer(path: &str, limit: Duration) -> TransportError {
    let file = path.rsplit('/').next().unwrap_or(path);
    TransportError::unreachable(Unreachable::silent(file, limit))
}

fn failed(url: &Url, error: reqwest::Error) -> TransportError {
    // A URL may hold a password, and the message names the file anyway.
    let error = error.without_url();
    if let Some(mut why) = TransportError::connection(&error) {
        if let Some(proxy) = proxy(url) {
            why.reason = format!("proxy {proxy}: {}", why.reason);
        }
        return TransportError::unreachable(why);
    }
    if error.is_timeout() {
        let message = format!("nothing more of '{}' was received in time", url.path());
        return TransportError::new(message, true);
    }
    let retryable = !error.is_builder() && !error.is_redirect();
    TransportError::new(format!("cannot get '{}'", url.path()), retryable).caused(error)
}

/// The proxy that the environment gives for a URL, without its password.
fn proxy(url: &Url) -> Option<String> {
    let matcher = hyper_util::client::proxy::matcher::Matcher::from_env();
    let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
    Some(
        proxy
            .uri()
            .authority()?
            .as_str()
            .rsplit('@')
            .next()?
            .to_owned(),
    )
}

/// What a status other than success means; `None` if there is no such file.
fn refused(url: &Url, response: &Response) -> Option<TransportError> {
    let status = response.status();
    // Amazon's S3 says 403 of what is not there to those who may not list.
    if matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN
    ) {
        return None;
    }
    // As in Nix: most errors of a server may pass.
    let retryable = match status.as_u16() {
        501 | 505 | 511 => false,
        status => matches!(status, 408 | 429) || status >= 500,
    };
    let message = format!("the server answers '{}' with {status}", url.path());
    let mut error = TransportError::new(message, retryable);
    let after = response.headers().get(RETRY_AFTER);
    error.not_before = after.and_then(|value| retry_after(value.to_str().ok()?));
    Some(error)
}

/// The value of a `Retry-After` header: seconds or a date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

fn content_range(response: &Response) -> Option<&str> {
    let value = response.headers().get(CONTENT_RANGE)?;
    value.to_str().ok()?.trim().strip_prefix("bytes ")
}

/// The position of the part that was sent.
fn range_start(response: &Response) -> Option<u64> {
    content_range(response)?.split('-').next()?.parse().ok()
}

/// The size of a file of which the part that was asked for does not exist.
fn complete_length(response: &Response) -> Option<u64> {
    content_range(response)?.strip_prefix("*/")?.parse().ok()
}

fn body_of(url: Url, response: Response) -> Body {
    let chunks = response.bytes_stream();
    chunks.map_err(move |error| failed(&url, error)).boxed()
}

#[async_trait]
impl Transport for Http {
    async fn get(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError> {
        let url = self.file(key)?;
        let Fetch { offset, coded } = fetch;
        let accept = match coded && offset == 0 {
            true => Coding::ACCEPT,
            false => "identity",
        };
        let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, accept);
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.send(request, &url).await?;
        let starts_at = match response.status() {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(offset) => offset,
            StatusCode::PARTIAL_CONTENT => {
                let message = format!("the server sends another part of '{}'", url.path());
                return Err(TransportError::new(message, false));
            }
            // Nothing is missing, though the body before broke off.
            StatusCode::RANGE_NOT_SATISFIABLE if complete_length(&response) == Some(offset) => {
                return Ok(Some(Object {
                    body: futures::stream::empty().boxed(),
                    starts_at: offset,
                    codings: Vec::new(),
                    delimited: true,
                }));
            }
            status if status.is_success() => 0,
            _ => return refused(&url, &response).map_or(Ok(None), Err),
        };
        // Several headers of that name are one list.
        let encodings = response.headers().get_all(CONTENT_ENCODING);
        let encodings: Vec<_> = encodings.iter().filter_map(|it| it.to_str().ok()).collect();
        let codings = super::codings(url.path(), Some(&encodings.join(",")))?;
        let framed = |name| response.headers().contains_key(name);
        let delimited = response.version() >= Version::HTTP_2
            || framed(CONTENT_LENGTH)
            || framed(TRANSFER_ENCODING);
        Ok(Some(Object {
            body: body_of(url, response),
            starts_at,
            codings,
            delimited,
        }))
    }

    fn resolve(&self, url: &str) -> Result<String, String> {
        Ok(self.url(url)?.into())
    }

    async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        let url = self.file(key)?;
        let request = self.client.request(Method::HEAD, url.clone());
        let response = self.send(request, &url).await?;
        if response.status().is_success() {
            return Ok(true);
        }
        refused(&url, &response).map_or(Ok(false), Err)
    }

    async fn put(
        &self,
        key: &str,
        upload: Upload,
        content_type: &'static str,
    ) -> Result<(), TransportError> {
        let url = self.file(key)?;
        let request = self.client.put(url.clone());
        let request = request.header(CONTENT_TYPE, content_type);
        let request = match upload {
            Upload::Bytes(bytes) => request.body(bytes),
            Upload::File(file) => {
                let unreadable = |error| TransportError::io("read", key, error);
                let size = file.as_file().metadata().map_err(unreadable)?.len();
                let file = tokio::fs::File::open(file.path()).await;
                let chunks = tokio_util::io::ReaderStream::new(file.map_err(unreadable)?);
                let body = reqwest::Body::wrap_stream(chunks);
                request.header(CONTENT_LENGTH, size).body(body)
            }
        };
        let response = self.send(request, &url).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status();
        Err(refused(&url, &response).unwrap_or_else(|| {
            let message = format!("the server answers '{}' with {status}", url.path());
            TransportError::new(message, false)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(uri: &str) -> Http {
        let options = crate::cache::BinaryCacheOptions::new(uri.parse().unwrap()).unwrap();
        Http::new(&options.uri, &options.tuning, None).unwrap()
    }

    #[test]
    fn urls_are_relative_to_the_cache() {
        let cache = http("http://127.0.0.1:1/some/cache");
        let base = "http://127.0.0.1:1";
        for (url, expected) in [
            ("nar/x.nar?hash=y", "/some/cache/nar/x.nar?hash=y"),
            ("./nar/x", "/some/cache/nar/x"),
            ("../x", "/some/x"),
            ("../../../x", "/x"),
            ("/nar/x", "/nar/x"),
            ("nar//x", "/some/cache/nar//x"),
            ("nar/%2e%2e/x", "/some/cache/x"),
            ("nar/a%2Fb%20c", "/some/cache/nar/a%2Fb%20c"),
            ("nar/a:b", "/some/cache/nar/a:b"),
            ("http://127.0.0.1:1/x", "/x"),
            ("//127.0.0.1:1/x", "/x"),
        ] {
            let found = cache.url(url).unwrap();
            assert_eq!(found.as_str(), format!("{base}{expected}"), "{url}");
            assert_eq!(cache.url(found.as_str()), Ok(found), "resolved once more");
        }
    }

    #[test]
    fn other_hosts_are_refused_unless_they_are_allowed() {
        let cache = http("http://127.0.0.1:1/some/cache");
        let elsewhere = [
            "//other/x",
            "http://other/some/cache/x",
            "http://127.0.0.1:2/some/cache/x",
            "https://127.0.0.1:1/some/cache/x",
            "http://me:pw@other/x",
        ];
        let nonsense = [
            "",
            ".",
            "file:///etc/passwd",
            "data:,x",
            "\\\\other\\x",
            "..\\x",
            "\thttp://other/x",
            "x#y",
            "x y",
        ];
        for bad in elsewhere.into_iter().chain(nonsense) {
            assert!(cache.url(bad).is_err(), "{bad:?}: {:?}", cache.url(bad));
        }
        let open = http("http://127.0.0.1:1/some/cache?allow-other-hosts=true");
        for good in elsewhere {
            assert!(open.url(good).is_ok(), "{good}");
        }
        for bad in nonsense {
            assert!(open.url(bad).is_err(), "{bad:?}: {:?}", open.url(bad));
        }
        let secure = http("https://c?allow-other-hosts=true");
        assert!(secure.url("https://other/x").is_ok());
        assert!(secure.url("http://other/x").is_err());
    }

    #[test]
    fn a_password_of_the_cache_stays_there() {
        let cache = http("http://me:pw@127.0.0.1:1/c?allow-other-hosts=true");
        for own in ["x", "/x", "http://127.0.0.1:1/x"] {
            assert_eq!(cache.url(own).unwrap().password(), Some("pw"), "{own}");
        }
        assert_eq!(cache.url("http://other/x").unwrap().password(), None);
    }

    #[test]
    fn retry_after_in_both_forms() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::ZERO)
        );
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
        assert!(retry_after(&later).unwrap() > Duration::from_secs(3500));
    }
}
