//! How a build ended.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tvix_store_api::{NarStream, Store, StoreError};

/// How a build ended.
#[derive(Debug)]
pub enum BuildOutcome {
    /// Every output is there.
    Success(BuildSuccess),
    /// The derivation is to blame.
    Failure(BuildFailure),
}

/// A build that made all its outputs.
#[derive(Debug)]
pub struct BuildSuccess {
    /// The outputs.
    pub delivery: Delivery,
    /// How long it took, inputs to outputs.
    pub duration: Duration,
    /// What its processes used, if the builder knows.
    pub usage: Option<ResourceUsage>,
}

/// What the processes of a build used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceUsage {
    /// Processor time in the programs, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub user: Duration,
    /// Processor time in the kernel, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub system: Duration,
    /// The most bytes of memory that were in use at once: of all processes together if a limit was
    /// set or that was asked for, and the machine has control groups, else of the largest of them.
    pub peak_memory: u64,
}

/// How outputs are handed over.
#[derive(Debug)]
pub enum Delivery {
    /// They are valid in the store that the request named.
    Pushed(Vec<PushedOutput>),
    /// They have to be added to a store, in this order: references come first.
    Streamed(Vec<StreamedOutput>),
}

/// An output that the builder has pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedOutput {
    /// Its name.
    pub name: OutputName,
    /// What the store knows of it.
    pub info: Arc<PathInfo>,
}

/// An output that is still to be added to a store.
pub struct StreamedOutput {
    /// Its name.
    pub name: OutputName,
    /// What the store is to know of it.
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

impl BuildSuccess {
    /// A build of which it is not known what its processes used.
    pub fn new(delivery: Delivery, duration: Duration) -> Self {
        Self {
            delivery,
            duration,
            usage: None,
        }
    }
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
}

impl Delivery {
    /// Adds outputs to a store, in their order: references must come first.
    ///
    /// # Errors
    ///
    /// Those of [`Store::add`]. Outputs that were added before stay.
    pub async fn push(outputs: Vec<StreamedOutput>, store: &dyn Store) -> Result<Self, StoreError> {
        let mut pushed = Vec::with_capacity(outputs.len());
        for StreamedOutput { name, info, nar } in outputs {
            let known = Arc::new(info.clone());
            store.add(info, nar).await?;
            pushed.push(PushedOutput { name, info: known });
        }
        Ok(Self::Pushed(pushed))
    }

    /// The outputs with their infos, whichever way they come.
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

/// A build that the derivation is to blame for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BuildFailure {
    /// What went wrong.
    pub kind: FailureKind,
    /// The last lines of the log, oldest first.
    pub log_tail: Vec<String>,
    /// How long it took, in seconds.
    #[serde(with = "seconds")]
    #[cfg_attr(feature = "schema", schemars(with = "f64"))]
    pub duration: Duration,
    /// What its processes used, if it came to that and the builder knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<ResourceUsage>,
}

/// What went wrong in a build.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
        /// The limit, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
        limit: Duration,
    },
    /// It wrote nothing to its log for too long.
    #[error("timed out after {} s of silence", limit.as_secs_f64())]
    Silent {
        /// The limit, in seconds.
        #[serde(with = "seconds")]
        #[cfg_attr(feature = "schema", schemars(with = "f64"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        expected: NixHash,
        /// What was made.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        actual: NixHash,
    },
    /// An output refers to something that it must not refer to.
    #[error("output '{output}' is not allowed to refer to {}", quoted(references))]
    ForbiddenReference {
        /// The output.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        output: OutputName,
        /// All of what it refers to and must not.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        references: Vec<StorePath>,
    },
    /// An output, or it with all that it refers to, is larger than the derivation allows.
    #[error(
        "{}output '{output}' is too large at {size} bytes; limit is {limit} bytes",
        if *closure { "closure of " } else { "" }
    )]
    TooLarge {
        /// The output.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
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
