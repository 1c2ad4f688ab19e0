//! The file system that evaluation reads.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    Regular {
        /// Whether the owner may execute it.
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or pipe.
    Other,
}

impl FileKind {
    /// The type as returned by `builtins.readDir`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular { .. } => "regular",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Other => "unknown",
        }
    }
}

/// The file system of an evaluation. Paths are absolute and canonical. No method follows a symbolic
/// link in the last component; evaluation resolves links in other components itself.
///
/// # Contract
///
/// Files must not change during an evaluation, because each is parsed once. Methods are called on
/// the evaluation's own thread and may block. Their errors become errors of the evaluation, of kind
/// [`ErrorKind::Io`](crate::error::ErrorKind::Io).
pub trait Files {
    /// The bytes of a regular file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The type of a file; `None` if it does not exist.
    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>>;
    /// The size of a regular file in bytes, or an estimate; 0 if the size is unknown.
    fn len(&self, path: &Path) -> u64;
    /// The entries of a directory, in any order.
    fn entries(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileKind)>>;
    /// The target of a symbolic link.
    fn target(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// The path of a file for the operating system, from which a source can be added to the store;
    /// `None` if the file exists only in memory.
    fn on_disk(&self, path: &Path) -> Option<PathBuf>;
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        #[deny(clippy::missing_trait_methods)]
        impl<F: Files + ?Sized> Files for $pointer {
            fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
                (**self).read(path)
            }

            fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
                (**self).kind(path)
            }

            fn len(&self, path: &Path) -> u64 {
                (**self).len(path)
            }

            fn entries(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileKind)>> {
                (**self).entries(path)
            }

            fn target(&self, path: &Path) -> io::Result<Vec<u8>> {
                (**self).target(path)
            }

            fn on_disk(&self, path: &Path) -> Option<PathBuf> {
                (**self).on_disk(path)
            }
        }
    )*};
}

forward!(Arc<F>, Box<F>, &F);

/// A file system in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles(BTreeMap<PathBuf, Vec<u8>>);

impl MemoryFiles {
    /// Files by their absolute paths. A directory exists if there is a file below it.
    pub fn new<P: Into<PathBuf>, C: Into<Vec<u8>>>(
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Self {
        let files = files.into_iter();
        Self(
            files
                .map(|(path, text)| (path.into(), text.into()))
                .collect(),
        )
    }

    fn is_directory(&self, path: &Path) -> bool {
        let mut below = self.0.range(path.to_owned()..).map(|(file, _)| file);
        // The files of a directory directly follow its path in the map.
        let next = below.find(|file| *file != path);
        path == Path::new("/") || next.is_some_and(|file| file.starts_with(path))
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let found = self.0.get(path).cloned();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        Ok(match self.0.contains_key(path) {
            true => Some(FileKind::Regular { executable: false }),
            false => self.is_directory(path).then_some(FileKind::Directory),
        })
    }

    fn len(&self, path: &Path) -> u64 {
        self.0.get(path).map_or(0, |contents| contents.len() as u64)
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileKind)>> {
        let mut entries: BTreeMap<Vec<u8>, FileKind> = BTreeMap::new();
        for file in self.0.keys() {
            let Ok(rest) = file.strip_prefix(path) else {
                continue;
            };
            let mut parts = rest.components();
            let Some(name) = parts.next() else { continue };
            let kind = match parts.next() {
                Some(_) => FileKind::Directory,
                None => FileKind::Regular { executable: false },
            };
            entries.insert(name.as_os_str().as_bytes().to_vec(), kind);
        }
        Ok(entries.into_iter().collect())
    }

    fn target(&self, _: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::InvalidInput.into())
    }

    fn on_disk(&self, _: &Path) -> Option<PathBuf> {
        None
    }
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

fn kind_of(metadata: &std::fs::Metadata) -> FileKind {
    use std::os::unix::fs::PermissionsExt;
    let file_type = metadata.file_type();
    if file_type.is_file() {
        FileKind::Regular {
            executable: metadata.permissions().mode() & 0o100 != 0,
        }
    } else if file_type.is_dir() {
        FileKind::Directory
    } else if file_type.is_symlink() {
        FileKind::Symlink
    } else {
        FileKind::Other
    }
}

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        use std::io::Read as _;
        // As in C++ Nix: reads as many bytes as the file's size, which is 0 for an endless device.
        // A pipe is not opened, because opening blocks until a writer appears.
        let metadata = path.metadata()?;
        let mut contents = Vec::new();
        if metadata.is_dir() || metadata.len() > 0 {
            let length = usize::try_from(metadata.len()).unwrap_or_default();
            let file = std::fs::File::open(path)?;
            contents.try_reserve_exact(length)?;
            file.take(metadata.len()).read_to_end(&mut contents)?;
        }
        Ok(contents)
    }

    fn kind(&self, path: &Path) -> io::Result<Option<FileKind>> {
        match path.symlink_metadata() {
            Ok(metadata) => Ok(Some(kind_of(&metadata))),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn len(&self, path: &Path) -> u64 {
        path.symlink_metadata().map_or(0, |metadata| metadata.len())
    }

    fn entries(&self, path: &Path) -> io::Result<Vec<(Vec<u8>, FileKind)>> {
        std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                let file_type = entry.file_type()?;
                let kind = if file_type.is_dir() {
                    FileKind::Directory
                } else if file_type.is_symlink() {
                    FileKind::Symlink
                } else if file_type.is_file() {
                    FileKind::Regular { executable: false }
                } else {
                    FileKind::Other
                };
                Ok((entry.file_name().as_bytes().to_vec(), kind))
            })
            .collect()
    }

    fn target(&self, path: &Path) -> io::Result<Vec<u8>> {
        Ok(std::fs::read_link(path)?.as_os_str().as_bytes().to_vec())
    }

    fn on_disk(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }
}
