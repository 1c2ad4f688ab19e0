//! Copying a file with its holes.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

/// Copies the `size` bytes of a file to an empty one. Holes stay holes: copied as zeros, a sparse
/// file could fill the disk. Returns false if it was interrupted, which is asked before each chunk.
pub(super) fn copy_sparse(
    from: &OwnedFd,
    to: &OwnedFd,
    size: u64,
    buffer: &mut [u8],
    interrupted: &dyn Fn() -> bool,
) -> io::Result<bool> {
    let mut offset = 0;
    while let Some((start, end)) = next_data(from, offset, size)? {
        offset = start;
        while offset < end {
            if interrupted() {
                return Ok(false);
            }
            let want = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let want = want.min(buffer.len());
            let len = match rustix::io::pread(from, &mut buffer[..want], offset) {
                Err(Errno::INTR) => continue,
                len => len?,
            };
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut written = 0;
            while written < len {
                let at = offset + written as u64;
                match rustix::io::pwrite(to, &buffer[written..len], at) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(more) => written += more,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            offset += len as u64;
        }
    }
    rustix::fs::ftruncate(to, size)?;
    Ok(true)
}

/// Where the next data are at or after `offset`, up to the next hole.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn next_data(file: &OwnedFd, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom;
    if offset >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Err(Errno::NXIO) => return Ok(None),
        // A file system that does not tell holes.
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some((offset, size))),
        start => start?,
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn next_data(_: &OwnedFd, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    Ok((offset < size).then_some((offset, size)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    #[test]
    fn holes_stay_holes() {
        let size = 1 << 40;
        let from = tempfile::tempfile().unwrap();
        for (offset, bytes) in [(0, "first"), (1 << 30, "middle"), (size - 4, "last")] {
            from.write_all_at(bytes.as_bytes(), offset).unwrap();
        }
        let to = tempfile::tempfile().unwrap();
        let (from, to) = (OwnedFd::from(from), OwnedFd::from(to));
        let mut buffer = vec![0; 64 << 10];
        assert!(copy_sparse(&from, &to, size, &mut buffer, &|| false).unwrap());
        let to = File::from(to);
        let metadata = to.metadata().unwrap();
        assert_eq!(metadata.len(), size);
        assert!(metadata.blocks() < 1024, "{}", metadata.blocks());
        let mut bytes = [0; 4];
        for (offset, expected) in [(0, b"firs"), (1 << 30, b"midd"), (size - 4, b"last")] {
            to.read_exact_at(&mut bytes, offset).unwrap();
            assert_eq!(&bytes, expected);
        }
        let again = OwnedFd::from(tempfile::tempfile().unwrap());
        assert!(!copy_sparse(&from, &again, size, &mut buffer, &|| true).unwrap());
    }
}
