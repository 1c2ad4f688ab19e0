//! Store paths that no derivation makes: local sources that evaluation adds, and paths that a
//! derivation says it uses.

use std::collections::BTreeMap;
use std::time::Duration;

use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

use super::NodeId;
use crate::trouble::Trouble;

/// A source, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SourceId(pub(super) u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceState {
    /// Whether it is valid is not known, and nobody asked.
    Unknown,
    /// That is being found out.
    Looking,
    /// It is being added.
    Adding,
    /// It is the `.drv` file of a derivation that was yielded, and will be recorded.
    Awaited,
    Valid,
    /// It is not there and nobody has its contents.
    Missing,
    /// Adding it failed.
    Failed(Trouble),
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: StorePath,
    pub(super) state: SourceState,
    /// Whether evaluation has its contents.
    pub(super) offered: bool,
    pub(super) attempts: u32,
    /// Derivations that wait for it.
    pub(super) waiting: Vec<NodeId>,
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    sources: Vec<Source>,
    index: FxHashMap<StorePath, SourceId>,
    /// Those that are to be added again later.
    delayed: BTreeMap<(Duration, SourceId), ()>,
    /// How many are being added.
    pub(super) adding: usize,
    /// Those whose addition is to go out: all that are found missing at once go together.
    to_add: Vec<StorePath>,
}

impl Sources {
    pub(super) fn intern(&mut self, path: &StorePath) -> SourceId {
        if let Some(id) = self.index.get(path) {
            return *id;
        }
        let id = SourceId(self.sources.len() as u32);
        self.sources.push(Source {
            path: path.clone(),
            state: SourceState::Unknown,
            offered: false,
            attempts: 0,
            waiting: Vec::new(),
        });
        self.index.insert(path.clone(), id);
        id
    }

    /// Has a source be added again at a time.
    pub(super) fn delay(&mut self, id: SourceId, until: Duration) {
        self.delayed.insert((until, id), ());
    }

    /// The sources whose time has come.
    pub(super) fn due(&mut self, now: Duration) -> Option<SourceId> {
        let (at, id) = *self.delayed.first_key_value()?.0;
        (at <= now).then(|| {
            self.delayed.remove(&(at, id));
            id
        })
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.delayed.first_key_value().map(|((at, _), ())| *at)
    }

    /// Changes what is known of one.
    pub(super) fn set(&mut self, id: SourceId, state: SourceState) {
        self[id].state = state;
    }

    /// Has a source be added.
    pub(super) fn add(&mut self, id: SourceId) {
        self.set(id, SourceState::Adding);
        let path = self[id].path.clone();
        self.adding += 1;
        self.to_add.push(path);
    }

    /// The sources to add next.
    pub(super) fn next_to_add(&mut self) -> Option<Vec<StorePath>> {
        (!self.to_add.is_empty()).then(|| std::mem::take(&mut self.to_add))
    }

    /// Whether it is not on its way into the store, so that what refers to it may be added, or
    /// never can.
    pub(super) fn is_settled(&self, path: &StorePath) -> bool {
        self.find(path).is_none_or(|id| {
            !matches!(
                self[id].state,
                SourceState::Looking | SourceState::Adding | SourceState::Awaited
            )
        })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.adding == 0 && self.delayed.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.delayed.clear();
        self.to_add.clear();
    }

    pub(super) fn find(&self, path: &StorePath) -> Option<SourceId> {
        self.index.get(path).copied()
    }
}

impl std::ops::Index<SourceId> for Sources {
    type Output = Source;

    fn index(&self, id: SourceId) -> &Source {
        &self.sources[id.0 as usize]
    }
}

impl std::ops::IndexMut<SourceId> for Sources {
    fn index_mut(&mut self, id: SourceId) -> &mut Source {
        &mut self.sources[id.0 as usize]
    }
}
