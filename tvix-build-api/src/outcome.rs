//! Outcomes of builds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tvix_store_api::NarStream;

/// The outcome of a build.
#[derive(Debug)]
pub enum BuildOutcome {
    /// All outputs were built.
    Success(BuildSuccess),
    /// The derivation is at fault.
    Failure(BuildFailure),
}

/// A successful build.
#[derive(Debug)]
pub struct BuildSuccess {
    /// The outputs.
    pub delivery: Delivery,
    /// The duration, from the inputs to the outputs.
    pub duration: Duration,
    /// Resource usage of its processes, if the builder measures it.
    pub usage: Option<ResourceUsage>,
}

/// Resource usage of the processes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in kernel mode.
    pub system: Duration,
    /// Peak memory usage in bytes. If the builder counts memory (`SandboxOptions::count_memory`, or a
    /// memory limit) and the machine has control groups, it is that of all processes together;
    /// otherwise it is that of the largest process.
    pub peak_memory: u64,
}

/// The way in which outputs are delivered.
#[derive(Debug)]
pub enum Delivery {
    /// The outputs are valid in the store that the request names.
    Pushed(Vec<PushedOutput>),
    /// The caller must add the outputs to a store, in this order: references first.
    Streamed(Vec<StreamedOutput>),
}

/// An output that the builder has pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedOutput {
    /// Its name.
    pub name: OutputName,
    /// Its info in the store.
    pub info: Arc<PathInfo>,
}

/// An output that has yet to be added to a store.
pub struct StreamedOutput {
    /// Its name.
    pub name: OutputName,
    /// Its info.
    pub info: PathInfo,
    /// Its contents.
    pub nar: NarStream,
}

impl fmt::Debug for StreamedOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamedOutput")
            .field("name", &self.name)
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// The names and infos of the outputs, for either kind of delivery.
    pub fn outputs(&self) -> Vec<(&OutputName, &PathInfo)> {
        match self {
            Self::Pushed(outputs) => outputs
                .iter()
                .map(|output| (&output.name, &*output.info))
                .collect(),
            Self::Streamed(outputs) => outputs
                .iter()
                .map(|output| (&output.name, &output.info))
                .collect(),
        }
    }
}

/// A build that failed because of the derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildFailure {
    /// The cause.
    pub kind: FailureKind,
    /// The last lines of the log, oldest first.
    pub log_tail: Vec<String>,
    /// How long it took.
    pub duration: Duration,
    /// Resource usage of its processes, if any ran and the builder measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
}

/// The cause of a failed build.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum FailureKind {
    /// The builder program ended with a nonzero exit code.
    #[error("builder failed with exit code {code}")]
    ExitCode {
        /// The exit code.
        code: i32,
    },
    /// The builder program was killed by a signal.
    #[error("builder was killed by signal {signal}")]
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The builder program cannot be started.
    #[error("cannot run the builder '{program}': {message}")]
    CannotRun {
        /// The program.
        program: String,
        /// The cause.
        message: String,
    },
    /// The build exceeded its time limit.
    #[error("timed out after {} s", limit.as_secs_f64())]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The build exceeded its limit of time without log output.
    #[error("timed out after {} s of silence", limit.as_secs_f64())]
    Silent {
        /// The limit.
        limit: Duration,
    },
    /// The build exceeded its log size limit.
    #[error("wrote more than {limit} bytes of log")]
    LogLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The build exceeded its disk space limit.
    #[error("took more than {limit} bytes on disk")]
    DiskLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The outputs are larger than the disk space limit.
    #[error(
        "output '{output}' is too large: with '{path}' the outputs have more than {limit} bytes, the \
         limit of disk space (sparse files count with their full size)"
    )]
    OutputsExceedDisk {
        /// The output.
        output: OutputName,
        /// The file that exceeds the limit. It was not read.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The build exceeded its memory limit.
    #[error("wanted more than {limit} bytes of memory")]
    MemoryLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// An output is missing.
    #[error("builder failed to produce the output path for output '{output}' at '{path}'")]
    MissingOutput {
        /// The output.
        output: OutputName,
        /// Its expected location.
        path: String,
    },
    /// The contents of a fixed output do not have the declared hash.
    #[error(
        "hash mismatch in fixed-output derivation:\n  specified: {expected}\n     got:    {actual}"
    )]
    HashMismatch {
        /// The hash that the derivation declares.
        expected: NixHash,
        /// The hash of the contents.
        actual: NixHash,
    },
    /// An output has a forbidden reference.
    #[error("output '{output}' is not allowed to refer to {}", quoted(references))]
    ForbiddenReference {
        /// The output.
        output: OutputName,
        /// All its forbidden references.
        references: Vec<StorePath>,
    },
    /// An output or its closure is larger than the derivation allows.
    #[error(
        "{}output '{output}' is too large at {size} bytes; limit is {limit} bytes",
        if *closure { "closure of " } else { "" }
    )]
    TooLarge {
        /// The output.
        output: OutputName,
        /// The size in bytes of its NAR, or of all NARs of its closure.
        size: u64,
        /// The limit in bytes.
        limit: u64,
        /// Whether the limit is that of the closure.
        closure: bool,
    },
    /// An output contains a file that a store cannot hold.
    #[error("output '{output}' cannot be stored: {message}")]
    InvalidOutput {
        /// The output.
        output: OutputName,
        /// The cause and the file.
        message: String,
    },
    /// The derivation is invalid.
    #[error("invalid derivation: {message}")]
    InvalidDerivation {
        /// The cause.
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
