//! Build slots: places among the concurrent builds.

use tokio::sync::{mpsc, oneshot};

/// A message from a build about its slot.
#[derive(Debug)]
#[non_exhaustive]
pub enum SlotMessage {
    /// The build waits for another process, and needs no slot meanwhile.
    Waiting {
        /// The build: the tag of its [`BuildSlot`].
        build: u64,
        /// The lock that it waits for, for display.
        lock: String,
    },
    /// The build can continue, and needs a slot again.
    Ready {
        /// The build.
        build: u64,
        /// A reply or a drop lets the build continue.
        go: oneshot::Sender<()>,
    },
}

/// Receives the messages of several builds.
pub type SlotReceiver = mpsc::Receiver<SlotMessage>;

/// The slot of a build. The build gives it up while it waits for another process.
#[derive(Debug, Clone)]
pub struct BuildSlot {
    sender: Option<mpsc::Sender<SlotMessage>>,
    build: u64,
}

/// A channel for slot messages with room for `capacity` messages.
pub fn slot_channel(capacity: usize) -> (BuildSlot, SlotReceiver) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let slot = BuildSlot {
        sender: Some(sender),
        build: 0,
    };
    (slot, receiver)
}

impl BuildSlot {
    /// A slot without a scheduler: giving it up has no effect.
    pub const fn unshared() -> Self {
        Self {
            sender: None,
            build: 0,
        }
    }

    /// The same channel, for another build.
    pub fn tagged(&self, build: u64) -> Self {
        Self {
            sender: self.sender.clone(),
            build,
        }
    }

    /// Gives the slot up while the build waits for `lock`.
    pub async fn release(&self, lock: String) {
        if let Some(sender) = &self.sender {
            let build = self.build;
            // A dropped receiver means that there is no scheduler any more.
            let _ = sender.send(SlotMessage::Waiting { build, lock }).await;
        }
    }

    /// Waits for a slot after [`release`](Self::release).
    pub async fn reacquire(&self) {
        if let Some(sender) = &self.sender {
            let (go, went) = oneshot::channel();
            let build = self.build;
            if sender.send(SlotMessage::Ready { build, go }).await.is_ok() {
                let _ = went.await;
            }
        }
    }
}
