//! Batching of store look-ups.
//!
//! The first look-up goes out at once. Those that come while it is under way go out together when a

use std::collections::BTreeMap;
use std::time::Duration;

use super::{BatchId, GoalId, NodeId};
use crate::machine::sources::SourceId;

/// Queries at once.
const IN_FLIGHT: usize = 2;
/// The most things in a query.
const BATCH: usize = 1024;
/// Things that wait for a query before the evaluator should be made to wait.
const BACKLOG: usize = 8 * BATCH;

/// A subject of a query.
#[derive(Debug, Clone, Copy)]
pub(super) enum Subject {
    /// All outputs of a derivation.
    Outputs(NodeId),
    /// A path that something refers to that is to be substituted.
    Goal(GoalId),
    /// A source.
    Source(SourceId),
    /// The outputs of a floating derivation, by realisation.
    Realisations(NodeId),
}

/// A query under way, or one that failed and waits to be tried again.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) subjects: Vec<Subject>,
    pub(super) attempts: u32,
}

#[derive(Debug, Default)]
pub(super) struct LookUps {
    queued: Vec<Subject>,
    queued_realisations: Vec<Subject>,
    in_flight: BTreeMap<BatchId, Batch>,
    delayed: BTreeMap<(Duration, BatchId), Batch>,
    last: u64,
}

impl LookUps {
    pub(super) fn queue(&mut self, subject: Subject) {
        match subject {
            Subject::Realisations(_) => self.queued_realisations.push(subject),
            _ => self.queued.push(subject),
        }
    }

    /// The next batch that can go out.
    pub(super) fn next(&mut self, now: Duration) -> Option<(BatchId, &Batch)> {
        if self.in_flight.len() >= IN_FLIGHT {
            return None;
        }
        let batch = match self.delayed.first_key_value() {
            Some(((at, _), _)) if *at <= now => self.delayed.pop_first()?.1,
            _ => {
                let queue = if self.queued.is_empty() {
                    &mut self.queued_realisations
                } else {
                    &mut self.queued
                };
                if queue.is_empty() {
                    return None;
                }
                let rest = queue.split_off(queue.len().min(BATCH));
                Batch {
                    subjects: std::mem::replace(queue, rest),
                    attempts: 0,
                }
            }
        };
        self.last += 1;
        let id = BatchId(self.last);
        Some((id, self.in_flight.entry(id).or_insert(batch)))
    }

    /// Takes out a batch that was answered.
    pub(super) fn answered(&mut self, id: BatchId) -> Option<Batch> {
        self.in_flight.remove(&id)
    }

    /// Has a batch go out again later.
    pub(super) fn delay(&mut self, id: BatchId, batch: Batch, until: Duration) {
        self.delayed.insert((until, id), batch);
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.delayed.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queued.is_empty()
            && self.queued_realisations.is_empty()
            && self.in_flight.is_empty()
            && self.delayed.is_empty()
    }

    pub(super) fn has_backlog(&self) -> bool {
        self.queued.len() + self.queued_realisations.len() >= BACKLOG
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }
}
