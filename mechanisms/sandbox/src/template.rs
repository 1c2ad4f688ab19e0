//! Root directories: the mount points, links and small files of a sandbox.
//!
//! Creating and removing two dozen directory entries on disk costs more than everything else
//! about a sandbox. All builds with the same set of mount points therefore share one directory,
//! mounted read-only as their root; what differs between builds is only what is mounted there.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::EngineError;

/// The host's devices that appear in `/dev`.
pub(super) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Links in `/dev`.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A directory entry of a root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Directory,
    /// A file; empty ones are mount points.
    File(Vec<u8>),
    Symlink(PathBuf),
}

/// The entries of a root, by path relative to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Layout(BTreeMap<PathBuf, Node>);

impl Layout {
    /// Adds an entry and the directories that lead to it.
    pub(super) fn insert(&mut self, path: &Path, node: Node) -> Result<(), EngineError> {
        for parent in path.ancestors().skip(1) {
            if parent.as_os_str().is_empty() {
                continue;
            }
            match self.0.get(parent) {
                None => {
                    self.0.insert(parent.to_owned(), Node::Directory);
                }
                Some(Node::Directory) => break,
                Some(_) => {
                    return Err(EngineError::InvalidSpec(format!(
                        "/{} lies below /{}, which is no directory",
                        path.display(),
                        parent.display()
                    )));
                }
            }
        }
        match self.0.get(path) {
            Some(old) if *old != node => Err(EngineError::InvalidSpec(format!(
                "/{} is given twice, as different things",
                path.display()
            ))),
            _ => {
                self.0.insert(path.to_owned(), node);
                Ok(())
            }
        }
    }

    /// Adds what `/dev` consists of.
    pub(super) fn insert_dev(&mut self) -> Result<(), EngineError> {
        let dev = Path::new("dev");
        for device in DEVICES {
            self.insert(&dev.join(device), Node::File(Vec::new()))?;
        }
        for (name, to) in DEVICE_LINKS {
            self.insert(&dev.join(name), Node::Symlink(PathBuf::from(to)))?;
        }
        self.insert(&dev.join("pts"), Node::Directory)?;
        self.insert(&dev.join("shm"), Node::Directory)
    }

    fn create_in(&self, root: &Path) -> std::io::Result<()> {
        // The map is ordered, so a directory comes before what is in it.
        for (path, node) in &self.0 {
            let path = root.join(path);
            match node {
                Node::Directory => {
                    fs::create_dir(&path)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                }
                Node::File(contents) => {
                    fs::write(&path, contents)?;
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
                }
                Node::Symlink(to) => symlink(to, &path)?,
            }
        }
        Ok(())
    }
}

/// The path of a target relative to the root, or an error when it is not an absolute path of
/// plain components.
pub(super) fn relative_target(target: &Path) -> Result<PathBuf, EngineError> {
    let mut components = target.components();
    let plain = components.next() == Some(Component::RootDir)
        && components
            .clone()
            .all(|part| matches!(part, Component::Normal(_)))
        && components.clone().next().is_some();
    if plain {
        Ok(components.as_path().to_owned())
    } else {
        Err(EngineError::InvalidSpec(format!(
            "{} is not an absolute path without `..` below the root",
            target.display()
        )))
    }
}

/// The roots that exist, each made on first use and kept while the engine is.
#[derive(Debug)]
pub(super) struct Templates {
    directory: PathBuf,
    made: Mutex<HashMap<Layout, Arc<Path>>>,
}

impl Templates {
    /// Keeps its roots in `directory`, which exists and is private to the engine.
    pub(super) fn new(directory: PathBuf) -> Self {
        Templates {
            directory,
            made: Mutex::default(),
        }
    }

    /// The root with this layout.
    pub(super) fn root(&self, layout: Layout) -> Result<Arc<Path>, EngineError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(root) = made.get(&layout) {
            return Ok(root.clone());
        }
        let root = self.directory.join(made.len().to_string());
        let create = || {
            // What an earlier attempt left when it failed half-way.
            if root.exists() {
                fs::remove_dir_all(&root)?;
            }
            fs::create_dir(&root)?;
            fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
            layout.create_in(&root)
        };
        create().map_err(EngineError::setup(format!(
            "creating a sandbox root in {}",
            self.directory.display()
        )))?;
        let root: Arc<Path> = root.into();
        made.insert(layout, root.clone());
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_and_plain() {
        assert_eq!(
            relative_target(Path::new("/nix/store")).unwrap(),
            Path::new("nix/store")
        );
        for bad in ["/", "nix", "/a/../b", ""] {
            assert!(relative_target(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn equal_layouts_share_a_root() {
        let directory = tempfile::tempdir().unwrap();
        let templates = Templates::new(directory.path().to_owned());
        let layout = || {
            let mut layout = Layout::default();
            layout.insert_dev().unwrap();
            layout
                .insert(Path::new("etc/passwd"), Node::File(b"x".to_vec()))
                .unwrap();
            layout
        };
        let first = templates.root(layout()).unwrap();
        assert_eq!(templates.root(layout()).unwrap(), first);
        let mut other = layout();
        other.insert(Path::new("build"), Node::Directory).unwrap();
        assert_ne!(templates.root(other).unwrap(), first);
        assert_eq!(fs::read(first.join("etc/passwd")).unwrap(), b"x");
    }

    #[test]
    fn a_file_cannot_hold_entries() {
        let mut layout = Layout::default();
        layout
            .insert(Path::new("a"), Node::File(Vec::new()))
            .unwrap();
        assert!(layout.insert(Path::new("a/b"), Node::Directory).is_err());
    }
}
