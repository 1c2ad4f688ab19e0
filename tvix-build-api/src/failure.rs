//! Failed builds, and the resources that builds used.

use std::fmt;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What the processes of a build used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// Processor time in the programs.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most bytes of memory that were in use at once: of all processes together if a limit was
    /// set or that was asked for, and the machine has control groups, else of the largest of them.
    pub peak_memory: u64,
}

/// A build that the derivation is to blame for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The last lines of the log, oldest first.
    pub log_tail: Vec<String>,
    /// How long it took.
    pub duration: Duration,
    /// What its processes used, if it came to that and the builder knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
}

/// What went wrong in a build.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum FailureKind {
    /// The builder program ended with another exit code than 0.
    #[error("builder failed with exit code {code}")]
    ExitCode {
        /// The exit code.
        code: i32,
    },
    /// A signal ended the builder program.
    #[error("builder was killed by signal {signal}")]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The builder program cannot be run.
    #[error("cannot run the builder '{program}': {message}")]
    CannotRun {
        /// The program.
        program: String,
        /// Why not.
        message: String,
    },
    /// It ran for too long.
    #[error("timed out after {} s", limit.as_secs_f64())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// It wrote nothing to its log for too long.
    #[error("timed out after {} s of silence", limit.as_secs_f64())]
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// It wrote too much to its log.
    #[error("wrote more than {limit} bytes of log")]
    LogLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// Its files took too much room.
    #[error("took more than {limit} bytes on disk")]
    DiskLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// Its outputs are larger than what it may take on disk.
    #[error(
        "output '{output}' is too large: with '{path}' the outputs have more than {limit} bytes, the \
         limit of disk space (sparse files count with their full size)"
    )]
    OutputsExceedDisk {
        /// The output.
        output: OutputName,
        /// The file that is too much. It was not read.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Its processes wanted too much memory.
    #[error("wanted more than {limit} bytes of memory")]
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// An output is not there.
    #[error("builder failed to produce the output path for output '{output}' at '{path}'")]
    MissingOutput {
        /// The output.
        output: OutputName,
        /// Where it should be.
        path: String,
    },
    /// A fixed output has other contents than were declared.
    #[error(
        "hash mismatch in fixed-output derivation:\n  specified: {expected}\n     got:    {actual}"
    )]
    HashMismatch {
        /// What the derivation declares.
        expected: NixHash,
        /// What was made.
        actual: NixHash,
    },
    /// An output refers to something that it must not refer to.
    #[error("output '{output}' is not allowed to refer to {}", quoted(references))]
    ForbiddenReference {
        /// The output.
        output: OutputName,
        /// All of what it refers to and must not.
        references: Vec<StorePath>,
    },
    /// An output, or it with all that it refers to, is larger than the derivation allows.
    #[error(
        "{}output '{output}' is too large at {size} bytes; limit is {limit} bytes",
        if *closure { "closure of " } else { "" }
    )]
    TooLarge {
        /// The output.
        output: OutputName,
        /// The size of its NAR in bytes, or of all NARs of its closure.
        size: u64,
        /// The limit in bytes.
        limit: u64,
        /// Whether it is the closure that is too large.
        closure: bool,
    },
    /// An output holds something that a store cannot hold.
    #[error("output '{output}' cannot be stored: {message}")]
    InvalidOutput {
        /// The output.
        output: OutputName,
        /// What and where.
        message: String,
    },
    /// The derivation asks for something that cannot be.
    #[error("invalid derivation: {message}")]
    InvalidDerivation {
        /// What.
        message: String,
    },
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

fn quoted(paths: &[StorePath]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| format!("'{path}'")).collect();
    paths.join(", ")
}

impl fmt::Display for BuildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}
