//! Derivations: what to build, from what, and where it will be (Nix manual, "Derivation").
//!
//! [`Derivation`] is the contents of a `.drv` file, which [`aterm`] reads and writes byte for
//! byte. [`DerivationBuilder`] makes one and computes its paths; [`HashModulo`] is what
//! input-addressed paths are computed from; [`Derivation::resolve`] replaces inputs whose paths
//! were unknown by what was built.

pub mod aterm;
mod builder;
mod check;
mod complete;
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
pub use output::{Output, OutputName, OutputNameError, OutputOptionError};
pub use placeholder::{output_placeholder, upstream_placeholder};
pub use resolve::ResolveError;

/// A derivation: the contents of a `.drv` file, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Derivation {
    /// The name: that of its store path without `.drv`, and of the output `out`.
    pub name: StorePathName,
    /// What it makes. Never empty.
    pub outputs: SortedMap<OutputName, Output>,
    /// The derivations whose outputs it needs, and which of them.
    pub input_drvs: SortedMap<StorePath, SortedSet<OutputName>>,
    /// The store paths it needs that no derivation makes.
    pub input_srcs: SortedSet<StorePath>,
    /// The kind of machine that can build it, such as `x86_64-linux`.
    pub system: BString,
    /// The program to run.
    pub builder: BString,
    /// The arguments of the program, without its name.
    pub args: Vec<BString>,
    /// The environment of the program.
    pub env: SortedMap<BString, BString>,
}

impl Derivation {
    /// The path of the `.drv` file: that of a text that refers to all inputs.
    pub fn path(&self, dir: &StoreDir) -> Result<StorePath, NameError> {
        Ok(self.path_and_aterm(dir)?.0)
    }

    /// The path of the `.drv` file and its contents, serialised once.
    pub fn path_and_aterm(&self, dir: &StoreDir) -> Result<(StorePath, Vec<u8>), NameError> {
        let name: StorePathName = format!("{}{DRV_SUFFIX}", self.name).parse()?;
        let contents = self.to_aterm(dir);
        let path = text_path(dir, name, &contents, &self.references());
        Ok((path, contents))
    }

    /// What the `.drv` file refers to: all its inputs.
    pub fn references(&self) -> SortedSet<StorePath> {
        let drvs = self.input_drvs.iter().map(|(path, _)| path);
        drvs.chain(self.input_srcs.iter()).cloned().collect()
    }

    /// An environment variable.
    pub fn env_var(&self, name: &str) -> Option<&BString> {
        self.env.get(bstr::BStr::new(name))
    }

    /// Whether this is a fixed-output derivation: what it makes is known by hash before it runs,
    /// so that it may use the network.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::Fixed(_)))
    }

    /// The path of an output, if it is known before the build.
    pub fn output_path(&self, dir: &StoreDir, output: &OutputName) -> Option<StorePath> {
        self.outputs.get(output)?.path(dir, &self.name, output)
    }

    /// All outputs with their paths, `None` for those that only a build tells.
    pub fn output_paths<'a>(
        &'a self,
        dir: &'a StoreDir,
    ) -> impl Iterator<Item = (&'a OutputName, Option<StorePath>)> + 'a {
        self.outputs
            .iter()
            .map(|(name, output)| (name, output.path(dir, &self.name, name)))
    }
}
