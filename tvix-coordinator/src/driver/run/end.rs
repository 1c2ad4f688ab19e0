//! The end of a session: what is still to be sent.

use super::{Done, Driver, next_done};

impl Driver {
    /// Answers the imports whose outputs are being located. The stream that asked may have ended.
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

    /// Sends what is left for whoever still listens.
    pub(super) async fn send_rest(&mut self) {
        while !self.outbox.is_empty() {
            self.outbox.send().await;
        }
    }
}
