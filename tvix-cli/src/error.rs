//! What the command line can stumble over, apart from builds that fail.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use tvix_build_api::BuilderError;
use tvix_store_api::{StoreError, StoreUri};

#[derive(Debug, Error)]
pub enum CliError {
    #[error("cannot start")]
    Runtime(#[source] io::Error),
    #[error("{message}")]
    Limit { message: String },
    #[error("cannot open store '{uri}'")]
    OpenStore {
        uri: StoreUri,
        source: Box<StoreError>,
    },
    #[error("store '{0}' is of a kind that is not supported; give an absolute path or 'local'")]
    UnsupportedStore(StoreUri),
    #[error(
        "store '{0}' is of no kind that is known; there are absolute paths, 'local', 'file://…', 'http://…', 'https://…' and 's3://…'"
    )]
    UnknownStore(StoreUri),
    #[error("binary cache '{0}' cannot say what all it has; name store paths")]
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
    #[error("cannot build here")]
    Builder(#[source] Box<BuilderError>),
    #[error("cannot write events to '{path}'")]
    Events { path: PathBuf, source: io::Error },
    #[error("cannot make the link to what was built")]
    OutLink(#[source] Box<StoreError>),
    #[error("'{text}' is not in store '{store}'")]
    NotInStore { text: String, store: StoreUri },
    #[error("'{text}' is below the store path '{path}', which is what is to be named here")]
    BelowStorePath { text: String, path: String },
    #[error("cannot read the archive")]
    Nar(#[source] Box<nix_compat::nar::NarError>),
    #[error("cannot {action} '{file}'")]
    File {
        action: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    #[error("'{file}' cannot be the name of a store path; give another one with --name")]
    Name {
        file: PathBuf,
        source: nix_compat::store_path::NameError,
    },
    #[error("--expr needs an expression as an argument")]
    NoExpression,
    #[error("standard input ('-') can be read once only")]
    StdinTwice,
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("flakes are not supported: cannot evaluate '{0}'")]
    Flake(String),
    #[error("cannot {action}: use {instead}")]
    Instead {
        action: &'static str,
        instead: &'static str,
    },
    #[error(transparent)]
    Setting(#[from] crate::settings::SettingError),
    #[error("build log of '{derivation}' is not available")]
    NoLog { derivation: String },
    #[error("cannot parse '{what}': {message}")]
    Option { what: String, message: String },
    #[error("derivations have no attributes: '{0}' cannot be built with --attr")]
    AttributesOfDerivations(String),
    #[error("cannot read from the terminal")]
    Terminal(#[source] rustyline::error::ReadlineError),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("refusing to write an archive to a terminal; redirect standard output")]
    ArchiveToTerminal,
    #[error("interrupted by the user")]
    Interrupted,
}

impl CliError {
    /// What a store says.
    pub fn store(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// An error with what it comes from.
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

/// What is said after a colon; traces begin with a line of their own.
pub fn after(text: &str, more: &str) -> String {
    let space = if more.starts_with('\n') { "" } else { " " };
    format!("{text}:{space}{more}")
}
