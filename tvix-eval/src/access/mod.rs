//! Files as expressions see them: links are resolved, imports are built, sources are copied.

mod allowed;
pub(crate) mod copy;
mod derivation;
mod excluded;
mod fetch;
mod import;
mod links;
mod realise;
mod references;
mod search;

use std::io;

pub(crate) use fetch::checked_name;
pub(crate) use links::Links;
use links::missing;

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::eval::Coercion;
use crate::files::FileKind;
use crate::interp::{Interp, cmp_names};
use crate::paths;
use crate::source::Pos;
use crate::value::{ContextId, Ref, Value};

impl<'h> Interp<'h> {
    /// A cell coerced to an absolute path, and the path's context.
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

    /// A cell coerced to an absolute canonical path, after its context was built. Links are
    /// resolved according to `links`; with `None`, they are not resolved.
    pub(crate) fn readable_path(
        &self,
        cell: Ref<'h>,
        links: Option<Links>,
        pos: Pos,
    ) -> Result<Vec<u8>> {
        let context = "while realising the context of a path";
        let (path, mentions) = self.coerce_path(cell, pos, context)?;
        let path = paths::canonical(&path);
        let resolved = || {
            let realised = self.realised_path(&path, mentions)?;
            match links {
                Some(links) => self.resolve(&realised, links),
                None => Ok(realised),
            }
        };
        resolved().within_with(pos, || {
            format!("while realising the context of path '{}'", lossy(&path))
        })
    }

    /// The bytes of the file at a resolved path.
    pub(crate) fn read_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.check_access(path)?;
        if let Some(text) = self.embedded(path) {
            return Ok(text.as_bytes().to_vec());
        }
        if let Some(made) = self.made_contents(path) {
            return Ok(made);
        }
        if self.is_excluded(path) {
            return Err(missing(path));
        }
        let local = self.local(path);
        self.world
            .files
            .read(paths::to_os(&local))
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(path),
                // C++ Nix opens the directory too, and fails when it reads.
                io::ErrorKind::IsADirectory => {
                    Error::new(ErrorKind::Io, "read of 4096 bytes: Is a directory")
                }
                _ => io_error("opening file", path, &error),
            })
    }

    /// The entries of the directory at a resolved path, sorted by name.
    pub(crate) fn read_entries(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, FileKind)>> {
        self.kind(path)?;
        let local = self.local(path);
        let entries = self.world.files.entries(paths::to_os(&local));
        let mut entries = entries.map_err(|error| {
            let why = os_message(&error);
            let message = format!("cannot read directory \"{}\": {why}", lossy(path));
            Error::new(ErrorKind::Io, message)
        })?;
        self.hide_unseen(path, &mut entries);
        entries.sort_unstable_by(|(a, _), (b, _)| cmp_names(a, b));
        Ok(entries)
    }

    /// Removes entries of a directory that evaluation may not see, and files that were excluded
    /// from a source.
    fn hide_unseen(&self, directory: &[u8], entries: &mut Vec<(Vec<u8>, FileKind)>) {
        if self.has_excluded_files(directory) {
            entries.retain(|(name, _)| !self.is_excluded(&join(directory, name)));
        }
        if self.is_confined() && !self.may_read_all(directory) {
            entries.retain(|(name, _)| self.is_allowed(&join(directory, name)));
        }
    }
}

/// The path of an entry of a directory.
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
    let why = os_message(error);
    Error::new(ErrorKind::Io, format!("{doing} '{}': {why}", lossy(path)))
}

/// The message of an operating system error, without its number.
fn os_message(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}
