//! Attributes of paths, as `.gitattributes` gives them.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use super::entries::{DIRECTORY, Entry};
use super::run::Git;
use crate::FetchError;

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
///
/// Patterns for directories (`x/`) apply in repositories with a working tree only, as in C++ Nix.
pub(super) fn exported(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
    has_worktree: bool,
) -> Result<Exported, FetchError> {
    let directories = entries.iter().filter(|entry| entry.mode == DIRECTORY);
    let directories: HashSet<&[u8]> = directories.map(|entry| &*entry.path).collect();
    let is_directory = |path: &[u8]| has_worktree && directories.contains(path);
    let asked = ("export-ignore", "set");
    let ignored = in_commit(git, rev, entries, scratch, asked, &is_directory)?;
    Ok(Exported(ignored))
}

/// The paths of a commit with the attribute `filter=lfs`.
pub(super) fn with_lfs(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
) -> Result<HashSet<Vec<u8>>, FetchError> {
    in_commit(git, rev, entries, scratch, ("filter", "lfs"), &|_| false)
}

/// The exported paths of the index among these files and directories.
pub(super) fn exported_now<'p>(
    git: &Git<'_>,
    files: impl Iterator<Item = &'p [u8]> + Clone,
    directories: &BTreeSet<&'p [u8]>,
) -> Result<Exported, FetchError> {
    if !has_attributes(files.clone()) {
        return Ok(Exported::all());
    }
    let is_directory = |path: &[u8]| directories.contains(path);
    let paths = files.chain(directories.iter().copied());
    let asked = ("export-ignore", "set");
    let ignored = check(git, paths, asked, &is_directory, None)?;
    Ok(Exported(ignored))
}

/// The paths of a commit for which an attribute has a value.
fn in_commit(
    git: &Git<'_>,
    rev: &str,
    entries: &[Entry],
    scratch: &Path,
    attribute: (&str, &str),
    is_directory: &dyn Fn(&[u8]) -> bool,
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
    let found = check(git, paths, attribute, is_directory, Some(&index))?;
    let _ = std::fs::remove_file(index);
    Ok(found)
}

fn check<'p>(
    git: &Git<'_>,
    paths: impl Iterator<Item = &'p [u8]>,
    (attribute, wanted): (&str, &str),
    is_directory: &dyn Fn(&[u8]) -> bool,
    index: Option<&Path>,
) -> Result<HashSet<Vec<u8>>, FetchError> {
    let mut asked = Vec::new();
    for path in paths {
        asked.extend_from_slice(path);
        if is_directory(path) {
            asked.push(b'/');
        }
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
    let path = |triple: &[&[u8]]| triple[0].strip_suffix(b"/").unwrap_or(triple[0]).to_vec();
    Ok(found.map(path).collect())
}
