//! A tree that somebody else describes, made without ever resolving one of its paths.
//!
//! Contents go to files with numbers for names; names stay in memory until the tree is whole. Then
//! it is made from the top: each directory anew, each name checked to be one. So there is no
//! order of entries, no link and no `..` by which anything lands elsewhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix_compat::nar;

/// A tree may have so many entries.
const MOST_ENTRIES: u32 = 4_000_000;

/// What a tree cannot have in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    #[error("'{path}' {reason}")]
    Entry { path: String, reason: &'static str },
    #[error("it has more than {0} entries")]
    Entries(u32),
    #[error("it has more than {0} bytes")]
    Bytes(u64),
    #[error(transparent)]
    Io(#[from] io::Error),
}

enum Node {
    Directory(BTreeMap<Vec<u8>, Node>),
    /// The number of its contents.
    File {
        number: u32,
        executable: bool,
    },
    Symlink(Vec<u8>),
}

impl Node {
    const fn empty() -> Self {
        Self::Directory(BTreeMap::new())
    }
}

/// A tree that is being described.
pub(super) struct Tree {
    /// Where contents are kept; on the file system that the tree will be on.
    scratch: PathBuf,
    root: Node,
    entries: u32,
    bytes_left: u64,
    limit: u64,
}

impl Tree {
    /// An empty tree, with an empty directory for its contents, which nobody else writes to. It
    /// may have so many bytes.
    pub(super) fn new(scratch: PathBuf, limit: u64) -> Self {
        Self {
            scratch,
            root: Node::empty(),
            entries: 0,
            bytes_left: limit,
            limit,
        }
    }

    /// A directory, and those above it. One that is there stays as it is.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<(), TreeError> {
        let parts = parts(path)?;
        descend(&mut self.root, &parts, &mut self.entries, path)?;
        Ok(())
    }

    /// Makes the tree itself a symbolic link.
    pub(super) fn become_symlink(&mut self, target: &[u8]) -> Result<(), TreeError> {
        check_target(b".", target)?;
        self.root = Node::Symlink(target.to_owned());
        Ok(())
    }

    pub(super) fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        check_target(path, target)?;
        self.insert(path, Node::Symlink(target.to_owned()))
    }

    /// A file with what `contents` gives.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        contents: &mut dyn Read,
    ) -> Result<(), TreeError> {
        let number = self.entries;
        self.insert(path, Node::File { number, executable })?;
        let mut file = File::create_new(self.contents(number))?;
        // One byte more than there may be, to see that there are more.
        let mut limited = contents.take(self.bytes_left.saturating_add(1));
        let written = io::copy(&mut limited, &mut file)?;
        file.flush()?;
        match self.bytes_left.checked_sub(written) {
            Some(left) => self.bytes_left = left,
            None => return Err(TreeError::Bytes(self.limit)),
        }
        Ok(())
    }

    /// Another name for a file or link that is in the tree already.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), TreeError> {
        let mut node = &self.root;
        for part in parts(target)? {
            let Node::Directory(children) = node else {
                return Err(wrong(
                    target,
                    "is the target of a hard link, and below a file",
                ));
            };
            match children.get(part) {
                Some(child) => node = child,
                None => {
                    return Err(wrong(
                        target,
                        "is the target of a hard link, and not in the archive",
                    ));
                }
            }
        }
        let copy = match node {
            Node::Directory(_) => {
                return Err(wrong(
                    target,
                    "is the target of a hard link, and a directory",
                ));
            }
            Node::Symlink(to) => Node::Symlink(to.clone()),
            Node::File { number, executable } => {
                let executable = *executable;
                let (from, number) = (*number, self.entries);
                let size = fs::metadata(self.contents(from))?.len();
                match self.bytes_left.checked_sub(size) {
                    Some(left) => self.bytes_left = left,
                    None => return Err(TreeError::Bytes(self.limit)),
                }
                fs::hard_link(self.contents(from), self.contents(number))?;
                Node::File { number, executable }
            }
        };
        self.insert(path, copy)
    }

    fn insert(&mut self, path: &[u8], node: Node) -> Result<(), TreeError> {
        let parts = parts(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Err(wrong(path, "is the tree itself, and no directory"));
        };
        let parent = descend(&mut self.root, parents, &mut self.entries, path)?;
        count(&mut self.entries)?;
        // What comes later counts, as when it is unpacked one by one.
        parent.insert(name.to_vec(), node);
        Ok(())
    }

    /// If there is one directory and nothing else, that becomes the tree.
    pub(super) fn enter_only_directory(&mut self) {
        if let Node::Directory(children) = &mut self.root
            && children.len() == 1
            && matches!(children.first_key_value(), Some((_, Node::Directory(_))))
            && let Some((_, only)) = children.pop_first()
        {
            self.root = only;
        }
    }

    /// Makes it. `dest` must not exist.
    pub(super) fn write(self, dest: &Path) -> Result<(), TreeError> {
        self.write_node(&self.root, dest)?;
        Ok(())
    }

    // As deep as `parts` allows.
    fn write_node(&self, node: &Node, dest: &Path) -> io::Result<()> {
        match node {
            Node::Directory(children) => {
                fs::create_dir(dest)?;
                for (name, child) in children {
                    self.write_node(child, &dest.join(OsStr::from_bytes(name)))?;
                }
            }
            Node::Symlink(target) => symlink(OsStr::from_bytes(target), dest)?,
            Node::File { number, executable } => {
                let contents = self.contents(*number);
                let mode = if *executable { 0o555 } else { 0o444 };
                if fs::metadata(&contents)?.is_file() && is_linked(&contents)? {
                    // Its other name may have another mode.
                    fs::copy(&contents, dest)?;
                    fs::set_permissions(dest, Permissions::from_mode(mode))?;
                } else {
                    fs::set_permissions(&contents, Permissions::from_mode(mode))?;
                    fs::rename(&contents, dest)?;
                }
            }
        }
        Ok(())
    }

    fn contents(&self, number: u32) -> PathBuf {
        self.scratch.join(number.to_string())
    }
}

fn check_target(path: &[u8], target: &[u8]) -> Result<(), TreeError> {
    if target.is_empty() || target.contains(&0) || target.len() > nar::MAX_TARGET_LEN {
        return Err(wrong(path, "has a target that no symbolic link can have"));
    }
    Ok(())
}

fn is_linked(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(path)?.nlink() > 1)
}

fn wrong(path: &[u8], reason: &'static str) -> TreeError {
    TreeError::Entry {
        path: String::from_utf8_lossy(path).into_owned(),
        reason,
    }
}

fn count(entries: &mut u32) -> Result<(), TreeError> {
    if *entries == MOST_ENTRIES {
        return Err(TreeError::Entries(MOST_ENTRIES));
    }
    *entries += 1;
    Ok(())
}

/// The names that a path is made of: what is absolute is so within the tree, and `..` does not
/// lead out of it, as in C++ Nix.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, TreeError> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part if part.contains(&0) => return Err(wrong(path, "has a NUL in its name")),
            part if part.len() > nar::MAX_NAME_LEN => {
                return Err(wrong(path, "has a name that is too long"));
            }
            part => parts.push(part),
        }
    }
    if parts.len() > nar::MAX_DEPTH {
        return Err(wrong(path, "is too deep"));
    }
    Ok(parts)
}

/// The directory that a path leads to, made on the way.
fn descend<'t>(
    root: &'t mut Node,
    parts: &[&[u8]],
    entries: &mut u32,
    path: &[u8],
) -> Result<&'t mut BTreeMap<Vec<u8>, Node>, TreeError> {
    let Node::Directory(root) = root else {
        return Err(wrong(path, "is below a file"));
    };
    let mut directory = root;
    for part in parts {
        let child = match directory.entry(part.to_vec()) {
            Entry::Occupied(child) => child.into_mut(),
            Entry::Vacant(place) => {
                count(entries)?;
                place.insert(Node::empty())
            }
        };
        let Node::Directory(inner) = child else {
            return Err(wrong(path, "is below something that is no directory"));
        };
        directory = inner;
    }
    Ok(directory)
}
