//! Files over HTTP, through the client of `tvix-http`.

use std::io;
use std::time::Duration;

use tvix_http::Netrc;
use tvix_http::client::blocking::{Client, Download, Downloaded, Target};
use tvix_http::client::{ClientOptions, HttpError};

use super::options::FetchOptions;
use super::{Cancel, FetchError};

/// The client for `options`. Reads the netrc file and the certificate authorities.
pub(super) fn client(options: &FetchOptions) -> Result<Client, FetchError> {
    let netrc = match &options.netrc_file {
        Some(file) => Netrc::read(file)
            .map_err(|error| FetchError::local(format!("reading '{}'", file.display()), error))?,
        None => None,
    };
    let client = ClientOptions::default()
        .with_transfer(options.transfer.clone())
        .with_netrc(netrc)
        // Hashes protect contents, and expressions without one may name HTTP URLs themselves.
        .with_downgrades(true);
    Client::new(&client).map_err(|error| FetchError::local("setting up the HTTP client", error))
}

/// Downloads to the writer that `restart` makes anew for each attempt that begins at the start.
pub(super) fn download<W: io::Write>(
    client: &Client,
    url: &str,
    etag: Option<&str>,
    options: &FetchOptions,
    cancel: &Cancel,
    restart: impl FnMut() -> io::Result<W>,
) -> Result<Downloaded, FetchError> {
    let parsed = url.parse().map_err(|error| FetchError::Url {
        url: url.to_owned(),
        reason: format!("is not a valid URL: {error}"),
    })?;
    let download = Download::new(parsed)
        .with_known_etag(etag.map(str::to_owned))
        .with_content_codings(true)
        .with_limit(options.download_limit);
    let mut target = File {
        url,
        cancel,
        restart,
    };
    client
        .download(&download, &mut target)
        .map_err(|error| failed(url, error))
}

struct File<'a, F> {
    url: &'a str,
    cancel: &'a Cancel,
    restart: F,
}

impl<W: io::Write, F: FnMut() -> io::Result<W>> Target for File<'_, F> {
    type Writer = W;

    fn restart(&mut self) -> io::Result<W> {
        (self.restart)()
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn retrying(&mut self, error: &HttpError, pause: Duration) {
        tracing::debug!("{}: {error}; retrying in {pause:?}", self.url);
    }
}

fn failed(url: &str, error: HttpError) -> FetchError {
    match error {
        HttpError::Cancelled => FetchError::Cancelled,
        HttpError::Write(error) => FetchError::local("writing a download", error),
        error => {
            let mut reason = error.to_string();
            if let HttpError::Redirect(source) = &error {
                reason = format!("{reason}: {}", tvix_http::Unreachable::of(&**source).reason);
            }
            FetchError::Download {
                url: url.to_owned(),
                reason,
                retryable: error.is_retryable(),
            }
        }
    }
}
