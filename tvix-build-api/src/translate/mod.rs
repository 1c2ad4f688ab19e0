//! Translation from a derivation to a process: arguments, environment, files. Nix's guarantees to
//! builder programs are implemented here once, for every back end that runs one.
//!
//! ```
//! use nix_compat::derivation::DerivationBuilder;
//! use nix_compat::store_path::StoreDir;
//! use tvix_build_api::BuildRequest;
//! use tvix_build_api::translate::{TranslateOptions, translate};
//!
//! let dir = StoreDir::default();
//! let greeting = DerivationBuilder::new("greeting", "x86_64-linux", "/bin/sh")
//!     .args(["-c", "echo $text > $out"])
//!     .env("text", "hello")
//!     .instantiate(&dir)?;
//! let request = BuildRequest::new(greeting.path, greeting.derivation);
//! let process = translate(&dir, &request, &TranslateOptions::default())?;
//! assert_eq!(process.args, ["sh", "-c", "echo $text > $out"]);
//! assert_eq!(process.env_var("text").unwrap(), "hello");
//! assert_eq!(process.env_var("HOME").unwrap(), "/homeless-shelter");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod environment;
pub mod etc;

use std::collections::HashMap;
use std::sync::Arc;

use bstr::{BStr, BString, ByteSlice as _};
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::{StoreDir, StorePath};
use thiserror::Error;

use crate::outputs::{PlannedOutput, placeholder_rewrites, plan_outputs};
pub use crate::reference_graphs::derivations_in_graphs;
use crate::{BuildRequest, FailureKind};

/// The build directory inside a sandbox, the same in every build.
pub const BUILD_DIR: &str = "/build";

/// The properties of a process that do not follow from the derivation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TranslateOptions {
    /// The build directory, as seen by the process.
    pub build_dir: String,
    /// `NIX_BUILD_CORES` for requests that leave it open.
    pub default_cores: usize,
    /// The source of the `impureEnvVars` of fixed-output derivations.
    pub impure_env: SortedMap<BString, BString>,
    /// The outputs of derivations that are themselves inputs, for `exportReferencesGraph`: of
    /// [those that the request names](derivations_in_graphs).
    pub derivation_outputs: HashMap<StorePath, Vec<StorePath>>,
    /// Whether the back end has built-in builders. If so, the program of a translation may be the
    /// name of one, such as `builtin:fetchurl`.
    pub builtins: bool,
    /// Whether derivations may request a process without a sandbox (`__noChroot`).
    pub allows_no_sandbox: bool,
}

impl Default for TranslateOptions {
    /// [`BUILD_DIR`], all cores of this machine, no impure environment.
    fn default() -> Self {
        Self {
            build_dir: BUILD_DIR.to_owned(),
            default_cores: std::thread::available_parallelism().map_or(1, usize::from),
            impure_env: SortedMap::new(),
            derivation_outputs: HashMap::new(),
            builtins: false,
            allows_no_sandbox: false,
        }
    }
}

impl TranslateOptions {
    /// Takes `impureEnvVars` from the environment of this process.
    pub fn with_own_environment(mut self) -> Self {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = std::env::vars_os();
        self.impure_env = variables
            .map(|(name, value)| (name.into_vec().into(), value.into_vec().into()))
            .collect();
        self
    }
}

/// A process that builds a derivation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Translation {
    /// The program, as seen by the process.
    pub program: BString,
    /// The argument vector, `argv[0]` included.
    pub args: Vec<BString>,
    /// The whole environment.
    pub env: SortedMap<BString, BString>,
    /// Files in the build directory, owned by the build user.
    pub files: Vec<BuildFile>,
    /// Whether the process may use the host's network.
    pub network: bool,
    /// Whether the process sees a 32-bit machine.
    pub linux32: bool,
    pub(crate) outputs: Vec<PlannedOutput>,
}

/// A file in the build directory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BuildFile {
    /// Its name.
    pub name: String,
    /// Its contents.
    pub contents: BString,
}

/// The reason that a derivation is not translated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TranslateError {
    /// The derivation is invalid: it fails on every builder.
    #[error(transparent)]
    Failure(#[from] FailureKind),
    /// The derivation needs something that this back end does not have; another one may.
    #[error("{0}")]
    Unsupported(String),
}

impl Translation {
    /// A variable of the environment.
    pub fn env_var(&self, name: &str) -> Option<&BString> {
        self.env.get(BStr::new(name))
    }

    /// The outputs and their paths during the build. A floating output has another path in the end.
    pub fn outputs(&self) -> impl Iterator<Item = (&OutputName, &StorePath)> {
        self.outputs
            .iter()
            .map(|output| (&output.name, &output.path))
    }
}

/// Translates a request.
///
/// # Errors
///
/// [`TranslateError::Failure`] for derivations that fail on every builder;
/// [`TranslateError::Unsupported`] for built-in builders, unless the back end has them, and for
/// [attributes that are not supported](unsupported_attribute).
pub fn translate(
    dir: &StoreDir,
    request: &BuildRequest,
    options: &TranslateOptions,
) -> Result<Translation, TranslateError> {
    let derivation = &request.derivation;
    if let Some(message) = unsupported_attribute(request)? {
        return Err(TranslateError::Unsupported(message));
    }
    if asks_for_no_sandbox(request)? && !options.allows_no_sandbox {
        let message = "it has '__noChroot' set, which is not allowed here".to_owned();
        return Err(TranslateError::Unsupported(message));
    }
    if derivation.builder.starts_with(b"builtin:") && !options.builtins {
        let message = format!(
            "the built-in builder '{}' is not supported here",
            derivation.builder
        );
        return Err(TranslateError::Unsupported(message));
    }
    let outputs = plan_outputs(dir, request)?;
    let rewrites = placeholder_rewrites(dir, &outputs);
    let attributes = request.attributes()?;
    let (derivation, attributes) = if mentions(derivation, &rewrites) {
        let mut rewritten = Derivation::clone(derivation);
        rewritten.rewrite(&rewrites);
        let rewritten = Arc::new(rewritten);
        let attributes = attributes.rewritten(&rewritten, &rewrites);
        (rewritten, attributes)
    } else {
        (derivation.clone(), attributes)
    };
    let sources = environment::Sources {
        dir,
        request,
        derivation: &derivation,
        attributes: &attributes,
        outputs: &outputs,
    };
    let (env, files) = environment::environment(&sources, options)?;
    let name = match derivation.builder.rfind_byte(b'/') {
        Some(slash) => &derivation.builder[slash + 1..],
        None => &derivation.builder,
    };
    let mut args = Vec::with_capacity(derivation.args.len() + 1);
    args.push(BString::from(name));
    args.extend(derivation.args.iter().cloned());
    check_nul(args.iter().chain([&derivation.builder]))?;
    check_nul(env.iter().flat_map(|(name, value)| [name, value]))?;
    Ok(Translation {
        program: derivation.builder.clone(),
        args,
        env,
        files,
        network: has_network(&derivation),
        linux32: derivation.system == "i686-linux",
        outputs,
    })
}

/// The attribute of the derivation of `request` that is not supported yet, as a message. Such
/// attributes change the surroundings of a builder program; to ignore them would build something else.
///
/// # Errors
///
/// [`FailureKind::InvalidDerivation`] if its structured attributes are malformed.
pub fn unsupported_attribute(request: &BuildRequest) -> Result<Option<String>, FailureKind> {
    let attributes = request.attributes()?;
    let attribute = if attributes
        .words("__impureHostDeps")?
        .is_some_and(|paths| !paths.is_empty())
    {
        "__impureHostDeps"
    } else {
        return Ok(None);
    };
    Ok(Some(format!(
        "the attribute '{attribute}' is not supported yet"
    )))
}

/// Whether the derivation of `request` requests a build without a sandbox (`__noChroot`).
///
/// # Errors
///
/// [`FailureKind::InvalidDerivation`] if its structured attributes are malformed.
pub fn asks_for_no_sandbox(request: &BuildRequest) -> Result<bool, FailureKind> {
    request.attributes()?.flag("__noChroot")
}

fn has_network(derivation: &Derivation) -> bool {
    let mut outputs = derivation.outputs.iter();
    outputs.any(|(_, output)| matches!(output, Output::Fixed(_) | Output::Impure { .. }))
}

fn mentions(derivation: &Derivation, rewrites: &[(String, String)]) -> bool {
    let variables = derivation
        .env
        .iter()
        .flat_map(|(name, value)| [name, value]);
    let mut texts = variables
        .chain(&derivation.args)
        .chain([&derivation.builder]);
    texts.any(|text| rewrites.iter().any(|(from, _)| text.contains_str(from)))
}

/// Arguments and variables of a process cannot contain NUL.
fn check_nul<'a>(texts: impl IntoIterator<Item = &'a BString>) -> Result<(), FailureKind> {
    let mut texts = texts.into_iter();
    match texts.find(|text| text.contains(&0)) {
        None => Ok(()),
        Some(text) => Err(FailureKind::InvalidDerivation {
            message: format!("the argument or variable {text:?} holds a NUL byte"),
        }),
    }
}
