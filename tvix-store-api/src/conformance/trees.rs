//! Cases: adding local trees.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{PathReferences, StorePath, content_addressed_path};
use tempfile::TempDir;

use super::fixtures::{Node, Object, expect_nothing, new_path};
use super::{CaseResult, Context, Failure, cases, ensure};
use crate::verify::digest;
use crate::{ExpectedPath, SourceTree, Store, StoreError};

cases![
    a_tree_of_this_machine_is_added,
    a_large_file_of_this_machine_is_added,
    a_text_of_this_machine_keeps_its_references,
    a_tree_that_is_not_the_path_it_should_be_is_refused,
    what_no_store_holds_is_refused,
    a_tree_that_is_dropped_happens_or_not,
];

const TREE: ContentAddressMethod = ContentAddressMethod::NixArchive;

/// A unique tree in a temporary directory.
struct Source {
    _folder: TempDir,
    file: PathBuf,
    node: Node,
}

impl Source {
    fn new(node: Node) -> Result<Self, Failure> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("source");
        write(&node, &file)?;
        Ok(Self {
            _folder: folder,
            file,
            node,
        })
    }

    fn tree() -> Result<Self, Failure> {
        let folder = Node::directory([
            ("executable", Node::Executable(b"#!/bin/sh".to_vec())),
            ("link", Node::Symlink(b"nowhere".to_vec())),
        ]);
        Self::new(Node::directory([
            ("folder", folder),
            ("empty", Node::directory::<&str>([])),
            ("file", Node::file(new_path("unique").to_string())),
        ]))
    }

    /// The tree as a store object.
    fn object(
        &self,
        store: &dyn Store,
        method: ContentAddressMethod,
        references: SortedSet<StorePath>,
    ) -> Result<Object, Failure> {
        let nar = self.node.nar();
        let hash = match &self.node {
            Node::File(contents) if method != TREE => NixHash::digest(HashAlgo::Sha256, contents),
            _ => NixHash::Sha256(digest(&nar)),
        };
        let address = ContentAddress { method, hash };
        let path_references = PathReferences::others(references.clone());
        let name = new_path("source").name().clone();
        let path = content_addressed_path(store.store_dir(), name, &address, &path_references);
        let Some(path) = path else {
            return Err(Failure::new(format!("{address:?} has no path")));
        };
        let mut object = Object::from_nar("source", nar);
        object.info.path = path;
        object.info.references = references;
        object.info.ca = Some(address);
        Ok(object)
    }

    fn becoming(&self, expected: ExpectedPath, method: ContentAddressMethod) -> SourceTree {
        SourceTree {
            file: self.file.clone(),
            expected,
            method,
            references: SortedSet::new(),
        }
    }

    fn named(&self, method: ContentAddressMethod) -> SourceTree {
        let name = new_path("source").name().clone();
        self.becoming(ExpectedPath::Name(name), method)
    }
}

fn write(node: &Node, place: &Path) -> std::io::Result<()> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    match node {
        Node::File(contents) => fs::write(place, contents),
        Node::Executable(contents) => {
            fs::write(place, contents)?;
            fs::set_permissions(place, fs::Permissions::from_mode(0o700))
        }
        Node::Symlink(target) => symlink(OsStr::from_bytes(target), place),
        Node::Directory(entries) => {
            fs::create_dir(place)?;
            let mut entries = entries.iter();
            entries.try_for_each(|(name, node)| write(node, &place.join(OsStr::from_bytes(name))))
        }
    }
}

/// Fails unless the tree is refused with an error about the tree, and leaves nothing visible.
async fn expect_refused(store: &dyn Store, tree: SourceTree) -> CaseResult {
    let becomes = tree.expected.clone();
    match store.add_source(tree).await {
        Err(StoreError::Source { .. }) => {}
        Err(error) => return Err(Failure::new(format!("should be Source, not: {error}"))),
        Ok(path) => return Err(Failure::new(format!("'{path}' is accepted"))),
    }
    match &becomes {
        ExpectedPath::Path(path) => expect_nothing(store, path).await,
        ExpectedPath::Name(_) => Ok(()),
    }
}

async fn a_tree_of_this_machine_is_added(context: Context) -> CaseResult {
    let store = &*context.store;
    let source = Source::tree()?;
    let object = source.object(store, TREE, SortedSet::new())?;
    let path = store.add_source(source.named(TREE)).await?;
    ensure!(path == *object.path(), "it became '{path}'");
    object.expect_in(store).await?;
    // Repeats the addition, with the known path.
    let known = ExpectedPath::Path(path.clone());
    let again = store.add_source(source.becoming(known, TREE)).await?;
    ensure!(again == path, "the second time it became '{again}'");
    let source = Source::tree()?;
    let object = source.object(store, TREE, SortedSet::new())?;
    let known = ExpectedPath::Path(object.path().clone());
    store.add_source(source.becoming(known, TREE)).await?;
    object.expect_in(store).await
}

async fn a_large_file_of_this_machine_is_added(context: Context) -> CaseResult {
    let store = &*context.store;
    let unique = new_path("unique").to_string().into_bytes();
    let source = Source::new(Node::File(unique.repeat(100_000)))?;
    for method in [TREE, ContentAddressMethod::Flat] {
        let object = source.object(store, method, SortedSet::new())?;
        let path = store.add_source(source.named(method)).await?;
        ensure!(path == *object.path(), "it became '{path}'");
        object.expect_in(store).await?;
    }
    Ok(())
}

async fn a_text_of_this_machine_keeps_its_references(context: Context) -> CaseResult {
    let store = &*context.store;
    let needed = Object::small("needed");
    let source = Source::new(Node::file(needed.path().to_string()))?;
    let references: SortedSet<_> = [needed.path().clone()].into_iter().collect();
    let method = ContentAddressMethod::Text;
    let object = source.object(store, method, references.clone())?;
    let tree = SourceTree {
        references,
        ..source.named(method)
    };
    match store.add_source(tree.clone()).await {
        Err(StoreError::InvalidReference { reference, .. }) if reference == *needed.path() => {}
        Err(error) => {
            return Err(Failure::new(format!(
                "should be InvalidReference, not: {error}"
            )));
        }
        Ok(path) => return Err(Failure::new(format!("'{path}' is accepted"))),
    }
    expect_nothing(store, object.path()).await?;
    needed.add_to(store).await?;
    let path = store.add_source(tree).await?;
    ensure!(path == *object.path(), "it became '{path}'");
    object.expect_in(store).await
}

async fn a_tree_that_is_not_the_path_it_should_be_is_refused(context: Context) -> CaseResult {
    let store = &*context.store;
    let source = Source::tree()?;
    let other = ExpectedPath::Path(new_path("source"));
    expect_refused(store, source.becoming(other, TREE)).await?;
    let object = source.object(store, TREE, SortedSet::new())?;
    expect_nothing(store, object.path()).await
}

async fn what_no_store_holds_is_refused(context: Context) -> CaseResult {
    let store = &*context.store;
    let source = Source::tree()?;
    // The flat method requires a regular file: a directory or a symlink is refused.
    expect_refused(store, source.named(ContentAddressMethod::Flat)).await?;
    let link = Source::new(Node::Symlink(b"nowhere".to_vec()))?;
    expect_refused(store, link.named(ContentAddressMethod::Flat)).await?;
    let socket = UnixListener::bind(source.file.join("empty/socket"))?;
    expect_refused(store, source.named(TREE)).await?;
    drop(socket);
    fs::remove_dir_all(&source.file)?;
    expect_refused(store, source.named(TREE)).await
}

async fn a_tree_that_is_dropped_happens_or_not(context: Context) -> CaseResult {
    let store = &*context.store;
    for polls in 1..=6 {
        let source = Source::tree()?;
        let object = source.object(store, TREE, SortedSet::new())?;
        {
            let adding = store.add_source(source.named(TREE));
            futures::pin_mut!(adding);
            for _ in 0..polls {
                if futures::poll!(&mut adding).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        if store.path_info(object.path()).await?.is_some() {
            object.expect_in(store).await?;
        }
        store.add_source(source.named(TREE)).await?;
        object.expect_in(store).await?;
    }
    Ok(())
}
