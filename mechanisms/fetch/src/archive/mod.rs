//! Archives: tar with any compression, and zip. The contents determine the format, not the name.

mod error;
mod tar;
mod zip;

pub(super) use error::ArchiveError;

use std::fs::File;
use std::io::{self, Read, Seek as _};

use tvix_http::decode::{Decoder, Limits};

use super::Cancel;
use super::tree::Tree;

/// Maximum number of nested codings, such as gzip of gzip.
const MOST_CODINGS: usize = 4;

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
        // A zip archive may follow other data, such as a program that unpacks it.
        if let Ok(archive) = zip::open(archive.try_clone()?) {
            return zip::unpack(archive, named_zip, tree, cancel);
        }
        archive.rewind()?;
    }
    let plain = decoded(archive)?;
    // Headers count too: an archive may consist of headers only.
    let limited = Limited {
        inner: plain,
        left: most.saturating_mul(2).saturating_add(1 << 20),
    };
    let mut rest = tar::unpack(limited, tree, cancel)?;
    // A stream that is truncated after the end of the tar archive is an error too.
    let mut buffer = vec![0; 1 << 16];
    while rest.read(&mut buffer)? > 0 {
        if cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
    }
    Ok(())
}

/// The decompressed contents of a file.
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

/// A reader that fails when a limit is exceeded.
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
