//! Settings of the process environment.

/// Whether `no_proxy` is `*`: no host is reached through a proxy, as in curl.
pub(super) fn excludes_all_hosts() -> bool {
    ["no_proxy", "NO_PROXY"]
        .into_iter()
        .find_map(std::env::var_os)
        .is_some_and(|hosts| hosts.to_str().is_some_and(|hosts| hosts.trim() == "*"))
}
