//! Recording `.drv` files and realisations in the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::Derivation;
use nix_compat::realisation::Realisation;
use nix_compat::store_path::StorePath;

use super::{Action, BatchId, ComponentError, Machine, Recording};

/// The most `.drv` files that go out together. They are in memory as texts then.
const BATCH: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Recordings {
    derivations: VecDeque<(StorePath, Arc<Derivation>)>,
    realisations: Vec<Realisation>,
    in_flight: Option<(BatchId, Recording)>,
    retry_at: Option<Duration>,
    attempts: u32,
    last: u64,
}

impl Recordings {
    pub(super) fn derivation(&mut self, path: StorePath, derivation: Arc<Derivation>) {
        self.derivations.push_back((path, derivation));
    }

    pub(super) fn realisations(&mut self, realisations: impl Iterator<Item = Realisation>) {
        self.realisations.extend(realisations);
    }

    /// The next recording. One is under way at a time, so that order is kept and later entries are
    /// batched.
    ///
    /// A `.drv` file refers to the sources of its derivation. It waits until it is `ready`, that
    /// is, none of its sources is on its way, and later ones wait behind it.
    pub(super) fn next(
        &mut self,
        now: Duration,
        ready: impl Fn(&Derivation) -> bool,
    ) -> Option<Action> {
        if let Some((batch, recording)) = &self.in_flight {
            self.retry_at.take_if(|at| *at <= now)?;
            return Some(Action::Record {
                batch: *batch,
                recording: recording.clone(),
            });
        }
        let waiting = self.derivations.iter().take(BATCH);
        let count = waiting.take_while(|(_, it)| ready(it)).count();
        let recording = if count > 0 {
            Recording::Derivations(self.derivations.drain(..count).collect())
        } else if !self.realisations.is_empty() {
            Recording::Realisations(std::mem::take(&mut self.realisations))
        } else {
            return None;
        };
        self.last += 1;
        self.attempts = 0;
        let batch = BatchId(self.last);
        self.in_flight = Some((batch, recording.clone()));
        Some(Action::Record { batch, recording })
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.retry_at
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.derivations.is_empty() && self.realisations.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }
}

impl Machine {
    /// Derivations that read these `.drv` files have them now.
    fn files_recorded(&mut self, derivations: &[(StorePath, Arc<Derivation>)]) {
        if self.stop.is_some() {
            return;
        }
        for (path, _) in derivations {
            if let Some(source) = self.sources.find(path) {
                self.source_valid(source);
            }
        }
    }

    pub(super) fn recorded(&mut self, batch: BatchId, result: Result<(), ComponentError>) {
        let recordings = &mut self.recordings;
        if recordings
            .in_flight
            .as_ref()
            .is_none_or(|(id, _)| *id != batch)
        {
            return;
        }
        let Err(trouble) = result else {
            if let Some((_, Recording::Derivations(derivations))) = recordings.in_flight.take() {
                self.files_recorded(&derivations);
            }
            return;
        };
        recordings.attempts += 1;
        if trouble.retryable && recordings.attempts < self.options.retry.attempts {
            recordings.retry_at = Some(self.now + self.options.retry.delay(recordings.attempts));
        } else {
            recordings.in_flight = None;
            self.store_failed(trouble);
        }
    }
}
