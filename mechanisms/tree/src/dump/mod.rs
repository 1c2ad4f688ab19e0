//! Packs a tree of the file system.

mod ahead;
mod fetch;
mod walk;

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use nix_compat::nar::{BUFFER_SIZE, MAX_TARGET_LEN, NarError, Writer};

use fetch::{Fetched, Opened};
use walk::{Batch, Folder, Node, Walk};

/// Batches of a tree that the calling thread reads alone: threads are not worth their start for
/// less.
const ALONE: usize = 4;

/// Writes the archive of the tree at `path` to `writer`.
///
/// `path` may be a file, a directory or a symlink; symlinks are archived, never followed, the
/// last component of `path` included. A file is executable if its owner may execute it.
///
/// Opening a small file takes longer than hashing it, so in trees of more than about a hundred
/// files one or two threads read small files ahead, a few megabytes at most, while `writer` is
/// written to. It is only ever written to from the calling thread.
///
/// The tree must not change meanwhile: a file that grows, shrinks, vanishes or becomes
/// something else is an error, but one that is overwritten in place with as many bytes is not
/// noticed.
///
/// # Errors
///
/// [`NarError::File`] if a file cannot be read, [`NarError::UnsupportedType`] for sockets,
/// fifos and devices, [`NarError::Changed`], each with the file's path;
/// [`NarError::Unwritable`] if the tree is deeper than [`MAX_DEPTH`](nix_compat::nar::MAX_DEPTH);
/// [`NarError::Io`] if `writer` fails. What has been written is then worthless.
pub fn dump_path(path: &Path, writer: impl Write) -> Result<(), NarError> {
    let mut writer = Writer::new(writer);
    dump_node(path, &mut writer)?;
    writer.finish()?;
    Ok(())
}

/// Writes the tree at `path` as the next node of an archive under way: for archives that are
/// put together from several trees, or from parts of one.
///
/// Otherwise as [`dump_path`].
pub fn dump_node<W: Write>(path: &Path, writer: &mut Writer<W>) -> Result<(), NarError> {
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
    /// Writes the nodes of a batch, with what has been fetched of it already, if anything.
    fn batch(
        &mut self,
        batch: &mut Batch,
        mut fetched: Option<&mut Fetched>,
    ) -> Result<(), NarError> {
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

    fn regular(&mut self, folder: &Folder, name: &CStr, opened: Opened) -> Result<(), NarError> {
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
                return self.writer.regular_end();
            }
        }
    }

    fn symlink(&mut self, folder: &Folder, name: &CStr) -> Result<(), NarError> {
        let mut target = std::mem::take(&mut self.target);
        target.clear();
        target.reserve(MAX_TARGET_LEN + 1);
        let target = folder.read_link(name, target)?;
        self.writer.symlink(target.to_bytes())?;
        self.target = target.into_bytes();
        Ok(())
    }
}
