//! The channel of events from the driver to the listener.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::event::EventRecord;

/// Events that are sent together at most.
const CHUNK: usize = 512;
/// Chunks on their way.
const CHUNKS: usize = 4;
/// Events that may wait for the listener before the driver takes nothing more.
const WAITING_EVENTS: usize = 2 * CHUNK;

type Chunk = VecDeque<EventRecord>;

/// Chunks that were emptied, to be filled again: they are large, and would be allocated on one
/// thread and freed on another all the time.
type Spares = Arc<Mutex<Vec<Chunk>>>;

/// The driver's end.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::Sender<Chunk>,
    full: VecDeque<Chunk>,
    /// The one that is being filled.
    last: Chunk,
    spares: Spares,
}

/// The listener's end.
#[derive(Debug)]
pub(super) struct Inbox {
    receiver: mpsc::Receiver<Chunk>,
    chunk: Chunk,
    spares: Spares,
}

pub(super) fn outbox() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let spares = Spares::default();
    let outbox = Outbox {
        sender,
        full: VecDeque::new(),
        last: Chunk::new(),
        spares: spares.clone(),
    };
    let inbox = Inbox {
        receiver,
        chunk: Chunk::new(),
        spares,
    };
    (outbox, inbox)
}

impl Outbox {
    /// Adds an event, unless the listener is gone.
    pub(super) fn push(&mut self, event: EventRecord) {
        if self.sender.is_closed() {
            return;
        }
        self.last.push_back(event);
        if self.last.len() >= CHUNK {
            let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
            let next = spares.pop();
            drop(spares);
            let next = next.unwrap_or_else(|| Chunk::with_capacity(CHUNK));
            self.full.push_back(std::mem::replace(&mut self.last, next));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.last.is_empty()
    }

    /// Whether the listener has to catch up first.
    pub(super) fn is_full(&self) -> bool {
        self.full.len() * CHUNK >= WAITING_EVENTS
    }

    /// Sends full chunks, as far as there is room.
    pub(super) fn send_full(&mut self) {
        while !self.full.is_empty() {
            let Ok(permit) = self.sender.try_reserve() else {
                return;
            };
            if let Some(chunk) = self.full.pop_front() {
                permit.send(chunk);
            }
        }
    }

    /// Sends the oldest events, or drops them all if nothing listens. Loses none when dropped.
    pub(super) async fn send(&mut self) {
        match self.sender.reserve().await {
            Ok(permit) => {
                let full = self.full.pop_front();
                permit.send(full.unwrap_or_else(|| std::mem::take(&mut self.last)));
            }
            Err(_) => {
                self.full.clear();
                self.last.clear();
            }
        }
    }
}

impl Inbox {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<EventRecord>> {
        loop {
            if let Some(event) = self.chunk.pop_front() {
                return Poll::Ready(Some(event));
            }
            match self.receiver.poll_recv(cx) {
                Poll::Ready(Some(chunk)) => {
                    let spare = std::mem::replace(&mut self.chunk, chunk);
                    let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
                    if spare.capacity() >= CHUNK && spares.len() < CHUNKS {
                        spares.push(spare);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
