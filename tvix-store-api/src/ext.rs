//! What can be made from the methods of any store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use crate::{Store, StoreError};

/// How many look-ups a closure keeps in flight.
const LOOK_UPS_IN_FLIGHT: usize = 32;

/// What can be made from the methods of any [`Store`]. Implemented for all of them.
#[async_trait]
pub trait StoreExt: Store {
    /// Whether `path` is valid.
    async fn is_valid(&self, path: &StorePath) -> Result<bool, StoreError> {
        Ok(self.path_info(path).await?.is_some())
    }

    /// What is known of `path`, which must be valid.
    async fn require(&self, path: &StorePath) -> Result<Arc<PathInfo>, StoreError> {
        self.path_info(path)
            .await?
            .ok_or_else(|| StoreError::NotFound {
                store: self.uri().clone(),
                path: path.clone(),
            })
    }

    /// The closure of `paths`: they and all that they refer to, directly or not, each after
    /// everything that it refers to (itself and cycles excepted).
    async fn closure(&self, paths: &[StorePath]) -> Result<Vec<Arc<PathInfo>>, StoreError> {
        let mut seen: HashSet<StorePath> = HashSet::new();
        let mut infos: HashMap<StorePath, Arc<PathInfo>> = HashMap::new();
        let mut frontier: Vec<StorePath> = Vec::new();
        frontier.extend(
            paths
                .iter()
                .filter(|path| seen.insert((*path).clone()))
                .cloned(),
        );
        while !frontier.is_empty() {
            let found: Vec<Arc<PathInfo>> = stream::iter(std::mem::take(&mut frontier))
                .map(|path| async move { self.require(&path).await })
                .buffer_unordered(LOOK_UPS_IN_FLIGHT)
                .try_collect()
                .await?;
            for info in found {
                frontier.extend(
                    info.references
                        .iter()
                        .filter(|path| seen.insert((*path).clone()))
                        .cloned(),
                );
                infos.insert(info.path.clone(), info);
            }
        }
        Ok(references_first(paths, infos))
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

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
