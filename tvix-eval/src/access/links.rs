//! Symbolic links: resolution of paths before they are read.
//!
//! Every builtin and argument that takes a path resolves it with [`Interp::resolve`], in the mode
//! that C++ Nix uses for it, and then works with the result:
//!
//! | path argument of | mode |
//! |---|---|
//! | `readFile`, `readDir`, `hashFile`, `path`, `filterSource`, `findFile`, `<x>` | [`Links::All`] |
//! | `pathExists`, `"${./path}"` | [`Links::Parents`] |
//! | `import`, `scopedImport`, a file argument | [`Interp::imported_file`]: the last component is resolved, its parent directories keep their names |
//! | `readFileType` | [`Interp::kind_without_links`]: a link in a parent directory is an error |

use super::{io_error, join, lossy, os_message};
use crate::error::{Error, ErrorKind, Result};
use crate::files::FileKind;
use crate::interp::Interp;
use crate::paths;

/// Maximum number of symbolic links in the resolution of a path.
const MAX_LINKS: u32 = 1024;

/// The symbolic links to resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Those of the last component and of its parent directories.
    All,
    /// Those of the parent directories.
    Parents,
}

impl<'h> Interp<'h> {
    /// A path without symbolic links. Components that do not exist, or that evaluation may not see,
    /// are kept: reading the result reports them.
    pub(crate) fn resolve(&self, path: &[u8], links: Links) -> Result<Vec<u8>> {
        if self.is_without_links(path, links)? {
            return Ok(path.to_vec());
        }
        let resolved = self.resolve_each(path, links)?;
        if resolved == path && !self.is_confined() {
            let parent = paths::dir_name(path);
            // One that does not exist may be built later.
            if self.stat(parent)? == Some(FileKind::Directory) {
                self.world.direct.borrow_mut().insert(parent.into());
            }
        }
        Ok(resolved)
    }

    /// Whether a path is known to have no links to resolve: its directory was resolved before, and
    /// has none.
    fn is_without_links(&self, path: &[u8], links: Links) -> Result<bool> {
        let parent = paths::dir_name(path);
        if self.is_confined() || !self.world.direct.borrow().contains(parent) {
            return Ok(false);
        }
        let name = match parent {
            b"/" => path.get(1..),
            _ => path.get(parent.len() + 1..),
        };
        if matches!(name, None | Some(b"" | b"." | b"..")) {
            return Ok(false);
        }
        Ok(links == Links::Parents || self.stat(path)? != Some(FileKind::Symlink))
    }

    fn resolve_each(&self, path: &[u8], links: Links) -> Result<Vec<u8>> {
        let mut resolved: Vec<u8> = Vec::with_capacity(path.len());
        let mut rest = split_reversed(path);
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            let parent = resolved.len();
            if part == b".." {
                let end = memchr::memrchr(b'/', &resolved).unwrap_or(0);
                resolved.truncate(end);
                continue;
            }
            resolved.push(b'/');
            resolved.extend_from_slice(&part);
            if (links == Links::Parents && rest.is_empty())
                || self.visible_kind(&resolved)? != Some(FileKind::Symlink)
            {
                continue;
            }
            followed += 1;
            if followed > MAX_LINKS {
                let message = format!("infinite symlink recursion in path '{}'", lossy(path));
                return Err(Error::new(ErrorKind::Io, message));
            }
            let target = self.link_target(&resolved)?;
            resolved.truncate(match target.first() {
                Some(b'/') => 0,
                _ => parent,
            });
            rest.extend(split_reversed(&target));
        }
        if resolved.is_empty() {
            resolved.push(b'/');
        }
        Ok(resolved)
    }

    /// The file to read when a path is imported.
    ///
    /// A link in the last component is resolved repeatedly. Its target is relative to the directory
    /// by the name that was given, so `..` in the target removes a component of that name. A
    /// directory stands for its `default.nix`.
    pub(crate) fn imported_file(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut path = path.to_vec();
        let mut followed = 0;
        while path != b"/" {
            followed += 1;
            if followed >= MAX_LINKS {
                let message = format!(
                    "too many symbolic links encountered while traversing the path '{}'",
                    lossy(&path)
                );
                return Err(Error::new(ErrorKind::Io, message));
            }
            let parent = paths::dir_name(&path);
            let name = &path[memchr::memrchr(b'/', &path).map_or(0, |at| at + 1)..];
            let real = join(&self.resolve(parent, Links::All)?, name);
            match self.kind(&real)? {
                FileKind::Symlink => {
                    let target = self.link_target(&real)?;
                    path = match target.first() {
                        Some(b'/') => paths::canonical(&target),
                        _ => paths::canonical(&join(parent, &target)),
                    };
                }
                FileKind::Directory => break,
                kind => {
                    // It is parsed next.
                    self.world.kinds.borrow_mut().insert(real.into(), kind);
                    return Ok(path);
                }
            }
        }
        Ok(join(&path, b"default.nix"))
    }

    /// The kind of an existing file. The last component is not resolved; a link in a parent
    /// directory is an error.
    pub(crate) fn kind_without_links(&self, path: &[u8]) -> Result<FileKind> {
        self.check_access(path)?;
        let mut parent = path;
        while parent != b"/" {
            parent = paths::dir_name(parent);
            if self.stat(parent)? == Some(FileKind::Symlink) {
                let message = format!("path '{}' is a symlink", lossy(parent));
                return Err(Error::new(ErrorKind::Io, message));
            }
        }
        self.kind(path)
    }

    /// The kind of an existing file at a resolved path.
    pub(crate) fn kind(&self, path: &[u8]) -> Result<FileKind> {
        self.check_access(path)?;
        self.stat(path)?.ok_or_else(|| missing(path))
    }

    /// The kind of the file at a resolved path. `None` if it does not exist, or if evaluation may
    /// not see it.
    pub(crate) fn visible_kind(&self, path: &[u8]) -> Result<Option<FileKind>> {
        if self.is_confined() && !self.is_allowed(path) {
            return Ok(None);
        }
        self.stat(path)
    }

    /// The kind of a file, without access checks. Directories and links are cached, because the
    /// parent directories of sources are queried often.
    fn stat(&self, path: &[u8]) -> Result<Option<FileKind>> {
        if let Some(kind) = self.world.kinds.borrow().get(path) {
            return Ok(Some(*kind));
        }
        if self.is_excluded(path) {
            return Ok(None);
        }
        if self.embedded(path).is_some() || self.made_contents(path).is_some() {
            return Ok(Some(FileKind::Regular { executable: false }));
        }
        let local = self.local(path);
        let kind = self.world.files.kind(paths::to_os(&local));
        let kind = kind.map_err(|error| {
            let why = os_message(&error);
            let message = format!("getting status of \"{}\": {why}", lossy(path));
            Error::new(ErrorKind::Io, message)
        })?;
        let kind = match kind {
            None if self.is_above_store(path) => Some(FileKind::Directory),
            kind => kind,
        };
        if let Some(kind @ (FileKind::Directory | FileKind::Symlink)) = kind {
            self.world.kinds.borrow_mut().insert(path.into(), kind);
        }
        Ok(kind)
    }

    /// Whether a path is the store directory or a parent of it. Store objects elsewhere are read
    /// under this path, although no such directory may exist.
    fn is_above_store(&self, path: &[u8]) -> bool {
        let store = self.world.settings.store_dir.as_str().as_bytes();
        let rest = store.strip_prefix(path);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// The target of a symbolic link.
    pub(super) fn link_target(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.check_access(path)?;
        let local = self.local(path);
        let target = self.world.files.target(paths::to_os(&local));
        target.map_err(|error| io_error("reading symbolic link", path, &error))
    }
}

/// The error for a path that does not exist.
#[cold]
pub(super) fn missing(path: &[u8]) -> Box<Error> {
    let message = format!("path '{}' does not exist", lossy(path));
    Error::new(ErrorKind::Io, message)
}

/// The components of a path without `.`, in reverse order, so that `pop` returns the next one.
fn split_reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .rev()
        .collect()
}
