//! Reading the small files of a batch before they are wanted.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::walk::{Batch, Folder, Node};
use nix_compat::nar::NarError;

/// Files of this many bytes or more are left to whoever writes the archive: of these, opening is
/// the smaller part.
const SMALL: u64 = 48 * 1024;
/// Bytes that are read of a batch, at most.
const ROOM: usize = 192 * 1024;
/// Large files that are kept open for a batch, at most.
const OPEN: usize = 4;

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) fd: OwnedFd,
    pub(super) executable: bool,
    pub(super) size: u64,
}

/// What was found of a file.
#[derive(Debug)]
pub(super) enum File {
    /// Its contents, in [`Fetched::data`].
    Whole {
        executable: bool,
        range: Range<usize>,
    },
    /// It is large, but need not be opened again.
    Open(Opened),
    Failed(NarError),
}

/// What was found of the files of a batch, by the nodes' places in it.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    files: Vec<Option<File>>,
    /// Longer than what is in it, so that it is not cleared for each batch.
    data: Vec<u8>,
}

impl Fetched {
    /// What was found of the file at this place, once. `None`: it has to be opened.
    pub(super) fn take(&mut self, index: usize) -> Option<File> {
        self.files.get_mut(index)?.take()
    }

    pub(super) fn data(&self, range: Range<usize>) -> &[u8] {
        &self.data[range]
    }

    /// Reads the files of `batch`, as far as there is room.
    pub(super) fn fetch(&mut self, batch: &Batch) {
        self.files.clear();
        self.data.resize(ROOM, 0);
        let (mut used, mut open) = (0, 0);
        for node in &batch.nodes {
            let Node::Leaf {
                folder,
                name,
                symlink: false,
                ..
            } = node
            else {
                self.files.push(None);
                continue;
            };
            let room = &mut self.data[used..];
            let file = match read_small(&batch.folders[*folder], batch.name(name), room) {
                Ok(Read::Whole { executable, len }) => {
                    let range = used..used + len;
                    used += len;
                    Some(File::Whole { executable, range })
                }
                Ok(Read::Large(opened)) if open < OPEN => {
                    open += 1;
                    Some(File::Open(opened))
                }
                Ok(Read::Large(_)) => None,
                Err(error) => Some(File::Failed(error)),
            };
            self.files.push(file);
        }
    }
}

enum Read {
    Whole { executable: bool, len: usize },
    Large(Opened),
}

fn read_small(folder: &Folder, name: &CStr, room: &mut [u8]) -> Result<Read, NarError> {
    let opened = open(folder, name)?;
    // One byte more than is expected: a file that has grown is noticed.
    let len = usize::try_from(opened.size).unwrap_or(usize::MAX);
    let Some(room) = room
        .get_mut(..len.saturating_add(1))
        .filter(|_| opened.size < SMALL)
    else {
        return Ok(Read::Large(opened));
    };
    let mut filled = 0;
    loop {
        match rustix::io::read(&opened.fd, &mut room[filled..]) {
            Ok(0) if filled < len => return Err(folder.changed(name)),
            Ok(more) => filled += more,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(folder.error("read", name, error)),
        }
        if filled > len {
            return Err(folder.changed(name));
        }
        if filled == len {
            let executable = opened.executable;
            return Ok(Read::Whole { executable, len });
        }
    }
}

/// Opens what was listed as a file.
pub(super) fn open(folder: &Folder, name: &CStr) -> Result<Opened, NarError> {
    // Non-blocking, should a fifo have taken the file's place; it is found out below.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = folder.open(name, flags)?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| folder.error("stat", name, error))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(folder.changed(name));
    }
    Ok(Opened {
        fd,
        executable: stat.st_mode & 0o100 != 0,
        size: u64::try_from(stat.st_size).unwrap_or(0),
    })
}
