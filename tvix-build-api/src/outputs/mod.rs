//! Handling of outputs for all builders: their planned paths, their checks, and their order of
//! delivery. For builders of one's own that run programs, as [`translate`](crate::translate) is for
//! starting them:
//!
//! 1. [`plan_outputs`] says where each output is to be made, before the build.
//! 2. [`OutputChecks`] checks the references and sizes of the outputs.
//! 3. [`references_first`] orders outputs that refer to each other.
//! 4. [`check_fixed`] checks the hash of a fixed output; [`floating_path`] gives a content-addressed
//!    output its path, and [`HashRewrite`] replaces the path at which it was made.
//!
//! [`MemoryBuild::finish`](crate::memory::MemoryBuild::finish) does all of it for outputs in memory.

mod address;
mod checks;
mod order;
mod plan;
mod rewrite;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
mod rewriting_writer;

pub use address::{Addressed, check_fixed, floating_path};
pub use checks::{MadeOutput, OutputChecks};
pub use order::references_first;
pub use plan::{Destination, PlannedOutput, placeholder_rewrites, plan_outputs};
pub use rewrite::{HashRewrite, rewrite_in_place};
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub(crate) use rewriting_writer::RewritingWriter;
