//! Store paths that no derivation makes: local sources that evaluation adds, and paths that a
//! derivation says it uses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

use super::{Action, NodeId};
use crate::component_error::ComponentError;

/// Maximum size in bytes of a source that is added in one request with others. They are read into
/// memory.
const SMALL: usize = 128 * 1024;

/// Maximum size in bytes of all sources of one request.
const SMALL_TOTAL: usize = 8 << 20;

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
    Failed(ComponentError),
}

impl SourceState {
    /// Whether it is not on its way into the store, so that paths that refer to it may be added, or never
    /// can.
    fn is_settled(&self) -> bool {
        !matches!(self, Self::Looking | Self::Adding | Self::Awaited)
    }
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: StorePath,
    pub(super) state: SourceState,
    /// Whether evaluation has its contents.
    pub(super) offered: bool,
    pub(super) attempts: u32,
    /// Whether it refers to any store path.
    has_references: bool,
    /// Other sources that it refers to.
    references: Vec<SourceId>,
    /// Sources that are to be added once this one is settled.
    referrers: Vec<SourceId>,
    /// References that are on their way into the store, while it waits for them to be added.
    unsettled: usize,
    /// Derivations that wait for it.
    pub(super) waiting: Vec<NodeId>,
}

#[derive(Debug, Default)]
pub(super) struct Sources {
    sources: Vec<Source>,
    index: FxHashMap<StorePath, SourceId>,
    /// Sources to be added again later.
    delayed: BTreeMap<(Duration, SourceId), ()>,
    /// How many are being added.
    pub(super) adding: usize,
    /// Sources to add next that refer to nothing: all that are found missing at the same time are
    /// added in one request if they are small.
    small: Vec<StorePath>,
    /// Sources to add next one by one.
    single: VecDeque<StorePath>,
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
            has_references: false,
            references: Vec::new(),
            referrers: Vec::new(),
            unsettled: 0,
            waiting: Vec::new(),
        });
        self.index.insert(path.clone(), id);
        id
    }

    /// The known sources of a derivation.
    pub(super) fn of(&self, derivation: Option<&Arc<Derivation>>) -> Vec<SourceId> {
        let sources = derivation.into_iter().flat_map(|it| it.input_srcs.iter());
        sources
            .filter_map(|path| self.index.get(path).copied())
            .collect()
    }

    /// Has a source be added again at a time.
    pub(super) fn delay(&mut self, id: SourceId, until: Duration) {
        self.delayed.insert((until, id), ());
    }

    /// The next source that is due.
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

    /// Changes the state of a source. Sources that refer to it and waited for it are added once all
    /// that they refer to is settled.
    pub(super) fn set(&mut self, id: SourceId, state: SourceState) {
        self[id].state = state;
        if !self[id].state.is_settled() {
            return;
        }
        for referrer in std::mem::take(&mut self[id].referrers) {
            let source = &mut self[referrer];
            source.unsettled -= 1;
            if source.unsettled == 0 && source.state == SourceState::Adding {
                self.queue(referrer);
            }
        }
    }

    /// Takes note of the paths that a source refers to.
    pub(super) fn set_references(&mut self, id: SourceId, references: &[StorePath]) {
        self[id].has_references = !references.is_empty();
        let references = references.iter().filter_map(|path| self.find(path));
        let references = references.filter(|reference| *reference != id);
        self[id].references = references.collect();
    }

    /// Has a source added, after those that it refers to.
    pub(super) fn add(&mut self, id: SourceId) {
        self.set(id, SourceState::Adding);
        self.adding += 1;
        let references = self[id].references.clone();
        let unsettled = references
            .into_iter()
            .filter(|reference| !self[*reference].state.is_settled());
        let unsettled: Vec<SourceId> = unsettled.collect();
        for reference in &unsettled {
            self[*reference].referrers.push(id);
        }
        self[id].unsettled = unsettled.len();
        if unsettled.is_empty() {
            self.queue(id);
        }
    }

    /// Queues a source to be added next.
    fn queue(&mut self, id: SourceId) {
        let path = self[id].path.clone();
        match self[id].has_references {
            true => self.single.push_back(path),
            false => self.small.push(path),
        }
    }

    /// Queues sources that were supposed to be small and are not.
    pub(super) fn too_large(&mut self, paths: Vec<StorePath>) {
        for path in paths {
            let adding = self.find(&path).map(|id| &self[id].state) == Some(&SourceState::Adding);
            if adding {
                self.single.push_back(path);
            }
        }
    }

    /// The sources to add next, none of which refers to another of them.
    pub(super) fn next_to_add(&mut self) -> Option<Action> {
        if !self.small.is_empty() {
            return Some(Action::AddSmallSources {
                paths: std::mem::take(&mut self.small),
                max_size: SMALL,
                max_total: SMALL_TOTAL,
            });
        }
        let path = self.single.pop_front()?;
        Some(Action::AddSource { path })
    }

    /// Whether a path is not a source that is on its way into the store.
    pub(super) fn is_settled(&self, path: &StorePath) -> bool {
        self.find(path).is_none_or(|id| self[id].state.is_settled())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.adding == 0 && self.delayed.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.delayed.clear();
        self.small.clear();
        self.single.clear();
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
