//! A working tree: the tracked files as they are on disk.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::attributes::{self, Exported};
use super::commit::{join, unusable};
use super::entries::SUBMODULE;
use super::run::Git;
use super::submodules;
use crate::tree::{Tree, TreeError};
use crate::{FetchError, GitRequest};

/// The state of a working tree.
pub(super) struct State {
    /// The checked-out commit, if there is one.
    pub(super) head: Option<String>,
    /// Whether tracked files differ from it.
    pub(super) dirty: bool,
    gone: BTreeSet<Vec<u8>>,
}

/// Reads the state of the working tree at `root`.
pub(super) fn state(git: &Git<'_>, root: &Path) -> Result<State, FetchError> {
    // With an unusable `.git`, git would use a repository of a directory above.
    if !git.line(["rev-parse", "--show-prefix"])?.is_empty() {
        let root = root.display();
        return Err(FetchError::git(format!("'{root}' is not a Git repository")));
    }
    let head = git.line(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]);
    let head = match head {
        Ok(head) => Some(head),
        // No output: a repository without commits.
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

/// Programs that the repository's own settings name must not run when it is only read; those of
/// the user's settings may.
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

/// Collects the tracked files of a working tree, and of its submodules if the request has them.
pub(super) struct Collector<'a> {
    pub(super) request: &'a GitRequest,
    pub(super) tree: &'a mut Tree,
    pub(super) warnings: &'a mut Vec<String>,
}

impl Collector<'_> {
    /// Adds the files of a working tree below a directory of the tree, and returns whether they
    /// differ from the commit. Submodules may be nested `depth` deep.
    pub(super) fn add(
        &mut self,
        git: &Git<'_>,
        root: &Path,
        state: &State,
        below: &[u8],
        depth: u32,
    ) -> Result<bool, FetchError> {
        let request = self.request;
        let listed = git.output(["ls-files", "-z", "-s"])?;
        let mut tracked: Vec<&[u8]> = Vec::new();
        for line in listed.split(|byte| *byte == 0) {
            let Some(tab) = memchr::memchr(b'\t', line) else {
                continue;
            };
            let mode = std::str::from_utf8(&line[..tab]).ok();
            let mode = mode.and_then(|words| words.split(' ').next());
            let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok());
            // Submodules are those of `.gitmodules`.
            if mode != Some(SUBMODULE) {
                tracked.push(&line[tab + 1..]);
            }
        }
        // A file in conflict is listed several times.
        tracked.dedup();
        let exported = match request.export_ignore {
            true => {
                let mut directories = BTreeSet::new();
                for path in &tracked {
                    directories.extend(memchr::memchr_iter(b'/', path).map(|end| &path[..end]));
                }
                attributes::exported_now(git, tracked.iter().copied(), &directories)?
            }
            false => Exported::all(),
        };
        self.tree
            .directory(below)
            .map_err(|error| unusable(request, &error))?;
        for path in tracked {
            if state.gone.contains(path) {
                continue;
            }
            if !exported.has(path) {
                // Its directories are exported all the same, as far as they are not ignored.
                let ends = memchr::memchr_iter(b'/', path).map(|end| &path[..end]);
                for directory in ends.take_while(|directory| exported.has(directory)) {
                    self.tree
                        .directory(&join(below, directory))
                        .map_err(|error| unusable(request, &error))?;
                }
                continue;
            }
            let place = root.join(OsStr::from_bytes(path));
            add_file(&place, &join(below, path), self.tree)
                .map_err(|error| unusable(request, &error))?;
        }
        let mut dirty = state.dirty;
        if request.submodules {
            for path in submodules::of_worktree(git, root)?.into_keys() {
                dirty |= self.submodule(git, root, &path, below, depth)?;
            }
        }
        if dirty {
            let warning = format!("Git tree '{}' is dirty", root.display());
            self.warnings.push(warning);
        }
        Ok(dirty)
    }

    fn submodule(
        &mut self,
        git: &Git<'_>,
        root: &Path,
        path: &[u8],
        below: &[u8],
        depth: u32,
    ) -> Result<bool, FetchError> {
        let shown = String::from_utf8_lossy(path);
        let refused = |reason: &str| {
            let root = root.display();
            FetchError::git(format!(
                "submodule '{shown}' of Git repository '{root}' {reason}"
            ))
        };
        let Some(depth) = depth.checked_sub(1) else {
            return Err(refused("is nested too deeply"));
        };
        let place = root.join(OsStr::from_bytes(path));
        if path.is_empty() || !is_repository(&place) {
            return Err(refused(
                "is not initialised; run 'git submodule update --init --recursive' there, or give a 'ref' or 'rev', whose submodules are fetched",
            ));
        }
        let inside = place.canonicalize().and_then(|place| {
            let root = root.canonicalize()?;
            Ok(place.starts_with(root))
        });
        if !inside.is_ok_and(|inside| inside) {
            return Err(refused("is a symbolic link that leads out of it"));
        }
        let inner = Git::worktree(&place, git.cancel);
        let state = state(&inner, &place)?;
        self.add(&inner, &place, &state, &join(below, path), depth)
    }
}

/// Whether a directory has a repository of its own; `git` would take that of a directory above.
fn is_repository(place: &Path) -> bool {
    place.join(".git").exists()
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
