//! Verification of the output paths in a derivation.

// The error holds two store paths. It occurs at most once, at the end of a check; boxing it would
// complicate the patterns of every caller.
#![allow(clippy::result_large_err)]

use thiserror::Error;

use super::{Derivation, HashModulo, MissingInput, Output, OutputName};
use crate::store_path::{NameError, StoreDir, StorePath, StorePathName, output_path};

/// Why the output paths of a derivation are rejected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutputPathError {
    /// The path of an output differs from the path that the derivation determines.
    #[error(
        "derivation '{derivation}' claims the path '{claimed}' for its output '{output}', \
         which should be '{expected}'"
    )]
    Mismatch {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
        /// The path in the `.drv` file.
        claimed: StorePath,
        /// The path that the derivation determines.
        expected: StorePath,
    },
    /// An output has a path although it depends on a path that is not known yet.
    #[error(
        "output '{output}' of derivation '{derivation}' has a path, but depends on a \
         content-addressed input whose path is not known yet"
    )]
    PrematurePath {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
    },
    /// An output lacks a path that can be computed.
    #[error("output '{output}' of derivation '{derivation}' lacks its path")]
    MissingPath {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
    },
    /// The environment variable named after an output differs from the path of the output.
    #[error(
        "environment variable '{output}' of derivation '{derivation}' should hold the path of \
         that output"
    )]
    Environment {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
    },
    /// The derivation mixes kinds of outputs, or it has a fixed output that is not its only output
    /// `out`.
    #[error("derivation '{0}' mixes kinds of outputs that do not go together")]
    MixedOutputs(StorePathName),
    /// The hash of an input derivation is not known.
    #[error(transparent)]
    MissingInput(#[from] MissingInput),
    /// The name of an output is not valid in a store path.
    #[error("an output of derivation '{derivation}' has no valid path")]
    Name {
        /// The derivation's name.
        derivation: StorePathName,
        /// The reason.
        source: NameError,
    },
}

impl Derivation {
    /// Checks that every output path is the path that this derivation determines. This keeps anyone
    /// from passing off other contents as an output of another derivation.
    ///
    /// The environment variables named after outputs must hold their paths. With structured
    /// attributes they may be absent. `input` returns the hash modulo fixed outputs of each input.
    ///
    /// # Errors
    ///
    /// [`OutputPathError`] for the first violation.
    pub fn check_output_paths(
        &self,
        dir: &StoreDir,
        input: impl FnMut(&StorePath) -> Option<HashModulo>,
    ) -> Result<(), OutputPathError> {
        self.check_kinds()?;
        let input_addressed = self
            .outputs
            .iter()
            .any(|(_, output)| matches!(output, Output::InputAddressed(_) | Output::Deferred));
        let modulo = if input_addressed {
            Some(self.masked_hash_modulo(dir, input)?)
        } else {
            None
        };
        for (name, output) in self.outputs.iter() {
            let (derivation, output_name) = (self.name.clone(), name.clone());
            match (output, modulo) {
                (Output::InputAddressed(_), Some(HashModulo { deferred: true, .. })) => {
                    return Err(OutputPathError::PrematurePath {
                        derivation,
                        output: output_name,
                    });
                }
                (Output::InputAddressed(claimed), Some(HashModulo { hash, .. })) => {
                    let expected = output_path(dir, &self.name, name, &hash)
                        .map_err(|source| OutputPathError::Name { derivation, source })?;
                    if *claimed != expected {
                        return Err(OutputPathError::Mismatch {
                            derivation: self.name.clone(),
                            output: output_name,
                            claimed: claimed.clone(),
                            expected,
                        });
                    }
                    self.check_environment(dir, name, claimed)?;
                }
                (
                    Output::Deferred,
                    Some(HashModulo {
                        deferred: false, ..
                    }),
                ) => {
                    return Err(OutputPathError::MissingPath {
                        derivation,
                        output: output_name,
                    });
                }
                _ => {
                    if let Some(path) = output.path(dir, &self.name, name) {
                        self.check_environment(dir, name, &path)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn check_environment(
        &self,
        dir: &StoreDir,
        output: &OutputName,
        path: &StorePath,
    ) -> Result<(), OutputPathError> {
        let holds = match self.env_var(output.as_str()) {
            Some(value) => *value == dir.display(path).to_string(),
            None => self.env_var("__json").is_some(),
        };
        if holds {
            return Ok(());
        }
        Err(OutputPathError::Environment {
            derivation: self.name.clone(),
            output: output.clone(),
        })
    }

    fn check_kinds(&self) -> Result<(), OutputPathError> {
        let mut kinds: Vec<_> = self
            .outputs
            .iter()
            .map(|(_, output)| std::mem::discriminant(output))
            .collect();
        let fixed_alone =
            !self.is_fixed_output() || (kinds.len() == 1 && self.outputs.contains_key("out"));
        kinds.dedup();
        if kinds.len() == 1 && fixed_alone {
            Ok(())
        } else {
            Err(OutputPathError::MixedOutputs(self.name.clone()))
        }
    }
}
