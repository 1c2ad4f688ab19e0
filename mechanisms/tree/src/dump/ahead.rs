//! Several threads read a tree, one of which writes its archive.
//!
//! All do the same: whoever has nothing better to do lists the next batch of the tree, or reads
//! the small files of a batch that nobody reads yet. Only the thread that writes takes batches
//! out again, in their order, and it, too, reads rather than waits.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::Dumper;
use super::fetch::Fetched;
use super::walk::{Batch, Walk};
use nix_compat::nar::NarError;

/// Batches that are read, or waited for, at a time.
const WINDOW: usize = 12;
/// Threads beside the one that writes. Two read as fast as one hashes.
const HELPERS: usize = 2;

/// A batch with what has been read of it.
#[derive(Debug, Default)]
struct Portion {
    batch: Batch,
    fetched: Fetched,
}

#[derive(Debug)]
enum Slot {
    /// Nobody reads it yet.
    Listed(Box<Portion>),
    /// Somebody does.
    Taken,
    Read(Box<Portion>),
}

#[derive(Debug)]
struct State {
    /// While nobody lists.
    walk: Option<Walk>,
    /// Everything has been listed.
    listed: bool,
    window: VecDeque<Slot>,
    /// The number of the first batch of the window.
    first: usize,
    /// To be used again.
    spare: Vec<Portion>,
    /// There is no use in going on.
    given_up: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a thread can do.
enum Work {
    /// Write it, with what has been read of it, if anything.
    Write(Box<Portion>, bool),
    /// Read the batch of this number.
    Read(Box<Portion>, usize),
    List(Walk, Box<Portion>),
    /// Everything is done.
    Nothing,
}

/// Writes the rest of a tree.
pub(super) fn dump<W: Write>(walk: Walk, dumper: &mut Dumper<'_, W>) -> Result<(), NarError> {
    let shared = Shared {
        state: Mutex::new(State {
            walk: Some(walk),
            listed: false,
            window: VecDeque::with_capacity(WINDOW),
            first: 0,
            spare: Vec::new(),
            given_up: false,
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 0..helpers() {
            let thread = std::thread::Builder::new().name("nar-reader".into());
            // Without them it only takes longer.
            let _ = thread.spawn_scoped(scope, || {
                let _leaving = Leaving(&shared, std::thread::panicking);
                shared.work(false, |_, _| Ok(()))
            });
        }
        let _leaving = Leaving(&shared, || true);
        shared.work(true, |portion, read| {
            let Portion { batch, fetched } = portion;
            dumper.batch(batch, read.then_some(fetched))
        })
    })
}

/// As many as there are other processors.
fn helpers() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        HELPERS.min(processors - 1)
    })
}

impl Shared {
    fn work(
        &self,
        writes: bool,
        mut write: impl FnMut(&mut Portion, bool) -> Result<(), NarError>,
    ) -> Result<(), NarError> {
        let mut state = self.lock();
        loop {
            let work = loop {
                match state.work(writes) {
                    Some(work) => break work,
                    None => {
                        let waited = self.changed.wait(state);
                        state = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            let lost = state.given_up;
            drop(state);
            match work {
                Work::Nothing if lost && writes => {
                    return Err(NarError::Io(io::Error::other(
                        "a thread that reads ahead ended before its time",
                    )));
                }
                Work::Nothing => return Ok(()),
                Work::Write(mut portion, read) => {
                    write(&mut portion, read)?;
                    portion.batch.clear();
                    state = self.lock();
                    state.spare.push(*portion);
                }
                Work::Read(mut portion, number) => {
                    portion.fetched.fetch(&portion.batch);
                    state = self.lock();
                    let index = number - state.first;
                    state.window[index] = Slot::Read(portion);
                }
                Work::List(mut walk, mut portion) => {
                    let more = walk.next(&mut portion.batch);
                    state = self.lock();
                    state.window.push_back(Slot::Listed(portion));
                    state.walk = more.then_some(walk);
                    state.listed = !more;
                }
            }
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What is to be done next; `None` if others have to do something first.
    fn work(&mut self, writes: bool) -> Option<Work> {
        if self.given_up || (self.listed && self.window.is_empty()) {
            return Some(Work::Nothing);
        }
        if writes && let Some(Slot::Listed(_) | Slot::Read(_)) = self.window.front() {
            let (portion, read) = match self.window.pop_front() {
                Some(Slot::Listed(portion)) => (portion, false),
                Some(Slot::Read(portion)) => (portion, true),
                Some(Slot::Taken) | None => return None,
            };
            self.first += 1;
            return Some(Work::Write(portion, read));
        }
        let unread = |slot: &Slot| matches!(slot, Slot::Listed(_));
        if let Some(index) = self.window.iter().position(unread)
            && let Slot::Listed(portion) = std::mem::replace(&mut self.window[index], Slot::Taken)
        {
            return Some(Work::Read(portion, self.first + index));
        }
        if self.window.len() < WINDOW
            && let Some(walk) = self.walk.take()
        {
            let portion = Box::new(self.spare.pop().unwrap_or_default());
            return Some(Work::List(walk, portion));
        }
        // A helper is of no more use once everything is being read.
        (!writes && self.listed).then_some(Work::Nothing)
    }
}

/// Tells all others to leave, if this thread leaves in the given case.
struct Leaving<'a, F: Fn() -> bool>(&'a Shared, F);

impl<F: Fn() -> bool> Drop for Leaving<'_, F> {
    fn drop(&mut self) {
        if (self.1)() {
            self.0.lock().given_up = true;
            self.0.changed.notify_all();
        }
    }
}
