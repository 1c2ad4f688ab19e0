//! The coordinator of the Tvix build flow.

pub mod event;
pub mod machine;
pub mod options;
pub mod report;

pub use event::{BuildEvent, EVENT_VERSION, EventRecord};
pub use options::{BuildPolicy, Decision, OnFailure, Options, RetryPolicy};
pub use report::{Counts, Failure, FailureCause, Report, RootReport, Skipped, Status};
