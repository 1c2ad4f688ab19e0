//! The state of each path that substituters are asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

use crate::machine::{NodeId, OutputKeys, ProbeId, SubstitutionId};

/// Questions to one substituter at once.
const PROBES: usize = 2;
/// The most paths in a question.
const BATCH: usize = 256;
/// So many questions one after the other may go wrong before a substituter is not asked any more.
const PATIENCE: u32 = 3;
/// Questions about floating outputs at once.
const REALISATION_PROBES: usize = 2;
/// Paths that are fetched at once, unless the options say otherwise.
const FETCHES: usize = 32;

/// A path, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::machine) struct GoalId(pub(super) u32);

/// Where a path stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::machine) enum GoalState {
    /// It is not in the store, and nobody was asked for it.
    Idle,
    /// Whether the store has it is being found out.
    Looking,
    /// A substituter is asked for it, or is about to be.
    Asking,
    /// A substituter has it.
    Offered,
    /// So many paths that it refers to are not valid.
    Waiting {
        unmet: u32,
    },
    /// It can be fetched.
    Queued,
    Fetching,
    Valid,
    /// No substituter has it with all that it refers to.
    Impossible,
}

#[derive(Debug)]
pub(in crate::machine) struct Goal {
    pub path: StorePath,
    pub state: GoalState,
    /// The substituter that is asked or has it.
    pub at: usize,
    /// Something needs it.
    pub wanted: bool,
    /// A stalled evaluation does.
    pub urgent: bool,
    /// Its references except for itself, if a substituter has it.
    pub references: Vec<StorePath>,
    /// Counts how often it began to wait. Notices that belong to an earlier wait are ignored.
    pub epoch: u32,
    /// Those that wait for it, since their epoch.
    pub referrers: Vec<(GoalId, u32)>,
    /// Derivations that wait for this output.
    pub nodes: Vec<NodeId>,
}

/// A search for the outputs of a floating derivation.
#[derive(Debug)]
pub(super) struct Search {
    pub node: NodeId,
    /// Its outputs, and the paths that were found so far.
    pub outputs: Vec<(OutputKeys, Option<StorePath>)>,
}

impl Search {
    /// The outputs that were not found yet.
    fn open(&self) -> impl Iterator<Item = &OutputKeys> {
        let open = self.outputs.iter().filter(|(_, path)| path.is_none());
        open.map(|(output, _)| output)
    }

    /// All outputs with their paths, if all were found.
    pub(super) fn complete(&self) -> Option<Vec<(OutputName, StorePath)>> {
        let outputs = self.outputs.iter();
        let known = outputs.map(|(output, path)| Some((output.output.clone(), path.clone()?)));
        known.collect()
    }
}

#[derive(Debug)]
pub(super) struct Fetch {
    pub goal: GoalId,
    pub substituter: usize,
    pub started: Duration,
}

#[derive(Debug)]
struct Substituter {
    name: Arc<str>,
    to_ask: VecDeque<GoalId>,
    probes: usize,
    /// Failed questions since the last answer.
    troubles: u32,
    /// Whether a realisation of it was refused before.
    refused: bool,
}

/// Substituters and the paths that they are asked for. Empty without substituters.
#[derive(Debug, Default)]
pub(in crate::machine) struct Substitutions {
    substituters: Vec<Substituter>,
    goals: Vec<Goal>,
    index: FxHashMap<StorePath, GoalId>,
    /// Which derivation makes a path.
    pub(super) outputs: FxHashMap<StorePath, NodeId>,
    probes: BTreeMap<ProbeId, (usize, Vec<GoalId>)>,
    /// Floating derivations to search for, by the place that is asked next.
    searches: BTreeMap<usize, VecDeque<Search>>,
    search_probes: BTreeMap<ProbeId, (usize, Vec<Search>)>,
    fetches: BTreeMap<SubstitutionId, Fetch>,
    queue: VecDeque<GoalId>,
    urgent_queue: VecDeque<GoalId>,
    /// How many wait for others.
    waiting: usize,
    /// How many are being looked up in the store.
    pub(super) looking: usize,
    last_probe: u64,
    last_fetch: u64,
    most_fetches: Option<usize>,
}

impl std::ops::Index<GoalId> for Substitutions {
    type Output = Goal;

    fn index(&self, id: GoalId) -> &Goal {
        &self.goals[id.0 as usize]
    }
}

impl std::ops::IndexMut<GoalId> for Substitutions {
    fn index_mut(&mut self, id: GoalId) -> &mut Goal {
        &mut self.goals[id.0 as usize]
    }
}

impl Substitutions {
    pub(in crate::machine) fn new(names: Vec<String>, most_fetches: Option<usize>) -> Self {
        let substituters = names.into_iter().map(|name| Substituter {
            name: name.into(),
            to_ask: VecDeque::new(),
            probes: 0,
            troubles: 0,
            refused: false,
        });
        Self {
            substituters: substituters.collect(),
            most_fetches,
            ..Self::default()
        }
    }

    /// Whether there is any substituter.
    pub(in crate::machine) fn any(&self) -> bool {
        !self.substituters.is_empty()
    }

    pub(super) fn name(&self, substituter: usize) -> Arc<str> {
        self.substituters[substituter].name.clone()
    }

    /// Whether no realisation of a substituter was refused before.
    pub(super) fn first_refusal(&mut self, substituter: usize) -> bool {
        match self.substituters.get_mut(substituter) {
            Some(substituter) => !std::mem::replace(&mut substituter.refused, true),
            None => false,
        }
    }

    pub(in crate::machine) fn path(&self, id: GoalId) -> &StorePath {
        &self[id].path
    }

    pub(in crate::machine) fn find(&self, path: &StorePath) -> Option<GoalId> {
        self.index.get(path).copied()
    }

    /// The goal of a path, and whether it is a new one.
    pub(super) fn intern(&mut self, path: &StorePath) -> (GoalId, bool) {
        if let Some(id) = self.find(path) {
            return (id, false);
        }
        let id = GoalId(self.goals.len() as u32);
        self.goals.push(Goal {
            path: path.clone(),
            state: GoalState::Idle,
            at: 0,
            wanted: false,
            urgent: false,
            references: Vec::new(),
            epoch: 0,
            referrers: Vec::new(),
            nodes: Vec::new(),
        });
        self.index.insert(path.clone(), id);
        (id, true)
    }

    /// Changes where a path stands.
    pub(super) fn set(&mut self, id: GoalId, state: GoalState) {
        let waits = |state| usize::from(matches!(state, GoalState::Waiting { .. }));
        let before = std::mem::replace(&mut self[id].state, state);
        self.waiting = self.waiting + waits(state) - waits(before);
    }

    /// Asks the next substituter that is in use, from the current one of the goal on. False if
    /// there is none.
    pub(super) fn ask(&mut self, id: GoalId) -> bool {
        let from = self[id].at;
        let mut rest = from..self.substituters.len();
        let next = rest.find(|next| self.substituters[*next].troubles < PATIENCE);
        let Some(next) = next else {
            self[id].at = self.substituters.len();
            return false;
        };
        self[id].at = next;
        self.set(id, GoalState::Asking);
        self.substituters[next].to_ask.push_back(id);
        true
    }

    /// The next question that can go out.
    pub(super) fn next_probe(&mut self) -> Option<(ProbeId, usize, Vec<StorePath>)> {
        for (index, substituter) in self.substituters.iter_mut().enumerate() {
            while substituter.probes < PROBES && !substituter.to_ask.is_empty() {
                let size = substituter.to_ask.len().min(BATCH);
                let goals: Vec<GoalId> = substituter.to_ask.drain(..size).collect();
                let goals: Vec<GoalId> = goals
                    .into_iter()
                    .filter(|id| {
                        let goal = &self.goals[id.0 as usize];
                        goal.state == GoalState::Asking && goal.at == index
                    })
                    .collect();
                if goals.is_empty() {
                    continue;
                }
                substituter.probes += 1;
                self.last_probe += 1;
                let probe = ProbeId(self.last_probe);
                let paths = goals
                    .iter()
                    .map(|id| self.goals[id.0 as usize].path.clone());
                let paths = paths.collect();
                self.probes.insert(probe, (index, goals));
                return Some((probe, index, paths));
            }
        }
        None
    }

    /// Takes out a question that was answered.
    pub(super) fn probed(&mut self, id: ProbeId, well: bool) -> Option<(usize, Vec<GoalId>)> {
        let (index, goals) = self.probes.remove(&id)?;
        let substituter = &mut self.substituters[index];
        substituter.probes -= 1;
        substituter.troubles = if well { 0 } else { substituter.troubles + 1 };
        Some((index, goals))
    }

    /// Failed questions to a substituter since its last answer.
    pub(super) fn troubles(&self, substituter: usize) -> u32 {
        self.substituters[substituter].troubles
    }

    /// Takes back the questions to a substituter that is not used any more.
    pub(super) fn given_up(&mut self, substituter: usize) -> Vec<GoalId> {
        let substituter = &mut self.substituters[substituter];
        match substituter.troubles < PATIENCE {
            true => Vec::new(),
            false => substituter.to_ask.drain(..).collect(),
        }
    }

    /// Has the outputs of a floating derivation searched for, from `place` on: first in the store, which
    /// has the number 0, then at the substituters in their order. Gives the search back if there is no
    /// further place.
    pub(super) fn search(&mut self, place: usize, search: Search) -> Option<Search> {
        let mut rest = place..=self.substituters.len();
        let in_use = |place: &usize| match place.checked_sub(1) {
            None => true,
            Some(substituter) => self.substituters[substituter].troubles < PATIENCE,
        };
        match rest.find(in_use) {
            Some(place) => {
                self.searches.entry(place).or_default().push_back(search);
                None
            }
            None => Some(search),
        }
    }

    /// The next question about floating outputs that can go out: the place, and the outputs.
    pub(super) fn next_search(&mut self) -> Option<(ProbeId, usize, Vec<OutputKeys>)> {
        if self.search_probes.len() >= REALISATION_PROBES {
            return None;
        }
        let mut waiting = self.searches.first_entry()?;
        let place = *waiting.key();
        let size = waiting.get().len().min(BATCH);
        let searches: Vec<Search> = waiting.get_mut().drain(..size).collect();
        if waiting.get().is_empty() {
            waiting.remove();
        }
        let outputs = searches.iter().flat_map(Search::open).cloned().collect();
        self.last_probe += 1;
        let probe = ProbeId(self.last_probe);
        self.search_probes.insert(probe, (place, searches));
        Some((probe, place, outputs))
    }

    /// Takes out a question about floating outputs that was answered.
    pub(super) fn searched(&mut self, id: ProbeId) -> Option<(usize, Vec<Search>)> {
        self.search_probes.remove(&id)
    }

    /// Has a path fetched.
    pub(super) fn enqueue(&mut self, id: GoalId) {
        self.set(id, GoalState::Queued);
        match self[id].urgent {
            true => self.urgent_queue.push_back(id),
            false => self.queue.push_back(id),
        }
    }

    /// The next path to fetch.
    pub(super) fn next_fetch(&mut self, now: Duration) -> Option<(SubstitutionId, GoalId)> {
        if self.fetches.len() >= self.most_fetches.unwrap_or(FETCHES).max(1) {
            return None;
        }
        loop {
            let next = self.urgent_queue.pop_front();
            let goal = next.or_else(|| self.queue.pop_front())?;
            // Entries outlive what they stand for.
            if self[goal].state != GoalState::Queued {
                continue;
            }
            self.set(goal, GoalState::Fetching);
            self.last_fetch += 1;
            let id = SubstitutionId(self.last_fetch);
            let fetch = Fetch {
                goal,
                substituter: self[goal].at,
                started: now,
            };
            self.fetches.insert(id, fetch);
            return Some((id, goal));
        }
    }

    pub(super) fn fetched(&mut self, id: SubstitutionId) -> Option<Fetch> {
        self.fetches.remove(&id)
    }

    /// Whether questions about available paths are under way.
    pub(in crate::machine) fn is_asking(&self) -> bool {
        let asks = |it: &Substituter| it.probes > 0 || !it.to_ask.is_empty();
        self.looking > 0
            || !self.searches.is_empty()
            || !self.search_probes.is_empty()
            || self.substituters.iter().any(asks)
    }

    /// Whether nothing is under way that anything waits for, but for paths that wait for others.
    pub(in crate::machine) fn is_idle(&self) -> bool {
        let queued = |id: &GoalId| self[*id].state == GoalState::Queued;
        let mut queues = self.queue.iter().chain(&self.urgent_queue);
        !self.is_asking()
            && !queues.any(queued)
            && !self.fetches.values().any(|fetch| self[fetch.goal].wanted)
    }

    /// A path that waits for others. If nothing is under way, these wait for it.
    pub(super) fn first_waiting(&self) -> Option<GoalId> {
        if self.waiting == 0 {
            return None;
        }
        let mut ids = (0..self.goals.len() as u32).map(GoalId);
        ids.find(|id| matches!(self[*id].state, GoalState::Waiting { .. }))
    }

    /// Whether any path waits for another.
    pub(in crate::machine) fn any_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Forgets all wants; those that remain are repeated. `asked_by` tells whether a derivation
    /// still waits for an answer about its outputs.
    pub(super) fn forget_wants(&mut self, asked_by: impl Fn(NodeId) -> bool) {
        for goal in &mut self.goals {
            (goal.wanted, goal.urgent) = (false, false);
            if matches!(goal.state, GoalState::Waiting { .. } | GoalState::Queued) {
                goal.state = GoalState::Offered;
                goal.epoch += 1;
            }
        }
        self.waiting = 0;
        let goals = &mut self.goals;
        for substituter in &mut self.substituters {
            substituter.to_ask.retain(|id| {
                let goal = &mut goals[id.0 as usize];
                let keep = goal.nodes.iter().any(|node| asked_by(*node));
                if !keep {
                    goal.state = GoalState::Idle;
                }
                keep
            });
        }
        self.queue.clear();
        self.urgent_queue.clear();
    }

    /// Drops all questions and fetches.
    pub(in crate::machine) fn clear(&mut self) {
        for substituter in &mut self.substituters {
            substituter.to_ask.clear();
            substituter.probes = 0;
        }
        self.probes.clear();
        self.searches.clear();
        self.search_probes.clear();
        self.fetches.clear();
        self.queue.clear();
        self.urgent_queue.clear();
    }
}
