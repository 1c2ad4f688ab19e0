//! Errors of the client.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use url::Url;

use super::environment;
use super::status::is_transient_status;
use crate::decode::{DecodeError, UnknownCoding};
use crate::unreachable::Unreachable;

type BoxError = Box<dyn StdError + Send + Sync>;

/// The reason why a request failed. Messages contain no URL, as URLs may contain passwords.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection was made, or the server did not answer.
    #[error("{}", .0.reason)]
    Unreachable(Unreachable),
    /// The server answered with an error status.
    #[error("HTTP error {}", describe_status(*.status))]
    Status {
        /// The status code.
        status: u16,
        /// The wait before another attempt that the server demands (`Retry-After`).
        not_before: Option<Duration>,
    },
    /// The server sent nothing for too long.
    #[error("no data received within the time limit")]
    Stalled,
    /// The server sent another part of the file than the requested one.
    #[error("the server sends another part of the file")]
    WrongRange,
    /// The file is larger than the caller's limit.
    #[error("the file has more than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The contents have a content coding that is not supported.
    #[error(transparent)]
    Coding(#[from] UnknownCoding),
    /// The content coding cannot be undone.
    #[error(transparent)]
    Decode(DecodeError),
    /// A redirect that is not followed: too many, or from HTTPS to HTTP.
    #[error("redirect refused")]
    Redirect(#[source] BoxError),
    /// The transfer failed in another way.
    #[error("transfer failed: {}", innermost(&**.source))]
    Transfer {
        /// The client's error.
        source: BoxError,
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// The certificate authorities cannot be read.
    #[error("cannot read '{}'", file.display())]
    Roots {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] BoxError),
    /// The contents cannot be written.
    #[error("cannot write the contents")]
    Write(#[source] io::Error),
    /// The transfer was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// A status code with its usual reason, such as `404 Not Found`.
pub fn describe_status(status: u16) -> String {
    let code = reqwest::StatusCode::from_u16(status).ok();
    match code.and_then(|code| code.canonical_reason()) {
        Some(reason) => format!("{status} {reason}"),
        None => status.to_string(),
    }
}

fn innermost(error: &(dyn StdError + 'static)) -> String {
    Unreachable::of(error).reason
}

impl HttpError {
    pub(super) fn setup(source: impl Into<BoxError>) -> Self {
        Self::Setup(source.into())
    }

    /// The error for a failed exchange with `url`.
    pub(super) fn of(url: &Url, error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() {
            let mut why = Unreachable::of(&error);
            if let Some(proxy) = proxy(url) {
                why.reason = format!("proxy {proxy}: {}", why.reason);
            }
            return Self::Unreachable(why);
        }
        if error.is_timeout() {
            return Self::Stalled;
        }
        if error.is_redirect() {
            return Self::Redirect(error.into());
        }
        let retryable = !error.is_builder();
        Self::Transfer {
            source: error.into(),
            retryable,
        }
    }

    /// Whether another attempt may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Stalled => true,
            Self::Status { status, .. } => is_transient_status(*status),
            Self::Transfer { retryable, .. } => *retryable,
            // A connection that broke may have cut it off.
            Self::Decode(error) => matches!(error, DecodeError::Truncated { .. }),
            _ => false,
        }
    }

    /// The wait before another attempt that the server demands.
    pub fn not_before(&self) -> Option<Duration> {
        match self {
            Self::Status { not_before, .. } => *not_before,
            _ => None,
        }
    }

    /// The number of attempts that make sense, of the `configured` ones.
    pub fn attempts(&self, configured: u32) -> u32 {
        let configured = configured.max(1);
        match self {
            error if !error.is_retryable() => 1,
            Self::Unreachable(why) => configured.min(why.attempts),
            _ => configured,
        }
    }

    /// The status code, if the server answered with an error status.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Unreachable {
    /// Searches a chain of errors for a connection of the client that was not made.
    pub fn find(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(client) = error.downcast_ref::<reqwest::Error>()
                && client.is_connect()
            {
                return Some(Self::of(client));
            }
            next = error.source();
        }
        None
    }
}

/// The proxy that the environment names for a URL, without its credentials.
fn proxy(url: &Url) -> Option<String> {
    if environment::excludes_all_hosts() {
        return None;
    }
    let matcher = hyper_util::client::proxy::matcher::Matcher::from_env();
    let proxy = matcher.intercept(&url.as_str().parse().ok()?)?;
    let authority = proxy.uri().authority()?.as_str();
    Some(authority.rsplit('@').next()?.to_owned())
}
