//! Places among the running builds of all clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long nobody may read a log before its build gives up its place.
const STALLED: Duration = Duration::from_secs(5);

/// A place among the running builds of all clients.
pub(super) struct Place<'a> {
    jobs: &'a Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl<'a> Place<'a> {
    pub async fn take(jobs: &'a Arc<Semaphore>) -> Self {
        let place = Self {
            jobs,
            permit: Mutex::default(),
        };
        place.take_again().await;
        place
    }

    pub fn give_up(&self) {
        self.set(None);
    }

    fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }

    pub async fn take_again(&self) {
        let has_it = self
            .permit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some();
        if has_it {
            return;
        }
        let permit = self.jobs.clone().acquire_owned().await;
        self.set(permit.ok());
    }

    /// Waits for `send`, which clients that do not read hold up. They keep no place from others meanwhile.
    pub async fn while_sending(&self, send: impl Future<Output = ()>) {
        tokio::pin!(send);
        if tokio::time::timeout(STALLED, &mut send).await.is_err() {
            self.give_up();
            send.await;
            self.take_again().await;
        }
    }
}
