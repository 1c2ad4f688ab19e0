//! What to evaluate.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// What to evaluate, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalRequest {
    /// Where to begin.
    pub source: EvalSource,
    /// Which attributes, as `hello` or `packages.x86_64-linux.hello`. Empty for the whole: what
    /// that is, is the evaluator's to say.
    pub attr_paths: Vec<String>,
    /// Arguments for the function that the source evaluates to, as expressions.
    pub args: BTreeMap<String, String>,
    /// Entries of the search path (`<name>`): prefix, perhaps empty, and path.
    pub search_path: Vec<(String, PathBuf)>,
    /// The system to evaluate for; `None` for this machine's.
    pub system: Option<String>,
}

/// Where evaluation begins. Paths are those of the local file system.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvalSource {
    /// A file or folder.
    File(PathBuf),
    /// An entry of the search path, as `nixpkgs` for `<nixpkgs>`.
    SearchPath(String),
    /// An expression, and the folder that its relative paths are relative to.
    Expression {
        /// The expression.
        text: String,
        /// The folder.
        base: PathBuf,
    },
    /// An expression that was read from standard input, and the folder that its relative paths
    /// are relative to.
    Stdin {
        /// The expression.
        text: Vec<u8>,
        /// The folder.
        base: PathBuf,
    },
    /// `.drv` files, with the outputs wanted of each after a `!` and separated by commas; all of
    /// them if there is none.
    Derivations(Vec<String>),
    /// What the evaluator was made with.
    BuiltIn,
}

impl EvalSource {
    /// What kind of source this is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::SearchPath(_) => "an entry of the search path",
            Self::Expression { .. } => "an expression",
            Self::Stdin { .. } => "standard input",
            Self::Derivations(_) => ".drv files",
            Self::BuiltIn => "what it was made with",
        }
    }
}

impl EvalRequest {
    /// A request for all of `source`.
    pub fn new(source: EvalSource) -> Self {
        Self {
            source,
            attr_paths: Vec::new(),
            args: BTreeMap::new(),
            search_path: Vec::new(),
            system: None,
        }
    }

    /// A request for attributes of what the evaluator was made with.
    pub fn attrs<A: Into<String>>(attr_paths: impl IntoIterator<Item = A>) -> Self {
        Self {
            attr_paths: attr_paths.into_iter().map(Into::into).collect(),
            ..Self::new(EvalSource::BuiltIn)
        }
    }
}
