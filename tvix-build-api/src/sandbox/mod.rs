//! Building on this machine, in Linux namespaces.
//!
//! [`engine`] starts processes in sandboxes and knows nothing of derivations.

pub mod engine;
