//! Adding many small objects at once.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use super::add_group::again;
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::{StoreError, VerifiedObject};

/// Number of objects that are locked and registered together. Each lock is an open file. Two groups
/// are in progress at a time, and the default limit of a process is 1024 open files.
pub(super) const GROUP: usize = 128;

impl LocalStore {
    /// Adds objects in groups, with one transaction for each group.
    pub(super) async fn add_verified(
        &self,
        objects: Vec<VerifiedObject>,
    ) -> Vec<Result<(), StoreError>> {
        let guards = self
            .0
            .locks
            .lock_all(objects.iter().map(VerifiedObject::path));
        let guards = guards.await;
        let permit = self.0.additions.clone().acquire_owned().await;
        let (inner, count) = (self.0.clone(), objects.len());
        let added = blocking(&self.0.uri, move || {
            // Held until the addition has ended, even if the future is dropped.
            let _held = (permit, guards);
            let mut results = Vec::with_capacity(objects.len());
            for run in (Runs { rest: &objects }) {
                let only_one = run.len() <= GROUP;
                inner.add_groups(run.chunks(GROUP), only_one, |_, added| {
                    results.extend(added)
                });
            }
            Ok(results)
        });
        added.await.unwrap_or_else(|error| {
            let failed = (0..count).map(|_| Err(again(&self.0.uri, &error)));
            failed.collect()
        })
    }
}

/// Splits objects into runs in which no path occurs twice.
struct Runs<'a> {
    rest: &'a [VerifiedObject],
}

impl<'a> Iterator for Runs<'a> {
    type Item = &'a [VerifiedObject];

    fn next(&mut self) -> Option<Self::Item> {
        let mut paths = HashSet::new();
        let new = self.rest.iter();
        let len = new.take_while(|it| paths.insert(it.path())).count();
        let (run, rest) = self.rest.split_at(len);
        self.rest = rest;
        (len > 0).then_some(run)
    }
}

impl Inner {
    /// Adds groups of objects, and reports the results of one group after the other. No path may
    /// occur twice in a group. Blocks.
    ///
    /// Unless `only_one` is set, a second thread registers a group while the next one is placed.
    /// The registering thread waits for no lock, and no lock is held while objects are placed one
    /// by one. So there is no deadlock, even with processes that add the same paths.
    pub(super) fn add_groups<G: AsRef<[VerifiedObject]>>(
        &self,
        groups: impl Iterator<Item = G>,
        only_one: bool,
        mut done: impl FnMut(G, Vec<Result<(), StoreError>>),
    ) {
        thread::scope(|scope| {
            // A rendezvous channel: at most two groups hold locks.
            let (placed, to_register) = sync_channel(0);
            let (registered, results) = channel();
            let register = move || {
                for placed in to_register {
                    // The receiver is gone only if this function has panicked.
                    let _ = registered.send(self.register(placed));
                }
            };
            let another_thread = !only_one
                && thread::Builder::new()
                    .name("register".into())
                    .spawn_scoped(scope, register)
                    .is_ok();
            let mut on_their_way = VecDeque::new();
            for group in groups {
                let (waiting, failed) = match self.place(group.as_ref()) {
                    Err(error) => (0, Some((group, error))),
                    Ok(one) if !another_thread => {
                        done(group, self.register(one));
                        continue;
                    }
                    Ok(one) => {
                        // The thread ends only by a panic, which the scope propagates.
                        if placed.send(one).is_err() {
                            return;
                        }
                        on_their_way.push_back(group);
                        (1, None)
                    }
                };
                while on_their_way.len() > waiting {
                    let (Ok(added), Some(group)) = (results.recv(), on_their_way.pop_front())
                    else {
                        return;
                    };
                    done(group, added);
                }
                if let Some((group, error)) = failed {
                    let added = self.add_each(group.as_ref(), error);
                    done(group, added);
                }
            }
            drop(placed);
            for group in on_their_way {
                let Ok(added) = results.recv() else { return };
                done(group, added);
            }
        });
    }

    /// Adds objects one by one, after placing them together failed with `error`. The caller holds
    /// no locks.
    fn add_each(
        &self,
        objects: &[VerifiedObject],
        error: StoreError,
    ) -> Vec<Result<(), StoreError>> {
        if let [_] = objects {
            return vec![Err(error)];
        }
        // The next object would wait for the database just as long.
        if error.is_retryable() {
            let failed = objects.iter().map(|_| Err(again(&self.uri, &error)));
            return failed.collect();
        }
        let each = objects.iter().map(std::slice::from_ref);
        each.flat_map(|object| match self.place(object) {
            Ok(placed) => self.register(placed),
            Err(error) => vec![Err(error)],
        })
        .collect()
    }
}
