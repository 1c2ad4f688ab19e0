//! Handling of outputs for all builders: their planned paths, their checks, and their order of
//! delivery.

mod address;
mod checks;
mod order;
mod plan;
mod rewrite;
#[cfg(all(feature = "sandbox", target_os = "linux"))]
mod rewriting_writer;

#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub(crate) use address::Addressed;
pub(crate) use address::{check_fixed, floating_path};
pub(crate) use checks::{MadeOutput, OutputChecks};
pub(crate) use order::references_first;
pub(crate) use plan::{Destination, PlannedOutput, placeholder_rewrites, plan_outputs};
pub(crate) use rewrite::{HashRewrite, rewrite_in_place};
#[cfg(all(feature = "sandbox", target_os = "linux"))]
pub(crate) use rewriting_writer::RewritingWriter;
