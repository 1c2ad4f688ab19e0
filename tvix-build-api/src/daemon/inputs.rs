//! Inputs of builds that the daemon lacks.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tokio::sync::watch;
use tvix_store_api::daemon::{CallError, DaemonConnection, DaemonStore};
use tvix_store_api::{Store, StoreError, StoreExt as _};
use tvix_worker_protocol::QueryValidPaths;

use super::DaemonBuilder;
use crate::BuilderError;

/// Known states of paths at a daemon.
#[derive(Debug, Default)]
pub(super) struct Inputs(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Valid paths that the daemon keeps for us.
    present: HashSet<StorePath>,
    /// Paths that a build looks up or sends. The channel is closed when it is done.
    busy: HashMap<StorePath, watch::Receiver<()>>,
}

/// Paths that one build sees to. Others wait for its drop.
struct Claim<'i> {
    inputs: &'i Inputs,
    mine: Vec<Arc<PathInfo>>,
    others: Vec<watch::Receiver<()>>,
    _done: watch::Sender<()>,
}

impl Inputs {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims all paths that nobody sees to. `None` if all are present.
    ///
    /// A claim waits for earlier ones only: one that needed a path of a later one would have claimed it.
    fn claim(&self, infos: &[Arc<PathInfo>]) -> Option<Claim<'_>> {
        let (done, is_done) = watch::channel(());
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        let mut known = self.lock();
        for info in infos {
            if known.present.contains(&info.path) {
                continue;
            }
            match known.busy.get(&info.path) {
                Some(busy) => others.push(busy.clone()),
                None => {
                    known.busy.insert(info.path.clone(), is_done.clone());
                    mine.push(info.clone());
                }
            }
        }
        drop(known);
        let nothing = mine.is_empty() && others.is_empty();
        (!nothing).then(|| Claim {
            inputs: self,
            mine,
            others,
            _done: done,
        })
    }

    /// Takes note of paths that the daemon keeps.
    pub fn are_present(&self, paths: impl IntoIterator<Item = StorePath>) {
        self.lock().present.extend(paths);
    }

    /// Whether the daemon keeps a path.
    pub fn has(&self, path: &StorePath) -> bool {
        self.lock().present.contains(path)
    }

    /// Looks everything up again: the daemon lacks something that it had.
    pub fn forget(&self) {
        self.lock().present.clear();
    }
}

impl Claim<'_> {
    async fn others_are_done(&mut self) {
        for other in &mut self.others {
            // An error means that the sender is dropped, as it is in the end.
            while other.changed().await.is_ok() {}
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.inputs.lock();
        for info in &self.mine {
            known.busy.remove(&info.path);
        }
    }
}

impl DaemonBuilder {
    /// Makes the paths of `infos`, a closure, valid at the daemon, except for those that it refuses
    /// because it does not trust us.
    pub(super) async fn provide(
        &self,
        from: &dyn Store,
        infos: &[Arc<PathInfo>],
    ) -> Result<(), BuilderError> {
        if from.uri() == self.0.options.daemon.uri() {
            return Ok(());
        }
        let inputs = &self.0.inputs;
        // Others that see to a path may fail: then it is claimed in the next round.
        while let Some(mut claim) = inputs.claim(infos) {
            if claim.mine.is_empty() {
                claim.others_are_done().await;
                continue;
            }
            let store = self.store().await?;
            let paths: Vec<_> = claim.mine.iter().map(|info| info.path.clone()).collect();
            if self.0.options.use_substitutes {
                self.substitute(store, &paths).await?;
            }
            let looking = store.valid_paths(&paths);
            // References of what is sent may be among the others' paths.
            let (valid, ()) = futures::join!(looking, claim.others_are_done());
            let valid = valid.map_err(|error| self.store_failed("look up inputs", error))?;
            let missing = claim.mine.iter().filter(|it| !valid.contains(&it.path));
            let missing: Vec<_> = missing.cloned().collect();
            match self.is_untrusted() {
                false => self.send(from, store, missing).await?,
                true => self.offer(from, store, missing).await?,
            }
            inputs.are_present(paths);
        }
        Ok(())
    }

    async fn send(
        &self,
        from: &dyn Store,
        store: &DaemonStore,
        missing: Vec<Arc<PathInfo>>,
    ) -> Result<(), BuilderError> {
        if missing.is_empty() {
            return Ok(());
        }
        match from.copy_paths(store, missing.clone()).await {
            Err(StoreError::Untrusted { .. }) => {
                self.0.untrusted.store(true, Ordering::Relaxed);
                self.offer(from, store, missing).await
            }
            sent => sent.map_err(|error| self.sending_failed(from, error)),
        }
    }

    /// Sends the inputs that a daemon accepts from an untrusted client.
    pub(super) async fn offer(
        &self,
        from: &dyn Store,
        store: &DaemonStore,
        missing: Vec<Arc<PathInfo>>,
    ) -> Result<(), BuilderError> {
        let mut refused: HashSet<StorePath> = HashSet::new();
        // One after the other, as one that is refused decides about others.
        for info in references_first(&missing) {
            let without = info.references.iter().any(|path| refused.contains(path));
            if without || (info.ca.is_none() && info.signatures.is_empty()) {
                refused.insert(info.path.clone());
                continue;
            }
            match from.copy_path(store, info).await {
                Ok(()) => {}
                Err(StoreError::Untrusted { path, .. }) => {
                    refused.insert(path);
                }
                Err(error) => return Err(self.sending_failed(from, error)),
            }
        }
        Ok(())
    }

    /// An error of a copy to the daemon: that of the store that it comes from, or the daemon's.
    pub(super) fn sending_failed(&self, from: &dyn Store, error: StoreError) -> BuilderError {
        let of_source = match &error {
            StoreError::NotFound { store, .. }
            | StoreError::Corrupt { store, .. }
            | StoreError::BadInfo { store, .. }
            | StoreError::Unreachable { store, .. }
            | StoreError::Backend { store, .. }
            | StoreError::Bug { store, .. } => store == from.uri(),
            _ => false,
        };
        match of_source {
            false => self.store_failed("send inputs", error),
            true => BuilderError::Inputs {
                builder: self.name(),
                source: error,
            },
        }
    }

    /// Has the daemon substitute paths. Those that it cannot substitute stay missing.
    async fn substitute(
        &self,
        store: &DaemonStore,
        paths: &[StorePath],
    ) -> Result<(), BuilderError> {
        let valid = store.valid_paths(paths).await;
        let valid = valid.map_err(|error| self.store_failed("look up inputs", error))?;
        let missing = paths.iter().filter(|path| !valid.contains(path));
        let paths: Vec<_> = missing.cloned().collect();
        if paths.is_empty() {
            return Ok(());
        }
        let failed = |error| self.call_failed("substitute inputs", error);
        let opened = DaemonConnection::open(&self.0.options.daemon).await;
        let mut connection = opened.map_err(failed)?;
        let call = QueryValidPaths {
            paths,
            substitute: true,
        };
        match connection.call(&call).await {
            // What could not be substituted is sent.
            Ok(_) | Err(CallError::Remote(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// The infos with references before their referrers.
fn references_first(infos: &[Arc<PathInfo>]) -> Vec<&Arc<PathInfo>> {
    let indices = infos.iter().enumerate();
    let position: HashMap<_, _> = indices.map(|(index, info)| (&info.path, index)).collect();
    let mut order = Vec::with_capacity(infos.len());
    let mut seen = vec![false; infos.len()];
    for root in 0..infos.len() {
        let mut steps = vec![(root, false)];
        while let Some((index, done)) = steps.pop() {
            if done {
                order.push(&infos[index]);
            } else if !std::mem::replace(&mut seen[index], true) {
                steps.push((index, true));
                let references = infos[index].references.iter();
                let references = references.filter_map(|path| position.get(path));
                steps.extend(references.map(|index| (*index, false)));
            }
        }
    }
    order
}
