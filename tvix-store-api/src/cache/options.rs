//! How a binary cache is used.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix_compat::narinfo::Compression;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;

use super::RealisationForms;
use crate::{BoxError, StoreUri};

/// Time limits, tries and how much is done at once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuning {
    /// How long a connection may take to be made. 5 seconds.
    pub connect_timeout: Duration,
    /// How long nothing may come. 30 seconds.
    pub idle_timeout: Duration,
    /// How long a small file may take to come as a whole. 60 seconds.
    pub small_timeout: Duration,
    /// How often something is tried in all, at least once. 4.
    pub attempts: u32,
    /// The pause before the second try; it doubles with each further one, and half of it is by
    /// chance. 250 milliseconds.
    pub first_pause: Duration,
    /// The longest pause, whatever the server asks for. 10 seconds.
    pub longest_pause: Duration,
    /// For how long a cache that did not answer after all tries is not asked again. A minute.
    pub down_for: Duration,
    /// For how long a path that was not there is taken not to be. 10 minutes.
    pub negative_ttl: Duration,
    /// Requests at once. 48.
    pub requests: usize,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            small_timeout: Duration::from_secs(60),
            attempts: 4,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            down_for: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(600),
            requests: 48,
        }
    }
}

/// Which cache, and how it is used.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BinaryCacheOptions {
    /// Which. Of the parameters that Nix knows, `compression`, `compression-level`, `priority`,
    /// `secret-key` (a file), `trusted` (`true`), `write-nar-listing` (`true`), and for S3 `region`, `endpoint` and `scheme`
    /// are looked at; and `realisations` (`both`, `hash` or `path`).
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
        let number = |name: &str| -> Result<Option<i64>, BoxError> {
            let value = uri.parameter(name).map(str::parse).transpose();
            value.map_err(|error| format!("parameter '{name}': {error}").into())
        };
        let level = number("compression-level")?.filter(|level| *level >= 0);
        let priority = number("priority")?;
        let secret = uri.parameter("secret-key").map(PathBuf::from);
        let secret = secret.map(read_key).transpose()?;
        let compression = uri.parameter("compression").map(Compression::from);
        Ok(Self {
            trusted_keys: Vec::new(),
            require_signatures: uri.parameter("trusted") != Some("true"),
            signing_keys: secret.into_iter().collect(),
            compression: compression.unwrap_or(Compression::Xz),
            level: level.map(u32::try_from).transpose()?,
            priority: priority.map(i32::try_from).transpose()?,
            create: None,
            listings: uri.parameter("write-nar-listing") == Some("true"),
            realisations: uri
                .parameter("realisations")
                .map_or(Ok(RealisationForms::Both), str::parse)
                .map_err(|error| format!("parameter 'realisations': {error}"))?,
            netrc_file: None,
            tuning: Tuning::default(),
            uri,
        })
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

    /// Sets [`tuning`](Self::tuning).
    #[must_use]
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }
}

fn read_key(file: PathBuf) -> Result<SigningKey, BoxError> {
    let text = fs::read_to_string(&file)
        .map_err(|error| format!("cannot read the key '{}': {error}", file.display()))?;
    Ok(text.trim().parse()?)
}
