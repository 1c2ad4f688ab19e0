//! Delivery of outputs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tvix_store_api::Store;
#[cfg(feature = "local-fs")]
use tvix_store_api::local_fs::{LocalStore, LockedOutputs, OutputLocks, ScannedTree};

use super::field::Harvested;
use super::stream::stream_tree;
use super::timers::Timers;
use super::trouble::{Blame, Trouble};
use crate::{BuildRequest, BuildSlot, Delivery, FailureKind, PushedOutput, StreamedOutput};
use tvix_sandbox::Scratch;

/// A store that the builder can push to.
#[derive(Debug, Clone)]
pub(super) enum KnownStore {
    /// On the file system that builds write to: outputs are renamed into it.
    #[cfg(feature = "local-fs")]
    Beside(LocalStore),
    /// Any other store.
    Any(Arc<dyn Store>),
}

impl KnownStore {
    pub fn as_store(&self) -> &dyn Store {
        match self {
            #[cfg(feature = "local-fs")]
            Self::Beside(store) => store,
            Self::Any(store) => store,
        }
    }
}

/// The right to build the outputs.
pub(super) enum Claim {
    /// This build has the right. It excludes other processes until it is dropped.
    Ours(Claimed),
    /// Another process has built the outputs meanwhile.
    #[cfg_attr(
        not(feature = "local-fs"),
        expect(dead_code, reason = "other stores have no such locks")
    )]
    Made(Delivery),
}

/// The locks of the outputs, for stores that have such locks.
#[derive(Default)]
pub(super) struct Claimed {
    #[cfg(feature = "local-fs")]
    locks: OutputLocks,
}

/// Waits until no other process builds or adds the same outputs, for stores that other processes
/// may use. During a long wait the build gives up its slot. May be abandoned at any point.
pub(super) async fn claim(
    blame: &Blame,
    store: Option<&KnownStore>,
    request: &BuildRequest,
    slot: &BuildSlot,
) -> Result<Claim, Trouble> {
    match store {
        #[cfg(feature = "local-fs")]
        Some(KnownStore::Beside(store)) => {
            let (tell, waits) = tokio::sync::oneshot::channel();
            let tell = |lock| drop(tell.send(lock));
            let locked = store.lock_outputs(&request.drv_path, &request.derivation, tell);
            tokio::pin!(locked);
            let (locked, waited) = tokio::select! {
                biased;
                locked = &mut locked => (locked, false),
                Ok(lock) = waits => {
                    slot.release(lock).await;
                    (locked.await, true)
                }
            };
            Ok(match locked.map_err(|error| blame.push(error))? {
                LockedOutputs::ToBuild(locks) => {
                    if waited {
                        slot.reacquire().await;
                    }
                    Claim::Ours(Claimed { locks })
                }
                LockedOutputs::Valid(outputs) => {
                    let outputs = outputs.into_iter();
                    let pushed = outputs.map(|(name, info)| PushedOutput { name, info });
                    Claim::Made(Delivery::Pushed(pushed.collect()))
                }
            })
        }
        _ => {
            let _ = (blame, request, slot);
            Ok(Claim::Ours(Claimed::default()))
        }
    }
}

/// Pushes the outputs to `store`, or streams them. They are in `scratch`, sorted with references
/// first.
pub(super) async fn deliver(
    blame: &Blame,
    store: Option<&KnownStore>,
    outputs: Vec<Harvested>,
    scratch: Arc<Scratch>,
    claimed: Claimed,
    cancel: &CancellationToken,
    timers: &Timers,
) -> Result<Delivery, Trouble> {
    #[cfg(not(feature = "local-fs"))]
    let Claimed {} = claimed;
    match store {
        None => {
            let outputs = outputs.into_iter().map(|harvested| StreamedOutput {
                name: harvested.output.name,
                nar: stream_tree(harvested.file, harvested.info.path.clone(), scratch.clone()),
                info: harvested.info,
            });
            Ok(Delivery::Streamed(outputs.collect()))
        }
        #[cfg(feature = "local-fs")]
        Some(KnownStore::Beside(store)) => {
            let (names, trees): (Vec<_>, Vec<_>) = outputs
                .into_iter()
                .map(|harvested| {
                    let tree = ScannedTree::new(harvested.file, harvested.info);
                    (harvested.output.name, tree)
                })
                .unzip();
            let registered = store.register_locked(trees, claimed.locks).await;
            let infos = registered.map_err(|error| blame.push(error))?;
            let pushed = names.into_iter().zip(infos);
            Ok(Delivery::Pushed(
                pushed
                    .map(|(name, info)| PushedOutput { name, info })
                    .collect(),
            ))
        }
        Some(KnownStore::Any(store)) => {
            let mut pushed = Vec::with_capacity(outputs.len());
            for harvested in outputs {
                let info = Arc::new(harvested.info.clone());
                let nar = stream_tree(harvested.file, info.path.clone(), scratch.clone());
                let adding = store.add(harvested.info, nar);
                let added = tokio::select! {
                    added = adding => added,
                    // Once one output is pushed, the others must be pushed too.
                    () = cancel.cancelled(), if pushed.is_empty() => {
                        return Err(FailureKind::Cancelled.into());
                    }
                    too_long = timers.too_long(), if pushed.is_empty() => {
                        return Err(too_long.into());
                    }
                };
                added.map_err(|error| blame.push(error))?;
                let name = harvested.output.name;
                pushed.push(PushedOutput { name, info });
            }
            Ok(Delivery::Pushed(pushed))
        }
    }
}
