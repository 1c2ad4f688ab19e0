//! Why an operation failed, in the words of Nix where scripts look for them.

use std::error::Error;
use std::io;

use nix_compat::store_path::StoreDir;
use tvix_store_api::StoreError;
use tvix_worker_protocol::{Operation, ProtocolError, RemoteError};

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client gets an error; the connection goes on.
    #[error(transparent)]
    Refused(#[from] RemoteError),
    /// The client sent something that is no message of the protocol: it gets an error, and the connection ends.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The connection is lost.
    #[error("the connection ended")]
    Gone(#[from] io::Error),
}

impl Failure {
    pub fn refused(message: impl Into<String>) -> Self {
        Self::Refused(RemoteError::new(message.into()))
    }

    pub fn store(error: &StoreError, dir: &StoreDir) -> Self {
        Self::refused(of_store(error, dir))
    }

    /// The store has no such operation.
    pub fn unsupported(operation: Operation, store: &tvix_store_api::StoreUri) -> Self {
        Self::refused(format!(
            "operation '{operation}' is not supported by store '{store}'"
        ))
    }
}

/// An error and its causes, separated by colons. A cause whose text the previous one contains is left out.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// The text for an error of a store.
pub(crate) fn of_store(error: &StoreError, dir: &StoreDir) -> String {
    match error {
        StoreError::NotFound { path, .. }
        | StoreError::InvalidReference {
            reference: path, ..
        } => format!("path '{}' is not valid", dir.display(path)),
        StoreError::HashMismatch {
            path,
            expected,
            actual,
        } => format!(
            "hash mismatch importing path '{}';\n  specified: {}\n  got:       {}",
            dir.display(path),
            expected.base32(),
            actual.base32()
        ),
        StoreError::SizeMismatch {
            path,
            expected,
            actual,
        } => format!(
            "size mismatch importing path '{}';\n  specified: {expected}\n  got:       {actual}",
            dir.display(path)
        ),
        error => describe(error),
    }
}

/// The text for something that is no message of the protocol.
pub(crate) fn of_protocol(error: &ProtocolError, dir: &StoreDir) -> String {
    match error {
        ProtocolError::UnknownOperation(number) => format!("invalid operation {number}"),
        ProtocolError::Invalid {
            what: "store path" | "path to build",
            text,
            ..
        } if !text.starts_with(&format!("{dir}/")) => {
            format!("path '{text}' is not in the Nix store")
        }
        error => describe(error),
    }
}
