//! Tar archives.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::error::ArchiveError;
use crate::Cancel;
use crate::tree::Tree;

/// Maximum size of headers that are entries of their own, such as long names.
const MOST_HEADER: u64 = 1 << 20;

/// Unpacks an archive into a tree, and returns the reader behind the end of the archive.
pub(super) fn unpack<R: Read>(
    archive: R,
    tree: &mut Tree,
    cancel: &Cancel,
) -> Result<R, ArchiveError> {
    let mut archive = tar::Archive::new(archive);
    // A hard link may precede its target.
    let mut hard_links = BTreeMap::new();
    let mut extra = Extra::default();
    for entry in archive.entries()?.raw(true) {
        if cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        let mut entry = entry?;
        let size = entry.header().entry_size()?;
        let kind = entry.header().entry_type();
        if extra.take(kind, size, &mut entry)? {
            continue;
        }
        let extra = std::mem::take(&mut extra);
        if extra.size.is_some_and(|real| real != size) {
            return Err(ArchiveError::Unsupported(
                "it has a file whose size is only in an extended header",
            ));
        }
        let path = match extra.path {
            Some(path) => path,
            None => entry.header().path_bytes().into_owned(),
        };
        let target = match extra.target {
            Some(target) => target,
            None => entry
                .header()
                .link_name_bytes()
                .map(std::borrow::Cow::into_owned)
                .unwrap_or_default(),
        };
        let executable = entry.header().mode()? & 0o100 != 0;
        let special = |what| ArchiveError::Special {
            path: String::from_utf8_lossy(&path).into_owned(),
            what,
        };
        match kind {
            tar::EntryType::Directory => tree.directory(&path)?,
            // In old archives without entry types, a trailing slash marks a directory.
            tar::EntryType::Regular if path.ends_with(b"/") => tree.directory(&path)?,
            tar::EntryType::Symlink => tree.symlink(&path, &target)?,
            tar::EntryType::Link => {
                hard_links.insert(path, target);
            }
            tar::EntryType::Char | tar::EntryType::Block => return Err(special("a device")),
            tar::EntryType::Fifo => return Err(special("a named pipe")),
            tar::EntryType::GNUSparse => {
                return Err(ArchiveError::Unsupported("it has sparse files"));
            }
            kind => match kind.as_byte() {
                GNU_DIRECTORY => tree.directory(&path)?,
                VOLUME | SOLARIS_ACL => {}
                MULTI_VOLUME | OLD_LONG_NAMES => return Err(special("of an unknown kind")),
                // POSIX: unknown kinds are regular files.
                _ => tree.file(&path, executable, &mut Exact::new(&mut entry, size))?,
            },
        }
    }
    for (path, target) in hard_links {
        tree.hard_link(&path, &target)?;
    }
    Ok(archive.into_inner())
}

/// Kinds of entries that are not files.
const GNU_DIRECTORY: u8 = b'D';
const MULTI_VOLUME: u8 = b'M';
const OLD_LONG_NAMES: u8 = b'N';
const VOLUME: u8 = b'V';
const SOLARIS_ACL: u8 = b'A';

/// A reader that fails if it ends before this many bytes.
struct Exact<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Exact<R> {
    fn new(inner: R, left: u64) -> Self {
        Self { inner, left }
    }
}

impl<R: Read> Read for Exact<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            let message = "the archive is cut off in the contents of a file";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(read)
    }
}

/// Headers that describe the next entry.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extra {
    /// Reads an entry if it is such a header; returns whether it is.
    fn take(
        &mut self,
        kind: tar::EntryType,
        size: u64,
        entry: &mut impl Read,
    ) -> Result<bool, ArchiveError> {
        let mut whole = || -> Result<Vec<u8>, ArchiveError> {
            if size > MOST_HEADER {
                return Err(ArchiveError::Header(size));
            }
            let mut bytes = Vec::new();
            entry.take(size).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match kind {
            tar::EntryType::GNULongName => self.path = Some(before_nul(whole()?)),
            tar::EntryType::GNULongLink => self.target = Some(before_nul(whole()?)),
            tar::EntryType::XHeader => {
                let bytes = whole()?;
                for record in tar::PaxExtensions::new(&bytes) {
                    let record = record?;
                    let value = record.value_bytes();
                    match record.key_bytes() {
                        b"path" => self.path = Some(value.to_vec()),
                        b"linkpath" => self.target = Some(value.to_vec()),
                        b"size" => {
                            let text = record.value().ok();
                            self.size = text.and_then(|text| text.parse().ok());
                        }
                        key if key.starts_with(b"GNU.sparse.") => {
                            return Err(ArchiveError::Unsupported("it has sparse files"));
                        }
                        _ => {}
                    }
                }
            }
            // `git archive` stores the commit in one.
            tar::EntryType::XGlobalHeader => drop(whole()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn before_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = memchr::memchr(0, &bytes) {
        bytes.truncate(end);
    }
    bytes
}
