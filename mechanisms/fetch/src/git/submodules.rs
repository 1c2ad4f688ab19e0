//! Submodules: where `.gitmodules` says that they are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use super::run::Git;
use crate::FetchError;

/// What `.gitmodules` says of a submodule.
#[derive(Default)]
pub(super) struct Module {
    pub(super) url: String,
    pub(super) branch: Option<String>,
}

/// The submodules that `.gitmodules` of a commit lists, by their paths.
pub(super) fn of_commit(git: &Git<'_>, rev: &str) -> Result<BTreeMap<Vec<u8>, Module>, FetchError> {
    let file = format!("{rev}:.gitmodules");
    if git.output(["cat-file", "-e", &file]).is_err() {
        return Ok(BTreeMap::new());
    }
    let blob = format!("--blob={file}");
    let listed = git.output(["config", &blob, "--no-includes", "-z", "--list"])?;
    Ok(parse(&listed))
}

/// The submodules that `.gitmodules` of a working tree lists, by their paths.
pub(super) fn of_worktree(
    git: &Git<'_>,
    root: &Path,
) -> Result<BTreeMap<Vec<u8>, Module>, FetchError> {
    let file = root.join(".gitmodules");
    if !file.exists() {
        return Ok(BTreeMap::new());
    }
    let mut option = OsString::from("--file=");
    option.push(file);
    let args = ["--no-includes", "-z", "--list"].map(OsString::from);
    let args = [OsString::from("config"), option].into_iter().chain(args);
    Ok(parse(&git.output(args)?))
}

fn parse(listed: &[u8]) -> BTreeMap<Vec<u8>, Module> {
    let mut by_name: BTreeMap<&[u8], (Option<Vec<u8>>, Module)> = BTreeMap::new();
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
            b"path" => *path = Some(normal(value)),
            b"url" => module.url = text(),
            b"branch" => module.branch = Some(text()).filter(|branch| !branch.is_empty()),
            _ => {}
        }
    }
    let modules = by_name.into_values();
    modules
        .filter_map(|(path, module)| Some((path?, module)))
        .collect()
}

/// A path below the top of the repository: `..` does not lead above it.
fn normal(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
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
    use super::{parse, resolve};

    #[test]
    fn paths_stay_in_the_repository() {
        let listed = b"submodule.a.path\n../../x/./y//z\0submodule.a.url\n../u\0submodule.b.url\nv\0core.x\ny\0submodule.c.path\n/\0";
        let modules = parse(listed);
        let paths: Vec<_> = modules.keys().map(|path| path.as_slice()).collect();
        assert_eq!(paths, [&b""[..], b"x/y/z"]);
        assert_eq!(modules[&b"x/y/z"[..]].url, "../u");
    }

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
