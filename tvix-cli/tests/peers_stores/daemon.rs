//! Real daemons.

use tvix_test_support::nix_daemon::NixDaemon;

/// A daemon that listens, with these further settings.
pub fn daemon(more: &str) -> NixDaemon {
    stopped(more).started()
}

/// One that does not.
pub fn stopped(more: &str) -> NixDaemon {
    NixDaemon::new(&format!("sandbox = false\n{more}"))
}
