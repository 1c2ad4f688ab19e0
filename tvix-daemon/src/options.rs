//! Options of a daemon.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::signature::VerifyingKey;
use tvix_worker_protocol::{Limits, Version};

use crate::access::Access;
use crate::backend::Stores;
use crate::users::Users;

/// Options of a [`Daemon`](crate::Daemon).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DaemonOptions {
    /// Who may connect, and who is trusted.
    pub access: Access,
    /// Treats every client as untrusted.
    pub force_untrusted: bool,
    /// Requires that paths which are added have a signature of a trusted key, unless they are content-addressed or a
    /// trusted client waives it. Nix's `require-sigs` [default: true].
    pub require_signatures: bool,
    /// The trusted keys. Nix's `trusted-public-keys` [default: none].
    pub trusted_keys: Vec<VerifyingKey>,
    /// Substituters that untrusted clients may choose from, by their URIs: those of the daemon, and Nix's
    /// `trusted-substituters`.
    pub allowed_substituters: Vec<String>,
    /// The version of the program that clients display [default: that of the crate].
    pub version: String,
    /// The newest version of the protocol that is offered [default: 1.38, that of Nix 2.34].
    pub protocol: Version,
    /// Limits of messages [default: 32 MiB for a text, 64 MiB for a message]. Streams have no limit.
    pub limits: Limits,
    /// Maximum number of connections at the same time; further ones wait [default: 4096]. A user that is not trusted has
    /// at most a quarter of them; further ones are closed, so that one user does not lock out the others.
    pub max_connections: usize,
    /// How long a client may take for the handshake [default: 30 seconds].
    pub handshake_timeout: Duration,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            force_untrusted: false,
            require_signatures: true,
            trusted_keys: Vec::new(),
            allowed_substituters: Vec::new(),
            version: concat!("tvix ", env!("CARGO_PKG_VERSION")).to_owned(),
            protocol: Version::new(1, 38),
            limits: Limits::default().with_text(32 << 20).with_message(64 << 20),
            max_connections: 4096,
            handshake_timeout: Duration::from_secs(30),
        }
    }
}

macro_rules! setters {
    ($($name:ident: $field:ident, $type:ty;)*) => {$(
        #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
        #[must_use]
        pub fn $name(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    )*};
}

impl DaemonOptions {
    setters! {
        with_access: access, Access;
        with_force_untrusted: force_untrusted, bool;
        with_require_signatures: require_signatures, bool;
        with_trusted_keys: trusted_keys, Vec<VerifyingKey>;
        with_allowed_substituters: allowed_substituters, Vec<String>;
        with_version: version, String;
        with_protocol: protocol, Version;
        with_limits: limits, Limits;
        with_max_connections: max_connections, usize;
        with_handshake_timeout: handshake_timeout, Duration;
    }
}

/// The parts of a daemon that all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub stores: Arc<dyn Stores>,
    pub options: DaemonOptions,
    pub users: Users,
}
