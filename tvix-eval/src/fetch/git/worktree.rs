//! A working tree: what is tracked, as it is on disk now.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::attributes::{self, Exported};
use super::commit::{SUBMODULE, join, unusable};
use super::run::Git;
use crate::fetch::tree::{Tree, TreeError};
use crate::fetch::{FetchError, GitRequest};

/// What is known of a working tree.
pub(super) struct State {
    /// The commit that is checked out, if there is any yet.
    pub(super) head: Option<String>,
    /// Whether what is tracked differs from it.
    pub(super) dirty: bool,
    gone: BTreeSet<Vec<u8>>,
}

/// Looks at a working tree.
pub(super) fn state(git: &Git<'_>) -> Result<State, FetchError> {
    let head = git.line(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
    let head = match head {
        Ok(head) => Some(head),
        // Nothing said: there is a repository, and no commit.
        Err(FetchError::Git { log, .. }) if log.is_empty() => None,
        Err(error) => return Err(error),
    };
    let mut status = git.command([
        "status",
        "--porcelain=v1",
        "-z",
        "--untracked-files=no",
        "--ignore-submodules=all",
        "--no-renames",
    ]);
    without_own_filters(git, &mut status)?;
    let status = git.said(status, None)?;
    let lines = status
        .split(|byte| *byte == 0)
        .filter(|line| line.len() > 3);
    let gone = lines
        .filter(|line| line[..2].contains(&b'D'))
        .map(|line| line[3..].to_vec())
        .collect();
    Ok(State {
        head,
        dirty: !status.is_empty(),
        gone,
    })
}

/// Programs that the repository's own settings name must not run because somebody looks at it;
/// those of the user's settings may.
fn without_own_filters(git: &Git<'_>, command: &mut Command) -> Result<(), FetchError> {
    let args = [
        "config",
        "--local",
        "--includes",
        "-z",
        "--name-only",
        "--get-regexp",
    ];
    let found = git.output(args.into_iter().chain([r"^filter\."]));
    let found = match found {
        Ok(found) => found,
        // None.
        Err(FetchError::Git { log, .. }) if log.is_empty() => return Ok(()),
        Err(error) => return Err(error),
    };
    let filters: BTreeSet<&[u8]> = found
        .split(|byte| *byte == 0)
        .filter_map(|key| key.get(..memchr::memrchr(b'.', key)?))
        .collect();
    let count = std::env::var("GIT_CONFIG_COUNT").ok();
    let mut count: usize = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    for filter in filters {
        for (name, value) in [("clean", ""), ("process", ""), ("required", "false")] {
            let key = [filter, b".", name.as_bytes()].concat();
            command.env(format!("GIT_CONFIG_KEY_{count}"), OsString::from_vec(key));
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
    }
    command.env("GIT_CONFIG_COUNT", count.to_string());
    Ok(())
}

/// Adds what is tracked to a tree, below a folder of it. Whether that, with submodules, is dirty.
pub(super) fn add(
    git: &Git<'_>,
    root: &Path,
    state: &State,
    request: &GitRequest,
    below: &[u8],
    tree: &mut Tree,
) -> Result<bool, FetchError> {
    let listed = git.output(["ls-files", "-z", "-s"])?;
    let mut tracked: Vec<(bool, &[u8])> = Vec::new();
    for line in listed.split(|byte| *byte == 0) {
        let Some(tab) = memchr::memchr(b'\t', line) else {
            continue;
        };
        let mode = std::str::from_utf8(&line[..tab]).ok();
        let mode = mode.and_then(|words| words.split(' ').next());
        let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok());
        tracked.push((mode == Some(SUBMODULE), &line[tab + 1..]));
    }
    // What is in conflict is listed several times.
    tracked.dedup_by_key(|(_, path)| *path);
    let exported = match request.export_ignore {
        true => {
            let mut folders = BTreeSet::new();
            for (_, path) in &tracked {
                folders.extend(memchr::memchr_iter(b'/', path).map(|end| &path[..end]));
            }
            let files = tracked.iter().map(|(_, path)| *path);
            attributes::exported_now(git, files.chain(folders.iter().copied()))?
        }
        false => Exported::all(),
    };
    tree.directory(below)
        .map_err(|error| unusable(request, &error))?;
    let mut dirty = state.dirty;
    for (is_submodule, path) in tracked {
        if state.gone.contains(path) || !exported.has(path) {
            continue;
        }
        let place = root.join(std::ffi::OsStr::from_bytes(path));
        let path = join(below, path);
        if !is_submodule {
            add_file(&place, &path, tree).map_err(|error| unusable(request, &error))?;
        } else if request.submodules {
            let inner = Git::worktree(&place, git.cancel);
            let state = self::state(&inner)?;
            dirty |= add(&inner, &place, &state, request, &path, tree)?;
        }
    }
    Ok(dirty)
}

fn add_file(place: &Path, path: &[u8], tree: &mut Tree) -> Result<(), TreeError> {
    let metadata = place.symlink_metadata()?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(place)?.into_os_string().into_vec();
        tree.symlink(path, &target)
    } else if kind.is_file() {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        tree.file(path, executable, &mut File::open(place)?)
    } else {
        let reason = format!("'{}' is tracked, and no file", place.display());
        Err(io::Error::other(reason).into())
    }
}
