//! The reasons for the early end of a build: a failure, or an error of the builder.

use std::io;

use tvix_store_api::{BoxError, StoreError};

use crate::translate::TranslateError;
use crate::{BuilderError, FailureKind};
use tvix_sandbox::EngineError;

/// The reason for the early end of a build.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The derivation is at fault.
    Failure(FailureKind),
    /// The builder is at fault.
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

/// Adds the name of this builder to errors.
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

    /// An error of the engine before any process exists.
    pub fn engine_itself(&self, error: EngineError) -> BuilderError {
        match self.engine(error) {
            Trouble::Builder(error) => *error,
            Trouble::Failure(kind) => BuilderError::Backend {
                builder: self.0.clone(),
                action: "start the sandbox engine".into(),
                retryable: false,
                source: kind.into(),
            },
        }
    }

    /// An error of the engine while it starts or watches a process.
    pub fn engine(&self, error: EngineError) -> Trouble {
        match error {
            EngineError::Execute { program, source } => {
                let mut message = source.to_string();
                // It is here, so it, or the interpreter that it names, is missing in the sandbox only.
                if source.kind() == io::ErrorKind::NotFound && program.exists() {
                    message.push_str(
                        " (a sandbox has only the inputs of the derivation and the paths of \
                         --sandbox-path)",
                    );
                }
                let program = program.display().to_string();
                FailureKind::CannotRun { program, message }.into()
            }
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
                    Some(option) => {
                        format!("run a sandbox: {step} (is its limit too low? ulimit {option})")
                    }
                    None => format!("run a sandbox: {step}"),
                };
                self.io(action, source)
            }
            error @ EngineError::Exposed { .. } => {
                self.backend("find a place to build", false, error)
            }
            error => self.backend("start a process", false, error),
        }
    }
}

/// The limit of this process that may have caused an error.
fn limit(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error()? {
        libc::EAGAIN => Some("-u, or -v"),
        libc::ENOMEM => Some("-v"),
        libc::EMFILE => Some("-n"),
        _ => None,
    }
}

/// Whether a retry may succeed: the error is a shortage that other processes may relieve.
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
