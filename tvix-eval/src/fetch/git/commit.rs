//! The files of a commit: as they were committed, without filters and conversions.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;

use super::attributes::{self, Exported};
use super::run::{Git, Problem};
use crate::fetch::tree::{Tree, TreeError};
use crate::fetch::{FetchError, GitRequest};

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

/// All entries of a commit's tree, directories before what is in them.
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
            parse().ok_or_else(|| FetchError::git("git ls-tree says what nobody understands"))
        })
        .collect()
}

/// Adds the files of a commit to a tree, below a folder of it. What is left are its submodules.
pub(super) fn add(
    git: &Git<'_>,
    rev: &str,
    request: &GitRequest,
    below: &[u8],
    tree: &mut Tree,
    scratch: &Path,
) -> Result<Vec<Entry>, FetchError> {
    let entries = entries(git, rev)?;
    let exported = match request.export_ignore {
        true => attributes::exported(git, rev, &entries, scratch)?,
        false => Exported::all(),
    };
    let mut asked = Vec::new();
    let mut files = Vec::new();
    let mut submodules = Vec::new();
    tree.directory(below)
        .map_err(|error| unusable(request, &error))?;
    for entry in entries {
        if !exported.has(&entry.path) {
            continue;
        }
        let path = join(below, &entry.path);
        match entry.mode {
            DIRECTORY => tree
                .directory(&path)
                .map_err(|error| unusable(request, &error))?,
            SUBMODULE => {
                tree.directory(&path)
                    .map_err(|error| unusable(request, &error))?;
                submodules.push(entry);
            }
            _ => {
                asked.extend_from_slice(entry.id.as_bytes());
                asked.push(b'\n');
                files.push((path, entry.mode));
            }
        }
    }
    let input = Git::input(&asked)?;
    git.run(
        git.command(["cat-file", "--batch"]),
        Some(input),
        |stdout| {
            let mut blobs = BufReader::with_capacity(1 << 17, stdout);
            for (path, mode) in &files {
                let size = header(&mut blobs)?;
                let mut blob = (&mut blobs).take(size);
                if *mode == SYMLINK {
                    let mut target = Vec::new();
                    (&mut blob).take(1 << 16).read_to_end(&mut target)?;
                    tree.symlink(path, &target)
                        .map_err(|error| unusable(request, &error))?;
                } else {
                    let executable = *mode == EXECUTABLE;
                    tree.file(path, executable, &mut blob)
                        .map_err(|error| unusable(request, &error))?;
                }
                if blob.limit() > 0 {
                    return Err(FetchError::git("a file of the commit ends early").into());
                }
                let mut newline = [0];
                blobs.read_exact(&mut newline)?;
            }
            Ok(())
        },
    )?;
    Ok(submodules)
}

/// The size of the blob that follows.
fn header(blobs: &mut BufReader<impl std::io::Read>) -> Result<u64, Problem> {
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
