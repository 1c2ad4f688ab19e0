//! File system trees in memory.

use std::collections::BTreeMap;

use bstr::BString;
use bytes::Bytes;
use nix_compat::nar::{NarError, Writer};

/// A file, symlink or directory in memory: the output of a build without a file system.
///
/// ```
/// use tvix_build_api::memory::Tree;
///
/// let tree = Tree::directory()
///     .with("bin", Tree::directory().with("hello", Tree::executable("#!/bin/sh\necho hello\n")))
///     .with("hello", Tree::symlink("bin/hello"));
/// assert!(tree.to_nar()?.starts_with(b"\x0d\0\0\0\0\0\0\0nix-archive-1"));
/// # Ok::<(), nix_compat::nar::NarError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File { executable: bool, contents: Bytes },
    Symlink(BString),
    Directory(BTreeMap<BString, Tree>),
}

impl Tree {
    /// A file that is not executable.
    pub fn file(contents: impl Into<Bytes>) -> Self {
        Self(Node::File {
            executable: false,
            contents: contents.into(),
        })
    }

    /// An executable file.
    pub fn executable(contents: impl Into<Bytes>) -> Self {
        Self(Node::File {
            executable: true,
            contents: contents.into(),
        })
    }

    /// A symlink.
    pub fn symlink(target: impl Into<BString>) -> Self {
        Self(Node::Symlink(target.into()))
    }

    /// An empty directory.
    pub fn directory() -> Self {
        Self(Node::Directory(BTreeMap::new()))
    }

    /// Adds or replaces an entry of a directory. A tree that is not a directory is replaced by one.
    #[must_use]
    pub fn with(self, name: impl Into<BString>, entry: Tree) -> Self {
        let mut entries = match self.0 {
            Node::Directory(entries) => entries,
            _ => BTreeMap::new(),
        };
        entries.insert(name.into(), entry);
        Self(Node::Directory(entries))
    }

    /// The contents of a file that is not executable, for `flat` and `text` addresses.
    pub(super) fn plain_contents(&self) -> Option<&Bytes> {
        match &self.0 {
            Node::File {
                executable: false,
                contents,
            } => Some(contents),
            _ => None,
        }
    }

    /// The tree as NAR.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if a name is no file name, a symlink's target is none, or the tree
    /// is too deep.
    pub fn to_nar(&self) -> Result<Vec<u8>, NarError> {
        let mut writer = Writer::new(Vec::new());
        self.write(&mut writer)?;
        writer.finish()
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> Result<(), NarError> {
        match &self.0 {
            Node::File {
                executable,
                contents,
            } => writer.regular(*executable, contents),
            Node::Symlink(target) => writer.symlink(target),
            Node::Directory(entries) => {
                writer.directory_start()?;
                for (name, entry) in entries {
                    writer.entry(name)?;
                    entry.write(writer)?;
                }
                writer.directory_end()
            }
        }
    }
}
