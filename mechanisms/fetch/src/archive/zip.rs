//! Zip archives.

use std::fs::File;
use std::io::{BufReader, Read as _};

use zip::ZipArchive;

use super::error::ArchiveError;
use crate::Cancel;
use crate::tree::Tree;

/// Maximum length of a symbolic link that is read; longer ones are refused later.
const MOST_TARGET: u64 = 1 << 16;

const FORMAT: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;

/// Whether a file starts with the signature of a zip archive, or of an empty one.
pub(super) fn is_zip(start: &[u8]) -> bool {
    matches!(start, b"PK\x03\x04" | b"PK\x05\x06")
}

/// Reads the directory of an archive, which is at its end.
pub(super) fn open(archive: File) -> Result<ZipArchive<BufReader<File>>, ArchiveError> {
    Ok(ZipArchive::new(BufReader::new(archive))?)
}

/// Unpacks an archive into a tree.
///
/// C++ Nix reads archives whose URL does not end with `.zip` from the front, where no entry has a
/// mode: without `with_modes` all of them are files that are not executable, also symbolic links.
pub(super) fn unpack(
    mut archive: ZipArchive<BufReader<File>>,
    with_modes: bool,
    tree: &mut Tree,
    cancel: &Cancel,
) -> Result<(), ArchiveError> {
    for index in 0..archive.len() {
        if cancel.is_cancelled() {
            return Err(ArchiveError::Cancelled);
        }
        let mut entry = archive.by_index(index)?;
        let mut path = entry.name_raw().to_vec();
        // Some archives from Windows have backslashes.
        if !path.contains(&b'/') {
            for byte in path.iter_mut().filter(|byte| **byte == b'\\') {
                *byte = b'/';
            }
        }
        let mode = entry.unix_mode().filter(|_| with_modes).unwrap_or(0);
        if path.ends_with(b"/") || mode & FORMAT == DIRECTORY {
            tree.directory(&path)?;
        } else if mode & FORMAT == SYMLINK {
            let mut target = Vec::new();
            (&mut entry).take(MOST_TARGET).read_to_end(&mut target)?;
            tree.symlink(&path, &target)?;
        } else {
            tree.file(&path, mode & 0o100 != 0, &mut entry)?;
        }
    }
    Ok(())
}
