//! Garbage collection, concurrent with builds and with real Nix.
//!
//! The rules are Nix's, and so is the protocol between collectors and builders:
//!
//! 1. A collector takes `gc.lock` exclusively, and listens on a socket for new roots.
//! 2. It reads all roots: links, processes, and temporary roots that processes have recorded.
//! 3. Paths that no root needs are dead. Dead paths are removed in groups, referrers before
//!    references. A group is chosen while no root can be added. A process that adds a path of the
//!    group as a root afterwards waits until the path is gone; all other paths that it adds stay
//!    alive.
//! 4. The rows of a group are deleted and synced to disk first; then its files leave the store
//!    directory; then the waiting processes continue, and may create the path again. Files that
//!    have left the store directory are removed in the background.
//!
//! So a collector that is killed leaves no valid path without files. Files that it leaves in the
//! store directory are removed by the next collection, and files that had left it are removed when
//! the store is opened.

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

/// Pause before another attempt at a lock that another collector holds: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(500);

impl LocalStore {
    /// Removes the paths that no root needs, or only lists them. Safe while this and other
    /// processes build into the store and read from it: the paths that they rely on are temporary
    /// roots. Waits while another collection runs.
    ///
    /// If the future is dropped, the collection stops after the current group of paths.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`], [`StoreError::Backend`]. A path with files that cannot be removed
    /// is not an error: it is no longer valid, and is listed in [`GcReport::failures`].
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
                    let action = format!("lock '{}'", state.join("gc.lock").display());
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
