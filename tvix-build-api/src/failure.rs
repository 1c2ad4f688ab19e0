//! Failed builds, and the resources that builds used.

use std::fmt;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Resource usage of the processes of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Processor time in user mode, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub user: Duration,
    /// Processor time in kernel mode, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub system: Duration,
    /// Peak memory usage in bytes. If the builder counts memory (`SandboxOptions::count_memory`, or a
    /// memory limit) and the machine has control groups, it is that of all processes together;
    /// otherwise it is that of the largest process.
    pub peak_memory: u64,
}

impl ResourceUsage {
    /// Processor time in user and kernel mode, and peak memory in bytes.
    pub fn new(user: Duration, system: Duration, peak_memory: u64) -> Self {
        Self {
            user,
            system,
            peak_memory,
        }
    }
}

/// A build that failed because of the derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct BuildFailure {
    /// The cause.
    pub kind: FailureKind,
    /// The last lines of the log, oldest first.
    pub log_tail: Vec<String>,
    /// How long it took, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub duration: Duration,
    /// Resource usage of its processes, if any ran and the builder measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
}

/// The cause of a failed build.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// The limit, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        limit: Duration,
    },
    /// The build exceeded its limit of time without log output.
    #[error("timed out after {} s of silence", limit.as_secs_f64())]
    Silent {
        /// The limit, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        expected: NixHash,
        /// The hash of the contents.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        actual: NixHash,
    },
    /// An output has a forbidden reference.
    #[error("output '{output}' is not allowed to refer to {}", quoted(references))]
    ForbiddenReference {
        /// The output.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        output: OutputName,
        /// All its forbidden references.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        references: Vec<StorePath>,
    },
    /// An output or its closure is larger than the derivation allows.
    #[error(
        "{}output '{output}' is too large at {size} bytes; limit is {limit} bytes",
        if *closure { "closure of " } else { "" }
    )]
    TooLarge {
        /// The output.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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

impl BuildFailure {
    /// A failure without a log.
    pub fn new(kind: FailureKind, duration: Duration) -> Self {
        Self {
            kind,
            log_tail: Vec::new(),
            duration,
            usage: None,
        }
    }

    /// Sets the last lines of the log, oldest first.
    #[must_use]
    pub fn with_log_tail(mut self, log_tail: Vec<String>) -> Self {
        self.log_tail = log_tail;
        self
    }

    /// Sets the resource usage of its processes.
    #[must_use]
    pub fn with_usage(mut self, usage: impl Into<Option<ResourceUsage>>) -> Self {
        self.usage = usage.into();
        self
    }
}

/// The kind of a `BuilderError`, as a value that can be kept and sent. Errors of stores have a kind
/// of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum BuilderErrorKind {
    /// The builder does not support the derivation; another one may.
    Unsupported,
    /// The machine cannot sandbox builds.
    SandboxUnavailable,
    /// The builder's machine does not answer.
    Unreachable,
    /// The builder failed.
    Failed,
}

impl fmt::Display for BuildFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

/// Durations as seconds with a fraction.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
