//! Builds derivations in Rust.

use std::sync::Arc;

use bstr::BString;
use thiserror::Error;

use super::{
    CompleteError, Completed, Derivation, HashModulo, MissingInput, Output, OutputAddressError,
    OutputName, OutputNameError, output_placeholder, upstream_placeholder,
};
use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::nixhash::{HashAlgo, NixHash};
use crate::sorted::{SortedMap, SortedSet};
use crate::store_path::{DRV_SUFFIX, NameError, StoreDir, StorePath};

/// Builds a derivation and computes its store paths, as `derivation { … }` does in the Nix
/// language.
///
/// Invalid arguments are reported by [`DerivationBuilder::instantiate`].
#[derive(Debug, Clone)]
pub struct DerivationBuilder {
    name: String,
    system: BString,
    builder: BString,
    args: Vec<BString>,
    env: SortedMap<BString, BString>,
    outputs: Vec<String>,
    kind: Kind,
    input_drvs: SortedMap<StorePath, SortedSet<OutputName>>,
    input_srcs: SortedSet<StorePath>,
    modulos: Vec<(StorePath, HashModulo)>,
    /// The store directory of the inputs.
    input_dir: Option<StoreDir>,
    error: Option<InstantiateError>,
}

#[derive(Debug, Clone)]
enum Kind {
    InputAddressed,
    Fixed(ContentAddress),
    Floating {
        method: ContentAddressMethod,
        algo: HashAlgo,
    },
}

/// A derivation with the path of its `.drv` file and its hash modulo fixed outputs, which
/// dependents need.
#[derive(Debug, Clone)]
pub struct Instantiated {
    /// Path of the `.drv` file.
    pub path: StorePath,
    /// The derivation.
    pub derivation: Arc<Derivation>,
    /// The store directory of its paths.
    pub store_dir: StoreDir,
    /// Its hash as an input of other derivations.
    pub modulo: HashModulo,
}

/// Why a derivation cannot be instantiated.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InstantiateError {
    /// The derivation name is not valid in a store path.
    #[error("invalid derivation name '{name}'")]
    Name {
        /// The name, with the output's name appended for an output.
        name: String,
        /// The reason.
        source: NameError,
    },
    /// The name ends in `.drv`, which is reserved for the files of derivations.
    #[error("derivation name '{0}' ends in '.drv'")]
    DrvName(String),
    /// An invalid output name.
    #[error("derivation '{derivation}' has an invalid output")]
    OutputName {
        /// The derivation's name.
        derivation: String,
        /// The reason.
        source: OutputNameError,
    },
    /// An output is declared twice.
    #[error("derivation '{derivation}' has the output '{output}' twice")]
    DuplicateOutput {
        /// The derivation's name.
        derivation: String,
        /// The output.
        output: String,
    },
    /// A fixed-output derivation has an output other than `out`.
    #[error("fixed-output derivation '{0}' can have no output but 'out'")]
    FixedOutputs(String),
    /// No store path exists for the fixed output.
    #[error("derivation '{derivation}' has an invalid fixed output")]
    Fixed {
        /// The derivation's name.
        derivation: String,
        /// The reason.
        source: OutputAddressError,
    },
    /// The input derivation does not have this output.
    #[error("derivation '{derivation}' has no output '{output}'")]
    NoSuchOutput {
        /// The input derivation.
        derivation: StorePath,
        /// The missing output.
        output: String,
    },
    /// The paths of the inputs are in another store directory.
    #[error("the inputs are for the store directory '{input}', not for '{wanted}'")]
    OtherStoreDir {
        /// The store directory of the inputs.
        input: StoreDir,
        /// The store directory of the derivation.
        wanted: StoreDir,
    },
    /// The hash of an input derivation is not known.
    #[error(transparent)]
    MissingInput(#[from] MissingInput),
}

impl From<CompleteError> for InstantiateError {
    fn from(error: CompleteError) -> Self {
        match error {
            CompleteError::Name { name, source } => Self::Name { name, source },
            CompleteError::MissingInput(input) => Self::MissingInput(input),
        }
    }
}

impl Instantiated {
    /// The text by which dependents refer to an output: its path if it is known, else a placeholder
    /// that is replaced after the build. `None` if the derivation does not have this output.
    pub fn output_reference(&self, output: &str) -> Option<String> {
        let (name, kind) = self
            .derivation
            .outputs
            .iter()
            .find(|(name, _)| name.as_str() == output)?;
        match kind.path(&self.store_dir, &self.derivation.name, name) {
            Some(path) => Some(self.store_dir.display(&path).to_string()),
            None => upstream_placeholder(&self.path, name).ok(),
        }
    }

    /// The path of an output. `None` if the derivation does not have this output, or if its path is
    /// unknown before the build.
    pub fn output_path(&self, output: &str) -> Option<StorePath> {
        self.derivation
            .output_path(&self.store_dir, &output.parse().ok()?)
    }
}

impl DerivationBuilder {
    /// A derivation with a single output, `out`.
    pub fn new(
        name: impl Into<String>,
        system: impl Into<BString>,
        builder: impl Into<BString>,
    ) -> Self {
        Self {
            name: name.into(),
            system: system.into(),
            builder: builder.into(),
            args: Vec::new(),
            env: SortedMap::new(),
            outputs: vec!["out".to_owned()],
            kind: Kind::InputAddressed,
            input_drvs: SortedMap::new(),
            input_srcs: SortedSet::new(),
            modulos: Vec::new(),
            input_dir: None,
            error: None,
        }
    }

    /// Appends arguments of the builder.
    #[must_use]
    pub fn args<A: Into<BString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. `name`, `system`, `builder` and the variables named after
    /// outputs are set automatically.
    #[must_use]
    pub fn env(mut self, name: impl Into<BString>, value: impl Into<BString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets the outputs, which default to `out` alone. The first output is the default output.
    #[must_use]
    pub fn outputs<O: Into<String>>(mut self, outputs: impl IntoIterator<Item = O>) -> Self {
        self.outputs = outputs.into_iter().map(Into::into).collect();
        let names = bstr::join(" ", &self.outputs);
        self.env("outputs", names)
    }

    /// Makes this a fixed-output derivation: the hash of its contents is declared in advance, and
    /// its builder may use the network.
    #[must_use]
    pub fn fixed(mut self, method: ContentAddressMethod, hash: NixHash) -> Self {
        self = self
            .env(
                "outputHash",
                hash.encode(crate::nixhash::HashEncoding::Base16),
            )
            .env("outputHashAlgo", hash.algo().name())
            .env("outputHashMode", mode(method));
        self.kind = Kind::Fixed(ContentAddress { method, hash });
        self
    }

    /// Makes the outputs floating: their paths are computed from the contents that a build
    /// produces.
    #[must_use]
    pub fn floating(mut self, method: ContentAddressMethod, algo: HashAlgo) -> Self {
        self = self
            .env("outputHashAlgo", algo.name())
            .env("outputHashMode", mode(method));
        self.kind = Kind::Floating { method, algo };
        self
    }

    /// Adds a source, a store path without a derivation, to the inputs.
    #[must_use]
    pub fn source(mut self, path: &StorePath) -> Self {
        self.input_srcs.insert(path.clone());
        self
    }

    /// Adds an output of another derivation to the inputs.
    #[must_use]
    pub fn input(mut self, input: &Instantiated, output: &str) -> Self {
        let found = input
            .derivation
            .outputs
            .iter()
            .find(|(name, _)| name.as_str() == output);
        let Some((name, _)) = found else {
            self.error.get_or_insert(InstantiateError::NoSuchOutput {
                derivation: input.path.clone(),
                output: output.to_owned(),
            });
            return self;
        };
        match self.input_drvs.get_mut(&input.path) {
            Some(outputs) => {
                outputs.insert(name.clone());
            }
            None => {
                self.input_dir
                    .get_or_insert_with(|| input.store_dir.clone());
                self.input_drvs
                    .insert(input.path.clone(), SortedSet::from([name.clone()]));
                self.modulos.push((input.path.clone(), input.modulo));
            }
        }
        self
    }

    /// Adds an output of another derivation to the inputs, and sets an environment variable to its
    /// path or, while the path is unknown, to its placeholder.
    #[must_use]
    pub fn input_env(self, name: impl Into<BString>, input: &Instantiated, output: &str) -> Self {
        let reference = input.output_reference(output).unwrap_or_default();
        self.input(input, output).env(name, reference)
    }

    /// Computes the paths. The result equals the derivation that C++ Nix instantiates from the same
    /// attributes.
    ///
    /// # Errors
    ///
    /// [`InstantiateError`], also for invalid arguments of earlier calls.
    pub fn instantiate(mut self, dir: &StoreDir) -> Result<Instantiated, InstantiateError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        if let Some(input) = self.input_dir.take().filter(|input| input != dir) {
            return Err(InstantiateError::OtherStoreDir {
                input,
                wanted: dir.clone(),
            });
        }
        let mut derivation = self.derivation(dir)?;
        let modulos = &self.modulos;
        let known = |path: &StorePath| {
            modulos
                .iter()
                .find(|(input, _)| input == path)
                .map(|(_, modulo)| *modulo)
        };
        let Completed { path, modulo, .. } = derivation.complete(dir, known)?;
        Ok(Instantiated {
            path,
            derivation: Arc::new(derivation),
            store_dir: dir.clone(),
            modulo,
        })
    }

    /// The derivation without input-addressed paths.
    fn derivation(&mut self, dir: &StoreDir) -> Result<Derivation, InstantiateError> {
        if self.name.ends_with(DRV_SUFFIX) {
            return Err(InstantiateError::DrvName(self.name.clone()));
        }
        let name = self.name.parse().map_err(|source| InstantiateError::Name {
            name: self.name.clone(),
            source,
        })?;
        if matches!(self.kind, Kind::Fixed(_)) && self.outputs != ["out"] {
            return Err(InstantiateError::FixedOutputs(self.name.clone()));
        }
        let mut env = std::mem::take(&mut self.env);
        env.insert("name".into(), self.name.as_str().into());
        env.insert("system".into(), self.system.clone());
        env.insert("builder".into(), self.builder.clone());
        let mut outputs = SortedMap::new();
        for output in &self.outputs {
            let output_name: OutputName =
                output
                    .parse()
                    .map_err(|source| InstantiateError::OutputName {
                        derivation: self.name.clone(),
                        source,
                    })?;
            let (kind, reference) = self.output(dir, &name, &output_name)?;
            env.insert(output.as_str().into(), reference.into());
            if outputs.insert(output_name, kind).is_some() {
                return Err(InstantiateError::DuplicateOutput {
                    derivation: self.name.clone(),
                    output: output.clone(),
                });
            }
        }
        Ok(Derivation {
            name,
            outputs,
            input_drvs: std::mem::take(&mut self.input_drvs),
            input_srcs: std::mem::take(&mut self.input_srcs),
            system: self.system.clone(),
            builder: self.builder.clone(),
            args: std::mem::take(&mut self.args),
            env,
        })
    }

    /// An output before paths are computed, and the value of its environment variable.
    fn output(
        &self,
        dir: &StoreDir,
        name: &crate::store_path::StorePathName,
        output: &OutputName,
    ) -> Result<(Output, String), InstantiateError> {
        Ok(match &self.kind {
            Kind::InputAddressed => (Output::Deferred, String::new()),
            Kind::Floating { method, algo } => (
                Output::Floating {
                    method: *method,
                    algo: *algo,
                },
                output_placeholder(output),
            ),
            Kind::Fixed(address) => {
                let path = Output::fixed_path(address, dir, name, output).map_err(|source| {
                    InstantiateError::Fixed {
                        derivation: self.name.clone(),
                        source,
                    }
                })?;
                (
                    Output::Fixed(address.clone()),
                    dir.display(&path).to_string(),
                )
            }
        })
    }
}

/// The value of `outputHashMode`.
const fn mode(method: ContentAddressMethod) -> &'static str {
    match method {
        ContentAddressMethod::NixArchive => "recursive",
        other => other.name(),
    }
}
