//! Errors of the command line, other than failed builds.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tvix_build_api::BuilderError;
use tvix_store_api::{OpenError, Store, StoreError, StoreUri, StoreUriError};

#[derive(Debug, Error)]
pub enum CliError {
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] io::Error),
    #[error("{message}")]
    Limit { message: String },
    #[error("cannot open store '{uri}'")]
    OpenStore {
        uri: StoreUri,
        source: Box<StoreError>,
    },
    /// The store's own error, without the name of the store: that is said already.
    #[error("cannot open store '{uri}': cannot {action}{}", advice(source))]
    OpenLocalStore {
        uri: StoreUri,
        action: String,
        source: tvix_store_api::BoxError,
    },
    #[error(
        "cannot use store '{0}' here: only stores on this file system and Nix daemons are supported; specify a path, 'local', 'daemon', 'unix://…' or 'ssh-ng://…'"
    )]
    UnsupportedStore(StoreUri),
    #[error("cannot {action} in store '{store}': daemons have no operation for it")]
    NotWithDaemon {
        action: &'static str,
        store: StoreUri,
    },
    #[error("NIX_REMOTE is invalid")]
    StoreUri(#[source] StoreUriError),
    #[error(transparent)]
    UnknownStore(OpenError),
    #[error("cannot list the paths of '{0}': binary caches have no index; specify store paths")]
    CannotList(StoreUri),
    #[error("cannot add '{file}' to the store")]
    Add {
        file: PathBuf,
        source: tvix_store_api::BoxError,
    },
    #[error("cannot use store '{uri}'")]
    CacheOption {
        uri: StoreUri,
        source: tvix_store_api::BoxError,
    },
    #[error(transparent)]
    Store(Box<StoreError>),
    #[error("cannot read the key '{file}'")]
    Key {
        file: PathBuf,
        source: tvix_store_api::BoxError,
    },
    #[error("cannot listen at {address}")]
    Listen {
        address: std::net::SocketAddr,
        source: io::Error,
    },
    #[error(transparent)]
    Bind(#[from] tvix_daemon::BindError),
    #[error("cannot use the {what}")]
    Descriptor {
        what: &'static str,
        source: io::Error,
    },
    #[error("invalid machines in '{place}'")]
    Machines {
        place: String,
        source: nix_compat::machines::MachinesError,
    },
    #[error(transparent)]
    Setup(tvix_coordinator::SetupError),
    #[error("cannot build here")]
    Builder(#[source] Box<BuilderError>),
    #[error("cannot write events to '{path}'")]
    Events { path: PathBuf, source: io::Error },
    #[error("cannot create the link '{}'", link.display())]
    OutLink {
        link: PathBuf,
        source: tvix_store_api::BoxError,
    },
    #[error("'{text}' is not in store '{store}'")]
    NotInStore { text: String, store: StoreUri },
    #[error("'{text}' is below a store path; specify '{path}' itself")]
    BelowStorePath { text: String, path: String },
    #[error("cannot read the NAR")]
    Nar(#[source] Box<nix_compat::nar::NarError>),
    #[error("cannot {action} '{file}'")]
    File {
        action: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error(
        "cannot add '{file}': its name is not a valid store path name; specify another one with --name"
    )]
    Name {
        file: PathBuf,
        source: nix_compat::store_path::NameError,
    },
    #[error("--expr needs an expression as a positional argument")]
    NoExpression,
    #[error("standard input ('-') can be read only once")]
    StdinTwice,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error(
        "cannot evaluate '{0}': flakes are not supported; name a file with --file and an attribute with --attr"
    )]
    Flake(String),
    #[error("cannot {action}: use {instead}")]
    Instead {
        action: &'static str,
        instead: &'static str,
    },
    #[error(transparent)]
    Setting(#[from] crate::settings::SettingError),
    #[error(transparent)]
    SettingFiles(#[from] crate::settings::FilesError),
    #[error("unknown setting '{0}'{suggestions}; 'tvix config' lists all", suggestions = crate::settings::did_you_mean(.0))]
    UnknownSetting(String),
    #[error("build log of '{derivation}' is not available")]
    NoLog { derivation: String },
    #[error("cannot parse '{what}': {message}")]
    Option { what: String, message: String },
    #[error("cannot select an attribute of '{0}': it is a derivation; omit --attr")]
    AttributesOfDerivations(String),
    #[error("cannot read from the terminal")]
    Terminal(#[source] rustyline::error::ReadlineError),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("refusing to write an archive to a terminal; redirect standard output")]
    ArchiveToTerminal,
    #[error("interrupted by {0}")]
    Interrupted(&'static str),
}

impl From<OpenError> for CliError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Parameter { uri, source } => Self::CacheOption { uri, source },
            OpenError::Store { uri, source } => Self::open_store(uri, *source),
            other => Self::UnknownStore(other),
        }
    }
}

/// A remedy, if the cause of an error is known to have one.
fn advice(source: &tvix_store_api::BoxError) -> &'static str {
    match source.downcast_ref::<io::Error>().map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            " (run this as the owner of the store, or select another store with --store)"
        }
        _ => "",
    }
}

impl CliError {
    /// A store that cannot be opened.
    pub fn open_store(uri: StoreUri, error: StoreError) -> Self {
        match error {
            StoreError::Unreachable { .. } => Self::store(error),
            StoreError::Backend { action, source, .. } => Self::OpenLocalStore {
                uri,
                action,
                source,
            },
            error => Self::OpenStore {
                uri,
                source: Box::new(error),
            },
        }
    }

    /// A link to a store path that cannot be created. The store's own error names the link again.
    pub fn out_link(link: &Path, error: StoreError) -> Self {
        let source = match error {
            StoreError::Backend { source, .. } => source,
            error => error.into(),
        };
        Self::OutLink {
            link: link.to_owned(),
            source,
        }
    }

    /// Why a store cannot be used, without its name.
    pub fn about_store(&self) -> String {
        match self {
            Self::OpenLocalStore { action, source, .. } => {
                after(&format!("cannot {action}"), &describe(source.as_ref()))
            }
            Self::OpenStore { source, .. } => match &**source {
                StoreError::Backend { action, source, .. } => {
                    after(&format!("cannot {action}"), &describe(source.as_ref()))
                }
                error => describe(error),
            },
            Self::CacheOption { source, .. } => describe(source.as_ref()),
            error => describe(error),
        }
    }

    /// A store in the environment that is none.
    pub fn store_uri(error: StoreUriError) -> Self {
        Self::StoreUri(error)
    }

    /// Something that no daemon does.
    pub fn not_with_daemon(action: &'static str, store: &dyn Store) -> Self {
        let store = store.uri().clone();
        Self::NotWithDaemon { action, store }
    }

    /// An error of a store.
    pub fn store(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// An error with its sources, each said once.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = after(&text, &cause_text);
        }
        source = cause.source();
    }
    text
}

/// Text and more text after a colon; traces begin with a line of their own.
pub fn after(text: &str, more: &str) -> String {
    let space = if more.starts_with('\n') { "" } else { " " };
    format!("{text}:{space}{more}")
}
