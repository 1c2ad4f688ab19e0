//! The hash of a derivation modulo fixed outputs, from which input-addressed paths are computed
//! (Nix manual, "Input-addressing derivation outputs").
//!
//! In this hash, each input derivation is represented by its own hash modulo, and a fixed-output
//! derivation by the hash of its contents. A change of the way in which a file is fetched therefore
//! changes no path.

use thiserror::Error;

use super::aterm::{HashedInputs, Masked, write_aterm};
use super::{Derivation, Output};
use crate::nixhash::{sha256, sha256_of};
use crate::realisation::DrvKey;
use crate::store_path::{StoreDir, StorePath};

/// A derivation's hash modulo fixed outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashModulo {
    /// The hash.
    pub hash: [u8; 32],
    /// Whether it depends on a floating output, directly or through inputs. Output paths cannot be
    /// computed from a deferred hash.
    pub deferred: bool,
}

/// The hash of an input derivation is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the input derivation '{0}' is not known")]
#[non_exhaustive]
pub struct MissingInput(pub StorePath);

impl Derivation {
    /// The hash of this derivation as an input of others. `input` returns the hash of each of its
    /// own inputs.
    ///
    /// # Errors
    ///
    /// If `input` returns `None` for an input derivation.
    pub fn hash_modulo(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        self.modulo(dir, Masked::No, input)
    }

    /// The hash from which the output paths of this derivation are computed, and which identifies
    /// its realisations: [`Derivation::hash_modulo`] with the output paths blanked out.
    ///
    /// # Errors
    ///
    /// If `input` returns `None` for an input derivation.
    pub fn masked_hash_modulo(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        self.modulo(dir, Masked::Yes, input)
    }

    /// The hash that identifies realisations of this derivation. `None` unless its outputs are
    /// floating and `input` knows the hashes of all of its inputs.
    pub fn realisation_hash(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Option<[u8; 32]> {
        let mut outputs = self.outputs.iter();
        let floating = outputs.all(|(_, output)| matches!(output, Output::Floating { .. }));
        let hash = floating.then(|| self.masked_hash_modulo(dir, input).ok())??;
        Some(hash.hash)
    }

    /// The keys that identify realisations of this derivation, with the path of its `.drv` file in
    /// `path`. The key of Nix 2.35 and later comes first.
    ///
    /// Empty unless the outputs are floating and the derivation is resolved, because these keys are
    /// computed from the derivation alone.
    pub fn realisation_keys(&self, dir: &StoreDir, path: &StorePath) -> Vec<DrvKey> {
        if !self.input_drvs.is_empty() {
            return Vec::new();
        }
        let hash = self.realisation_hash(dir, |_| None);
        let keys = hash.map(|hash| [DrvKey::Path(path.clone()), DrvKey::HashModulo(hash)]);
        keys.into_iter().flatten().collect()
    }

    fn modulo(
        &self,
        dir: &StoreDir,
        masked: Masked,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        let paths: Vec<_> = self.output_paths(dir).map(|(_, path)| path).collect();
        if let Some(modulo) = self.fixed_modulo(dir, &paths) {
            return Ok(modulo);
        }
        let (inputs, deferred) = self.hashed_inputs(dir, input)?;
        let text = write_aterm(self, dir, masked, &paths, Some(inputs.as_bytes()));
        Ok(HashModulo {
            hash: sha256(&text),
            deferred,
        })
    }

    /// The inputs by their hashes, and whether a hash modulo with them is deferred.
    pub(super) fn hashed_inputs(
        &self,
        dir: &StoreDir,
        mut input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<(HashedInputs, bool), MissingInput> {
        let mut deferred = self
            .outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::Floating { .. } | Output::Impure { .. }));
        let inputs = self.input_drvs.iter().map(|(path, outputs)| {
            let modulo = input(path).ok_or_else(|| MissingInput(path.clone()))?;
            deferred |= modulo.deferred;
            Ok((modulo.hash, outputs))
        });
        let inputs: Vec<_> = inputs.collect::<Result<_, MissingInput>>()?;
        Ok((HashedInputs::new(dir, inputs.into_iter()), deferred))
    }

    /// The hash of a fixed-output derivation, given the path of its output.
    pub(super) fn fixed_modulo(
        &self,
        dir: &StoreDir,
        paths: &[Option<StorePath>],
    ) -> Option<HashModulo> {
        let (_, output) = self.outputs.iter().next()?;
        let Output::Fixed(address) = output else {
            return None;
        };
        let path = paths.first()?.as_ref()?;
        let hash = sha256_of(&[
            b"fixed:out:",
            address.method.prefix().as_bytes(),
            address.hash.base16().as_bytes(),
            b":",
            dir.path_text(path).as_bytes(),
        ]);
        Some(HashModulo {
            hash,
            deferred: false,
        })
    }
}
