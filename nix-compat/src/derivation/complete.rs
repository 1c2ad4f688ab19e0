//! Paths and hashes of a derivation with all of its attributes set.

use thiserror::Error;

use super::aterm::{HashedInputs, Masked, Rest};
use super::{Derivation, HashModulo, MissingInput, Output};
use crate::store_path::{
    DRV_SUFFIX, NameError, StoreDir, StorePath, output_path, text_path_of_hash,
};

/// Everything computed from a complete derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Completed {
    /// Path of the `.drv` file.
    pub path: StorePath,
    /// Its hash as an input of other derivations.
    pub modulo: HashModulo,
    /// The paths of its outputs, in order; `None` for a path that only a build determines.
    pub outputs: Vec<Option<StorePath>>,
}

/// Why a derivation cannot be completed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// The derivation name, with or without an output name appended, is not valid in a store path.
    #[error("'{name}' cannot be the name of a store path")]
    Name {
        /// The name.
        name: String,
        /// The reason.
        source: NameError,
    },
    /// The hash of an input derivation is not known.
    #[error(transparent)]
    MissingInput(#[from] MissingInput),
}

/// What a hash modulo fixed outputs is computed from.
enum Basis {
    /// The contents of the output.
    Fixed(HashModulo),
    /// The derivation and the hashes of its inputs.
    Inputs {
        inputs: HashedInputs,
        deferred: bool,
    },
}

impl Basis {
    fn modulo(
        &self,
        derivation: &Derivation,
        dir: &StoreDir,
        rest: &Rest,
        masked: Masked,
        outputs: &[Option<StorePath>],
    ) -> HashModulo {
        match self {
            Self::Fixed(modulo) => *modulo,
            Self::Inputs { inputs, deferred } => HashModulo {
                hash: rest.modulo_hash(derivation, dir, masked, outputs, inputs),
                deferred: *deferred,
            },
        }
    }
}

impl Derivation {
    /// Computes the paths of [`Output::Deferred`] outputs, unless the path of an input is unknown
    /// too, and stores them in the outputs and in the environment. Returns the paths and hashes of
    /// the completed derivation.
    ///
    /// `input` returns the hash modulo fixed outputs of each input. Each serialised section is
    /// written and hashed once, so this is cheaper than [`Derivation::path`] followed by
    /// [`Derivation::hash_modulo`].
    ///
    /// # Errors
    ///
    /// [`CompleteError`]. The derivation may have been changed partially then.
    pub fn complete(
        &mut self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<Completed, CompleteError> {
        let mut rest = Rest::new(self, dir);
        let mut outputs: Vec<_> = self.output_paths(dir).map(|(_, path)| path).collect();
        let basis = match self.fixed_modulo(dir, &outputs) {
            Some(modulo) => Basis::Fixed(modulo),
            None => {
                let (inputs, deferred) = self.hashed_inputs(dir, input)?;
                Basis::Inputs { inputs, deferred }
            }
        };
        let is_deferred = |output: &Output| matches!(output, Output::Deferred);
        if self.outputs.iter().any(|(_, output)| is_deferred(output)) {
            let masked = basis.modulo(self, dir, &rest, Masked::Yes, &outputs);
            if !masked.deferred {
                self.set_paths(dir, &masked.hash)?;
                outputs = self.output_paths(dir).map(|(_, path)| path).collect();
                if !rest.is_of(self) {
                    rest = Rest::new(self, dir);
                }
            }
        }
        let name = [self.name.as_str(), DRV_SUFFIX].concat();
        let name = name
            .parse()
            .map_err(|source| CompleteError::Name { name, source })?;
        let file = rest.file_hash(self, dir, &outputs);
        let path = text_path_of_hash(dir, name, &file, &self.references());
        let modulo = basis.modulo(self, dir, &rest, Masked::No, &outputs);
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
