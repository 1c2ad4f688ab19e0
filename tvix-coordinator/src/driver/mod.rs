//! Runs the state machine with tokio on the three traits: performs its actions, and tells it the
//! results.

mod closures;
mod coordinator;
mod outbox;
mod run;
mod session;
mod sources;
mod tasks;

pub use coordinator::Coordinator;
pub use session::{Session, SessionEvents, SessionReport};
