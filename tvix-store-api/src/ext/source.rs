//! Adding texts and local trees under paths that follow from their contents.

use std::path::Path;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{PathReferences, StorePath, StorePathName, content_addressed_path};
use tvix_tree::TreeError;

use crate::blocking::{blocking, produce};
use crate::object::ChangedError;
use crate::{ExpectedPath, SourceTree, Store, StoreError, VerifiedObject};

pub(super) async fn add_text<S: Store + ?Sized>(
    store: &S,
    name: StorePathName,
    contents: &[u8],
    references: SortedSet<StorePath>,
) -> Result<StorePath, StoreError> {
    let object = VerifiedObject::text(store.store_dir(), name, contents, references);
    let path = object.path().clone();
    add_object(store, object).await?;
    Ok(path)
}

async fn add_object<S: Store + ?Sized>(
    store: &S,
    object: VerifiedObject,
) -> Result<(), StoreError> {
    let (info, nar) = object.into_parts();
    store.add(info, stream::iter([Ok(nar)]).boxed()).await
}

/// Adds an object in memory under a path that was computed earlier: a tree as a NAR, or a file with
/// a content address of its contents alone.
pub(super) async fn add_known<S: Store + ?Sized>(
    store: &S,
    contents: Bytes,
    path: &StorePath,
    method: ContentAddressMethod,
    references: SortedSet<StorePath>,
) -> Result<(), StoreError> {
    let dir = store.store_dir();
    let object = match method {
        ContentAddressMethod::NixArchive => {
            VerifiedObject::archive_as(dir, path, contents, references)?
        }
        _ => VerifiedObject::file_as(dir, path, &contents, method, references)?,
    };
    add_object(store, object).await
}

/// Reads the tree twice: to compute its path, and to add its contents.
pub(crate) async fn add_tree<S: Store + ?Sized>(
    store: &S,
    tree: SourceTree,
) -> Result<StorePath, StoreError> {
    let SourceTree {
        file,
        expected,
        method,
        references,
    } = tree;
    let info = hash_tree(store, &file, expected.name().clone(), method, references).await?;
    let path = info.path.clone();
    expect(&file, &expected, &path)?;
    let nar = produce(store.uri().clone(), {
        let (file, path) = (file.clone(), path.clone());
        move |chunks| {
            tvix_tree::dump_path(&file, chunks).map_err(|error| unreadable(&file, &path, error))
        }
    });
    match store.add(info, nar).await {
        Ok(()) => Ok(path),
        // The two reads of the tree differ.
        Err(
            StoreError::HashMismatch { .. }
            | StoreError::SizeMismatch { .. }
            | StoreError::NotAFile { .. },
        ) => Err(StoreError::Source {
            file,
            path,
            source: ChangedError::Meanwhile.into(),
        }),
        Err(error) => Err(error),
    }
}

/// Fails if the tree should become another path than `path`.
pub(crate) fn expect(
    file: &Path,
    expected: &ExpectedPath,
    path: &StorePath,
) -> Result<(), StoreError> {
    match expected {
        ExpectedPath::Path(expected) if expected != path => Err(StoreError::Source {
            file: file.to_owned(),
            path: expected.clone(),
            source: ChangedError::Since(path.clone()).into(),
        }),
        _ => Ok(()),
    }
}

/// Reads the tree once and computes its info.
async fn hash_tree<S: Store + ?Sized>(
    store: &S,
    file: &Path,
    name: StorePathName,
    method: ContentAddressMethod,
    references: SortedSet<StorePath>,
) -> Result<PathInfo, StoreError> {
    let (file, dir) = (file.to_owned(), store.store_dir().clone());
    blocking(store.uri(), move || {
        let none: [&StorePath; 0] = [];
        // The path is not known yet: errors show a placeholder with the right name.
        let unknown = StorePath::new([0; 20], name.clone());
        let failed = |error| unreadable(&file, &unknown, error);
        let scan = tvix_tree::scan(&file, none).map_err(failed)?;
        let hash = match method {
            ContentAddressMethod::NixArchive => NixHash::Sha256(scan.nar_hash),
            method => tvix_tree::hash(&file, method, HashAlgo::Sha256).map_err(failed)?,
        };
        let address = ContentAddress { method, hash };
        let path_references = PathReferences::others(references.clone());
        let path = content_addressed_path(&dir, name, &address, &path_references);
        let path = path.ok_or_else(|| StoreError::AddressMismatch {
            path: unknown.clone(),
            address: Box::new(address.clone()),
        })?;
        let mut info = PathInfo::new(path, scan.nar_hash, scan.nar_size);
        info.references = references;
        info.ca = Some(address);
        Ok(info)
    })
    .await
}

fn unreadable(file: &Path, path: &StorePath, error: TreeError) -> StoreError {
    StoreError::Source {
        file: file.to_owned(),
        path: path.clone(),
        source: error.into(),
    }
}
