//! Derivations that are ready, best first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::graph::NodeId;

/// Derivations by rank, and among equals by number, so that they keep the order in which they
/// came. Ranks are few and most come in order, so that a million of them cost little more each
/// than one does, which a heap of all of them would not.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    by_rank: BTreeMap<u64, Equals>,
    /// One that was emptied, to be filled again.
    spare: Equals,
}

#[derive(Debug, Default)]
struct Equals {
    /// Those that came in order.
    run: VecDeque<NodeId>,
    others: BinaryHeap<Reverse<NodeId>>,
}

impl ReadyQueue {
    pub(super) fn push(&mut self, rank: u64, id: NodeId) {
        let spare = &mut self.spare;
        let equals = self.by_rank.entry(rank);
        let equals = equals.or_insert_with(|| std::mem::take(spare));
        if equals.run.back().is_none_or(|last| *last <= id) {
            equals.run.push_back(id);
        } else {
            equals.others.push(Reverse(id));
        }
    }

    /// The best one and its rank.
    pub(super) fn peek(&self) -> Option<(u64, NodeId)> {
        let (rank, equals) = self.by_rank.last_key_value()?;
        Some((*rank, equals.first()?))
    }

    /// Takes out the best one.
    pub(super) fn pop(&mut self) {
        let Some(mut entry) = self.by_rank.last_entry() else {
            return;
        };
        let equals = entry.get_mut();
        if equals.run.front().copied() == equals.first() {
            equals.run.pop_front();
        } else {
            equals.others.pop();
        }
        if equals.first().is_none() {
            self.spare = entry.remove();
        }
    }

    /// All, and some that are not ready any more.
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.by_rank.values().flat_map(|equals| {
            let others = equals.others.iter().map(|Reverse(id)| *id);
            equals.run.iter().copied().chain(others)
        })
    }

    pub(super) fn into_ids(self) -> impl Iterator<Item = NodeId> {
        self.by_rank.into_values().flat_map(|equals| {
            let others = equals.others.into_iter().map(|Reverse(id)| id);
            equals.run.into_iter().chain(others)
        })
    }
}

impl Equals {
    fn first(&self) -> Option<NodeId> {
        let other = self.others.peek().map(|Reverse(id)| *id);
        let run = self.run.front().copied();
        match (run, other) {
            (Some(run), Some(other)) => Some(run.min(other)),
            (run, other) => run.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_rank_then_by_number() {
        let mut queue = ReadyQueue::default();
        let mut pushed = Vec::new();
        for (rank, id) in [
            (1, 5),
            (2, 7),
            (1, 6),
            (1, 2),
            (3, 9),
            (2, 7),
            (1, 4),
            (3, 1),
        ] {
            queue.push(rank, NodeId(id));
            pushed.push((Reverse(rank), NodeId(id)));
        }
        pushed.sort();
        for (Reverse(rank), id) in pushed {
            assert_eq!(queue.peek(), Some((rank, id)));
            queue.pop();
        }
        assert_eq!(queue.peek(), None);
        queue.push(1, NodeId(3));
        queue.push(1, NodeId(2));
        let ids: Vec<NodeId> = queue.into_ids().collect();
        assert_eq!(ids, [NodeId(3), NodeId(2)]);
    }
}
