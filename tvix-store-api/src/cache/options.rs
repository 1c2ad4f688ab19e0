//! How a binary cache is used.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix_compat::narinfo::Compression;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_http::decode::Limits;
use tvix_http::{SettingError, TransferSettings};

use super::{RealisationForms, parameters};
use crate::{BoxError, StoreUri};

/// Time limits, retries and how much is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuning {
    /// Time limits and retries of transfers.
    pub transfer: TransferSettings,
    /// How long a small file may take to come as a whole. 60 seconds.
    pub small_timeout: Duration,
    /// How long a cache that did not answer after all tries is not asked again. A minute.
    pub down_for: Duration,
    /// How long a path that was missing is taken to be missing. 10 minutes.
    pub negative_ttl: Duration,
    /// Requests at once (`http-connections`). 48.
    pub requests: usize,
    /// Memory that a compressed NAR may ask for, in bytes (`decode-memory-limit`): see
    /// [`Limits::memory`]. 2 GiB.
    pub decode_memory: u64,
    /// Whether NARs may be on other hosts than the cache (`allow-other-hosts`). No.
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
    /// The names that [`set`](Self::set) knows besides those of [`TransferSettings`].
    const NAMES: [&str; 3] = [
        "http-connections",
        "decode-memory-limit",
        "allow-other-hosts",
    ];

    /// Sets the setting that Nix calls `name`: those of [`TransferSettings::set`],
    /// `http-connections`, and the project's own `decode-memory-limit` (bytes) and
    /// `allow-other-hosts`.
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
                // 0 is no limit in Nix.
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

/// Which cache, and how it is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BinaryCacheOptions {
    /// The cache. The parameters are those that Nix knows and the names of [`Tuning::set`]; the
    /// table in `docs/STORE.md` lists them.
    pub uri: StoreUri,
    /// Keys whose signatures are trusted.
    pub trusted_keys: Vec<VerifyingKey>,
    /// Whether paths need a signature of a trusted key, unless they are content-addressed. By
    /// default they do.
    pub require_signatures: bool,
    /// Keys that sign what is added.
    pub signing_keys: Vec<SigningKey>,
    /// How what is added is compressed. `xz`, as Nix does by default.
    pub compression: Compression,
    /// How much effort that is; each method has its own scale.
    pub level: Option<u32>,
    /// In place of what the cache says.
    pub priority: Option<i32>,
    /// Makes a cache of what is none: writes `nix-cache-info`, with this store directory.
    pub create: Option<StoreDir>,
    /// Whether what is added has a listing beside it (`<hash>.ls`), as Nix writes it, for whoever wants
    /// to know what is in an archive without fetching it.
    pub listings: bool,
    /// Which realisations of floating outputs are written.
    pub realisations: RealisationForms,
    /// The user's passwords for caches over HTTP(S), in the form of `.netrc` (Nix's `netrc-file`). It
    /// may be missing. None by default; a name in the URL comes first.
    pub netrc_file: Option<PathBuf>,
    /// Time limits, tries and how much is done at once.
    pub tuning: Tuning,
}

impl BinaryCacheOptions {
    /// The cache `uri`, of which nothing is taken that no key has signed.
    ///
    /// # Errors
    ///
    /// What is wrong with a parameter. The file of `secret-key` is read.
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
            tuning: Tuning::default(),
            uri,
        };
        options.tuned(Tuning::default())
    }

    /// The options with `tuning`, changed by the parameters of the URI.
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
    pub fn trusted_keys(mut self, keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        self.trusted_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`require_signatures`](Self::require_signatures).
    #[must_use]
    pub fn require_signatures(mut self, require: bool) -> Self {
        self.require_signatures = require;
        self
    }

    /// Sets [`signing_keys`](Self::signing_keys).
    #[must_use]
    pub fn signing_keys(mut self, keys: impl IntoIterator<Item = SigningKey>) -> Self {
        self.signing_keys = keys.into_iter().collect();
        self
    }

    /// Sets [`compression`](Self::compression).
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets [`create`](Self::create).
    #[must_use]
    pub fn create(mut self, dir: StoreDir) -> Self {
        self.create = Some(dir);
        self
    }

    /// Sets [`listings`](Self::listings).
    #[must_use]
    pub fn listings(mut self, listings: bool) -> Self {
        self.listings = listings;
        self
    }

    /// Sets [`realisations`](Self::realisations).
    #[must_use]
    pub fn realisations(mut self, forms: RealisationForms) -> Self {
        self.realisations = forms;
        self
    }

    /// Sets [`netrc_file`](Self::netrc_file).
    #[must_use]
    pub fn netrc_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.netrc_file = Some(file.into());
        self
    }

    /// Sets [`tuning`](Self::tuning). Parameters of the URI come before it.
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        let options = self.clone().tuned(tuning);
        // They were valid when the options were made.
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
        let tuning = options(uri).unwrap().tuning(general).tuning;
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
