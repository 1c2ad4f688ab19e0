//! Closures: computing them, and copying them from store to store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::copying::Copying;
use crate::{Store, StoreError};

pub(super) async fn closure<S: Store + ?Sized>(
    store: &S,
    paths: &[StorePath],
) -> Result<Vec<Arc<PathInfo>>, StoreError> {
    let infos = explore(store, paths, None).await?;
    Ok(references_first(paths, infos))
}

/// The infos of `paths` and their references, transitively. Paths that are valid in `except` are
/// left out, and so are paths that are reachable only through them.
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
        let found = store.path_infos(&wanted).await?;
        for (path, info) in wanted.into_iter().zip(found) {
            let info = info.ok_or_else(|| StoreError::NotFound {
                store: store.uri().clone(),
                path,
            })?;
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

/// Sorts references before their referrers, by a depth-first search without recursion.
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
            // Removed at the first visit, so that a cycle ends.
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

pub(super) async fn copy_paths<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    infos: Vec<Arc<PathInfo>>,
) -> Result<(), StoreError> {
    same_dir(from, to)?;
    let paths: Vec<_> = infos.iter().map(|info| info.path.clone()).collect();
    let infos = infos.into_iter().map(|info| (info.path.clone(), info));
    let ordered = references_first(&paths, infos.collect());
    Copying::new(&ordered).run(from, to).await
}

fn same_dir<S: Store + ?Sized>(from: &S, to: &dyn Store) -> Result<(), StoreError> {
    if from.store_dir() != to.store_dir() {
        return Err(StoreError::OtherStoreDir {
            store: to.uri().clone(),
            actual: to.store_dir().clone(),
            expected: from.store_dir().clone(),
        });
    }
    Ok(())
}

pub(super) async fn copy_closure<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    paths: &[StorePath],
) -> Result<Vec<Arc<PathInfo>>, StoreError> {
    same_dir(from, to)?;
    // A path that is valid in `to` has its closure there.
    let missing = explore(from, paths, Some(to)).await?;
    let missing = references_first(paths, missing);
    Copying::new(&missing).run(from, to).await?;
    Ok(missing)
}
