//! Deduplication of equal files.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::Ordering;

use nix_compat::nar::{self, BUFFER_SIZE};
use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tvix_tree::set_canonical_times;

use super::files::{open_directory, remove_tree};
use super::{Inner, LocalStore};
use crate::StoreError;
use crate::blocking::blocking;
use crate::local_fs::stop::StopOnDrop;

/// Options of [`LocalStore::optimise`](super::LocalStore::optimise).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OptimiseOptions {
    /// Share disk blocks (`FICLONE`: Btrfs, XFS) instead of creating hard links. Each file keeps
    /// its own inode, and damage to one file does not affect the others. By default false: hard
    /// links to `.links`, as in Nix.
    pub reflink: bool,
}

impl OptimiseOptions {
    /// Sets [`reflink`](Self::reflink).
    pub fn with_reflink(mut self, reflink: bool) -> Self {
        self.reflink = reflink;
        self
    }
}

/// The result of a deduplication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct OptimiseReport {
    /// Number of files and symlinks that were examined.
    pub files: u64,
    /// Number of files that share their space now and did not before.
    pub shared: u64,
    /// Freed disk space, in bytes.
    pub bytes_freed: u64,
    /// Number of files removed from `.links` because their contents did not match their names.
    pub bad_links: u64,
}

impl LocalStore {
    /// Deduplicates equal files of valid paths. Safe beside all other operations: a file is
    /// replaced atomically by one with the same contents and metadata.
    ///
    /// If the future is dropped, the deduplication stops after the current path.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`]; [`StoreError::Backend`], also if `reflink` is set and the file
    /// system does not support it.
    pub async fn optimise(&self, options: OptimiseOptions) -> Result<OptimiseReport, StoreError> {
        self.0.scratch()?;
        let paths = self.all_valid_paths().await?;
        let stop = StopOnDrop::default();
        let (inner, stopped) = (self.0.clone(), stop.flag());
        blocking(&self.0.uri, move || {
            let mut work = Optimiser::new(&inner, options.reflink)?;
            for path in paths {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let name = CString::new(path.to_string()).unwrap_or_default();
                match work.node(inner.store_fd.as_fd(), &name, 0) {
                    // The path was collected meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    done => done.map_err(|error| inner.file_error("optimise", &path, error))?,
                }
            }
            Ok(work.report)
        })
        .await
    }
}

/// Depth limit of a tree. Deeper trees have path names that are too long to be used.
const MAX_DEPTH: usize = 2048;

struct Optimiser<'a> {
    inner: &'a Inner,
    links: OwnedFd,
    /// Inodes in `.links`: these files share their space already.
    known: HashSet<u64>,
    /// Names of `.links` that this run has hashed.
    checked: HashSet<String>,
    /// An open file for each hash, if blocks are to be shared.
    clones: Option<HashMap<NixHash, File>>,
    buffer: Vec<u8>,
    report: OptimiseReport,
}

/// Number of open files that are kept as sources of clones.
const MAX_CLONES: usize = 256;

impl<'a> Optimiser<'a> {
    fn new(inner: &'a Inner, reflink: bool) -> Result<Self, StoreError> {
        let opened = || -> io::Result<(OwnedFd, HashSet<u64>)> {
            match rustix::fs::mkdirat(&*inner.store_fd, c".links", Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let links = open_directory(inner.store_fd.as_fd(), c".links")?;
            let mut known = HashSet::new();
            let mut listing = Dir::read_from(&links)?;
            while let Some(entry) = listing.read() {
                known.insert(entry?.ino());
            }
            Ok((links, known))
        };
        let (links, known) = opened().map_err(|error| {
            let folder = inner.layout.store.join(".links");
            let action = format!("open '{}'", folder.display());
            inner.layout.failed(action, error)
        })?;
        Ok(Self {
            inner,
            links,
            known,
            checked: HashSet::new(),
            clones: reflink.then(HashMap::new),
            buffer: vec![0; BUFFER_SIZE],
            report: OptimiseReport::default(),
        })
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> io::Result<()> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < MAX_DEPTH => {
                let directory = open_directory(parent, name)?;
                let mut names = Vec::new();
                let mut listing = Dir::read_from(&directory)?;
                while let Some(entry) = listing.read() {
                    let name = entry?.file_name().to_owned();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        names.push(name);
                    }
                }
                drop(listing);
                for name in names {
                    self.node(directory.as_fd(), &name, depth + 1)?;
                }
                Ok(())
            }
            // A writable file is not canonical, and may change. Empty files and symlinks free no
            // blocks, but inodes: Nix links them as well.
            FileType::RegularFile if stat.st_mode & 0o222 == 0 => {
                self.report.files += 1;
                match self.clones.is_some() {
                    true if stat.st_size > 0 => self.clone(parent, name, &stat),
                    true => Ok(()),
                    false => self.link(parent, name, &stat),
                }
            }
            FileType::Symlink if self.clones.is_none() => {
                self.report.files += 1;
                self.link(parent, name, &stat)
            }
            _ => Ok(()),
        }
    }

    fn link(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        if self.known.contains(&stat.st_ino) {
            return Ok(());
        }
        let hash = self.hash_node(parent, name, stat)?;
        let link = link_name(&hash);
        let c_link = CString::new(link.clone())?;
        loop {
            match rustix::fs::linkat(parent, name, &self.links, &c_link, AtFlags::empty()) {
                Ok(()) => {
                    self.known.insert(stat.st_ino);
                    self.checked.insert(link);
                    return Ok(());
                }
                Err(Errno::EXIST) => {}
                // The file has the maximum number of links, or the directory is full: the file
                // stays unshared.
                Err(Errno::MLINK | Errno::NOSPC) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if self.checked.contains(&link) || self.is_good(&c_link, &hash)? {
                self.checked.insert(link);
                break;
            }
            // A damaged link would damage the files that are linked to it.
            match rustix::fs::unlinkat(&self.links, &c_link, AtFlags::empty()) {
                Ok(()) => self.report.bad_links += 1,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let place = self.inner.scratch().map_err(io::Error::other)?.reserve();
        let (directory, temporary) = place.place();
        match rustix::fs::linkat(&self.links, &c_link, directory, temporary, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::MLINK | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let linked = rustix::fs::statat(directory, temporary, AtFlags::SYMLINK_NOFOLLOW)?;
        if linked.st_ino == stat.st_ino {
            return Ok(());
        }
        self.known.insert(linked.st_ino);
        replace(parent, name, (directory, temporary))?;
        self.count(stat);
        Ok(())
    }

    fn clone(&mut self, parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let (file, hash) = self.hash(parent, name, stat)?;
        let Some(clones) = &mut self.clones else {
            return Ok(());
        };
        let Some(original) = clones.get(&hash) else {
            if clones.len() < MAX_CLONES {
                clones.insert(hash, file);
            }
            return Ok(());
        };
        if original.metadata()?.ino() == stat.st_ino {
            return Ok(());
        }
        let place = self.inner.scratch().map_err(io::Error::other)?.reserve();
        let (directory, temporary) = place.place();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(directory, temporary, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::ioctl_ficlone(&copy, original)?;
        rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o777))?;
        set_canonical_times(&copy)?;
        drop(copy);
        replace(parent, name, (directory, temporary))?;
        self.count(stat);
        Ok(())
    }

    fn count(&mut self, stat: &Stat) {
        self.report.shared += 1;
        if stat.st_nlink == 1 {
            self.report.bytes_freed += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    }

    /// The hash of a file or symlink as a NAR, which is the name of its link.
    fn hash_node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> io::Result<NixHash> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Ok(self.hash(parent, name, stat)?.1);
        }
        let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
        let mut writer = nar::Writer::new(NixHasher::new(HashAlgo::Sha256));
        writer
            .symlink(target.to_bytes())
            .map_err(io::Error::other)?;
        let hasher = writer.finish().map_err(io::Error::other)?;
        Ok(hasher.finish())
    }

    /// Opens a file and hashes it as a NAR.
    fn hash(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> io::Result<(File, NixHash)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::empty())?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut writer = nar::Writer::new(NixHasher::new(HashAlgo::Sha256));
        let executable = stat.st_mode & 0o100 != 0;
        writer
            .regular_start(executable, size)
            .map_err(io::Error::other)?;
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX);
            let want = want.min(self.buffer.len());
            let len = io::Read::read(&mut file, &mut self.buffer[..want])?;
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            writer
                .contents(&self.buffer[..len])
                .map_err(io::Error::other)?;
            left -= len as u64;
        }
        writer.regular_end().map_err(io::Error::other)?;
        let hasher = writer.finish().map_err(io::Error::other)?;
        Ok((file, hasher.finish()))
    }

    fn is_good(&mut self, link: &CStr, hash: &NixHash) -> io::Result<bool> {
        let links = self.links.try_clone()?;
        let stat = match rustix::fs::statat(&links, link, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Symlink => {}
            _ => return Ok(false),
        }
        Ok(self.hash_node(links.as_fd(), link, &stat)? == *hash)
    }
}

/// Nix's name of a file in `.links`: the hash of its NAR, without the algorithm.
pub(super) fn link_name(hash: &NixHash) -> String {
    nixbase32::encode(hash.digest_bytes())
}

/// Replaces a file, and restores the metadata of its directory.
fn replace(
    parent: BorrowedFd<'_>,
    name: &CStr,
    (directory, temporary): (BorrowedFd<'_>, &CStr),
) -> io::Result<()> {
    let stat = rustix::fs::fstat(parent)?;
    let rename = || rustix::fs::renameat(directory, temporary, parent, name);
    let writable = stat.st_mode & 0o200 != 0;
    let renamed = match rename() {
        Err(Errno::ACCESS) if !writable => {
            rustix::fs::fchmod(parent, Mode::from_raw_mode(0o755))?;
            rename()
        }
        renamed => renamed,
    };
    // The store directory itself is not part of an object, so its metadata need not be restored.
    if !writable {
        rustix::fs::fchmod(parent, Mode::from_raw_mode(stat.st_mode & 0o777))?;
        set_canonical_times(parent)?;
    }
    if let Err(error) = renamed {
        let _ = remove_tree(directory, temporary);
        return Err(error.into());
    }
    Ok(())
}
