//! A build's slot: its place among the builds that run at once.

use tokio::sync::{mpsc, oneshot};

/// What a build tells of its slot.
#[derive(Debug)]
#[non_exhaustive]
pub enum SlotMessage {
    /// The build waits for something that another process does, and uses no slot meanwhile.
    Waiting {
        /// Which build: the tag of its [`BuildSlot`].
        build: u64,
        /// The lock that it waits for, for people.
        lock: String,
    },
    /// The build could go on, and wants a slot again.
    Ready {
        /// Which build.
        build: u64,
        /// Answered, or dropped, to let it go on.
        go: oneshot::Sender<()>,
    },
}

/// Where messages of several builds arrive.
pub type SlotReceiver = mpsc::Receiver<SlotMessage>;

/// A build's slot, which the build gives up while it waits for another process.
#[derive(Debug, Clone)]
pub struct BuildSlot {
    sender: Option<mpsc::Sender<SlotMessage>>,
    build: u64,
}

/// A channel for messages about slots that holds at most `capacity` of them.
pub fn slot_channel(capacity: usize) -> (BuildSlot, SlotReceiver) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    let slot = BuildSlot {
        sender: Some(sender),
        build: 0,
    };
    (slot, receiver)
}

impl BuildSlot {
    /// A slot that nobody else wants: giving it up changes nothing.
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
    pub async fn give_up(&self, lock: String) {
        if let Some(sender) = &self.sender {
            let build = self.build;
            // Nobody schedules builds any more: nobody wants the slot.
            let _ = sender.send(SlotMessage::Waiting { build, lock }).await;
        }
    }

    /// Waits for a slot after [`give_up`](Self::give_up).
    pub async fn take_again(&self) {
        if let Some(sender) = &self.sender {
            let (go, went) = oneshot::channel();
            let build = self.build;
            if sender.send(SlotMessage::Ready { build, go }).await.is_ok() {
                let _ = went.await;
            }
        }
    }
}
