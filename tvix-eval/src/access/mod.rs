//! Files as the language sees them: links resolved, builds waited for, sources copied.

mod allowed;
pub(crate) mod copy;
mod derivation;
mod fetch;
mod import;
mod left_out;
mod realise;
mod search;

use std::io;

pub(crate) use fetch::checked_name;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::eval::Coercion;
use crate::files::FileKind;
use crate::interp::Interp;
use crate::paths;
use crate::source::Pos;
use crate::value::{ContextId, Ref, Value};

/// So many symbolic links in one path are a cycle.
const MOST_LINKS: u32 = 64;

impl<'h> Interp<'h> {
    /// A cell as an absolute path, with what it mentions.
    pub(crate) fn coerce_path(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<(Vec<u8>, ContextId)> {
        let value = self.force_at(cell, pos).within(pos, context)?;
        if let Value::Path(path) = value {
            return Ok((path.bytes.to_vec(), ContextId::EMPTY));
        }
        let text = self.coerce_cell(cell, Coercion::STRICT, pos, context)?;
        if text.bytes.first() == Some(&b'/') {
            return Ok((text.bytes.to_vec(), text.context));
        }
        let shown = String::from_utf8_lossy(text.bytes);
        Err(Error::new(
            ErrorKind::Type,
            format!("string '{shown}' doesn't represent an absolute path"),
        )
        .within(pos, context))
    }

    /// A cell as an absolute canonical path that can be read: what it mentions is built first.
    pub(crate) fn readable_path(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<Vec<u8>> {
        let (path, mentions) = self.coerce_path(cell, pos, context)?;
        self.realised_path(&path, mentions).within_with(pos, || {
            format!("while realising the context of path '{}'", lossy(&path))
        })
    }

    /// What kind of file a path is; the last part is not followed.
    pub(crate) fn file_kind(&self, path: &[u8]) -> Result<Option<FileKind>> {
        let parent = paths::dir_name(path);
        let resolved = match parent {
            b"/" | b"." => path.to_vec(),
            _ => match self.resolve_links(parent)? {
                Some(parent) => join(
                    &parent,
                    &path[memchr::memrchr(b'/', path).map_or(0, |at| at + 1)..],
                ),
                None => return Ok(None),
            },
        };
        self.lstat(&resolved)
    }

    fn lstat(&self, path: &[u8]) -> Result<Option<FileKind>> {
        self.check_access(path)?;
        if self.is_left_out(path) {
            return Ok(None);
        }
        if self.made(path).is_some() {
            return Ok(Some(FileKind::Regular { executable: false }));
        }
        let local = self.local(path);
        self.world
            .files
            .kind(paths::to_os(&local))
            .map_err(|error| io_error("getting status of", path, &error))
    }

    /// A path without symbolic links; `None` if it does not exist.
    pub(crate) fn resolve_links(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.follow_links(path)?.ok())
    }

    /// A path without symbolic links, or where there is nothing.
    fn follow_links(&self, path: &[u8]) -> Result<std::result::Result<Vec<u8>, Vec<u8>>> {
        // The usual case, in one look-up: what exists and is no link has parents that exist, but
        // those may be links.
        let mut resolved: Vec<u8> = b"/".to_vec();
        let mut rest: Vec<Vec<u8>> = split_reversed(path);
        let mut links = 0;
        let confined = self.is_confined();
        while let Some(part) = rest.pop() {
            if part == b".." {
                resolved = paths::dir_name(&resolved).to_vec();
                continue;
            }
            let next = join(&resolved, &part);
            if confined && !self.is_allowed(&next) {
                // Whatever it is: it is not looked at. What it leads to will be refused, by its
                // whole name, as in C++ Nix.
                resolved = next;
                continue;
            }
            match self.known_kind(&next)? {
                None => {
                    let missing = rest.iter().rev().fold(next, |at, part| join(&at, part));
                    return Ok(Err(missing));
                }
                Some(FileKind::Symlink) => {
                    links += 1;
                    if links > MOST_LINKS {
                        let path = lossy(path);
                        let message = format!("infinite symlink recursion in path '{path}'");
                        let context = format!("while realising the context of path '{path}'");
                        return Err(Error::new(ErrorKind::Io, message).within(Pos::NONE, context));
                    }
                    let local = self.local(&next);
                    let target = self
                        .world
                        .files
                        .target(paths::to_os(&local))
                        .map_err(|error| io_error("reading symbolic link", &next, &error))?;
                    if target.first() == Some(&b'/') {
                        resolved = b"/".to_vec();
                    }
                    rest.extend(split_reversed(&target));
                }
                Some(_) => resolved = next,
            }
        }
        self.check_access(&resolved)?;
        Ok(Ok(resolved))
    }

    /// What kind of file a path is, remembered: directories above sources are looked at often.
    fn known_kind(&self, path: &[u8]) -> Result<Option<FileKind>> {
        if let Some(kind) = self.world.kinds.borrow().get(path) {
            return Ok(Some(*kind));
        }
        let mut kind = self.lstat(path)?;
        if kind.is_none() && self.is_above_store(path) {
            kind = Some(FileKind::Directory);
        }
        if let Some(kind @ (FileKind::Directory | FileKind::Symlink)) = kind {
            self.world.kinds.borrow_mut().insert(path.into(), kind);
        }
        Ok(kind)
    }

    /// Whether a path is the store directory or above it. Objects of a store elsewhere are read
    /// below it though there may be no such directory.
    fn is_above_store(&self, path: &[u8]) -> bool {
        let rest = self
            .world
            .settings
            .store_dir
            .as_str()
            .as_bytes()
            .strip_prefix(path);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// A path without symbolic links, which must exist.
    pub(crate) fn resolve_existing(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.follow_links(path)?.map_err(|missing| {
            let message = format!("path '{}' does not exist", lossy(&missing));
            Error::new(ErrorKind::Io, message)
        })
    }

    /// The bytes of a file.
    pub(crate) fn read_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        let resolved = self.resolve_existing(path)?;
        self.check_access(&resolved)?;
        if let Some(made) = self.made(&resolved) {
            return Ok(made);
        }
        let local = self.local(&resolved);
        self.world
            .files
            .read(paths::to_os(&local))
            .map_err(|error| match error.kind() {
                // C++ Nix opens directories as well, and fails when it reads.
                io::ErrorKind::IsADirectory => {
                    Error::new(ErrorKind::Io, "read of 4096 bytes: Is a directory")
                }
                _ => io_error("reading file", path, &error),
            })
    }

    /// The entries of a directory, in the order of their names.
    pub(crate) fn read_entries(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileKind)>> {
        let resolved = self.resolve_existing(path)?;
        self.check_access(&resolved)?;
        let local = self.local(&resolved);
        let mut entries = self
            .world
            .files
            .entries(paths::to_os(&local))
            .map_err(|error| {
                let why = error.to_string();
                let why = why.split(" (os error").next().unwrap_or_default();
                let message = format!("cannot read directory \"{}\": {why}", lossy(path));
                Error::new(ErrorKind::Io, message)
            })?;
        self.hide_unseen(&resolved, &mut entries);
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(entries)
    }

    /// Leaves out of a directory what may not be seen, and what is not there.
    fn hide_unseen(&self, directory: &[u8], entries: &mut Vec<(Vec<u8>, FileKind)>) {
        if self.is_partly_left_out(directory) {
            entries.retain(|(name, _)| !self.is_left_out(&join(directory, name)));
        }
        if self.is_confined() && !self.may_read_all(directory) {
            entries.retain(|(name, _)| self.is_allowed(&join(directory, name)));
        }
    }
}

/// The parts of a path, last first, so that the next is popped; `.` is left out.
fn split_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}

/// A name in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cold]
pub(crate) fn io_error(doing: &str, path: &[u8], error: &io::Error) -> Box<Error> {
    Error::new(ErrorKind::Io, format!("{doing} '{}': {error}", lossy(path)))
}
