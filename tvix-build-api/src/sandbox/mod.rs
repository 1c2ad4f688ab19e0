//! Building on this machine, in Linux namespaces.
//!
//! [`SandboxBuilder`] is the builder. It is based on [`tvix_sandbox`], which starts processes in
//! sandboxes and knows nothing of derivations.
//!
//! A build passes through the modules below in this order: inputs are located, a process is
//! prepared and run, its outputs are harvested and delivered.

mod builder;
#[cfg(feature = "builtins")]
mod builtin;
#[cfg(not(feature = "builtins"))]
#[path = "no_builtin.rs"]
mod builtin;
mod deliver;
mod features;
mod field;
mod harvest;
mod init;
mod inputs;
mod keep;
mod options;
mod paths;
mod place;
mod prepare;
mod run;
mod settle;
mod stream;
mod timers;
mod trouble;

#[doc(inline)]
pub use crate::__sandbox_init_before_main as init_before_main;
pub use builder::SandboxBuilder;
pub use init::init;
pub use options::SandboxOptions;
pub use paths::{SandboxPath, SandboxPathError};
pub use tvix_sandbox::EngineError;
