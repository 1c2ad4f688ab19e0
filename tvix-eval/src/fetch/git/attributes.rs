//! `export-ignore`: what `.gitattributes` says is not to be exported.

use std::collections::HashSet;
use std::path::Path;

use super::commit::Entry;
use super::run::Git;
use crate::fetch::FetchError;

/// Which paths are exported.
pub(super) struct Exported(HashSet<Vec<u8>>);

impl Exported {
    pub(super) fn all() -> Self {
        Self(HashSet::new())
    }

    /// Whether a path is, and all that it is in.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let ends = memchr::memchr_iter(b'/', path).chain([path.len()]);
        ends.map(|end| &path[..end])
            .all(|part| !self.0.contains(part))
    }
}

fn has_attributes<'p>(mut paths: impl Iterator<Item = &'p [u8]>) -> bool {
    paths.any(|path| path == b".gitattributes" || path.ends_with(b"/.gitattributes"))
}

/// What of a commit is exported.
pub(super) fn exported(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
) -> Result<Exported, FetchError> {
    if !has_attributes(entries.iter().map(|entry| &*entry.path)) {
        return Ok(Exported::all());
    }
    // The attributes are looked up in an index of our own, which holds the commit.
    let index = scratch.join("index");
    let mut read = git.command(["read-tree", rev]);
    read.env("GIT_INDEX_FILE", &index);
    git.said(read, None)?;
    let paths = entries.iter().map(|entry| &*entry.path);
    let exported = check(git, paths, Some(&index))?;
    let _ = std::fs::remove_file(index);
    Ok(exported)
}

/// What of the index is exported, and of these directories.
pub(super) fn exported_now<'p>(
    git: &Git<'_>,
    paths: impl Iterator<Item = &'p [u8]> + Clone,
) -> Result<Exported, FetchError> {
    if !has_attributes(paths.clone()) {
        return Ok(Exported::all());
    }
    check(git, paths, None)
}

fn check<'p>(
    git: &Git<'_>,
    paths: impl Iterator<Item = &'p [u8]>,
    index: Option<&Path>,
) -> Result<Exported, FetchError> {
    let mut asked = Vec::new();
    for path in paths {
        asked.extend_from_slice(path);
        asked.push(0);
    }
    let input = Git::input(&asked)?;
    let setting = "core.attributesFile=/dev/null";
    let args = [
        "-c",
        setting,
        "check-attr",
        "--cached",
        "-z",
        "--stdin",
        "export-ignore",
    ];
    let mut command = git.command(args);
    command.env("GIT_ATTR_NOSYSTEM", "1");
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let said = git.said(command, Some(input))?;
    // Path, attribute, value.
    let fields: Vec<_> = said.split(|byte| *byte == 0).collect();
    let ignored = fields.chunks_exact(3).filter(|triple| triple[2] == b"set");
    Ok(Exported(ignored.map(|triple| triple[0].to_vec()).collect()))
}
