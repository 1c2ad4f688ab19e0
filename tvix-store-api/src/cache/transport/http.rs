//! A cache over HTTP(S).

use std::path::Path;

use async_trait::async_trait;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use tvix_http::Netrc;
use tvix_http::client::{self, Answer, Client, ClientOptions, Get, HttpError};
use url::Url;

use super::{Fetch, Object, Transport, TransportError, Upload};
use crate::cache::key;
use crate::cache::options::Tuning;
use crate::{BoxError, StoreUri};

#[derive(Debug)]
pub(super) struct Http {
    /// Has the credentials for the cache.
    client: Client,
    /// For other hosts that the cache names.
    anonymous: Client,
    /// Ends in a slash.
    base: Url,
    /// Whether other hosts may be asked too.
    other_hosts: bool,
}

impl Http {
    pub fn new(uri: &StoreUri, tuning: &Tuning, netrc: Option<&Path>) -> Result<Self, BoxError> {
        let location = uri.location().trim_end_matches('/');
        let base = Url::parse(&format!("{}://{location}/", uri.scheme()))?;
        let netrc = match netrc {
            Some(file) => Netrc::read(file)
                .map_err(|error| format!("cannot read '{}': {error}", file.display()))?,
            None => None,
        };
        let client = Client::new(&options(tuning).with_netrc(netrc))?;
        Ok(Self {
            anonymous: client.anonymous(),
            client,
            base,
            other_hosts: tuning.other_hosts,
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

    /// The URL of a file, and the client for it: the credentials of the cache are for no other host
    /// that it names.
    fn file(&self, key: &str) -> Result<(Url, &Client), TransportError> {
        let url = self
            .url(key)
            .map_err(|message| TransportError::new(message, false))?;
        let client = match self.is_own(&url) {
            true => &self.client,
            false => &self.anonymous,
        };
        Ok((url, client))
    }
}

/// Options of a client without credentials.
pub(super) fn options(tuning: &Tuning) -> ClientOptions {
    ClientOptions::default()
        .with_transfer(tuning.transfer.clone())
        .with_idle_per_host(tuning.requests)
}

/// The error for a file. A URL may hold a password, and the path names the file.
fn failed(url: &Url, error: HttpError) -> TransportError {
    let (path, retryable) = (url.path(), error.is_retryable());
    match error {
        HttpError::Unreachable(why) => TransportError::unreachable(why),
        HttpError::Stalled => TransportError::new(
            format!("nothing more of '{path}' was received in time"),
            true,
        ),
        HttpError::Status {
            status, not_before, ..
        } => {
            let status = client::describe_status(status);
            let message = format!("the server answers '{path}' with {status}");
            let mut error = TransportError::new(message, retryable);
            error.not_before = not_before;
            error
        }
        HttpError::WrongRange => {
            let message = format!("the server sends another part of '{path}'");
            TransportError::new(message, false)
        }
        HttpError::Coding(error) => {
            TransportError::new(format!("cannot decode '{path}'"), false).caused(error)
        }
        HttpError::Redirect(source) | HttpError::Transfer { source, .. } => {
            TransportError::new(format!("cannot get '{path}'"), retryable).caused(source)
        }
        error => TransportError::new(format!("cannot get '{path}'"), retryable).caused(error),
    }
}

/// Whether an error says that there is no such file. S3 answers 403 for a missing file to clients
/// that may not list the bucket.
fn is_missing(error: &HttpError) -> bool {
    matches!(error.status(), Some(403 | 404 | 410))
}

#[async_trait]
impl Transport for Http {
    async fn get(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError> {
        let (url, client) = self.file(key)?;
        let mut get = Get::from(fetch.offset);
        get.coded = fetch.coded;
        let response = match client.get(&url, &get).await {
            Ok(Answer::Contents(response)) => response,
            // It was not asked whether it has changed.
            Ok(_) => return Ok(None),
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(failed(&url, error)),
        };
        let body = response.body.map_err(move |error| failed(&url, error));
        Ok(Some(Object {
            body: body.boxed(),
            starts_at: response.starts_at,
            codings: response.codings,
            delimited: response.delimited,
        }))
    }

    fn resolve(&self, url: &str) -> Result<String, String> {
        Ok(self.url(url)?.into())
    }

    async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        let (url, client) = self.file(key)?;
        match client.head(&url).await {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(failed(&url, error)),
        }
    }

    async fn put(
        &self,
        key: &str,
        upload: Upload,
        content_type: &'static str,
    ) -> Result<(), TransportError> {
        let (url, client) = self.file(key)?;
        let upload = match upload {
            Upload::Bytes(bytes) => client::Upload::Bytes(bytes),
            Upload::File(file) => {
                let unreadable = |error| TransportError::io("read", key, error);
                let size = file.as_file().metadata().map_err(unreadable)?.len();
                let file = tokio::fs::File::open(file.path()).await;
                let chunks = tokio_util::io::ReaderStream::new(file.map_err(unreadable)?).boxed();
                client::Upload::Stream { size, chunks }
            }
        };
        let put = client.put(&url, content_type, upload).await;
        put.map_err(|error| failed(&url, error))
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
}
