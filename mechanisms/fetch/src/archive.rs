//! Archives: tar, in any compression, and zip. The contents show which it is, not the name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek as _};

use tvix_http::decode::{DecodeError, Decoder, Limits};

use super::tree::{Tree, TreeError};
use super::{Cancel, zip};

/// Codings on top of each other, such as gzip of gzip.
const MOST_CODINGS: usize = 4;
/// Names and other headers that come as entries of their own are never longer.
const MOST_HEADER: u64 = 1 << 20;

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Zip(#[from] ::zip::result::ZipError),
    #[error("'{path}' is {what}, which no store path can have")]
    Special { path: String, what: &'static str },
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("it has a header of {0} bytes")]
    Header(u64),
    #[error("it was cancelled")]
    Cancelled,
}

/// Unpacks an archive into a tree. `named_zip`: its name ends with `.zip`.
pub(super) fn unpack(
    mut archive: File,
    named_zip: bool,
    tree: &mut Tree,
    most: u64,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let mut start = Vec::new();
    (&mut archive).take(4).read_to_end(&mut start)?;
    archive.rewind()?;
    if zip::is_zip(&start) {
        return zip::unpack(zip::open(archive)?, named_zip, tree, cancel);
    }
    if named_zip {
        // Something may stand before a zip archive, such as a program that unpacks it.
        if let Ok(archive) = zip::open(archive.try_clone()?) {
            return zip::unpack(archive, named_zip, tree, cancel);
        }
        archive.rewind()?;
    }
    let plain = decoded(archive)?;
    // Headers count too: an archive may be nothing else.
    let limited = Limited {
        inner: plain,
        left: most.saturating_mul(2).saturating_add(1 << 20),
    };
    let mut archive = tar::Archive::new(limited);
    unpack_tar(&mut archive, tree, cancel)?;
    // A stream that is cut off behind the end of the tar archive is an error as well.
    let mut rest = archive.into_inner();
    let mut buffer = vec![0; 1 << 16];
    while rest.read(&mut buffer)? > 0 {
        if cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
    }
    Ok(())
}

fn unpack_tar(
    archive: &mut tar::Archive<impl Read>,
    tree: &mut Tree,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    // A hard link may come before the file that it names.
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
            // Before there were types of entries, a slash made a directory.
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
    Ok(())
}

/// Kinds of entries that are no files.
const GNU_DIRECTORY: u8 = b'D';
const MULTI_VOLUME: u8 = b'M';
const OLD_LONG_NAMES: u8 = b'N';
const VOLUME: u8 = b'V';
const SOLARIS_ACL: u8 = b'A';

/// A reader that must have this many bytes more.
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

/// What entries say of the entry after them.
#[derive(Default)]
struct Extra {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Extra {
    /// Reads an entry if it is such a one, and says whether it was.
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
            // `git archive` says the commit in one.
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

/// The contents of a file without its compression.
fn decoded(archive: File) -> Result<Box<dyn Read>, ArchiveError> {
    let mut reader: Box<dyn Read> = Box::new(archive);
    for _ in 0..MOST_CODINGS {
        let decoder = Decoder::sniffing(reader, &Limits::default())?;
        let coded = decoder.coding().is_some();
        reader = Box::new(decoder);
        if !coded {
            break;
        }
    }
    Ok(reader)
}

/// A reader that fails when more was read than is allowed.
struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::other("it is too large when it is decompressed")),
        }
        Ok(read)
    }
}
