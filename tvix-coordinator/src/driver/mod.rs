//! Runs the state machine with tokio on the three traits. No policy is here: what to do is the
//! machine's to say, and this does it and tells the machine how it went.

mod closures;
mod coordinator;
mod outbox;
mod run;
mod session;
mod sources;
mod tasks;

pub use coordinator::{Coordinator, MAX_BUILDERS, SetupError};
pub use session::{Session, SessionEvents, SessionReport};
