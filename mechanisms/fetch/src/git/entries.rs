//! The entries of a commit's tree.

use super::run::Git;
use crate::FetchError;

/// An entry of a commit's tree.
pub(super) struct Entry {
    pub(super) mode: u32,
    pub(super) id: String,
    pub(super) path: Vec<u8>,
}

pub(super) const EXECUTABLE: u32 = 0o100_755;
pub(super) const SYMLINK: u32 = 0o120_000;
pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const SUBMODULE: u32 = 0o160_000;

/// All entries of a commit's tree, directories before their entries.
pub(super) fn entries(git: &Git<'_>, rev: &str) -> Result<Vec<Entry>, FetchError> {
    let listed = git.output(["ls-tree", "-r", "-t", "-z", "--full-tree", rev])?;
    let lines = listed
        .split(|byte| *byte == 0)
        .filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let parse = || {
                let tab = memchr::memchr(b'\t', line)?;
                let mut words = std::str::from_utf8(&line[..tab]).ok()?.split(' ');
                let mode = u32::from_str_radix(words.next()?, 8).ok()?;
                let id = words.nth(1)?.to_owned();
                let path = line[tab + 1..].to_vec();
                Some(Entry { mode, id, path })
            };
            parse().ok_or_else(|| FetchError::git("git ls-tree printed an unknown line"))
        })
        .collect()
}
