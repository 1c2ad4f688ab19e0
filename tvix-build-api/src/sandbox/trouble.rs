//! Why a build ends early: as an outcome or as the builder's own trouble.

use std::io;

use tvix_store_api::{BoxError, StoreError};

use crate::translate::TranslateError;
use crate::{BuilderError, FailureKind};
use tvix_sandbox::EngineError;

/// Why a build ends early.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The derivation is to blame.
    Failure(FailureKind),
    /// The builder is.
    Builder(Box<BuilderError>),
}

impl From<FailureKind> for Trouble {
    fn from(kind: FailureKind) -> Self {
        Self::Failure(kind)
    }
}

impl From<BuilderError> for Trouble {
    fn from(error: BuilderError) -> Self {
        Self::Builder(Box::new(error))
    }
}

/// Names this builder in errors.
#[derive(Debug, Clone)]
pub(super) struct Blame(pub String);

impl Blame {
    pub fn inputs(&self, source: StoreError) -> Trouble {
        BuilderError::Inputs {
            builder: self.0.clone(),
            source,
        }
        .into()
    }

    pub fn push(&self, source: StoreError) -> Trouble {
        BuilderError::Push {
            builder: self.0.clone(),
            source,
        }
        .into()
    }

    pub fn unsupported(&self, message: impl Into<String>) -> Trouble {
        BuilderError::Unsupported {
            builder: self.0.clone(),
            message: message.into(),
        }
        .into()
    }

    pub fn translate(&self, error: TranslateError) -> Trouble {
        match error {
            TranslateError::Failure(kind) => kind.into(),
            TranslateError::Unsupported(message) => self.unsupported(message),
        }
    }

    pub fn io(&self, action: impl Into<String>, source: io::Error) -> Trouble {
        let retryable = is_passing(&source);
        self.backend(action, retryable, source)
    }

    pub fn backend(
        &self,
        action: impl Into<String>,
        retryable: bool,
        source: impl Into<BoxError>,
    ) -> Trouble {
        BuilderError::Backend {
            builder: self.0.clone(),
            action: action.into(),
            retryable,
            source: source.into(),
        }
        .into()
    }

    /// What the engine says before there is any process.
    pub fn engine_itself(&self, error: EngineError) -> BuilderError {
        match self.engine(error) {
            Trouble::Builder(error) => *error,
            Trouble::Failure(kind) => BuilderError::Backend {
                builder: self.0.clone(),
                action: "starting the sandbox engine".into(),
                retryable: false,
                source: kind.into(),
            },
        }
    }

    /// What the engine says of a process that it was to start or watch.
    pub fn engine(&self, error: EngineError) -> Trouble {
        match error {
            EngineError::Execute { program, source } => FailureKind::CannotRun {
                program: program.display().to_string(),
                message: source.to_string(),
            }
            .into(),
            EngineError::Unavailable {
                missing,
                advice,
                source,
            } => BuilderError::SandboxUnavailable {
                builder: self.0.clone(),
                message: format!("{missing} ({advice})"),
                source: Some(source.into()),
            }
            .into(),
            EngineError::Setup { step, source } => {
                let action = match limit(&source) {
                    Some(option) => format!("{step} (is its limit too low? ulimit {option})"),
                    None => step,
                };
                self.io(action, source)
            }
            error @ EngineError::Exposed { .. } => {
                self.backend("looking for a place to build", false, error)
            }
            error => self.backend("starting a process", false, error),
        }
    }
}

/// Which limit of this process an error may come from.
fn limit(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EAGAIN => Some("-u, or -v"),
        libc::ENOMEM => Some("-v"),
        libc::EMFILE => Some("-n"),
        _ => None,
    }
}

/// Whether the same may well succeed later: the machine lacks something that others give back.
fn is_passing(error: &io::Error) -> bool {
    let passing = [
        libc::EAGAIN,
        libc::ENOMEM,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOSPC,
        libc::EDQUOT,
    ];
    error
        .raw_os_error()
        .is_some_and(|errno| passing.contains(&errno))
}
