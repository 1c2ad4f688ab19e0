//! A store of one's own: paths in a map. It runs in the suite that every store has to pass.
//!
//! `cargo run --example own_store`

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::lock::Mutex;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::{
    DrvOutput, NarStream, PathInfo, Realisation, Store, StoreError, StoreUri, VerifiedObject,
};

#[derive(Debug)]
struct OwnStore {
    uri: StoreUri,
    dir: StoreDir,
    objects: Mutex<HashMap<StorePath, (Arc<PathInfo>, Bytes)>>,
}

#[async_trait]
impl Store for OwnStore {
    fn uri(&self) -> &StoreUri {
        &self.uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let objects = self.objects.lock().await;
        Ok(objects.get(path).map(|(info, _)| info.clone()))
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let objects = self.objects.lock().await;
        let mut infos = objects.values().map(|(info, _)| info);
        Ok(infos.find(|info| info.path.digest() == digest).cloned())
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let objects = self.objects.lock().await;
        let valid = paths.iter().filter(|path| objects.contains_key(*path));
        Ok(valid.cloned().collect())
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        let Some((_, nar)) = self.objects.lock().await.get(path).cloned() else {
            let (store, path) = (self.uri.clone(), path.clone());
            return Err(StoreError::NotFound { store, path });
        };
        Ok(stream::iter([Ok(nar)]).boxed())
    }

    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        if self.objects.lock().await.contains_key(&info.path) {
            return Ok(());
        }
        // For brevity; `verify::NarVerifier` verifies an archive while it arrives.
        let nar = nar.try_collect::<Vec<Bytes>>().await?.concat();
        let (info, nar) = VerifiedObject::verify(&self.dir, info, nar.into())?.into_parts();
        let mut objects = self.objects.lock().await;
        let known = |path: &StorePath| *path == info.path || objects.contains_key(path);
        if let Some(reference) = info.references.iter().find(|path| !known(path)) {
            let (store, path) = (self.uri.clone(), info.path.clone());
            let reference = reference.clone();
            return Err(StoreError::InvalidReference {
                store,
                path,
                reference,
            });
        }
        let object = objects.entry(info.path.clone());
        object.or_insert_with(|| (Arc::new(info), nar));
        Ok(())
    }

    async fn on_disk(&self, _: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    async fn realisation(&self, _: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        Ok(None)
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.nar(&realisation.out_path).await.map(drop)
    }
}

#[tokio::main]
async fn main() {
    let factory = || async {
        OwnStore {
            uri: StoreUri::memory("own"),
            dir: StoreDir::default(),
            objects: Mutex::default(),
        }
    };
    let report = run_all(factory, Capabilities::default()).await;
    println!("{report}");
    report.assert_all();
}
