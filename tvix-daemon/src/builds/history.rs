//! The log of a running build, for any number of readers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// Lines that are kept for readers that come late or are slow, in bytes.
const CAPACITY: usize = 1 << 20;

/// A line of a build or of its post-build hook.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub text: Bytes,
    /// Whether it goes on with the next one.
    pub partial: bool,
    pub origin: Origin,
}

/// The origin of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    Builder,
    /// The post-build hook starts: its program.
    HookStarted,
    Hook,
    HookEnded,
}

impl Line {
    /// A line of a builder.
    pub fn new(text: impl Into<Bytes>, partial: bool) -> Self {
        Self {
            text: text.into(),
            partial,
            origin: Origin::Builder,
        }
    }
}

/// A log of bounded size. The writer waits for the fastest reader only, so that one that does not read holds no other
/// up; a reader that falls behind loses lines.
#[derive(Debug, Default)]
pub(super) struct History {
    state: Mutex<State>,
    /// A reader has read.
    room: Notify,
    /// There is more to read.
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The number of the first line in `lines`.
    first: u64,
    readers: HashMap<u64, u64>,
    last_reader: u64,
    closed: bool,
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    /// Whether a line of this size fits, possibly after old ones have gone.
    fn make_room(&mut self, size: usize) -> bool {
        while self.bytes + size > CAPACITY && !self.lines.is_empty() {
            let fastest = self.readers.values().max();
            if fastest.is_some_and(|next| *next <= self.first) {
                return false;
            }
            if let Some(line) = self.lines.pop_front() {
                self.bytes -= line.text.len() + 1;
                self.first += 1;
            }
        }
        true
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line. If the future is dropped before it completes, the line is not added.
    pub async fn push(&self, line: Line) {
        let size = line.text.len() + 1;
        loop {
            let room = self.room.notified();
            {
                let mut state = self.state();
                if state.make_room(size) {
                    state.bytes += size;
                    state.lines.push_back(line);
                    break;
                }
            }
            room.await;
        }
        self.more.notify_waiters();
    }

    /// No line follows.
    pub fn close(&self) {
        self.state().closed = true;
        self.more.notify_waiters();
    }

    /// A reader that begins with the oldest line that is left.
    pub fn reader(self: &Arc<Self>) -> Reader {
        let mut state = self.state();
        state.last_reader += 1;
        let id = state.last_reader;
        let first = state.first;
        state.readers.insert(id, 0);
        Reader {
            history: self.clone(),
            id,
            next: 0,
            // A late reader is told, too.
            missed: first,
        }
    }
}

/// Reads a [`History`].
#[derive(Debug)]
pub(super) struct Reader {
    history: Arc<History>,
    id: u64,
    next: u64,
    missed: u64,
}

impl Reader {
    /// The next line; `None` after the last. Dropping the future loses none.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            let more = self.history.more.notified();
            {
                let mut state = self.history.state();
                if self.next < state.first {
                    self.missed = state.first - self.next;
                    self.next = state.first;
                    let text = format!(
                        "(a part of the log is left out here: {} lines)",
                        self.missed
                    );
                    return Some(Line::new(text, false));
                }
                let index = usize::try_from(self.next - state.first).unwrap_or(usize::MAX);
                if let Some(line) = state.lines.get(index).cloned() {
                    self.next += 1;
                    let next = self.next;
                    state.readers.insert(self.id, next);
                    drop(state);
                    self.history.room.notify_waiters();
                    return Some(line);
                }
                debug_assert!(self.next <= state.end());
                if state.closed {
                    return None;
                }
            }
            more.await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.history.state().readers.remove(&self.id);
        self.history.room.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn late_readers_get_it_all() {
        let history = Arc::new(History::default());
        for number in 0..3 {
            history.push(Line::new(format!("{number}"), false)).await;
        }
        let mut reader = history.reader();
        history.push(Line::new("3", true)).await;
        history.close();
        let mut read = Vec::new();
        while let Some(line) = reader.next().await {
            read.extend_from_slice(&line.text);
        }
        assert_eq!(read, b"0123");
    }

    #[tokio::test]
    async fn the_fastest_reader_holds_the_writer_up_and_no_other() {
        let history = Arc::new(History::default());
        let (mut fast, mut slow) = (history.reader(), history.reader());
        let line: Bytes = vec![b'x'; CAPACITY / 4].into();
        for _ in 0..3 {
            history
                .push(Line::new(line.clone(), false))
                .now_or_never()
                .unwrap();
        }
        // Full, and nobody has read.
        assert!(
            history
                .push(Line::new(line.clone(), false))
                .now_or_never()
                .is_none()
        );
        assert!(fast.next().await.is_some());
        history
            .push(Line::new(line.clone(), false))
            .now_or_never()
            .unwrap();
        let note = slow.next().await.unwrap().text;
        assert!(note.starts_with(b"(a part of the log"), "{note:?}");
        assert_eq!(slow.next().await.unwrap().text.len(), line.len());
        drop((fast, slow));
        // Nobody is left to wait for.
        for _ in 0..8 {
            history
                .push(Line::new(line.clone(), false))
                .now_or_never()
                .unwrap();
        }
    }
}
