//! Options of the fetcher.

use std::path::PathBuf;
use std::time::Duration;

use tvix_http::TransferSettings;

/// Options of a [`CachingFetcher`](crate::CachingFetcher).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The directory of the cache. `None`: `tvix/fetch` below `XDG_CACHE_HOME`, or `~/.cache`.
    pub cache: Option<PathBuf>,
    /// How long a cached download is considered fresh. Default: an hour.
    pub ttl: Duration,
    /// Time limits and retries of downloads.
    pub transfer: TransferSettings,
    /// Credentials per host, as `.netrc` (Nix's `netrc-file`). The file may be missing. None by
    /// default.
    pub netrc_file: Option<PathBuf>,
    /// Largest download, in bytes. Default: 16 GiB.
    pub download_limit: u64,
    /// Largest unpacked tree, in bytes of files. Default: 32 GiB.
    pub unpacked_limit: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            cache: None,
            ttl: Duration::from_secs(3600),
            transfer: TransferSettings::default(),
            netrc_file: None,
            download_limit: 16 << 30,
            unpacked_limit: 32 << 30,
        }
    }
}

impl FetchOptions {
    /// Sets the directory of the cache.
    #[must_use]
    pub fn with_cache(mut self, cache: impl Into<Option<PathBuf>>) -> Self {
        self.cache = cache.into();
        self
    }

    /// Sets how long a cached download is considered fresh.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets time limits and retries of downloads.
    #[must_use]
    pub fn with_transfer(mut self, transfer: TransferSettings) -> Self {
        self.transfer = transfer;
        self
    }

    /// Sets the file with credentials per host.
    #[must_use]
    pub fn with_netrc_file(mut self, file: impl Into<Option<PathBuf>>) -> Self {
        self.netrc_file = file.into();
        self
    }

    /// Sets the size of the largest download, in bytes.
    #[must_use]
    pub fn with_download_limit(mut self, bytes: u64) -> Self {
        self.download_limit = bytes;
        self
    }

    /// Sets the size of the largest unpacked tree, in bytes of files.
    #[must_use]
    pub fn with_unpacked_limit(mut self, bytes: u64) -> Self {
        self.unpacked_limit = bytes;
        self
    }
}
