//! Archives: what they are compressed with is told by their first bytes, never by a name.

use std::io::{self, BufRead, BufReader, Read};

use super::Cancel;
use super::tree::{Tree, TreeError};

/// How much memory an xz decoder may use; `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// Names and other headers that come as entries of their own are never longer.
const MOST_HEADER: u64 = 1 << 20;

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArchiveError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("'{path}' is {what}, which no store path can have")]
    Special { path: String, what: &'static str },
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("it has a header of {0} bytes")]
    Header(u64),
    #[error("it was cancelled")]
    Cancelled,
}

/// Unpacks a tar archive, compressed or not, into a tree.
pub(super) fn unpack(
    archive: impl Read,
    tree: &mut Tree,
    most: u64,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    let mut archive = BufReader::with_capacity(1 << 17, archive);
    let plain = decompressed(&mut archive)?;
    // What is between the files counts too: an archive may be all headers.
    let limited = Limited {
        inner: plain,
        left: most.saturating_mul(2).saturating_add(1 << 20),
    };
    let mut archive = tar::Archive::new(limited);
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
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                tree.file(&path, executable, &mut entry)?;
            }
            tar::EntryType::Symlink => tree.symlink(&path, &target)?,
            tar::EntryType::Link => tree.hard_link(&path, &target)?,
            tar::EntryType::Char | tar::EntryType::Block => return Err(special("a device")),
            tar::EntryType::Fifo => return Err(special("a named pipe")),
            tar::EntryType::GNUSparse => {
                return Err(ArchiveError::Unsupported("it has sparse files"));
            }
            _ => return Err(special("of an unknown kind")),
        }
    }
    Ok(())
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
                        b"GNU.sparse.major" | b"GNU.sparse.map" => {
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

fn decompressed<'r>(
    archive: &'r mut BufReader<impl Read + 'r>,
) -> Result<Box<dyn Read + 'r>, ArchiveError> {
    let start = archive.fill_buf()?;
    Ok(if start.starts_with(b"\x1f\x8b") {
        Box::new(flate2::bufread::MultiGzDecoder::new(archive))
    } else if start.starts_with(b"\xfd7zXZ\0") {
        let flags = liblzma::stream::CONCATENATED;
        let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)
            .map_err(io::Error::from)?;
        Box::new(liblzma::bufread::XzDecoder::new_stream(archive, stream))
    } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
        Box::new(zstd::stream::read::Decoder::with_buffer(archive)?)
    } else if start.starts_with(b"BZh") {
        Box::new(bzip2::bufread::MultiBzDecoder::new(archive))
    } else if start.starts_with(b"PK\x03\x04") {
        return Err(ArchiveError::Unsupported("zip archives are not supported"));
    } else {
        Box::new(archive)
    })
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
