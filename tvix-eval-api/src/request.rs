//! Evaluation requests.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A request to evaluate a source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvalRequest {
    /// The source.
    pub source: EvalSource,
    /// Attribute paths, such as `hello` or `packages.x86_64-linux.hello`. If empty, the evaluator
    /// selects the roots of the complete source.
    pub attr_paths: Vec<String>,
    /// Arguments of the function that the source evaluates to, as expressions.
    pub args: BTreeMap<String, String>,
    /// Search path entries (`<name>`): prefix, which may be empty, and path.
    pub search_path: Vec<(String, PathBuf)>,
    /// The system to evaluate for; `None` for the system of this machine.
    pub system: Option<String>,
}

/// The source of an evaluation. Paths are paths of the local file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalSource {
    /// A file or directory.
    File(PathBuf),
    /// A search path entry, such as `nixpkgs` for `<nixpkgs>`.
    SearchPath(String),
    /// An expression.
    Expression {
        /// The text of the expression.
        text: String,
        /// The directory to which its relative paths are relative.
        base: PathBuf,
    },
    /// An expression from standard input.
    Stdin {
        /// The text of the expression.
        text: Vec<u8>,
        /// The directory to which its relative paths are relative.
        base: PathBuf,
    },
    /// `.drv` files, each optionally followed by `!` and comma-separated outputs. The default is
    /// all outputs.
    Derivations(Vec<String>),
    /// The evaluator's own contents.
    Predefined,
}

impl EvalSource {
    /// The kind of source, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::SearchPath(_) => "an entry of the search path",
            Self::Expression { .. } => "an expression",
            Self::Stdin { .. } => "standard input",
            Self::Derivations(_) => ".drv files",
            Self::Predefined => "the evaluator's own contents",
        }
    }
}

impl EvalRequest {
    /// A request for all roots of `source`.
    pub fn new(source: EvalSource) -> Self {
        Self {
            source,
            attr_paths: Vec::new(),
            args: BTreeMap::new(),
            search_path: Vec::new(),
            system: None,
        }
    }

    /// A request for attributes of the evaluator's own contents.
    pub fn attrs<A: Into<String>>(attr_paths: impl IntoIterator<Item = A>) -> Self {
        Self {
            attr_paths: attr_paths.into_iter().map(Into::into).collect(),
            ..Self::new(EvalSource::Predefined)
        }
    }

    /// Sets the attribute paths.
    #[must_use]
    pub fn with_attr_paths(mut self, attr_paths: Vec<String>) -> Self {
        self.attr_paths = attr_paths;
        self
    }

    /// Sets the arguments, as expressions.
    #[must_use]
    pub fn with_args(mut self, args: BTreeMap<String, String>) -> Self {
        self.args = args;
        self
    }

    /// Sets the entries of the search path.
    #[must_use]
    pub fn with_search_path(mut self, search_path: Vec<(String, PathBuf)>) -> Self {
        self.search_path = search_path;
        self
    }

    /// Sets the system to evaluate for.
    #[must_use]
    pub fn with_system(mut self, system: impl Into<Option<String>>) -> Self {
        self.system = system.into();
        self
    }
}
