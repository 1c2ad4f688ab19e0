//! Builds and substitutions for clients.

use tokio::sync::mpsc;
use tvix_coordinator::Coordinator;
use tvix_worker_protocol::LogMessage;

/// Where messages for a client go. Bounded: a slow client slows down what it waits for.
pub type LogSender = mpsc::Sender<LogMessage>;

/// Builds and substitutes for any number of clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Builds {
    coordinator: Coordinator,
}

impl Builds {
    /// Builds with the store, substituters, builders and options of `coordinator`; its evaluator is not used.
    pub fn new(coordinator: Coordinator) -> Self {
        Self { coordinator }
    }

    /// The coordinator.
    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }
}
