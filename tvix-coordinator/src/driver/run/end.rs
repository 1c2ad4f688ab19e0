//! The end of a session: the remaining answers and events.

use super::{Done, Driver, next_done};

impl Driver {
    /// Answers imports that wait for their outputs to be located. The asking stream may have ended.
    pub(super) async fn send_answers(&mut self) {
        let cancel = self.cancel.clone();
        while self.locating > 0 {
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                done = next_done(&mut self.at_once, &mut self.running) => done,
            };
            match done {
                Some(done @ Done::Located(_)) => self.done(done),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Sends the remaining events to the listener, if there is one.
    pub(super) async fn send_rest(&mut self) {
        while !self.outbox.is_empty() {
            self.outbox.send().await;
        }
    }
}
