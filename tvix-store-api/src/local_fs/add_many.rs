//! Adding many small objects at once.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use super::add_group::again;
use super::{Inner, LocalStore};
use crate::blocking::blocking;
use crate::{StoreError, VerifiedObject};

/// Objects that are locked and registered together. Each lock is an open file, of those a process has
/// 1024 by default, and two groups are on their way at once.
pub(super) const GROUP: usize = 128;

impl LocalStore {
    /// In groups of one transaction each.
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
            // Held until it is done, even if nobody waits for it any more.
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

/// As many objects at a time as there are before a path comes again.
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
    /// Adds groups of objects, of which none has a path twice, and reports on one group after the
    /// other. Blocks.
    ///
    /// While a group is placed the one before it is registered by another thread, unless there is
    /// `only_one`. Who registers waits for no lock, and who places one by one holds none, so that
    /// nobody waits in a circle, whoever else has the same paths in his groups.
    pub(super) fn add_groups<G: AsRef<[VerifiedObject]>>(
        &self,
        groups: impl Iterator<Item = G>,
        only_one: bool,
        mut done: impl FnMut(G, Vec<Result<(), StoreError>>),
    ) {
        thread::scope(|scope| {
            // Nothing waits in between: no more than two groups have locks.
            let (placed, to_register) = sync_channel(0);
            let (registered, results) = channel();
            let register = move || {
                for placed in to_register {
                    // Nobody listens any more only if this function has panicked.
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
                        // That thread ends only by a panic, which this scope passes on.
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

    /// Adds one after the other, as they could not be placed together because of `error`. The caller
    /// holds no locks.
    fn add_each(
        &self,
        objects: &[VerifiedObject],
        error: StoreError,
    ) -> Vec<Result<(), StoreError>> {
        if let [_] = objects {
            return vec![Err(error)];
        }
        // The next would wait just as long for the database.
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
