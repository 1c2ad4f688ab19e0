//! What can go wrong before a process runs.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why a process was not started, or why the engine cannot start any.
///
/// How a process ended once it ran is not an error but an [`Ending`](super::Ending).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// This machine, or the environment the caller runs in, lacks what a sandbox needs.
    #[error("this machine cannot sandbox builds: {missing} ({advice})")]
    Unavailable {
        /// What was tried and refused.
        missing: String,
        /// What to do about it.
        advice: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Other users could put something else in the place of directories that builds write to.
    #[error(
        "builds cannot write to {}: {} {why}",
        directory.display(),
        ancestor.display()
    )]
    Exposed {
        /// Where builds were to write.
        directory: PathBuf,
        /// It, or a directory above it.
        ancestor: PathBuf,
        /// What is wrong with that.
        why: &'static str,
    },
    /// The specification makes no sense. The caller's mistake.
    #[error("sandbox specification: {0}")]
    InvalidSpec(String),
    /// Preparing the sandbox failed. Trouble of this machine, not of the program.
    #[error("{step}")]
    Setup {
        /// What was being done, with the paths concerned.
        step: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The sandbox stood, but the program could not be executed in it.
    #[error("executing {}", program.display())]
    Execute {
        /// The program, as a path inside.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The engine's threads are gone: one of them panicked. Our bug.
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
