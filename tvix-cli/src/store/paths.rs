//! Store paths on the command line.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use tvix_store_api::{LocalPath, Store, StoreExt as _};

use super::AnyStoreOption;
use crate::caches::{self, Access};
use crate::default_store;
use crate::error::CliError;
use crate::stores::{self, MainStore};

/// A store path, and a path below it.
#[derive(Debug)]
pub struct Named {
    pub path: StorePath,
    pub below: PathBuf,
}

/// A store of any kind that is read.
pub struct Readable {
    pub store: Arc<dyn Store>,
    /// Where its files are, if they are on this file system.
    files: Option<PathBuf>,
}

impl Readable {
    /// Opens it. Caches need no signatures: their contents are only displayed.
    pub async fn open(option: AnyStoreOption) -> Result<Self, CliError> {
        let uri = default_store::resolve(option.store)?;
        if stores::is_main(&uri) {
            let store = stores::open_to_read(Some(uri)).await?;
            let (files, store) = (store.files(), store.any());
            return Ok(Self { store, files });
        }
        let access = Access::ANYTHING;
        let store = caches::open_cache(uri, access, option.netrc.network()).await?;
        let (files, store) = (None, Arc::new(store));
        Ok(Self { store, files })
    }

    fn names(&self) -> PathNames<'_> {
        PathNames::new(&*self.store).with_files(self.files.as_deref())
    }

    /// Resolves a text: see [`PathNames::parse`].
    pub fn parse(&self, text: &str) -> Result<Named, CliError> {
        self.names().parse(text)
    }

    /// As [`Readable::parse`], but rejects paths below a store path.
    pub fn parse_whole(&self, text: &str) -> Result<StorePath, CliError> {
        self.names().parse_whole(text)
    }
}

/// A path with more symbolic links than this is a cycle.
pub const MOST_LINKS: u32 = 64;

/// Store paths as all commands take them: `/nix/store/…`, the name of a store path alone, or a
/// file or symbolic link of this machine that is, or leads to, something in the store.
pub struct PathNames<'a> {
    store: &'a dyn Store,
    /// Directories on this file system with the files of store paths.
    files: Vec<PathBuf>,
}

impl<'a> PathNames<'a> {
    /// Store paths of a store, and links to them.
    pub fn new(store: &'a dyn Store) -> Self {
        let files = Vec::new();
        Self { store, files }
    }

    /// Also takes files in the directory of a store on this file system.
    pub fn with_files(mut self, directory: Option<&Path>) -> Self {
        if let Some(directory) = directory {
            self.files.extend(std::fs::canonicalize(directory));
            self.files.extend(std::path::absolute(directory));
        }
        self
    }

    /// Resolves a text. Links are followed until they lead into the store: a store path that is a
    /// link itself is not.
    pub fn parse(&self, text: &str) -> Result<Named, CliError> {
        if let Ok(path) = StorePath::from_base_name(text) {
            let below = PathBuf::new();
            return Ok(Named { path, below });
        }
        // As it is written: `..` behind a store path is refused where it is followed.
        if let Some(named) = self.inside(Path::new(text)) {
            return Ok(named);
        }
        let found = std::path::absolute(text).ok();
        let found = found.and_then(|path| self.follow(&normal(&path)));
        found.ok_or_else(|| CliError::NotInStore {
            text: text.to_owned(),
            store: self.store.uri().clone(),
        })
    }

    /// As [`PathNames::parse`], but rejects paths below a store path.
    pub fn parse_whole(&self, text: &str) -> Result<StorePath, CliError> {
        let named = self.parse(text)?;
        match named.below.as_os_str().is_empty() {
            true => Ok(named.path),
            false => Err(CliError::BelowStorePath {
                text: text.to_owned(),
                path: self.store.store_dir().path_text(&named.path),
            }),
        }
    }

    /// All of these, none of them below a store path.
    pub fn parse_all(&self, texts: &[String]) -> Result<Vec<StorePath>, CliError> {
        texts.iter().map(|text| self.parse_whole(text)).collect()
    }

    /// Follows the symbolic links of an absolute path, the first one of the path first.
    fn follow(&self, path: &Path) -> Option<Named> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            if let Some(named) = self.inside(&path) {
                return Some(named);
            }
            path = without_first_link(&path)?;
        }
        None
    }

    /// Resolves a path inside the store by its text alone.
    fn inside(&self, path: &Path) -> Option<Named> {
        if let Ok((path, below)) = self
            .store
            .store_dir()
            .parse_below(path.as_os_str().as_bytes())
        {
            let below = Path::new(OsStr::from_bytes(below)).to_owned();
            return Some(Named { path, below });
        }
        self.files.iter().find_map(|directory| {
            let mut names = path.strip_prefix(directory).ok()?.components();
            let base = names.next()?;
            let path = StorePath::from_base_name(base.as_os_str().as_bytes()).ok()?;
            let below = names.as_path().to_owned();
            Some(Named { path, below })
        })
    }
}

/// A path with the first symbolic link on it replaced by its target; `None` if it has none.
fn without_first_link(path: &Path) -> Option<PathBuf> {
    let mut before = PathBuf::from("/");
    let mut components = path.components();
    while let Some(component) = components.next() {
        before.push(component);
        if let Ok(target) = before.read_link() {
            before.pop();
            let followed = before.join(target).join(components.as_path());
            return Some(normal(&followed));
        }
    }
    None
}

/// An absolute path without `.`, `..` and a slash at the end.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::Normal(name) => normal.push(name),
            _ => {}
        }
    }
    normal
}

/// All of these store paths of a store.
pub fn parse_all(store: &MainStore, texts: &[String]) -> Result<Vec<StorePath>, CliError> {
    let files = store.files();
    let names = PathNames::new(&**store).with_files(files.as_deref());
    names.parse_all(texts)
}

/// A derivation, perhaps with outputs after a `!`. A symbolic link to one is replaced by its store
/// path; other texts stay as they are.
pub fn derivation_of_link(store: &MainStore, text: &str) -> String {
    let (file, outputs) = text.split_at(text.find('!').unwrap_or(text.len()));
    let files = store.files();
    let names = PathNames::new(&**store).with_files(files.as_deref());
    match Path::new(file)
        .is_symlink()
        .then(|| names.parse_whole(file))
    {
        Some(Ok(path)) if path.is_derivation() => {
            format!("{}{outputs}", store.store_dir().path_text(&path))
        }
        _ => text.to_owned(),
    }
}

/// The local file, and a guard that keeps it. No link on the way is followed, as it could lead out of the
/// store.
pub async fn file(store: &dyn Store, named: &Named) -> Result<(PathBuf, LocalPath), CliError> {
    store.require(&named.path).await.map_err(CliError::store)?;
    let root = store
        .local_path(&named.path)
        .await
        .map_err(CliError::store)?;
    let mut file = root.as_ref().to_owned();
    for part in named.below.components() {
        if file.is_symlink() {
            return Err(CliError::File {
                action: "look below",
                source: std::io::Error::other("it is a symlink"),
                file,
            });
        }
        match part {
            Component::Normal(name) => file.push(name),
            Component::CurDir => {}
            _ => {
                let source = std::io::Error::other("'..' leads out of it");
                let action = "look below";
                return Err(CliError::File {
                    action,
                    file,
                    source,
                });
            }
        }
    }
    Ok((file, root))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix_compat::store_path::StoreDir;
    use tvix_store_api::MemoryStore;

    use super::*;

    const NAME: &str = "n6zy1a8j52fb7gfmbha2iq3qcyhmkss6-t";

    #[test]
    fn links_are_followed_into_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let real = at("root/nix/store");
        std::fs::create_dir_all(real.join(NAME)).unwrap();
        std::fs::create_dir(at("sub")).unwrap();
        let logical = format!("/nix/store/{NAME}");
        for (target, link) in [
            (logical.as_str(), "result"),
            ("result", "chain"),
            ("../result", "sub/up"),
            (&format!("{}/{NAME}", real.display()), "real"),
            ("root", "linked-root"),
            (&format!("linked-root/nix/store/{NAME}"), "through"),
            (&format!("{logical}/bin/x"), "inside"),
            ("cycle", "cycle"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let elsewhere = format!("{}-link", "1".repeat(32));
        symlink("/etc/passwd", real.join(&elsewhere)).unwrap();
        let store = MemoryStore::new(StoreDir::default());
        let names = PathNames::new(&store).with_files(Some(&real));
        let text = |name: &str| at(name).to_str().unwrap().to_owned();
        for whole in [
            NAME.to_owned(),
            logical.clone(),
            format!("{logical}/"),
            text("result"),
            text("result/"),
            text("result/."),
            text("sub/../result"),
            text("chain"),
            text("sub/up"),
            text("real"),
            text("through"),
            text(&format!("root/nix/store/{NAME}")),
            text(&format!("linked-root/nix/store/{NAME}")),
        ] {
            assert_eq!(
                names.parse_whole(&whole).unwrap().to_string(),
                NAME,
                "{whole}"
            );
        }
        for below in [text("result/bin/x"), text("real/bin/x"), text("inside")] {
            let named = names.parse(&below).unwrap();
            assert_eq!(named.below, Path::new("bin/x"), "{below}");
            assert!(names.parse_whole(&below).is_err());
        }
        // A store path that is a link is not left.
        let link = names.parse_whole(&text(&format!("root/nix/store/{elsewhere}")));
        assert_eq!(link.unwrap().to_string(), elsewhere);
        for other in ["cycle", "dangling", "sub", "not-there", "root/nix/store"] {
            assert!(names.parse(&text(other)).is_err(), "{other}");
        }
        // Files of another store are not those of this one.
        assert!(PathNames::new(&store).parse(&text("real")).is_err());
        assert!(PathNames::new(&store).parse(&text("result")).is_ok());
    }
}
