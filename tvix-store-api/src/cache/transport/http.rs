//! A cache over HTTP(S).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use nix_compat::netrc::{self, Login};
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, redirect};
use url::Url;

use super::{Body, Object, Transport, TransportError, Upload};
use crate::cache::options::Tuning;
use crate::{BoxError, StoreUri};

/// As many redirections are followed as Nix's client follows by default.
const REDIRECTIONS: usize = 10;

#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    /// Ends in a slash.
    base: Url,
    /// Who we are there.
    login: Option<Login>,
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
        })
    }

    /// The URL of a file, which is below that of the cache whatever its name is.
    fn url(&self, key: &str) -> Result<Url, TransportError> {
        let refused = || TransportError::new(format!("'{key}' is not below the cache"), false);
        let url = self.base.join(key).map_err(|_| refused())?;
        let below = url.origin() == self.base.origin()
            && url.path().starts_with(self.base.path())
            && url.path() != self.base.path();
        if below { Ok(url) } else { Err(refused()) }
    }

    /// The password goes to the cache, and not to where it redirects to, unless that is there too.
    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, TransportError> {
        let request = match &self.login {
            Some(login) => request.basic_auth(&login.name, Some(&login.password)),
            None => request,
        };
        request.send().await.map_err(|error| failed(url, error))
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
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
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
    Ok(Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("tvix/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(tuning.connect_timeout)
        .read_timeout(tuning.idle_timeout)
        .pool_max_idle_per_host(tuning.requests)
        .redirect(redirects)
        .build()?)
}

fn failed(url: &Url, error: reqwest::Error) -> TransportError {
    // A URL may hold a password, and the message names the file anyway.
    let error = error.without_url();
    let retryable = !error.is_builder() && !error.is_redirect();
    TransportError::new(format!("cannot get '{}'", url.path()), retryable).caused(error)
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
    let retryable = matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504);
    let message = format!("the server answers '{}' with {status}", url.path());
    let mut error = TransportError::new(message, retryable);
    let after = response.headers().get(RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    error.not_before = after.map(Duration::from_secs);
    Some(error)
}

fn body_of(url: Url, response: Response) -> Body {
    let chunks = response.bytes_stream();
    chunks.map_err(move |error| failed(&url, error)).boxed()
}

#[async_trait]
impl Transport for Http {
    async fn get(&self, key: &str, offset: u64) -> Result<Option<Object>, TransportError> {
        let url = self.url(key)?;
        let mut request = self.client.get(url.clone());
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
        }
        let response = self.send(request, &url).await?;
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let starts_at = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes "));
                let start = range.and_then(|range| range.split('-').next()?.parse().ok());
                if start != Some(offset) {
                    let message = format!("the server sends another part of '{}'", url.path());
                    return Err(TransportError::new(message, false));
                }
                offset
            }
            status if status.is_success() => 0,
            _ => return refused(&url, &response).map_or(Ok(None), Err),
        };
        let encoding = text(CONTENT_ENCODING).filter(|it| !it.eq_ignore_ascii_case("identity"));
        let encoding = encoding.map(str::to_owned);
        Ok(Some(Object {
            body: body_of(url, response),
            starts_at,
            encoding,
        }))
    }

    async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        let url = self.url(key)?;
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
        let url = self.url(key)?;
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

    #[test]
    fn no_name_leads_out_of_the_cache() {
        let uri = "http://127.0.0.1:1/some/cache".parse().unwrap();
        let http = Http::new(&uri, &Tuning::default(), None).unwrap();
        let url = http.url("nar/x.nar?hash=y").unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/some/cache/nar/x.nar?hash=y"
        );
        for bad in [
            "",
            ".",
            "../x",
            "nar/../../x",
            "/x",
            "//other/x",
            "http://other/some/cache/x",
            "file:///etc/passwd",
            "%2e%2e/x",
            "nar/%2E./%2e%2E/%2e%2e/x",
            "\\\\other\\x",
            "..\\x",
            "\thttp://other/x",
        ] {
            assert!(http.url(bad).is_err(), "{bad:?}: {:?}", http.url(bad));
        }
    }
}
