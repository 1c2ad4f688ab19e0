//! The search path: resolves `<name>`.

use std::path::{Path, PathBuf};

use crate::fetch::is_pseudo_url;

/// A search path entry: prefix, which may be empty, and path or URL.
pub type Entry = (String, String);

/// Parses an entry: `PREFIX=PATH`, or a path alone.
pub fn entry(text: &str) -> Entry {
    match text.split_once('=') {
        Some((prefix, path)) => (prefix.to_owned(), path.to_owned()),
        None => (String::new(), text.to_owned()),
    }
}

/// Parses `NIX_PATH`: entries are separated by colons. As in C++ Nix, a URL ends at its second
/// colon, so it cannot have a port, and white space separates entries too.
pub fn entries(text: &str) -> Vec<Entry> {
    split(text)
        .into_iter()
        .flat_map(str::split_whitespace)
        .map(entry)
        .collect()
}

/// The default entries at the end of the search path: the channels of the user and of root, as far
/// as they exist. Pure and restricted evaluation do not have them.
///
/// `user_channels` is `~/.nix-defexpr/channels`, or `$XDG_STATE_HOME/nix/defexpr/channels` if Nix
/// is configured to use XDG base directories. `state` is Nix's state directory: `$NIX_STATE_DIR`,
/// or `/nix/var/nix`.
pub fn channels(user_channels: Option<&Path>, state: &Path) -> Vec<Entry> {
    let root = state.join("profiles/per-user/root/channels");
    let nixpkgs = root.join("nixpkgs");
    let user = user_channels.map(|path| ("", path.to_owned()));
    let all = user
        .into_iter()
        .chain([("nixpkgs", nixpkgs), ("", root)])
        .filter(|(_, path): &(_, PathBuf)| path.exists());
    all.map(|(prefix, path)| (prefix.to_owned(), path.to_string_lossy().into_owned()))
        .collect()
}

fn split(text: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let colon = rest.find(':').unwrap_or(rest.len());
        let value = rest[..colon].rfind('=').map_or(0, |at| at + 1);
        let is_url = is_pseudo_url(&rest[value..]) || rest[value..].starts_with("flake:");
        let end = match is_url {
            true if colon < rest.len() => rest[colon + 1..]
                .find(':')
                .map_or(rest.len(), |at| colon + 1 + at),
            _ => colon,
        };
        entries.push(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    entries.retain(|entry| !entry.is_empty());
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nix_path() {
        let written = |text| -> Vec<String> {
            let entries = entries(text).into_iter();
            entries
                .map(|(prefix, path)| format!("{prefix}={path}"))
                .collect()
        };
        assert_eq!(written(""), [""; 0]);
        assert_eq!(
            written("nixpkgs=/a::/b:c=https://x.org/y:8080/z.tar.gz:n=channel:nixos-24.05:rel"),
            [
                "nixpkgs=/a",
                "=/b",
                "c=https://x.org/y",
                "=8080/z.tar.gz",
                "n=channel:nixos-24.05",
                "=rel"
            ]
        );
        assert_eq!(written("a=b=c d:x"), ["a=b=c", "=d", "=x"]);
        assert_eq!(written("https://x.org"), ["=https://x.org"]);
    }

    #[test]
    fn channels_that_exist() -> std::io::Result<()> {
        let there = tempfile::tempdir()?;
        let (home, state) = (there.path().join("home"), there.path().join("state"));
        assert_eq!(channels(Some(&home), &state), []);
        std::fs::create_dir(&home)?;
        let root = state.join("profiles/per-user/root");
        std::fs::create_dir_all(&root)?;
        // A symbolic link, as channels are. The entry keeps the path of the link.
        std::os::unix::fs::symlink("channels-1-link", root.join("channels"))?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = (String::new(), text(&home));
        assert_eq!(channels(Some(&home), &state), std::slice::from_ref(&own));
        std::fs::create_dir_all(root.join("channels-1-link/nixpkgs"))?;
        let root = root.join("channels");
        let nixpkgs = ("nixpkgs".to_owned(), text(&root.join("nixpkgs")));
        assert_eq!(
            channels(Some(&home), &state),
            [own, nixpkgs, (String::new(), text(&root))]
        );
        Ok(())
    }
}
