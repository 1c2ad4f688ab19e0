//! The settings of Nix.
//!
//! Names, kinds and most defaults are those that `nix config show --json` of C++ Nix 2.34.8 lists.

/// A setting of Nix.
#[derive(Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The value that it has in this program unless it is set.
    pub default: &'static str,
    /// Older names.
    pub aliases: &'static [&'static str],
    /// Its effect in this program.
    pub effect: Effect,
    /// The arguments of ours that say the same, by their ids.
    pub options: &'static [&'static str],
}

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A number, perhaps with a unit.
    Number,
    /// Any text.
    Text,
    /// Words separated by spaces.
    List,
    /// `true`, `false` or `relaxed`.
    Sandbox,
    /// A number or `auto`.
    Jobs,
}

/// The effect of a setting in this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is followed.
    Used,
    /// None, without a warning: the setting enables a feature that is always enabled, or concerns one that does
    /// not exist here.
    Settled,
    /// None: a warning says so.
    None,
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    aliases: &'static [&'static str],
    effect: Effect,
    options: &'static [&'static str],
) -> Setting {
    Setting {
        name,
        kind,
        default,
        aliases,
        effect,
        options,
    }
}

/// Names of settings that are nearly `name`, the nearest first.
pub fn similar(name: &str) -> Vec<&'static str> {
    // As Nix does for attributes: at most two changes, and fewer than the name has letters.
    let most = 2.min(name.chars().count().saturating_sub(1));
    let mut near: Vec<_> = SETTINGS
        .iter()
        .flat_map(|setting| setting.aliases.iter().chain([&setting.name]))
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.into_iter().map(|(_, known)| known).take(3).collect()
}

/// The number of letters to insert, remove or replace.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A question after the name of a setting that does not exist; empty if none is similar.
pub fn did_you_mean(name: &str) -> String {
    let (extra, bare) = match name.strip_prefix("extra-") {
        Some(bare) => ("extra-", bare),
        None => ("", name),
    };
    let similar = similar(bare).into_iter();
    let similar: Vec<_> = similar.map(|it| format!("'{extra}{it}'")).collect();
    match similar.split_last() {
        None => String::new(),
        Some((last, [])) => format!(" (did you mean {last}?)"),
        Some((last, others)) => format!(" (did you mean {} or {last}?)", others.join(", ")),
    }
}

/// Finds a setting by a name, and whether `extra-` was before it.
pub fn find(name: &str) -> Option<(&'static Setting, bool)> {
    let named = |name: &str| {
        let mut all = SETTINGS.iter();
        all.find(|setting| setting.name == name || setting.aliases.contains(&name))
    };
    if let Some(setting) = named(name) {
        return Some((setting, false));
    }
    let setting = named(name.strip_prefix("extra-")?)?;
    (setting.kind == Kind::List).then_some((setting, true))
}

/// All of them, by name.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("abort-on-warn", Kind::Bool, "false", &[], Effect::Used, &["abort_on_warn"]),
    setting("accept-flake-config", Kind::Bool, "false", &[], Effect::Settled, &[]),
    setting("access-tokens", Kind::List, "", &[], Effect::None, &[]),
    setting("allow-dirty", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("allow-dirty-locks", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("allow-import-from-derivation", Kind::Bool, "true", &[], Effect::Used, &[]),
    setting("allow-new-privileges", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("allow-symlinked-store", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("allow-unsafe-native-code-during-evaluation", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("allowed-impure-host-deps", Kind::List, "", &[], Effect::None, &[]),
    setting("allowed-uris", Kind::List, "", &[], Effect::Used, &["allowed_uris"]),
    setting("allowed-users", Kind::List, "*", &[], Effect::Used, &[]),
    setting("always-allow-substitutes", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("auto-allocate-uids", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("auto-optimise-store", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("bash-prompt", Kind::Text, "", &[], Effect::None, &[]),
    setting("bash-prompt-prefix", Kind::Text, "", &[], Effect::None, &[]),
    setting("bash-prompt-suffix", Kind::Text, "", &[], Effect::None, &[]),
    setting("build-dir", Kind::Text, "", &[], Effect::None, &[]),
    setting("build-hook", Kind::List, "", &[], Effect::None, &[]),
    setting("build-poll-interval", Kind::Number, "5", &[], Effect::None, &[]),
    setting("build-users-group", Kind::Text, "", &[], Effect::None, &[]),
    setting("builders", Kind::Text, "@/etc/nix/machines", &[], Effect::Used, &["builders"]),
    setting("builders-use-substitutes", Kind::Bool, "false", &[], Effect::Used, &["builders_use_substitutes"]),
    setting("commit-lock-file-summary", Kind::Text, "", &["commit-lockfile-summary"], Effect::None, &[]),
    setting("compress-build-log", Kind::Bool, "true", &["build-compress-log"], Effect::Used, &[]),
    setting("connect-timeout", Kind::Number, "5", &[], Effect::Used, &["connect_timeout"]),
    setting("cores", Kind::Number, "0", &["build-cores"], Effect::Used, &["cores"]),
    setting("debugger-on-trace", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("debugger-on-warn", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("diff-hook", Kind::Text, "", &[], Effect::None, &[]),
    setting("download-attempts", Kind::Number, "5", &[], Effect::Used, &["download_attempts"]),
    setting("download-buffer-size", Kind::Number, "1048576", &[], Effect::None, &[]),
    setting("download-speed", Kind::Number, "0", &[], Effect::None, &[]),
    setting("eval-attrset-update-layer-rhs-threshold", Kind::Number, "16", &[], Effect::None, &[]),
    setting("eval-cache", Kind::Bool, "true", &[], Effect::Settled, &[]),
    setting("eval-profile-file", Kind::Text, "nix.profile", &[], Effect::None, &[]),
    setting("eval-profiler", Kind::Text, "disabled", &[], Effect::None, &[]),
    setting("eval-profiler-frequency", Kind::Number, "99", &[], Effect::None, &[]),
    setting("eval-system", Kind::Text, "", &[], Effect::Used, &[]),
    setting("experimental-features", Kind::List, "", &[], Effect::Settled, &[]),
    setting("external-builders", Kind::List, "", &[], Effect::None, &[]),
    setting("extra-platforms", Kind::List, "", &[], Effect::Used, &["extra_platforms"]),
    setting("fallback", Kind::Bool, "false", &["build-fallback"], Effect::Settled, &[]),
    setting("filter-syscalls", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("flake-registry", Kind::Text, "", &[], Effect::None, &[]),
    setting("fsync-metadata", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("fsync-store-paths", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("gc-reserved-space", Kind::Number, "8388608", &[], Effect::None, &[]),
    setting("hashed-mirrors", Kind::List, "", &[], Effect::None, &[]),
    setting("http-connections", Kind::Number, "48", &["binary-caches-parallel-connections"], Effect::Used, &[]),
    setting("http2", Kind::Bool, "true", &[], Effect::Settled, &[]),
    setting("id-count", Kind::Number, "8388608", &[], Effect::None, &[]),
    setting("ignore-try", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("ignored-acls", Kind::List, "security.csm security.selinux system.nfs4_acl", &[], Effect::None, &[]),
    setting("impersonate-linux-26", Kind::Bool, "false", &["build-impersonate-linux-26"], Effect::None, &[]),
    setting("impure-env", Kind::List, "", &[], Effect::None, &[]),
    setting("json-log-path", Kind::Text, "", &[], Effect::None, &[]),
    setting("keep-build-log", Kind::Bool, "true", &["build-keep-log"], Effect::Used, &[]),
    setting("keep-derivations", Kind::Bool, "true", &["gc-keep-derivations"], Effect::Used, &[]),
    setting("keep-env-derivations", Kind::Bool, "false", &["env-keep-derivations"], Effect::None, &[]),
    setting("keep-failed", Kind::Bool, "false", &[], Effect::Used, &["keep_failed"]),
    setting("keep-going", Kind::Bool, "false", &[], Effect::Used, &["keep_going"]),
    setting("keep-outputs", Kind::Bool, "false", &["gc-keep-outputs"], Effect::Used, &[]),
    setting("lint-absolute-path-literals", Kind::Text, "ignore", &[], Effect::None, &[]),
    setting("lint-short-path-literals", Kind::Text, "ignore", &[], Effect::None, &[]),
    setting("lint-url-literals", Kind::Text, "ignore", &[], Effect::None, &[]),
    setting("log-lines", Kind::Number, "25", &[], Effect::Settled, &[]),
    setting("max-build-log-size", Kind::Number, "0", &["build-max-log-size"], Effect::Used, &["max_log_size"]),
    setting("max-call-depth", Kind::Number, "10000", &[], Effect::Used, &[]),
    setting("max-free", Kind::Number, "9223372036854775807", &[], Effect::None, &[]),
    setting("max-jobs", Kind::Jobs, "auto", &["build-max-jobs"], Effect::Used, &["max_jobs"]),
    setting("max-silent-time", Kind::Number, "0", &["build-max-silent-time"], Effect::Used, &["max_silent_time"]),
    setting("max-substitution-jobs", Kind::Number, "16", &["substitution-max-jobs"], Effect::Used, &[]),
    setting("min-free", Kind::Number, "0", &[], Effect::None, &[]),
    setting("min-free-check-interval", Kind::Number, "5", &[], Effect::None, &[]),
    setting("nar-buffer-size", Kind::Number, "33554432", &[], Effect::None, &[]),
    setting("narinfo-cache-meta-ttl", Kind::Number, "604800", &[], Effect::Used, &[]),
    setting("narinfo-cache-negative-ttl", Kind::Number, "3600", &[], Effect::Used, &[]),
    setting("narinfo-cache-positive-ttl", Kind::Number, "2592000", &[], Effect::Used, &[]),
    setting("netrc-file", Kind::Text, "/etc/nix/netrc", &[], Effect::Used, &["netrc_file"]),
    setting("nix-path", Kind::List, "", &[], Effect::Used, &[]),
    setting("nix-shell-always-looks-for-shell-nix", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("nix-shell-shebang-arguments-relative-to-script", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("plugin-files", Kind::List, "", &[], Effect::None, &[]),
    setting("post-build-hook", Kind::Text, "", &[], Effect::Used, &[]),
    setting("pre-build-hook", Kind::Text, "", &[], Effect::None, &[]),
    setting("preallocate-contents", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("print-missing", Kind::Bool, "true", &[], Effect::Settled, &[]),
    setting("pure-eval", Kind::Bool, "false", &[], Effect::Used, &["pure_eval", "impure"]),
    setting("require-drop-supplementary-groups", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("require-sigs", Kind::Bool, "true", &[], Effect::Used, &[]),
    setting("restrict-eval", Kind::Bool, "false", &[], Effect::Used, &["restrict_eval"]),
    setting("run-diff-hook", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("sandbox", Kind::Sandbox, "true", &["build-use-chroot", "build-use-sandbox"], Effect::Used, &["no_sandbox", "relaxed_sandbox"]),
    setting("sandbox-build-dir", Kind::Text, "/build", &[], Effect::None, &[]),
    setting("sandbox-dev-shm-size", Kind::Text, "50%", &[], Effect::None, &[]),
    setting("sandbox-fallback", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("sandbox-paths", Kind::List, "", &["build-chroot-dirs", "build-sandbox-paths"], Effect::Used, &["sandbox_paths"]),
    setting("secret-key-files", Kind::List, "", &[], Effect::None, &[]),
    setting("show-trace", Kind::Bool, "false", &[], Effect::Used, &["show_trace"]),
    setting("ssl-cert-file", Kind::Text, "", &[], Effect::None, &[]),
    setting("stalled-download-timeout", Kind::Number, "300", &[], Effect::Used, &["stalled_download_timeout"]),
    setting("start-id", Kind::Number, "872415232", &[], Effect::None, &[]),
    setting("store", Kind::Text, "auto", &[], Effect::Used, &["store"]),
    setting("substitute", Kind::Bool, "true", &["build-use-substitutes"], Effect::Used, &["no_substitute"]),
    setting("substituters", Kind::List, "https://cache.nixos.org/", &["binary-caches"], Effect::Used, &["substituters"]),
    setting("sync-before-registering", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("system", Kind::Text, "", &[], Effect::Used, &[]),
    setting("system-features", Kind::List, "benchmark big-parallel kvm nixos-test", &[], Effect::Used, &["system_features"]),
    setting("tarball-ttl", Kind::Number, "3600", &[], Effect::Used, &["tarball_ttl"]),
    setting("timeout", Kind::Number, "0", &["build-timeout"], Effect::Used, &["timeout"]),
    setting("trace-function-calls", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("trace-import-from-derivation", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("trace-verbose", Kind::Bool, "false", &[], Effect::Used, &[]),
    setting("trust-tarballs-from-git-forges", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("trusted-public-keys", Kind::List, "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", &["binary-cache-public-keys"], Effect::Used, &["trusted_public_keys"]),
    setting("trusted-substituters", Kind::List, "", &["trusted-binary-caches"], Effect::Used, &[]),
    setting("trusted-users", Kind::List, "root", &[], Effect::Used, &[]),
    setting("upgrade-nix-store-path-url", Kind::Text, "", &[], Effect::None, &[]),
    setting("use-case-hack", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("use-cgroups", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("use-registries", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("use-sqlite-wal", Kind::Bool, "true", &[], Effect::None, &[]),
    setting("use-xdg-base-directories", Kind::Bool, "false", &[], Effect::None, &[]),
    setting("user-agent-suffix", Kind::Text, "", &[], Effect::None, &[]),
    setting("warn-dirty", Kind::Bool, "true", &[], Effect::Settled, &[]),
    setting("warn-large-path-threshold", Kind::Number, "0", &[], Effect::None, &[]),
    setting("warn-short-path-literals", Kind::Bool, "false", &[], Effect::None, &[]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = SETTINGS
            .iter()
            .flat_map(|setting| setting.aliases.iter().chain([&setting.name]))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn suggestions() {
        assert_eq!(
            did_you_mean("substitutors"),
            " (did you mean 'substituters'?)"
        );
        assert_eq!(
            did_you_mean("extra-sandbox-path"),
            " (did you mean 'extra-sandbox-paths'?)"
        );
        assert_eq!(did_you_mean("core"), " (did you mean 'cores' or 'store'?)");
        assert_eq!(did_you_mean("no-such"), "");
        assert_eq!(did_you_mean(""), "");
    }

    #[test]
    fn only_lists_are_added_to() {
        assert!(find("extra-substituters").is_some_and(|(_, append)| append));
        assert!(find("extra-platforms").is_some_and(|(_, append)| !append));
        assert!(find("extra-extra-platforms").is_some_and(|(_, append)| append));
        assert!(find("extra-cores").is_none());
        assert!(find("binary-caches").is_some());
    }
}
