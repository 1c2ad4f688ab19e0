//! Messages of a session's builders to the session, beside events of the coordinator.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bstr::BString;
use nix_compat::store_path::StorePath;
use tokio::sync::{Notify, mpsc};

use super::history::Line;

/// When a build began and ended, in seconds since 1970.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub start: u64,
    pub stop: u64,
}

/// Shared by a session and its builders.
#[derive(Debug)]
pub(super) struct Hooks {
    state: Mutex<State>,
    /// Builds have begun.
    pub begun: Notify,
    post_build: mpsc::Sender<(StorePath, Line)>,
}

/// Lines of post-build hooks that wait to be taken.
const LINES: usize = 64;

#[derive(Debug, Default)]
struct State {
    started: HashSet<StorePath>,
    times: HashMap<StorePath, Times>,
    /// Derivations that must not be built, as a substituter has them.
    refused: HashSet<StorePath>,
    /// Of those, the ones that should have been.
    not_substituted: HashSet<StorePath>,
    failed: HashMap<StorePath, BString>,
}

impl Hooks {
    /// With the receiver for the lines of post-build hooks.
    pub fn new() -> (Self, mpsc::Receiver<(StorePath, Line)>) {
        let (post_build, received) = mpsc::channel(LINES);
        let hooks = Self {
            state: Mutex::default(),
            begun: Notify::new(),
            post_build,
        };
        (hooks, received)
    }

    /// A line of the post-build hook of a build.
    pub async fn post_build(&self, drv_path: &StorePath, line: Line) {
        let _ = self.post_build.send((drv_path.clone(), line)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build has a place: it is not only queued.
    pub fn started(&self, drv_path: &StorePath) {
        self.state().started.insert(drv_path.clone());
        self.begun.notify_one();
    }

    pub fn has_started(&self, drv_path: &StorePath) -> bool {
        self.state().started.contains(drv_path)
    }

    pub fn ended(&self, drv_path: &StorePath, times: Times) {
        self.state().times.insert(drv_path.clone(), times);
    }

    pub fn times(&self, drv_path: &StorePath) -> Times {
        self.state()
            .times
            .get(drv_path)
            .copied()
            .unwrap_or_default()
    }

    /// Has these not built.
    pub fn set_refused(&self, refused: HashSet<StorePath>) {
        self.state().refused = refused;
    }

    /// Whether a build must not take place.
    pub fn refuse(&self, drv_path: &StorePath) -> bool {
        let mut state = self.state();
        let refused = state.refused.contains(drv_path);
        if refused {
            state.not_substituted.insert(drv_path.clone());
        }
        refused
    }

    pub fn was_refused(&self, drv_path: &StorePath) -> bool {
        self.state().not_substituted.contains(drv_path)
    }

    /// A build failed for a reason that builders do not know.
    pub fn failed(&self, drv_path: &StorePath, message: BString) {
        self.state().failed.insert(drv_path.clone(), message);
    }

    pub fn failure(&self, drv_path: &StorePath) -> Option<BString> {
        self.state().failed.get(drv_path).cloned()
    }
}
