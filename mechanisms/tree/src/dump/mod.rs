//! Packing a tree.

mod ahead;
mod fetch;
mod walk;

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use nix_compat::nar::{BUFFER_SIZE, MAX_TARGET_LEN, Writer};

use crate::TreeError;
use fetch::{Fetched, Opened};
use walk::{Batch, Folder, Node, Walk};

/// Number of batches that the calling thread reads alone. Threads cost more than they save on smaller
/// trees.
const ALONE: usize = 4;

/// Writes the archive of the tree at `path` to `writer`.
///
/// `path` may be a file, a directory or a symlink. Symlinks are archived, never followed, including the
/// last component of `path`. A file is executable if its owner may execute it.
///
/// Opening a small file takes longer than hashing it, so in trees of more than about a hundred files
/// one or two threads read small files ahead (a few megabytes at most). Only the calling thread uses
/// `writer`.
///
/// The tree must not change meanwhile. A file that grows, shrinks, vanishes or changes its type is an
/// error; one that is overwritten in place with the same number of bytes is not detected.
///
/// # Errors
///
/// [`TreeError::File`] if a file cannot be read, [`TreeError::UnsupportedType`] for sockets, fifos and
/// devices, [`TreeError::Changed`], each with the path of the file;
/// [`NarError::InvalidWrite`](nix_compat::nar::NarError::InvalidWrite) if the tree is deeper than
/// [`MAX_DEPTH`](nix_compat::nar::MAX_DEPTH); [`NarError::Io`](nix_compat::nar::NarError::Io) if
/// `writer` fails. The output is then incomplete.
pub fn dump_path(path: &Path, writer: impl Write) -> Result<(), TreeError> {
    let mut writer = Writer::new(writer);
    dump_node(path, &mut writer)?;
    writer.finish()?;
    Ok(())
}

/// Writes the tree at `path` as the next node of `writer`.
fn dump_node<W: Write>(path: &Path, writer: &mut Writer<W>) -> Result<(), TreeError> {
    let mut walk = Walk::new(path)?;
    let mut dumper = Dumper {
        writer,
        buffer: vec![0; BUFFER_SIZE],
        target: Vec::new(),
    };
    let mut batch = Batch::default();
    for _ in 0..ALONE {
        batch.clear();
        let more = walk.next(&mut batch);
        dumper.batch(&mut batch, None)?;
        if !more {
            return Ok(());
        }
    }
    ahead::dump(walk, &mut dumper)
}

struct Dumper<'a, W> {
    writer: &'a mut Writer<W>,
    buffer: Vec<u8>,
    /// Reused for symlink targets.
    target: Vec<u8>,
}

impl<W: Write> Dumper<'_, W> {
    /// Writes the nodes of a batch, using the files that were read in advance, if any.
    fn batch(
        &mut self,
        batch: &mut Batch,
        mut fetched: Option<&mut Fetched>,
    ) -> Result<(), TreeError> {
        for (index, node) in batch.nodes.iter().enumerate() {
            match node {
                Node::Enter { name } => {
                    if let Some(name) = name {
                        self.writer.entry(batch.name(name).to_bytes())?;
                    }
                    self.writer.directory_start()?;
                }
                Node::Leave => self.writer.directory_end()?,
                Node::Leaf {
                    folder,
                    name,
                    entry,
                    symlink,
                } => {
                    let (folder, name) = (&*batch.folders[*folder], batch.name(name));
                    if *entry {
                        self.writer.entry(name.to_bytes())?;
                    }
                    if *symlink {
                        self.symlink(folder, name)?;
                        continue;
                    }
                    match fetched.as_mut().and_then(|fetched| fetched.take(index)) {
                        Some(fetch::File::Whole { executable, range }) => {
                            let data = fetched.as_ref().map_or(&[][..], |it| it.data(range));
                            self.writer.regular(executable, data)?;
                        }
                        Some(fetch::File::Failed(error)) => return Err(error),
                        Some(fetch::File::Open(opened)) => self.regular(folder, name, opened)?,
                        None => self.regular(folder, name, fetch::open(folder, name)?)?,
                    }
                }
            }
        }
        let Some((name, error)) = batch.fault.take() else {
            return Ok(());
        };
        // A bad name comes before what is wrong with what it names.
        if let Some(name) = name {
            self.writer.entry(batch.name(&name).to_bytes())?;
        }
        Err(error)
    }

    fn regular(&mut self, folder: &Folder, name: &CStr, opened: Opened) -> Result<(), TreeError> {
        let Opened {
            fd,
            executable,
            size,
        } = opened;
        self.writer.regular_start(executable, size)?;
        let mut file = File::from(fd);
        let mut remaining = size;
        loop {
            // One byte more than is missing: a file that has grown is noticed, and the read
            // that comes short at the end of the file is the last one.
            let want = usize::try_from(remaining)
                .unwrap_or(usize::MAX)
                .saturating_add(1)
                .min(self.buffer.len());
            let len = match file.read(&mut self.buffer[..want]) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(folder.error("read", name, error)),
            };
            if len as u64 > remaining || (len == 0 && remaining > 0) {
                return Err(folder.changed(name));
            }
            remaining -= len as u64;
            self.writer.contents(&self.buffer[..len])?;
            if remaining == 0 && len < want {
                return Ok(self.writer.regular_end()?);
            }
        }
    }

    fn symlink(&mut self, folder: &Folder, name: &CStr) -> Result<(), TreeError> {
        let mut target = std::mem::take(&mut self.target);
        target.clear();
        target.reserve(MAX_TARGET_LEN + 1);
        let target = folder.read_link(name, target)?;
        self.writer.symlink(target.to_bytes())?;
        self.target = target.into_bytes();
        Ok(())
    }
}
