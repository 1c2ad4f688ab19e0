//! The thread that cleans up: it kills and reaps dropped processes, and empties scratch directories.

use std::sync::{Arc, mpsc};
use std::thread::ThreadId;

use super::process::Process;
use super::slots::{Slot, Slots};

/// Work for the janitor.
pub(super) enum Chore {
    /// Kill and reap the process, then drop its resources.
    End(Process),
    /// Empty a scratch directory and make it available again.
    Clean(Slot, Arc<Slots>),
    /// Report that all earlier chores are done.
    Report(mpsc::Sender<()>),
}

/// A handle on the janitor thread.
#[derive(Clone)]
pub(super) struct Janitor {
    chores: mpsc::Sender<Chore>,
    thread: ThreadId,
}

impl Janitor {
    /// Starts the thread. It ends when the last handle is gone and all chores are done.
    pub(super) fn start() -> std::io::Result<Self> {
        let (chores, inbox) = mpsc::channel();
        let handle = std::thread::Builder::new()
            .name("sandbox-janitor".into())
            .spawn(move || {
                for chore in inbox {
                    match chore {
                        Chore::End(process) => {
                            process.kill();
                            // Failing means that there is nothing left to reap.
                            let _ = process.reap(true);
                            drop(process.held);
                        }
                        Chore::Clean(slot, slots) => slots.clean(slot),
                        Chore::Report(done) => {
                            let _ = done.send(());
                        }
                    }
                }
            })?;
        Ok(Janitor {
            chores,
            thread: handle.thread().id(),
        })
    }

    /// Waits until all chores given so far are done.
    pub(super) fn finish(&self) {
        // What was held for a process can own the engine, and is dropped on the janitor's thread.
        if std::thread::current().id() == self.thread {
            return;
        }
        let (done, wait) = mpsc::channel();
        self.give(Chore::Report(done));
        let _ = wait.recv();
    }

    pub(super) fn give(&self, chore: Chore) {
        // The thread is gone only if it panicked: then it is done here rather than not at all.
        if let Err(mpsc::SendError(Chore::End(process))) = self.chores.send(chore) {
            process.kill();
            let _ = process.reap(true);
        }
    }
}
