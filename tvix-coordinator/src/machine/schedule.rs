//! The order of builds.
//!
//! Derivations that a stalled evaluation needs come first, then those that it has asked for ahead,
//! then other needed ones, then those with the longest path to the end of the graph as far as it is known, weighted by the durations of
//! earlier builds. The builder of each is the [pool's](super::pool) choice.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::time::Duration;

use bstr::BString;
use nix_compat::derivation::Derivation;
use rustc_hash::FxHashMap;
use tvix_build_api::{BuilderProfile, Requirements};

use super::graph::{Graph, NodeId, State, SystemNumber};
use super::pool::{BuilderMask, Needs, Pool};
use super::ready::ReadyQueue;
use super::sources::Sources;
use crate::component_error::ComponentError;

/// The estimate for a derivation without history, in milliseconds.
const DEFAULT_ESTIMATE: u32 = 1000;

/// Systems that are remembered. There are but a few.
const SYSTEMS: usize = 8;

/// Earlier attempts to build a derivation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attempts {
    pub(super) count: u32,
    pub(super) builders: BuilderMask,
    /// Builders that said that they cannot build it at all.
    pub(super) unsuitable: BuilderMask,
}

#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) pool: Pool,
    /// Ready derivations, by the builders that can build them.
    ready: Vec<(BuilderMask, ReadyQueue)>,
    delayed: BTreeMap<(Duration, NodeId), ()>,
    attempts: FxHashMap<NodeId, Attempts>,
    /// The builders for derivations that require no feature, by system.
    by_system: Vec<(BString, BuilderMask)>,
    estimates: BTreeMap<String, Duration>,
    /// Nodes since heights were last computed.
    fresh: usize,
}

impl Scheduler {
    pub(super) fn new(
        builders: Vec<BuilderProfile>,
        max_jobs: Option<usize>,
        estimates: BTreeMap<String, Duration>,
    ) -> Self {
        Self {
            pool: Pool::new(builders, max_jobs),
            ready: Vec::new(),
            delayed: BTreeMap::new(),
            attempts: FxHashMap::default(),
            by_system: Vec::new(),
            estimates,
            fresh: 0,
        }
    }

    pub(super) fn system_number(&mut self, derivation: &Derivation) -> SystemNumber {
        let says = |name| derivation.env_var(name).is_some();
        let prefers_local = self.pool.cares_for_places() && says("preferLocalBuild");
        if prefers_local || says("requiredSystemFeatures") || says("__json") {
            return SystemNumber(None);
        }
        let mut known = self.by_system.iter();
        let index = known.position(|(system, _)| *system == derivation.system);
        let index = index.unwrap_or(self.by_system.len());
        if index == self.by_system.len() && index < SYSTEMS {
            let can = self.supporting(derivation);
            self.by_system.push((derivation.system.clone(), can));
        }
        let number = u8::try_from(index + 1).ok().filter(|_| index < SYSTEMS);
        SystemNumber(number.and_then(NonZeroU8::new))
    }

    /// The builders that can build `derivation`, except for those that refused it.
    pub(super) fn suitable(
        &self,
        id: NodeId,
        system: SystemNumber,
        derivation: &Derivation,
    ) -> BuilderMask {
        let unsuitable = self
            .attempts
            .get(&id)
            .map_or(0, |attempts| attempts.unsuitable);
        let known = system
            .0
            .and_then(|number| self.by_system.get(usize::from(number.get()) - 1));
        let can = known.map_or_else(|| self.supporting(derivation), |(_, can)| *can);
        can & !unsuitable
    }

    /// The systems and features that builders lack for `derivation`, as a message.
    pub(super) fn why_unsuitable(&self, derivation: &Derivation) -> String {
        self.pool.why_unsuitable(&Requirements::of(derivation))
    }

    fn supporting(&self, derivation: &Derivation) -> BuilderMask {
        self.pool.supporting(&Requirements::of(derivation))
    }

    /// Queues a ready derivation. It may be queued again when its priority grew.
    pub(super) fn push(&mut self, graph: &Graph, id: NodeId, suitable: BuilderMask) {
        let node = &graph[id];
        // What stalls evaluation, then what it will wait for, then what is needed, then anything
        // else; among equals by height.
        let rank =
            (node.urgency as u64) << 33 | u64::from(node.needed) << 32 | u64::from(node.height);
        match self.ready.iter_mut().find(|(mask, _)| *mask == suitable) {
            Some((_, queue)) => queue.push(rank, id),
            None => {
                let mut queue = ReadyQueue::default();
                queue.push(rank, id);
                self.ready.push((suitable, queue));
            }
        }
    }

    /// Delays a derivation that is to become ready again.
    pub(super) fn delay(&mut self, id: NodeId, until: Duration) {
        self.delayed.insert((until, id), ());
    }

    /// The next derivation that is due.
    pub(super) fn due(&mut self, now: Duration) -> Option<NodeId> {
        let ((at, id), ()) = self.delayed.first_key_value()?;
        let (at, id) = (*at, *id);
        (at <= now).then(|| {
            self.delayed.remove(&(at, id));
            id
        })
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.delayed.first_key_value().map(|((at, _), ())| *at)
    }

    /// Takes out those that wait for a time and are not to be kept.
    pub(super) fn drop_delayed(&mut self, keep: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let dropped = self.delayed.extract_if(.., |(_, id), ()| !keep(*id));
        dropped.map(|((_, id), ())| id).collect()
    }

    pub(super) fn has_delayed(&self) -> bool {
        !self.delayed.is_empty()
    }

    /// The next derivation to build, and its builder.
    pub(super) fn next(
        &mut self,
        graph: &Graph,
        sources: &Sources,
        now: Duration,
    ) -> Option<(NodeId, usize)> {
        // Rank and number of the best, and in which queue it is.
        let mut best: Option<(u64, NodeId, usize)> = None;
        for index in 0..self.ready.len() {
            if !self.pool.has_room(self.ready[index].0, now) {
                continue;
            }
            let queue = &mut self.ready[index].1;
            while let Some((rank, id)) = queue.peek() {
                // Entries outlive what they stand for: it may have been started by another entry.
                if graph[id].state != State::Ready {
                    queue.pop();
                    continue;
                }
                if best.is_none_or(|(top, first, _)| (top, Reverse(first)) < (rank, Reverse(id))) {
                    best = Some((rank, id, index));
                }
                break;
            }
        }
        let (_, id, index) = best?;
        let (mask, queue) = &mut self.ready[index];
        queue.pop();
        let mask = *mask;
        let builder = self.assign(graph, id, mask, now, sources)?;
        Some((id, builder))
    }

    /// Takes a slot of one of the builders in `suitable`, if one is free.
    pub(super) fn assign(
        &mut self,
        graph: &Graph,
        id: NodeId,
        suitable: BuilderMask,
        now: Duration,
        sources: &Sources,
    ) -> Option<usize> {
        let attempts = self.attempts.get(&id);
        let tried = attempts.map_or(0, |attempts| attempts.builders);
        let estimate = self.own_height(graph, id);
        self.pool.assign(suitable, tried, now, || Needs {
            outputs: graph.inputs(id).iter().map(|edge| edge.input).collect(),
            sources: sources.of(graph[id].derivation()),
            estimate,
        })
    }

    /// Derivations that wait only for builders that are not to be waited for, each with the last error
    /// of one.
    pub(super) fn given_up(&self, graph: &Graph, now: Duration) -> Vec<(NodeId, ComponentError)> {
        let mut given_up = Vec::new();
        for (mask, queue) in &self.ready {
            if let Some(error) = self.pool.given_up(*mask, now) {
                let waiting = queue.ids().filter(|id| graph[*id].state == State::Ready);
                given_up.extend(waiting.map(|id| (id, error.clone())));
            }
        }
        given_up.sort_by_key(|(id, _)| *id);
        given_up.dedup_by_key(|(id, _)| *id);
        given_up
    }

    /// When a builder is not left alone any more that a ready derivation may wait for, or any builder
    /// if `any`.
    pub(super) fn next_resume(&self, now: Duration, any: bool) -> Option<Duration> {
        let waiting = self
            .ready
            .iter()
            .filter(|(_, queue)| queue.peek().is_some());
        let waiting = waiting.fold(0, |all, (mask, _)| all | mask);
        let waiting = if any { BuilderMask::MAX } else { waiting };
        self.pool.resumes(waiting, now)
    }

    pub(super) fn attempts_mut(&mut self, id: NodeId) -> &mut Attempts {
        self.attempts.entry(id).or_default()
    }

    pub(super) fn forget_attempts(&mut self, id: NodeId) {
        self.attempts.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.ready.clear();
        self.delayed.clear();
    }

    fn estimate(&self, name: &str) -> u32 {
        let millis = self.estimates.get(name).map(Duration::as_millis);
        millis.map_or(DEFAULT_ESTIMATE, |millis| {
            u32::try_from(millis).unwrap_or(u32::MAX).max(1)
        })
    }

    /// Adds a new derivation. The height of its inputs is at least its own plus theirs.
    ///
    /// Heights further down are computed anew when the graph has doubled and something waits for a
    /// builder, so that all that costs a constant for each derivation.
    pub(super) fn added(&mut self, graph: &mut Graph, id: NodeId) {
        self.fresh += 1;
        let own = self.own_height(graph, id);
        graph[id].height = own;
        if self.fresh > (graph.len() / 2).max(256) && !self.ready.is_empty() {
            self.refresh_heights(graph);
        }
    }

    fn own_height(&self, graph: &Graph, id: NodeId) -> u32 {
        if self.estimates.is_empty() {
            return DEFAULT_ESTIMATE;
        }
        let name = graph.path(id).name().as_str();
        self.estimate(name.strip_suffix(".drv").unwrap_or(name))
    }

    /// Computes the heights of pending derivations, and orders the ready ones anew. Inputs come
    /// before their dependents, so one backward pass is enough.
    pub(super) fn refresh_heights(&mut self, graph: &mut Graph) {
        self.fresh = 0;
        for id in graph.ids().rev() {
            let is_pending = matches!(
                graph[id].state,
                State::Unknown
                    | State::Idle
                    | State::Looking
                    | State::Waiting { .. }
                    | State::Ready
            );
            if !is_pending {
                continue;
            }
            let height = graph[id].height;
            for index in 0..graph.inputs(id).len() {
                let input = graph.inputs(id)[index].input;
                let through = height.saturating_add(self.own_height(graph, input));
                let node = &mut graph[input];
                node.height = node.height.max(through);
            }
        }
        for (mask, queue) in std::mem::take(&mut self.ready) {
            let mut ids: Vec<NodeId> = queue.into_ids().collect();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                if graph[id].state == State::Ready {
                    self.push(graph, id, mask);
                }
            }
        }
    }
}
