//! How the files of a cache are reached.

#[cfg(feature = "s3")]
mod aws;
mod directory;
mod http;
#[cfg(feature = "s3")]
mod s3;

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tempfile::NamedTempFile;
use thiserror::Error;
use tvix_http::Unreachable;
use tvix_http::decode::Coding;

use super::key;
use super::options::BinaryCacheOptions;
use crate::BoxError;

/// The contents of a file of a cache as they come. After an error nothing more comes.
pub(crate) type Body = BoxStream<'static, Result<Bytes, TransportError>>;

/// Why a file of a cache could not be read or written.
#[derive(Debug, Error)]
#[error("{message}")]
pub(crate) struct TransportError {
    /// What went wrong, with the file; only the reason if the cache is unreachable.
    pub message: String,
    /// Whether the same may well succeed later.
    pub retryable: bool,
    /// Whether no connection was made, or nothing was answered.
    pub unreachable: bool,
    /// Whether a connection was made, and nothing was answered.
    pub silent: bool,
    /// Attempts that make sense in all, if that is less than others get.
    pub attempts: Option<u32>,
    /// The least time until then, if the other side has said so.
    pub not_before: Option<std::time::Duration>,
    #[source]
    pub source: Option<BoxError>,
}

impl TransportError {
    pub fn new(message: impl Into<String>, retryable: bool) -> Self {
        Self {
            message: message.into(),
            retryable,
            unreachable: false,
            silent: false,
            attempts: None,
            not_before: None,
            source: None,
        }
    }

    /// No connection was made.
    pub fn unreachable(why: Unreachable) -> Self {
        let mut error = Self::new(why.reason, true);
        error.unreachable = true;
        error.silent = why.silent;
        error.attempts = Some(why.attempts);
        error
    }

    /// The same once more, for a cache that is not asked again for a while.
    pub fn again(&self) -> Self {
        let mut message = self.message.clone();
        if let Some(source) = &self.source {
            message = format!("{message}: {source}");
        }
        let mut error = Self::new(message, true);
        error.unreachable = self.unreachable;
        error
    }

    pub fn caused(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub fn io(action: &str, key: &str, source: io::Error) -> Self {
        let retryable = matches!(
            source.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::TimedOut
                | io::ErrorKind::ResourceBusy
                | io::ErrorKind::StaleNetworkFileHandle
        );
        Self::new(format!("cannot {action} '{key}'"), retryable).caused(source)
    }
}

/// A file that is being read.
pub(crate) struct Object {
    /// From the offset that was asked for, or from the beginning if `skipped` says so.
    pub body: Body,
    /// How much of the file comes before `body`, in bytes: what was asked for, or 0 where the
    /// other side does not know of ranges.
    pub starts_at: u64,
    /// The content codings that were applied to it, in this order. If there are any, `starts_at`
    /// is a position in the coded contents.
    pub codings: Vec<Coding>,
    /// Whether the other side marks the end of the body, so that a body that is cut off fails.
    pub delimited: bool,
}

/// How a file is to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    /// Where to begin, in bytes.
    pub offset: u64,
    /// Whether content codings are welcome.
    pub coded: bool,
}

impl Fetch {
    /// All of it, coded or not.
    pub fn whole() -> Self {
        Self {
            offset: 0,
            coded: true,
        }
    }
}

/// What is to be written.
pub(crate) enum Upload {
    Bytes(Bytes),
    /// A file that may be moved, in the folder of [`Transport::staging`] if there is one.
    File(NamedTempFile),
}

/// A file in memory that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct SmallFile {
    pub key: String,
    pub contents: Bytes,
    pub content_type: &'static str,
}

/// Files under names of a cache: relative ones, checked by [`super::key`].
#[async_trait]
pub(crate) trait Transport: Send + Sync + Debug {
    /// Reads a file from an offset; `None` if there is none.
    async fn get(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError>;

    /// The name of the file that a `URL` in a narinfo stands for, which is relative to the cache as
    /// RFC 3986 has it; `Err` with the reason if it leads out of the cache.
    fn resolve(&self, url: &str) -> Result<String, String> {
        key::below(url)
    }

    /// Whether there is such a file.
    async fn exists(&self, key: &str) -> Result<bool, TransportError>;

    /// Writes a file as a whole: nobody sees a part of it.
    async fn put(
        &self,
        key: &str,
        upload: Upload,
        content_type: &'static str,
    ) -> Result<(), TransportError>;

    /// Writes each as a whole, after the one before it.
    async fn put_in_turn(&self, files: Vec<SmallFile>) -> Result<(), TransportError> {
        for file in files {
            let upload = Upload::Bytes(file.contents);
            self.put(&file.key, upload, file.content_type).await?;
        }
        Ok(())
    }

    /// Where files to be uploaded are best made.
    fn staging(&self) -> Option<PathBuf> {
        None
    }
}

/// The transport for a URI; `Err` with what is wrong with it.
pub(crate) fn open(options: &BinaryCacheOptions) -> Result<Arc<dyn Transport>, BoxError> {
    let (uri, tuning) = (&options.uri, &options.tuning);
    match uri.scheme() {
        "file" => Ok(Arc::new(directory::Directory::new(uri.location())?)),
        "http" | "https" => Ok(Arc::new(http::Http::new(
            uri,
            tuning,
            options.netrc_file.as_deref(),
        )?)),
        #[cfg(feature = "s3")]
        "s3" => Ok(Arc::new(s3::S3::new(uri, tuning)?)),
        #[cfg(not(feature = "s3"))]
        "s3" => Err("S3 needs the feature 's3'".into()),
        other => Err(format!("'{other}' is no scheme of binary caches").into()),
    }
}
