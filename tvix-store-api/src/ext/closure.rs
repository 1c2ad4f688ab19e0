//! Closures: computing them, and copying them from store to store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::StoreExt;
use crate::{Store, StoreError};

/// How many look-ups a closure keeps in flight.
const LOOK_UPS_IN_FLIGHT: usize = 64;

/// How many paths are copied at once.
const COPIES_IN_FLIGHT: usize = 32;

pub(super) async fn closure<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
) -> Result<Vec<Arc<PathInfo>>, StoreError> {
    let infos = explore(store, paths, None).await?;
    Ok(references_first(paths, infos))
}

/// `paths` and what they refer to, directly or not, but for what is valid in `except` and only
/// reached through that.
async fn explore<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
    except: Option<&dyn Store>,
) -> Result<HashMap<StorePath, Arc<PathInfo>>, StoreError> {
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut infos: HashMap<StorePath, Arc<PathInfo>> = HashMap::new();
    let mut frontier: Vec<StorePath> = paths.to_vec();
    frontier.retain(|path| seen.insert(path.clone()));
    while !frontier.is_empty() {
        let mut wanted = std::mem::take(&mut frontier);
        if let Some(except) = except {
            let valid = except.valid_paths(&wanted).await?;
            wanted.retain(|path| !valid.contains(path));
        }
        let found: Vec<Arc<PathInfo>> = stream::iter(wanted)
            .map(|path| async move { store.require(&path).await })
            .buffer_unordered(LOOK_UPS_IN_FLIGHT)
            .try_collect()
            .await?;
        for info in found {
            let references = info.references.iter();
            frontier.extend(
                references
                    .filter(|path| seen.insert((*path).clone()))
                    .cloned(),
            );
            infos.insert(info.path.clone(), info);
        }
    }
    Ok(infos)
}

/// Orders by depth-first search without recursion, references before what refers to them.
fn references_first(
    roots: &[StorePath],
    mut infos: HashMap<StorePath, Arc<PathInfo>>,
) -> Vec<Arc<PathInfo>> {
    enum Step {
        Visit(StorePath),
        Emit(Arc<PathInfo>),
    }
    let mut ordered = Vec::with_capacity(infos.len());
    let mut steps: Vec<Step> = roots.iter().rev().cloned().map(Step::Visit).collect();
    while let Some(step) = steps.pop() {
        match step {
            // Taken out at the first visit, so that a cycle ends.
            Step::Visit(path) => {
                if let Some(info) = infos.remove(&path) {
                    steps.push(Step::Emit(info.clone()));
                    steps.extend(info.references.iter().rev().cloned().map(Step::Visit));
                }
            }
            Step::Emit(info) => ordered.push(info),
        }
    }
    ordered
}

pub(super) async fn copy_closure<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    paths: &[StorePath],
) -> Result<Vec<Arc<PathInfo>>, StoreError> {
    if from.store_dir() != to.store_dir() {
        return Err(StoreError::OtherStoreDir {
            store: to.uri().clone(),
            actual: to.store_dir().clone(),
            expected: from.store_dir().clone(),
        });
    }
    // What is valid there has its closure there.
    let missing = explore(from, paths, Some(to)).await?;
    let missing = references_first(paths, missing);
    Copying::new(&missing).run(from, to).await?;
    Ok(missing)
}

/// Which path waits for which.
struct Copying<'a> {
    infos: &'a [Arc<PathInfo>],
    /// For each path, how many of its references have yet to be copied.
    waits_for: Vec<usize>,
    /// For each path, which ones refer to it.
    referrers: Vec<Vec<usize>>,
    ready: Vec<usize>,
}

impl<'a> Copying<'a> {
    fn new(infos: &'a [Arc<PathInfo>]) -> Self {
        let index: HashMap<&StorePath, usize> = infos
            .iter()
            .enumerate()
            .map(|(index, info)| (&info.path, index))
            .collect();
        let mut waits_for = vec![0; infos.len()];
        let mut referrers = vec![Vec::new(); infos.len()];
        for (referrer, info) in infos.iter().enumerate() {
            let references = info.references.iter().filter_map(|path| index.get(path));
            // In a cycle, which no store should have, some reference comes later: it is left to
            // the store to refuse that.
            for &reference in references.filter(|&&reference| reference < referrer) {
                waits_for[referrer] += 1;
                referrers[reference].push(referrer);
            }
        }
        let mut ready: Vec<usize> = (0..infos.len()).filter(|&i| waits_for[i] == 0).collect();
        ready.reverse();
        Self {
            infos,
            waits_for,
            referrers,
            ready,
        }
    }

    async fn run<S: Store + ?Sized>(mut self, from: &S, to: &dyn Store) -> Result<(), StoreError> {
        let mut running = FuturesUnordered::new();
        loop {
            while running.len() < COPIES_IN_FLIGHT
                && let Some(index) = self.ready.pop()
            {
                let info = self.infos[index].clone();
                running.push(async move {
                    copy(from, to, &info).await?;
                    Ok::<usize, StoreError>(index)
                });
            }
            let Some(copied) = running.next().await else {
                return Ok(());
            };
            for &referrer in &self.referrers[copied?] {
                self.waits_for[referrer] -= 1;
                if self.waits_for[referrer] == 0 {
                    self.ready.push(referrer);
                }
            }
        }
    }
}

pub(super) async fn copy<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    info: &PathInfo,
) -> Result<(), StoreError> {
    let mut info = info.clone();
    // It was not built there.
    info.ultimate = false;
    let nar = from.nar(&info.path).await?;
    let added = to.add(info, nar).await;
    added.map_err(|error| error.blame(from.uri()))
}
