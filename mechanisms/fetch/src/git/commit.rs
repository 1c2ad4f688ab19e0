//! The files of a commit: as they were committed, without filters and conversions.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use super::attributes::{self, Exported};
use super::entries::{DIRECTORY, EXECUTABLE, Entry, SUBMODULE, SYMLINK, entries};
use super::lfs;
use super::run::{Git, Problem};
use crate::tree::{Tree, TreeError};
use crate::{FetchError, GitRequest};

/// Adds commits to a tree.
pub(super) struct Adding<'a> {
    pub(super) request: &'a GitRequest,
    pub(super) tree: &'a mut Tree,
    pub(super) scratch: &'a Path,
    /// Whether the repository has a working tree.
    pub(super) has_worktree: bool,
    pub(super) warnings: &'a mut Vec<String>,
}

impl Adding<'_> {
    /// Adds the files of a commit below a directory of the tree, and returns its submodules, as
    /// entries with a commit for an object.
    pub(super) fn add(
        &mut self,
        git: &Git<'_>,
        rev: &str,
        below: &[u8],
    ) -> Result<Vec<Entry>, FetchError> {
        let (request, scratch) = (self.request, self.scratch);
        let entries = entries(git, rev)?;
        let exported = match request.export_ignore {
            true => attributes::exported(git, rev, &entries, scratch, self.has_worktree)?,
            false => Exported::all(),
        };
        let lfs = match request.lfs {
            true => attributes::with_lfs(git, rev, &entries, scratch)?,
            false => HashSet::new(),
        };
        let unusable = |error: TreeError| unusable(request, &error);
        let mut asked = Vec::new();
        let mut files = Vec::new();
        let mut submodules = Vec::new();
        self.tree.directory(below).map_err(unusable)?;
        for entry in entries {
            if !exported.has(&entry.path) {
                continue;
            }
            let path = join(below, &entry.path);
            match entry.mode {
                DIRECTORY => self.tree.directory(&path).map_err(unusable)?,
                SUBMODULE => {
                    self.tree.directory(&path).map_err(unusable)?;
                    submodules.push(entry);
                }
                mode => {
                    asked.extend_from_slice(entry.id.as_bytes());
                    asked.push(b'\n');
                    let is_lfs = lfs.contains(&entry.path);
                    files.push(File { path, mode, is_lfs });
                }
            }
        }
        let input = Git::input(&asked)?;
        let command = git.command(["cat-file", "--batch"]);
        git.run(command, Some(input), |stdout| {
            let mut blobs = BufReader::with_capacity(1 << 17, stdout);
            for file in &files {
                let size = header(&mut blobs)?;
                let mut blob = (&mut blobs).take(size);
                self.file(file, size, &mut blob)?;
                if blob.limit() > 0 {
                    return Err(FetchError::git("a file of the commit ends early").into());
                }
                let mut newline = [0];
                blobs.read_exact(&mut newline)?;
            }
            Ok(())
        })?;
        Ok(submodules)
    }

    fn file(&mut self, file: &File, size: u64, blob: &mut impl Read) -> Result<(), Problem> {
        let unusable = |error: TreeError| unusable(self.request, &error);
        if file.mode == SYMLINK {
            let mut target = Vec::new();
            blob.take(1 << 16).read_to_end(&mut target)?;
            let added = self.tree.symlink(&file.path, &target);
            return Ok(added.map_err(unusable)?);
        }
        let mut start = Vec::new();
        if file.is_lfs {
            let path = String::from_utf8_lossy(&file.path);
            let wrong = if size >= lfs::POINTER_LIMIT {
                "too large"
            } else {
                blob.read_to_end(&mut start)?;
                if let Some(pointer) = lfs::parse(&start) {
                    let lfs::Pointer { sha256, size } = pointer;
                    return Err(FetchError::Unsupported(format!(
                        "cannot fetch '{path}' of '{}': it is a pointer of Git LFS (sha256:{sha256}, {size} bytes), and Git LFS servers are not supported; without 'lfs = true' the pointer is fetched",
                        self.request.url
                    ))
                    .into());
                }
                "invalid"
            };
            self.warnings.push(format!(
                "encountered file '/{path}' that should have been a git-lfs pointer, but is {wrong}"
            ));
        }
        let executable = file.mode == EXECUTABLE;
        let mut contents = start.as_slice().chain(blob);
        let added = self.tree.file(&file.path, executable, &mut contents);
        Ok(added.map_err(unusable)?)
    }
}

/// A file or symbolic link of a commit.
struct File {
    path: Vec<u8>,
    mode: u32,
    /// Whether its contents may be a pointer of Git LFS.
    is_lfs: bool,
}

/// The size of the blob that follows.
fn header(blobs: &mut BufReader<impl Read>) -> Result<u64, Problem> {
    let mut line = Vec::new();
    blobs.by_ref().take(1 << 12).read_until(b'\n', &mut line)?;
    let line = String::from_utf8_lossy(&line);
    let mut words = line.trim_end().split(' ');
    match (words.next(), words.next(), words.next().map(str::parse)) {
        (Some(_), Some("blob"), Some(Ok(size))) => Ok(size),
        _ => Err(FetchError::git(format!("an object of the commit is missing: {line}")).into()),
    }
}

pub(super) fn unusable(request: &GitRequest, error: &TreeError) -> FetchError {
    FetchError::Archive {
        url: request.url.clone(),
        reason: error.to_string(),
    }
}

pub(super) fn join(below: &[u8], path: &[u8]) -> Vec<u8> {
    match below.is_empty() {
        true => path.to_vec(),
        false => [below, b"/", path].concat(),
    }
}
