//! Store objects for the cases.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar::{NarError, Writer};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath, text_path};

use super::Failure;
use crate::verify::digest;
use crate::{NarStream, Store, StoreError};

/// A tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(Vec<u8>),
    Executable(Vec<u8>),
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Node>),
}

impl Node {
    pub fn file(contents: impl AsRef<[u8]>) -> Self {
        Self::File(contents.as_ref().to_vec())
    }

    pub fn directory<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Self)>) -> Self {
        let entries = entries.into_iter();
        Self::Directory(
            entries
                .map(|(name, node)| (name.as_ref().to_vec(), node))
                .collect(),
        )
    }

    pub fn nar(&self) -> Bytes {
        let mut writer = Writer::new(Vec::new());
        let written = self.write(&mut writer).and_then(|()| writer.finish());
        // Fixtures are well-formed; an empty archive makes the case fail.
        written.unwrap_or_default().into()
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> Result<(), NarError> {
        match self {
            Self::File(contents) => writer.regular(false, contents),
            Self::Executable(contents) => writer.regular(true, contents),
            Self::Symlink(target) => writer.symlink(target),
            Self::Directory(entries) => {
                writer.directory_start()?;
                for (name, node) in entries {
                    writer.entry(name)?;
                    node.write(writer)?;
                }
                writer.directory_end()
            }
        }
    }
}

/// A store object that is not in the store yet.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub info: PathInfo,
    pub nar: Bytes,
}

/// A new path that no store has.
pub(super) fn new_path(name: &str) -> StorePath {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seed = format!(
        "{:?} {} {}",
        since.unwrap_or_default(),
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    );
    let hash = digest(seed.as_bytes());
    let mut hash_part = [0; 20];
    hash_part.copy_from_slice(&hash[..20]);
    // The names of fixtures are valid.
    let name = name
        .parse()
        .unwrap_or_else(|_| StorePath::name(&any_path()).clone());
    StorePath::new(hash_part, name)
}

fn any_path() -> StorePath {
    match "00000000000000000000000000000000-x".parse() {
        Ok(path) => path,
        Err(_) => unreachable!("a valid path"),
    }
}

impl Object {
    pub fn new(name: &str, node: &Node) -> Self {
        Self::from_nar(name, node.nar())
    }

    pub fn from_nar(name: &str, nar: Bytes) -> Self {
        Self {
            info: PathInfo::new(new_path(name), digest(&nar), nar.len() as u64),
            nar,
        }
    }

    /// A small object with unique contents.
    pub fn small(name: &str) -> Self {
        Self::new(name, &Node::file(format!("contents of {}", new_path(name))))
    }

    pub fn referring_to<'a>(mut self, paths: impl IntoIterator<Item = &'a StorePath>) -> Self {
        self.info.references.extend(paths.into_iter().cloned());
        self
    }

    /// A text, under the path that follows from its contents.
    pub fn text(
        dir: &StoreDir,
        name: &str,
        contents: &str,
        references: SortedSet<StorePath>,
    ) -> Self {
        let mut object = Self::new(name, &Node::file(contents));
        let name = object.info.path.name().clone();
        object.info.path = text_path(dir, name, contents.as_bytes(), &references);
        object.info.references = references;
        object.info.ca = Some(ContentAddress {
            method: ContentAddressMethod::Text,
            hash: NixHash::digest(HashAlgo::Sha256, contents),
        });
        object
    }

    pub fn path(&self) -> &StorePath {
        &self.info.path
    }

    pub fn stream(&self) -> NarStream {
        stream_of(self.nar.clone())
    }

    pub async fn add_to(&self, store: &dyn Store) -> Result<(), StoreError> {
        store.add(self.info.clone(), self.stream()).await
    }

    /// Fails unless the object is valid, with this info and these contents.
    pub async fn expect_in(&self, store: &dyn Store) -> Result<(), Failure> {
        let path = self.path();
        let Some(info) = store.path_info(path).await? else {
            return Err(Failure::new(format!("'{path}' is not valid")));
        };
        let mut expected = self.info.clone();
        // The fields that a back end need not keep have a case of their own.
        expected.registration_time = info.registration_time;
        expected.ultimate = info.ultimate;
        if *info != expected {
            return Err(Failure::new(format!(
                "the info is {info:?}, but {expected:?} was added"
            )));
        }
        let nar = read_nar(store, path).await?;
        if nar != self.nar {
            return Err(Failure::new(format!(
                "the NAR of '{path}' differs from the added one: {} bytes instead of {}",
                nar.len(),
                self.nar.len()
            )));
        }
        Ok(())
    }
}

pub(super) fn stream_of(nar: Bytes) -> NarStream {
    in_chunks(nar, 64 * 1024)
}

pub(super) fn in_chunks(nar: Bytes, size: usize) -> NarStream {
    let mut rest = nar;
    let chunks = std::iter::from_fn(move || {
        let chunk = rest.split_to(size.min(rest.len()));
        (!chunk.is_empty()).then_some(Ok(chunk))
    });
    stream::iter(chunks).boxed()
}

pub(super) async fn read_nar(store: &dyn Store, path: &StorePath) -> Result<Bytes, StoreError> {
    let chunks: Vec<Bytes> = store.nar(path).await?.try_collect().await?;
    Ok(chunks.concat().into())
}

/// Fails if a part of `path` is visible in the store.
pub(super) async fn expect_nothing(store: &dyn Store, path: &StorePath) -> Result<(), Failure> {
    if store.path_info(path).await?.is_some() {
        return Err(Failure::new(format!("'{path}' is valid")));
    }
    if !store
        .valid_paths(std::slice::from_ref(path))
        .await?
        .is_empty()
    {
        return Err(Failure::new(format!("'{path}' counts as valid in a batch")));
    }
    if let Some(place) = store.on_disk(path).await? {
        let place = place.display();
        return Err(Failure::new(format!("'{path}' is said to be at '{place}'")));
    }
    match read_nar(store, path).await {
        Err(StoreError::NotFound { path: named, .. }) if named == *path => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "the NAR of '{path}', which is not valid, should fail with NotFound, not: {error}"
        ))),
        Ok(nar) => Err(Failure::new(format!(
            "'{path}' is not valid, but has a NAR of {} bytes",
            nar.len()
        ))),
    }
}
