//! Errors of the engine.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// An error before the process runs, or a failure of the engine itself.
///
/// The end of a process that ran is not an error but an [`Ending`](super::Ending).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The machine, or the container that the caller runs in, does not allow sandboxes.
    #[error("this machine cannot sandbox builds: {missing} ({advice})")]
    Unavailable {
        /// The refused feature.
        missing: String,
        /// How to allow it.
        advice: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Other users could replace directories that processes write to.
    #[error(
        "builds cannot write to {}: {} {why}",
        directory.display(),
        ancestor.display()
    )]
    Exposed {
        /// The scratch directory.
        directory: PathBuf,
        /// The directory itself or one of its ancestors.
        ancestor: PathBuf,
        /// The reason, with the ancestor as subject.
        why: &'static str,
    },
    /// The specification is invalid.
    #[error("sandbox specification: {0}")]
    InvalidSpec(String),
    /// Preparing the sandbox failed: a problem of the machine, not of the program.
    #[error("{step}")]
    Setup {
        /// The failed step, with the paths concerned.
        step: String,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The sandbox is ready, but the program cannot be executed in it.
    #[error("executing {}", program.display())]
    Execute {
        /// The program, as a path inside the sandbox.
        program: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// A thread of the engine panicked. A bug of this crate.
    #[error("the sandbox engine has stopped")]
    Stopped,
}

impl EngineError {
    /// Adapter for `map_err`: names the step that an I/O error belongs to.
    pub(crate) fn setup<E: Into<io::Error>>(step: impl Into<String>) -> impl FnOnce(E) -> Self {
        let step = step.into();
        move |source| EngineError::Setup {
            step,
            source: source.into(),
        }
    }
}
