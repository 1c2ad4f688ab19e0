//! Resolution: input derivations are replaced by the store paths that were built.

use bstr::{BString, ByteSlice};
use thiserror::Error;

use super::{Derivation, Output, OutputName, upstream_placeholder};
use crate::sorted::SortedMap;
use crate::store_path::{NameError, StoreDir, StorePath, output_path};

/// Why a derivation cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The path of an input is not known yet.
    #[error("output '{output}' of the input derivation '{derivation}' is not known")]
    MissingOutput {
        /// The input derivation.
        derivation: StorePath,
        /// The output.
        output: OutputName,
    },
    /// A name that is not valid in a store path.
    #[error("derivation '{derivation}' has no valid output path")]
    Name {
        /// The derivation.
        derivation: String,
        /// The reason.
        source: NameError,
    },
}

impl Derivation {
    /// This derivation without input derivations. The outputs of inputs, as returned by `built`,
    /// become input sources, and their placeholders are replaced. Deferred outputs get their paths.
    ///
    /// Derivations that differ only in the way their inputs were built resolve to the same
    /// derivation. This is the early cutoff of rebuilds (Nix RFC 62).
    ///
    /// # Errors
    ///
    /// If `built` returns `None` for an output, or if a name is not valid in a store path.
    pub fn resolve(
        &self,
        dir: &StoreDir,
        mut built: impl FnMut(&StorePath, &OutputName) -> Option<StorePath>,
    ) -> Result<Self, ResolveError> {
        let name_error = |source| ResolveError::Name {
            derivation: self.name.to_string(),
            source,
        };
        let mut resolved = Self {
            input_drvs: SortedMap::new(),
            ..self.clone()
        };
        let mut rewrites = Vec::new();
        for (derivation, outputs) in self.input_drvs.iter() {
            for output in outputs.iter() {
                let path =
                    built(derivation, output).ok_or_else(|| ResolveError::MissingOutput {
                        derivation: derivation.clone(),
                        output: output.clone(),
                    })?;
                let placeholder = upstream_placeholder(derivation, output).map_err(name_error)?;
                rewrites.push((placeholder, dir.display(&path).to_string()));
                resolved.input_srcs.insert(path);
            }
        }
        resolved.rewrite(&rewrites);
        if resolved
            .outputs
            .iter()
            .any(|(_, output)| *output == Output::Deferred)
        {
            resolved.fill_deferred(dir).map_err(name_error)?;
        }
        Ok(resolved)
    }

    /// Replaces every occurrence of each text in the builder, the arguments and the environment.
    pub fn rewrite(&mut self, rewrites: &[(String, String)]) {
        rewrite(&mut self.builder, rewrites);
        for arg in &mut self.args {
            rewrite(arg, rewrites);
        }
        let touched = self.env.iter().any(|(name, _)| occurs(name, rewrites));
        for (_, value) in self.env.iter_mut() {
            rewrite(value, rewrites);
        }
        if touched {
            self.env = std::mem::take(&mut self.env)
                .into_iter()
                .map(|(mut name, value)| {
                    rewrite(&mut name, rewrites);
                    (name, value)
                })
                .collect();
        }
    }

    fn fill_deferred(&mut self, dir: &StoreDir) -> Result<(), NameError> {
        // Without input derivations no hash can be missing.
        let Ok(modulo) = self.masked_hash_modulo(dir, |_| None) else {
            return Ok(());
        };
        let name = self.name.clone();
        for (output_name, output) in self.outputs.iter_mut() {
            if *output == Output::Deferred {
                let path = output_path(dir, &name, output_name, &modulo.hash)?;
                let text = dir.display(&path).to_string();
                self.env.insert(output_name.as_str().into(), text.into());
                *output = Output::InputAddressed(path);
            }
        }
        Ok(())
    }
}

fn occurs(text: &BString, rewrites: &[(String, String)]) -> bool {
    rewrites.iter().any(|(from, _)| text.contains_str(from))
}

fn rewrite(text: &mut BString, rewrites: &[(String, String)]) {
    for (from, to) in rewrites {
        if text.contains_str(from) {
            *text = text.replace(from, to).into();
        }
    }
}
