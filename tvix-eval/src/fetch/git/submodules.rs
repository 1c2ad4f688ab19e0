//! Submodules: where `.gitmodules` says that they are.

use std::collections::HashMap;

use super::run::Git;
use crate::fetch::FetchError;

/// What `.gitmodules` says of a submodule.
#[derive(Default)]
pub(super) struct Module {
    pub(super) url: String,
    pub(super) branch: Option<String>,
}

/// The submodules of a commit, by their paths.
pub(super) fn modules(git: &Git<'_>, rev: &str) -> Result<HashMap<Vec<u8>, Module>, FetchError> {
    let blob = format!("--blob={rev}:.gitmodules");
    let listed = git.output(["config", &blob, "-z", "--list"])?;
    let mut by_name: HashMap<&[u8], (Option<Vec<u8>>, Module)> = HashMap::new();
    for pair in listed.split(|byte| *byte == 0) {
        let Some(newline) = memchr::memchr(b'\n', pair) else {
            continue;
        };
        let (key, value) = (&pair[..newline], &pair[newline + 1..]);
        let parsed = key
            .strip_prefix(b"submodule.")
            .and_then(|key| Some((key, memchr::memrchr(b'.', key)?)));
        let Some((key, dot)) = parsed else {
            continue;
        };
        let (path, module) = by_name.entry(&key[..dot]).or_default();
        let text = || String::from_utf8_lossy(value).into_owned();
        match &key[dot + 1..] {
            b"path" => *path = Some(value.to_vec()),
            b"url" => module.url = text(),
            b"branch" => module.branch = Some(text()),
            _ => {}
        }
    }
    let modules = by_name.into_values();
    Ok(modules
        .filter_map(|(path, module)| Some((path?, module)))
        .collect())
}

/// The URL of a submodule: one that begins with a dot is relative to that of what it is in.
pub(super) fn resolve(url: &str, parent: &str) -> String {
    if !url.starts_with("./") && !url.starts_with("../") {
        return url.to_owned();
    }
    let mut base = parent.trim_end_matches('/');
    let mut rest = url;
    loop {
        if let Some(after) = rest.strip_prefix("./") {
            rest = after;
        } else if let Some(after) = rest.strip_prefix("../") {
            rest = after;
            let cut = base.rfind(['/', ':']).unwrap_or(0);
            base = &base[..cut];
        } else {
            return format!("{base}/{rest}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::resolve;

    #[test]
    fn relative_urls() {
        for (url, parent, wanted) in [
            ("../b.git", "https://x.org/a.git", "https://x.org/b.git"),
            ("./b", "/srv/a", "/srv/a/b"),
            ("../../c/b", "ssh://h/x/y/", "ssh://h/c/b"),
            ("https://y.org/b", "https://x.org/a", "https://y.org/b"),
        ] {
            assert_eq!(resolve(url, parent), wanted);
        }
    }
}
