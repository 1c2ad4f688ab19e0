//! The paths and hashes of a derivation whose attributes are all known.

use thiserror::Error;

use super::aterm::Sections;
use super::{Derivation, HashModulo, MissingInput, Output};
use crate::store_path::{DRV_SUFFIX, NameError, StoreDir, StorePath, output_path, text_path};

/// What follows from a derivation that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Where its `.drv` file is.
    pub path: StorePath,
    /// The hash by which it stands in those that use it.
    pub modulo: HashModulo,
    /// The paths of its outputs, in their order; `None` for what only a build tells.
    pub outputs: Vec<Option<StorePath>>,
}

/// Why a derivation cannot be completed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The name of the derivation, or that of an output appended to it, is none of a store path.
    #[error("'{name}' cannot be the name of a store path")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The hash of an input derivation is not known.
    #[error(transparent)]
    MissingInput(#[from] MissingInput),
}

impl Derivation {
    /// Computes the paths of the outputs that are [`Output::Deferred`], unless an input's are not
    /// known either, sets them here and in the environment, and gives what follows from it all.
    /// `input` gives the hash modulo fixed outputs of each input.
    ///
    /// What is needed more than once is written and hashed once, which is why this is cheaper than
    /// [`Derivation::path`] and [`Derivation::hash_modulo`] one after the other.
    pub fn complete(
        &mut self,
        dir: &StoreDir,
        mut input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<Completed, CompleteError> {
        let is_deferred = |output: &Output| matches!(output, Output::Deferred);
        if self.outputs.iter().any(|(_, output)| is_deferred(output)) {
            let masked = self.masked_hash_modulo(dir, &mut input)?;
            if !masked.deferred {
                self.set_paths(dir, &masked.hash)?;
            }
        }
        let outputs: Vec<_> = self.output_paths(dir).map(|(_, path)| path).collect();
        let sections = Sections::new(self, dir, &outputs);
        let name = format!("{}{DRV_SUFFIX}", self.name);
        let name = name
            .parse()
            .map_err(|source| CompleteError::Name { name, source })?;
        let path = text_path(dir, name, &sections.aterm(), &self.references());
        let modulo = match self.fixed_modulo(dir, &outputs) {
            Some(modulo) => modulo,
            None => self.modulo_with(input, |inputs| sections.hash_with(inputs))?,
        };
        Ok(Completed {
            path,
            modulo,
            outputs,
        })
    }

    fn set_paths(&mut self, dir: &StoreDir, hash: &[u8; 32]) -> Result<(), CompleteError> {
        for (name, output) in self.outputs.iter_mut() {
            let path = output_path(dir, &self.name, name, hash).map_err(|source| {
                let name = format!("{}-{name}", self.name);
                CompleteError::Name { name, source }
            })?;
            let text = dir.path_text(&path).into();
            self.env.insert(name.as_str().into(), text);
            *output = Output::InputAddressed(path);
        }
        Ok(())
    }
}
