//! Derivations: build instructions with their inputs and outputs (Nix manual, "Derivation").
//!
//! - [`Derivation`] is the contents of a `.drv` file, which [`aterm`] parses and serialises byte
//!   for byte.
//! - [`DerivationBuilder`] builds a derivation and computes its paths.
//! - [`HashModulo`] is the hash from which input-addressed paths are computed.
//! - [`Derivation::resolve`] replaces inputs of unknown path by the paths that were built.

pub mod aterm;
mod builder;
mod check;
mod complete;
#[cfg(feature = "json")]
pub mod json;
mod modulo;
mod output;
mod placeholder;
mod resolve;

use bstr::BString;

use crate::sorted::{SortedMap, SortedSet};
use crate::store_path::{DRV_SUFFIX, NameError, StoreDir, StorePath, StorePathName, text_path};

pub use aterm::{AtermError, AtermErrorKind};
pub use builder::{DerivationBuilder, InstantiateError, Instantiated};
pub use check::OutputPathError;
pub use complete::{CompleteError, Completed};
pub use modulo::{HashModulo, MissingInput};
pub use output::{Output, OutputAddressError, OutputName, OutputNameError};
pub use placeholder::{output_placeholder, upstream_placeholder};
pub use resolve::ResolveError;

/// A derivation: the contents of a `.drv` file, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Derivation {
    /// The name, which is also the name of the output `out`. The store path of the `.drv` file
    /// appends `.drv`.
    pub name: StorePathName,
    /// Its outputs. Never empty.
    pub outputs: SortedMap<OutputName, Output>,
    /// Input derivations, each with the outputs that are used.
    pub input_drvs: SortedMap<StorePath, SortedSet<OutputName>>,
    /// Input store paths that are not outputs of a derivation.
    pub input_srcs: SortedSet<StorePath>,
    /// The system that can build it, such as `x86_64-linux`.
    pub system: BString,
    /// The program that builds it.
    pub builder: BString,
    /// Arguments of the program, without `argv[0]`.
    pub args: Vec<BString>,
    /// Environment of the program.
    pub env: SortedMap<BString, BString>,
}

impl Derivation {
    /// The store path of the `.drv` file: the path of a text that refers to all inputs.
    ///
    /// # Errors
    ///
    /// If the name with `.drv` appended is not valid in a store path.
    pub fn path(&self, dir: &StoreDir) -> Result<StorePath, NameError> {
        Ok(self.path_and_aterm(dir)?.0)
    }

    /// The store path of the `.drv` file and its contents. Serialises the derivation once.
    ///
    /// # Errors
    ///
    /// If the name with `.drv` appended is not valid in a store path.
    pub fn path_and_aterm(&self, dir: &StoreDir) -> Result<(StorePath, Vec<u8>), NameError> {
        let name: StorePathName = format!("{}{DRV_SUFFIX}", self.name).parse()?;
        let contents = self.to_aterm(dir);
        let path = text_path(dir, name, &contents, &self.references());
        Ok((path, contents))
    }

    /// The references of the `.drv` file: all of its inputs.
    pub fn references(&self) -> SortedSet<StorePath> {
        let drvs = self.input_drvs.iter().map(|(path, _)| path);
        drvs.chain(self.input_srcs.iter()).cloned().collect()
    }

    /// The value of an environment variable.
    pub fn env_var(&self, name: &str) -> Option<&BString> {
        self.env.get(bstr::BStr::new(name))
    }

    /// Whether this is a fixed-output derivation. The hash of its output is declared in advance, so
    /// its builder may use the network.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::Fixed(_)))
    }

    /// The path of an output, if it is known before the build.
    pub fn output_path(&self, dir: &StoreDir, output: &OutputName) -> Option<StorePath> {
        self.outputs.get(output)?.path(dir, &self.name, output)
    }

    /// All outputs with their paths; `None` for a path that only a build determines.
    pub fn output_paths<'a>(
        &'a self,
        dir: &'a StoreDir,
    ) -> impl Iterator<Item = (&'a OutputName, Option<StorePath>)> + 'a {
        self.outputs
            .iter()
            .map(|(name, output)| (name, output.path(dir, &self.name, name)))
    }
}
