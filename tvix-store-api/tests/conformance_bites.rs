//! The conformance suite detects faults of deliberately broken stores.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::nar::{Event, Reader, Writer};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::conformance::{Capabilities, case_names, run_all};
use tvix_store_api::verify::digest;
use tvix_store_api::{
    DrvOutput, ExpectedPath, MemoryStore, NarStream, PathInfo, Realisation, SourceTree, Store,
    StoreError, StoreUri, VerifiedObject,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Does not check the hash of the contents.
    ChecksNoHash,
    /// Shows a path once its first chunk is received.
    ShowsParts,
    /// Omits the references from infos.
    ForgetsReferences,
    /// The last addition replaces earlier ones.
    Overwrites,
    /// Does not check that the path follows from the content address.
    ChecksNoAddress,
    /// Loses the modes of files.
    LosesModes,
    /// Refuses to add a valid path again.
    RefusesAgain,
    /// Returns an empty NAR for a missing path.
    FindsNothingEmpty,
    /// Refuses a whole batch because of one bad object.
    RefusesBatches,
    /// Returns infos in another order.
    InfosInAnyOrder,
    /// Fails for all paths if one of them cannot be read.
    ReadsAllOrNothing,
    /// Does not verify the contents that it reads.
    ReadsUnchecked,
    /// Adds a tree under any expected path.
    TakesAnyTree,
    /// Panics on a look-up of a realisation.
    Panics,
    /// Waits where it is polled.
    Blocks,
}

/// A memory store with one fault.
#[derive(Debug)]
struct Broken {
    fault: Fault,
    inner: MemoryStore,
    /// Infos that replace those of the store.
    infos: Mutex<HashMap<StorePath, Arc<PathInfo>>>,
}

impl Broken {
    fn tell(&self, info: PathInfo) {
        let info = PathInfo {
            registration_time: Some(1),
            ..info
        };
        self.infos
            .lock()
            .unwrap()
            .insert(info.path.clone(), info.into());
    }
}

#[async_trait]
impl Store for Broken {
    fn uri(&self) -> &StoreUri {
        self.inner.uri()
    }

    fn store_dir(&self) -> &StoreDir {
        self.inner.store_dir()
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        if let Some(told) = self.infos.lock().unwrap().get(path) {
            return Ok(Some(told.clone()));
        }
        let info = self.inner.path_info(path).await?;
        if self.fault != Fault::ForgetsReferences {
            return Ok(info);
        }
        Ok(info.map(|info| {
            let references = Default::default();
            let info = PathInfo::clone(&info);
            Arc::new(PathInfo { references, ..info })
        }))
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        if self.fault == Fault::Blocks {
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        self.inner.find(digest).await
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        self.inner.valid_paths(paths).await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        let mut paths = paths.to_vec();
        if self.fault == Fault::InfosInAnyOrder {
            paths.sort_unstable();
        }
        let mut infos = Vec::new();
        for path in &paths {
            infos.push(self.path_info(path).await?);
        }
        Ok(infos)
    }

    async fn read_many(
        &self,
        mut infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        if self.fault == Fault::ReadsUnchecked {
            for info in &mut infos {
                if let Ok(Some(right)) = self.inner.path_info(&info.path).await {
                    *info = right;
                }
            }
        }
        let mut read = self.inner.read_many(infos).await;
        if self.fault == Fault::ReadsAllOrNothing && read.iter().any(Result::is_err) {
            read.clear();
        }
        read
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        let nar = self.inner.nar(path).await;
        match (self.fault, nar) {
            (Fault::FindsNothingEmpty, Err(_)) => Ok(stream::empty().boxed()),
            (Fault::LosesModes, Ok(nar)) => {
                let nar: Vec<Bytes> = nar.try_collect().await?;
                let nar = Bytes::from(without_modes(&nar.concat()));
                Ok(stream::iter([Ok(nar)]).boxed())
            }
            (_, nar) => nar,
        }
    }

    async fn add(&self, info: PathInfo, mut nar: NarStream) -> Result<(), StoreError> {
        let valid = self.inner.path_info(&info.path).await?.is_some();
        match self.fault {
            Fault::ChecksNoHash => {
                let chunks: Vec<Bytes> = nar.try_collect().await?;
                let nar = Bytes::from(chunks.concat());
                let mut right = info.clone();
                right.nar_hash = digest(&nar);
                right.nar_size = nar.len() as u64;
                self.inner.add(right, stream::iter([Ok(nar)]).boxed()).await
            }
            Fault::ShowsParts => {
                let first = nar.next().await.transpose()?;
                self.tell(info.clone());
                let nar = stream::iter(first.map(Ok)).chain(nar).boxed();
                self.inner.add(info, nar).await
            }
            Fault::Overwrites => {
                self.inner.add(info.clone(), nar).await?;
                self.tell(info);
                Ok(())
            }
            Fault::ChecksNoAddress => {
                let told = info.clone();
                self.inner.add(PathInfo { ca: None, ..info }, nar).await?;
                if told.ca.is_some() && !valid {
                    self.tell(told);
                }
                Ok(())
            }
            Fault::RefusesAgain if valid => Err(StoreError::Bug {
                store: self.uri().clone(),
                message: "it is there".into(),
            }),
            _ => self.inner.add(info, nar).await,
        }
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::new();
        for object in objects {
            let (info, nar) = object.into_parts();
            results.push(self.add(info, stream::iter([Ok(nar)]).boxed()).await);
        }
        if self.fault == Fault::RefusesBatches && results.iter().any(Result::is_err) {
            let refused = |_| {
                Err(StoreError::Bug {
                    store: self.uri().clone(),
                    message: "one of them is wrong".into(),
                })
            };
            results = results.into_iter().map(refused).collect();
        }
        results
    }

    async fn add_source(&self, mut tree: SourceTree) -> Result<StorePath, StoreError> {
        let (expected, name) = (tree.expected.clone(), tree.expected.name().clone());
        match (self.fault, expected) {
            (Fault::TakesAnyTree, ExpectedPath::Path(path)) => {
                tree.expected = ExpectedPath::Name(name);
                let added = self.inner.add_source(tree).await?;
                let info = PathInfo::clone(&*self.inner.path_info(&added).await?.unwrap());
                let ca = None;
                self.tell(PathInfo {
                    path: path.clone(),
                    ca,
                    ..info
                });
                Ok(path)
            }
            _ => self.inner.add_source(tree).await,
        }
    }

    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        self.inner.on_disk(path).await
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        assert!(self.fault != Fault::Panics, "on purpose");
        self.inner.realisation(id).await
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.inner.add_realisation(realisation).await
    }
}

fn without_modes(nar: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(nar);
    let mut writer = Writer::new(Vec::new());
    while let Some(event) = reader.next_event().unwrap() {
        match event {
            Event::RegularStart { size, .. } => writer.regular_start(false, size).unwrap(),
            event => writer.event(event).unwrap(),
        }
    }
    writer.finish().unwrap()
}

async fn failing_cases(fault: Fault) -> BTreeSet<&'static str> {
    let new_store = || async {
        Broken {
            fault,
            inner: MemoryStore::new(StoreDir::default()),
            infos: Mutex::default(),
        }
    };
    let capabilities = Capabilities::default()
        .with_realisations(true)
        .with_registration(true);
    let report = run_all(new_store, capabilities).await;
    assert_eq!(report.outcomes.len(), case_names().count());
    report.failures().map(|(case, _)| case).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_found_by_the_cases_for_it() {
    for (fault, expected) in [
        (Fault::ChecksNoHash, &["a_wrong_hash", "a_wrong_size"][..]),
        (
            Fault::ShowsParts,
            &[
                "a_stream_that_fails_leaves_nothing",
                "nothing_is_visible_while_it_comes",
                "a_dropped_addition_leaves_nothing",
                "a_wrong_hash",
                "a_truncated_nar",
            ],
        ),
        (
            Fault::ForgetsReferences,
            &["every_field_is_kept", "closures_come_references_first"],
        ),
        (Fault::Overwrites, &["adding_again_changes_nothing"]),
        (
            Fault::ChecksNoAddress,
            &[
                "a_path_that_is_not_its_address",
                "contents_that_are_not_their_address",
            ],
        ),
        (
            Fault::LosesModes,
            &["a_tree_of_everything", "a_local_path_can_be_read"],
        ),
        (
            Fault::RefusesAgain,
            &[
                "adding_again_changes_nothing",
                "one_path_added_by_many_at_once",
            ],
        ),
        (Fault::FindsNothingEmpty, &["an_unknown_path_is_not_valid"]),
        (
            Fault::RefusesBatches,
            &["one_bad_object_of_a_batch_is_refused_alone"],
        ),
        (
            Fault::InfosInAnyOrder,
            &["infos_of_many_paths_come_in_their_order"],
        ),
        (
            Fault::ReadsAllOrNothing,
            &["a_path_that_cannot_be_read_keeps_no_other_from_being_read"],
        ),
        (
            Fault::ReadsUnchecked,
            &["a_path_that_cannot_be_read_keeps_no_other_from_being_read"],
        ),
        (
            Fault::TakesAnyTree,
            &["a_tree_that_is_not_the_path_it_should_be_is_refused"],
        ),
        (Fault::Panics, &["an_unknown_realisation_is_none"]),
        #[cfg(target_os = "linux")]
        (Fault::Blocks, &["polls_do_not_block"]),
    ] {
        let failing = failing_cases(fault).await;
        for case in expected {
            assert!(
                failing.contains(case),
                "{fault:?}: {case} is not in {failing:?}"
            );
        }
    }
}

#[tokio::test]
async fn what_a_back_end_claims_it_must_do() {
    let new_store = || async { MemoryStore::new(StoreDir::default()) };
    let capabilities = Capabilities::default()
        .with_registration(true)
        .with_on_disk(true);
    let report = run_all(new_store, capabilities).await;
    let failing: Vec<_> = report.failures().map(|(case, _)| case).collect();
    assert_eq!(failing, ["files_on_disk_are_those_of_the_nar"]);
    assert!(
        report.to_string().contains("it is nowhere on disk"),
        "{report}"
    );
}
