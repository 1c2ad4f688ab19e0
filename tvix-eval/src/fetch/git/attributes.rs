//! Attributes of paths, as `.gitattributes` gives them.

use std::collections::HashSet;
use std::path::Path;

use super::commit::Entry;
use super::run::Git;
use crate::fetch::FetchError;

/// Which paths are exported: those without `export-ignore`.
pub(super) struct Exported(HashSet<Vec<u8>>);

impl Exported {
    pub(super) fn all() -> Self {
        Self(HashSet::new())
    }

    /// Whether a path is exported, and all directories above it.
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

/// The paths of a commit that are exported.
pub(super) fn exported(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
) -> Result<Exported, FetchError> {
    let ignored = in_commit(git, rev, entries, scratch, ("export-ignore", "set"))?;
    Ok(Exported(ignored))
}

/// The paths of a commit whose contents Git LFS keeps.
pub(super) fn with_lfs(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
) -> Result<HashSet<Vec<u8>>, FetchError> {
    in_commit(git, rev, entries, scratch, ("filter", "lfs"))
}

/// The paths of the index that are exported, of these files and directories.
pub(super) fn exported_now<'p>(
    git: &Git<'_>,
    paths: impl Iterator<Item = &'p [u8]> + Clone,
) -> Result<Exported, FetchError> {
    if !has_attributes(paths.clone()) {
        return Ok(Exported::all());
    }
    let ignored = check(git, paths, ("export-ignore", "set"), None)?;
    Ok(Exported(ignored))
}

/// The paths of a commit for which an attribute has a value.
fn in_commit(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
    attribute: (&str, &str),
) -> Result<HashSet<Vec<u8>>, FetchError> {
    if !has_attributes(entries.iter().map(|entry| &*entry.path)) {
        return Ok(HashSet::new());
    }
    // The attributes are looked up in a separate index, which holds the commit.
    let index = scratch.join("index");
    let mut read = git.command(["read-tree", rev]);
    read.env("GIT_INDEX_FILE", &index);
    git.said(read, None)?;
    let paths = entries.iter().map(|entry| &*entry.path);
    let found = check(git, paths, attribute, Some(&index))?;
    let _ = std::fs::remove_file(index);
    Ok(found)
}

fn check<'p>(
    git: &Git<'_>,
    paths: impl Iterator<Item = &'p [u8]>,
    (attribute, wanted): (&str, &str),
    index: Option<&Path>,
) -> Result<HashSet<Vec<u8>>, FetchError> {
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
        attribute,
    ];
    let mut command = git.command(args);
    command.env("GIT_ATTR_NOSYSTEM", "1");
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let said = git.said(command, Some(input))?;
    // Path, attribute, value.
    let fields: Vec<_> = said.split(|byte| *byte == 0).collect();
    let triples = fields.chunks_exact(3);
    let found = triples.filter(|triple| triple[2] == wanted.as_bytes());
    Ok(found.map(|triple| triple[0].to_vec()).collect())
}
