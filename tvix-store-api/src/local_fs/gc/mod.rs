//! Garbage collection, beside running builds and beside real Nix.
//!
//! The rules of Nix, and its protocol between collectors and those who build:
//!
//! 1. A collector takes `gc.lock` alone, and listens at a socket for roots that come from now on.
//! 2. It reads all roots: links, processes, and what processes have written down as temporary.
//! 3. What no root needs is dead. Dead paths go in groups, referrers before what they refer to. A
//!    group is chosen while nobody can add a root; who names one of it as a root afterwards waits
//!    until it is gone, and all others are alive from then on.
//! 4. First the rows of a group are removed, and are on the disk; then its files leave the store
//!    directory; then whoever waits goes on, and may make the path anew. Files that have left are
//!    removed beside it all.
//!
//! So a collector that is killed leaves nothing that is valid without files. What it leaves in the
//! store directory the next one removes, and what had left it is removed when the store is opened.

mod graph;
pub(in crate::local_fs) mod lock;
mod options;
mod server;
pub(in crate::local_fs) mod socket;
mod strays;
mod sweep;
mod trash;

use std::time::Duration;

use self::lock::GcLock;
pub use self::options::{GcAction, GcFailure, GcOptions, GcReport};
use super::LocalStore;
use super::waits::Wait;
use crate::StoreError;
use crate::blocking::blocking;
use crate::local_fs::stop::StopOnDrop;

/// How long to wait before a lock that another collector has is tried again: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(500);

impl LocalStore {
    /// Removes what no root needs, or only says what that is. May run while this process and others
    /// build into the store and read from it: what they rely on they have as temporary roots. Waits
    /// while somebody else collects.
    ///
    /// If the future is dropped, the collection ends after the group of paths that it is at.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`], [`StoreError::Backend`]. A path whose files cannot be removed is no
    /// error: it is not valid any more, and [`GcReport::failures`] names it.
    pub async fn collect_garbage(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        self.0.scratch()?;
        let stop = StopOnDrop::default();
        let mut pause = FIRST_PAUSE;
        let mut wait = None;
        let lock = loop {
            let inner = self.0.clone();
            let attempt = blocking(&self.0.uri, move || {
                let state = &inner.layout.state;
                let attempt = socket::prepare(state).and_then(|()| {
                    let lock = GcLock::open(state)?;
                    Ok(lock.try_alone()?.then_some(lock))
                });
                attempt.map_err(|error| {
                    let action = format!("locking '{}'", state.join("gc.lock").display());
                    inner.layout.failed(action, error)
                })
            });
            if let Some(lock) = attempt.await? {
                break lock;
            }
            wait.get_or_insert_with(|| Wait::begin(self.0.layout.state.join("gc.lock")));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        };
        drop(wait);
        let (inner, stopped) = (self.0.clone(), stop.flag());
        blocking(&self.0.uri, move || {
            sweep::collect(&inner, lock, &options, &stopped)
        })
        .await
    }
}
