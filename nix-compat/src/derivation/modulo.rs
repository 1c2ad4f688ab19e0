//! The hash of a derivation modulo fixed outputs, from which input-addressed paths follow
//! (Nix manual, "Input-addressing derivation outputs").
//!
//! Every input derivation stands in it by its own such hash, and a fixed-output derivation by
//! what it makes, so that how something is fetched changes no path.

use thiserror::Error;

use super::aterm::{InputHashes, Masked, write_aterm};
use super::{Derivation, Output};
use crate::nixhash::sha256;
use crate::store_path::{StoreDir, StorePath};

/// A derivation's hash modulo fixed outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashModulo {
    /// The hash.
    pub hash: [u8; 32],
    /// Whether it hangs on a floating output, directly or through inputs, so that output paths
    /// cannot be computed from it.
    pub deferred: bool,
}

/// The hash of an input derivation was asked for and is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the input derivation '{0}' is not known")]
pub struct MissingInput(pub StorePath);

impl Derivation {
    /// The hash by which this derivation stands in those that use it. `input` gives that of each
    /// of its own inputs.
    pub fn hash_modulo(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        self.modulo(dir, Masked::No, input)
    }

    /// The hash from which this derivation's own output paths are computed, and by which its
    /// realisations are known: as [`Derivation::hash_modulo`], with the paths left out.
    pub fn masked_hash_modulo(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        self.modulo(dir, Masked::Yes, input)
    }

    fn modulo(
        &self,
        dir: &StoreDir,
        masked: Masked,
        mut input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<HashModulo, MissingInput> {
        if let Some(hash) = self.fixed_modulo(dir) {
            return Ok(HashModulo {
                hash,
                deferred: false,
            });
        }
        let mut deferred = self
            .outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::Floating { .. } | Output::Impure { .. }));
        let mut inputs = InputHashes::new();
        for (path, outputs) in self.input_drvs.iter() {
            let modulo = input(path).ok_or_else(|| MissingInput(path.clone()))?;
            deferred |= modulo.deferred;
            let hash = data_encoding::HEXLOWER.encode(&modulo.hash);
            inputs
                .entry(hash)
                .or_default()
                .extend(outputs.iter().cloned());
        }
        let hash = sha256(&write_aterm(self, dir, masked, Some(&inputs)));
        Ok(HashModulo { hash, deferred })
    }

    fn fixed_modulo(&self, dir: &StoreDir) -> Option<[u8; 32]> {
        let (name, output) = self.outputs.iter().next()?;
        let Output::Fixed(address) = output else {
            return None;
        };
        let path = output.path(dir, &self.name, name)?;
        let text = format!(
            "fixed:out:{}{}:{}",
            address.method.prefix(),
            address.hash.base16(),
            dir.display(&path)
        );
        Some(sha256(text.as_bytes()))
    }
}
