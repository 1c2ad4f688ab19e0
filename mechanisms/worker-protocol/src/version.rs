//! Versions, features and limits of a connection.

use std::fmt;

use nix_compat::store_path::StoreDir;

/// A version of the worker protocol, such as 1.38.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The number before the dot.
    pub major: u8,
    /// The number after the dot.
    pub minor: u8,
}

impl Version {
    /// The oldest supported version, that of Nix 2.8.
    pub const MIN: Self = Self::new(1, 34);
    /// The newest supported version.
    pub const MAX: Self = Self::new(1, 39);

    /// A version.
    pub const fn new(major: u8, minor: u8) -> Self {
        Self { major, minor }
    }

    /// The number on the wire.
    pub(crate) fn to_wire(self) -> u64 {
        u64::from(self.major) << 8 | u64::from(self.minor)
    }

    /// The version of a number on the wire; `None` if it has more than 16 bits.
    pub(crate) fn from_wire(number: u64) -> Option<Self> {
        let [minor, major, 0, 0, 0, 0, 0, 0] = number.to_le_bytes() else {
            return None;
        };
        Some(Self { major, minor })
    }

    /// Whether features are negotiated.
    pub(crate) fn has_features(self) -> bool {
        self >= Self::new(1, 38)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A feature that both sides must have to use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// `realisation-with-path-not-hash`: realisations are identified by the path of the derivation.
    RealisationWithPath,
    /// `delete-dead-specific-referrers`: garbage collection of some paths, with their referrers.
    DeleteSpecificReferrers,
    /// `disable-set-options`: the client does not send `SetOptions`.
    DisableSetOptions,
    /// `add-to-store-scanning`: the operation `AddToStoreScanning`, within builds only.
    AddToStoreScanning,
    /// `submit-output`: the operation `SubmitOutput`, within builds only.
    SubmitOutput,
}

impl Feature {
    /// All features.
    pub const ALL: [Self; 5] = [
        Self::RealisationWithPath,
        Self::DeleteSpecificReferrers,
        Self::DisableSetOptions,
        Self::AddToStoreScanning,
        Self::SubmitOutput,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RealisationWithPath => "realisation-with-path-not-hash",
            Self::DeleteSpecificReferrers => "delete-dead-specific-referrers",
            Self::DisableSetOptions => "disable-set-options",
            Self::AddToStoreScanning => "add-to-store-scanning",
            Self::SubmitOutput => "submit-output",
        }
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u8);

impl Features {
    /// Whether the set has a feature.
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// Adds a feature.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature as u8)
    }

    /// The features in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The features in the order of their names, in which they are sent.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        let mut features = Feature::ALL;
        features.sort_by_key(|feature| feature.name());
        features.into_iter().filter(move |it| self.contains(*it))
    }

    /// The known features among names.
    pub(crate) fn of_names<'a>(names: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut features = Self::default();
        for name in names {
            let known = Feature::ALL.into_iter();
            for feature in known.filter(|it| it.name().as_bytes() == name) {
                features = features.with(feature);
            }
        }
        features
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::default(), Self::with)
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Limits of the messages of a peer. A message is held in memory until it is complete; streams
/// (NARs, frames) are not, and have no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum length of a text in bytes [default: 64 MiB].
    pub text: u64,
    /// Maximum length of a message in bytes [default: 256 MiB]. A reply with a million store paths
    /// takes about 100 MiB.
    pub message: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            text: 64 << 20,
            message: 256 << 20,
        }
    }
}

impl Limits {
    /// Sets the maximum length of a text, in bytes.
    #[must_use]
    pub const fn with_text(mut self, text: u64) -> Self {
        self.text = text;
        self
    }

    /// Sets the maximum length of a message, in bytes.
    #[must_use]
    pub const fn with_message(mut self, message: u64) -> Self {
        self.message = message;
        self
    }
}

/// The context that determines the form of messages: the negotiated version and features, and the store
/// directory, which both sides must share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub(crate) dir: StoreDir,
    pub(crate) version: Version,
    pub(crate) features: Features,
    pub(crate) limits: Limits,
}

impl Context {
    /// A context. The handshake makes one: [`ClientHandshake`](crate::ClientHandshake).
    pub fn new(dir: StoreDir, version: Version, features: Features) -> Self {
        Self {
            dir,
            version,
            features,
            limits: Limits::default(),
        }
    }

    /// Sets the limits of the messages of the peer.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The store directory.
    pub fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// The negotiated version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The negotiated features.
    pub fn features(&self) -> Features {
        self.features
    }
}
