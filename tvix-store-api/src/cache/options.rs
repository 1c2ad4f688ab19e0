//! Options of a binary cache.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix_compat::narinfo::Compression;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_http::decode::Limits;
use tvix_http::{SettingError, TransferSettings};

#[cfg(feature = "disk-cache")]
use super::DiskCache;
use super::{RealisationForms, parameters};
use crate::{BoxError, StoreUri};

/// Time-outs, retries and concurrency.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuning {
    /// Time-outs and retries of transfers.
    pub transfer: TransferSettings,
    /// Time limit for a small file, from the request to its last byte. Default: 60 seconds.
    pub small_timeout: Duration,
    /// How long a cache is considered down after all retries have failed. Default: one minute.
    pub down_for: Duration,
    /// How long the absence of a path is cached. Default: 10 minutes.
    pub negative_ttl: Duration,
    /// Number of concurrent requests (`http-connections`). Default: 48.
    pub requests: usize,
    /// Memory limit of a decoder in bytes (`decode-memory-limit`): see [`Limits::memory`]. Default:
    /// 2 GiB.
    pub decode_memory: u64,
    /// Whether NARs may be on other hosts than the cache (`allow-other-hosts`). Default: false.
    pub other_hosts: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            transfer: TransferSettings::default(),
            small_timeout: Duration::from_secs(60),
            down_for: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(600),
            requests: 48,
            decode_memory: Limits::default().memory,
            other_hosts: false,
        }
    }
}

impl Tuning {
    /// The settings of [`set`](Self::set) in addition to those of [`TransferSettings`].
    const NAMES: [&str; 3] = [
        "http-connections",
        "decode-memory-limit",
        "allow-other-hosts",
    ];

    /// Sets a setting by its name: those of [`TransferSettings::set`], Nix's `http-connections`,
    /// and the project's own `decode-memory-limit` (bytes) and `allow-other-hosts`.
    ///
    /// # Errors
    ///
    /// [`SettingError`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), SettingError> {
        let number = |expected| {
            value
                .trim()
                .parse::<u64>()
                .map_err(|_| SettingError::invalid(name, value, expected))
        };
        match name {
            "http-connections" => {
                let count = usize::try_from(number("a number")?).unwrap_or(usize::MAX);
                // In Nix, 0 means no limit.
                let most = 1024;
                self.requests = if count == 0 { most } else { count.min(most) };
            }
            "decode-memory-limit" => self.decode_memory = number("a number of bytes")?,
            "allow-other-hosts" => self.other_hosts = parameters::boolean(name, value)?,
            name => self.transfer.set(name, value)?,
        }
        Ok(())
    }
}

/// The URI and options of a cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BinaryCacheOptions {
    /// The URI. Its parameters are those of Nix and the names of [`Tuning::set`]; the table in
    /// `docs/STORE.md` lists them.
    pub uri: StoreUri,
    /// Trusted public keys.
    pub trusted_keys: Vec<VerifyingKey>,
    /// Whether a path that is not content-addressed needs a signature of a trusted key. Default:
    /// true.
    pub require_signatures: bool,
    /// Keys that sign added paths.
    pub signing_keys: Vec<SigningKey>,
    /// Compression of added paths. Default: `xz`, as in Nix.
    pub compression: Compression,
    /// Compression level; each method has its own scale.
    pub level: Option<u32>,
    /// Overrides the priority that the cache advertises.
    pub priority: Option<i32>,
    /// Creates the cache if it does not exist: writes `nix-cache-info`, with this store directory.
    pub create: Option<StoreDir>,
    /// Whether a listing (`<hash>.ls`, in Nix's format) is written for each added path. A listing
    /// shows the files of an archive without a download.
    pub listings: bool,
    /// The forms in which realisations are written.
    pub realisations: RealisationForms,
    /// Passwords for caches over HTTP(S), in `.netrc` format (Nix's `netrc-file`). The file may be
    /// missing. Default: none. A user name in the URL takes precedence.
    pub netrc_file: Option<PathBuf>,
    /// Answers that are remembered on disk, for caches on other machines that are read. Default: none.
    #[cfg(feature = "disk-cache")]
    pub disk_cache: Option<DiskCache>,
    /// Time-outs, retries and concurrency.
    pub tuning: Tuning,
}

impl BinaryCacheOptions {
    /// The cache `uri`, without trusted keys.
    ///
    /// # Errors
    ///
    /// An invalid parameter, or a failure to read the file of the parameter `secret-key`.
    pub fn new(uri: StoreUri) -> Result<Self, BoxError> {
        parameters::check_cache(&uri)?;
        let number = |name: &str| -> Result<Option<i64>, BoxError> {
            let value = uri.parameter(name).map(str::parse).transpose();
            value.map_err(|error| format!("parameter '{name}': {error}").into())
        };
        let flag = |name: &str| -> Result<Option<bool>, SettingError> {
            let value = uri.parameter(name);
            value
                .map(|value| parameters::boolean(name, value))
                .transpose()
        };
        flag("want-mass-query")?;
        let level = number("compression-level")?.filter(|level| *level >= 0);
        let priority = number("priority")?;
        let secret = uri.parameter("secret-key").into_iter();
        let more = uri.parameter("secret-keys").unwrap_or_default();
        let secrets = secret.chain(more.split(',').map(str::trim));
        let secrets = secrets.filter(|file| !file.is_empty()).map(PathBuf::from);
        let compression = uri.parameter("compression").map(Compression::from);
        let options = Self {
            trusted_keys: Vec::new(),
            require_signatures: !flag("trusted")?.unwrap_or(false),
            signing_keys: secrets.map(read_key).collect::<Result<_, _>>()?,
            compression: compression.unwrap_or(Compression::Xz),
            level: level.map(u32::try_from).transpose()?,
            priority: priority.map(i32::try_from).transpose()?,
            create: None,
            listings: flag("write-nar-listing")?.unwrap_or(false),
            realisations: uri
                .parameter("realisations")
                .map_or(Ok(RealisationForms::Both), str::parse)
                .map_err(|error| format!("parameter 'realisations': {error}"))?,
            netrc_file: None,
            #[cfg(feature = "disk-cache")]
            disk_cache: None,
            tuning: Tuning::default(),
            uri,
        };
        options.tuned(Tuning::default())
    }

    /// The options with `tuning`, overridden by the parameters of the URI.
    fn tuned(mut self, mut tuning: Tuning) -> Result<Self, BoxError> {
        for name in TransferSettings::NAMES.into_iter().chain(Tuning::NAMES) {
            if let Some(value) = self.uri.parameter(name) {
                tuning.set(name, value)?;
            }
        }
        self.tuning = tuning;
        Ok(self)
    }

    /// Sets [`trusted_keys`](Self::trusted_keys).
    #[must_use]
    pub fn with_trusted_keys(mut self, keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        self.trusted_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`require_signatures`](Self::require_signatures).
    #[must_use]
    pub fn with_require_signatures(mut self, require: bool) -> Self {
        self.require_signatures = require;
        self
    }

    /// Sets [`signing_keys`](Self::signing_keys).
    #[must_use]
    pub fn with_signing_keys(mut self, keys: impl IntoIterator<Item = SigningKey>) -> Self {
        self.signing_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`compression`](Self::compression).
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets [`create`](Self::create).
    #[must_use]
    pub fn with_create(mut self, dir: StoreDir) -> Self {
        self.create = Some(dir);
        self
    }

    /// Sets [`listings`](Self::listings).
    #[must_use]
    pub fn with_listings(mut self, listings: bool) -> Self {
        self.listings = listings;
        self
    }

    /// Sets [`realisations`](Self::realisations).
    #[must_use]
    pub fn with_realisations(mut self, forms: RealisationForms) -> Self {
        self.realisations = forms;
        self
    }

    /// Sets [`netrc_file`](Self::netrc_file).
    #[must_use]
    pub fn with_netrc_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.netrc_file = Some(file.into());
        self
    }

    /// Sets [`disk_cache`](Self::disk_cache). Not for caches that are written to: what others have
    /// removed would count as there.
    #[cfg(feature = "disk-cache")]
    #[must_use]
    pub fn with_disk_cache(mut self, cache: DiskCache) -> Self {
        self.disk_cache = Some(cache);
        self
    }

    /// Sets [`tuning`](Self::tuning). Parameters of the URI take precedence.
    #[must_use]
    pub fn with_tuning(mut self, tuning: Tuning) -> Self {
        let options = self.clone().tuned(tuning);
        // The parameters were validated when the options were created.
        if let Ok(options) = options {
            self = options;
        }
        self
    }
}

fn read_key(file: PathBuf) -> Result<SigningKey, BoxError> {
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read the key '{}': {error}", file.display()))?;
    Ok(text.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(uri: &str) -> Result<BinaryCacheOptions, String> {
        let options = BinaryCacheOptions::new(uri.parse().unwrap());
        options.map_err(|error| error.to_string())
    }

    #[test]
    fn settings_in_the_uri_come_before_others() {
        let uri = "https://c?connect-timeout=7&download-attempts=2&http-connections=3";
        let mut general = Tuning::default();
        general.set("connect-timeout", "30").unwrap();
        general.set("stalled-download-timeout", "20").unwrap();
        let tuning = options(uri).unwrap().with_tuning(general).tuning;
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!(tuning.transfer.connect_timeout, seconds(7));
        assert_eq!(tuning.transfer.stalled_download_timeout, seconds(20));
        assert_eq!(tuning.transfer.download_attempts, 2);
        assert_eq!(tuning.requests, 3);
        let defaults = options("https://c").unwrap().tuning;
        assert_eq!(defaults.transfer.stalled_download_timeout, seconds(300));
    }

    #[test]
    fn parameters_that_are_not_known_or_not_valid() {
        for (uri, name) in [
            ("https://c?conect-timeout=5", "'conect-timeout'"),
            ("http://c?region=eu", "'region'"),
            ("file:///c?endpoint=x", "'endpoint'"),
            ("file:///c?root=/x", "'root'"),
            ("s3://c?regoin=x", "'regoin'"),
            ("s3://c?tls-certificate=x", "'tls-certificate'"),
            ("https://c?connect-timeout=soon", "'connect-timeout'"),
            ("https://c?trusted=maybe", "'trusted'"),
            ("https://c?priority=high", "'priority'"),
            ("https://c?want-mass-query=x", "'want-mass-query'"),
        ] {
            let error = options(uri).unwrap_err();
            assert!(error.contains(name), "{uri}: {error}");
        }
        for uri in [
            "https://c?compression=zstd&parallel-compression=true&compression-level=3&trusted=1",
            "file:///c?write-nar-listing=false&priority=3&path-info-cache-size=0",
            "s3://c?region=x&endpoint=y&scheme=http&profile=z&addressing-style=path",
        ] {
            options(uri).unwrap();
        }
    }
}
