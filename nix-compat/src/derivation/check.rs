//! Checking that the output paths that a derivation claims are its own.

// The error is as large as the two paths it names. It is made once, at the end of everything;
// a box would make every caller's pattern worse.
#![allow(clippy::result_large_err)]

use thiserror::Error;

use super::{Derivation, HashModulo, MissingInput, Output, OutputName};
use crate::store_path::{NameError, StoreDir, StorePath, StorePathName, output_path};

/// Why the output paths of a derivation are not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutputPathError {
    /// An output claims a path that is not the one its derivation gives.
    #[error(
        "derivation '{derivation}' claims the path '{claimed}' for its output '{output}', \
         which should be '{expected}'"
    )]
    Mismatch {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
        /// What the `.drv` says.
        claimed: StorePath,
        /// What its contents give.
        expected: StorePath,
    },
    /// An output claims a path although it depends on something whose path is not known.
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
    /// An output could have a path and has none.
    #[error("output '{output}' of derivation '{derivation}' lacks its path")]
    MissingPath {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
    },
    /// The environment variable named after an output does not hold its path.
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
    /// Fixed outputs stand alone and are called `out`; kinds of outputs do not mix.
    #[error("derivation '{0}' mixes kinds of outputs that do not go together")]
    MixedOutputs(StorePathName),
    /// An input is not known.
    #[error(transparent)]
    MissingInput(#[from] MissingInput),
    /// An output has no valid path.
    #[error("an output of derivation '{derivation}' has no valid path")]
    Name {
        /// The derivation's name.
        derivation: StorePathName,
        /// What is wrong.
        source: NameError,
    },
}

impl Derivation {
    /// Checks that every output path is the one that this derivation gives, so that nobody can
    /// pass off something as the output of another derivation. `input` gives the hash modulo of
    /// each input. Structured attributes exempt a derivation from the check of its environment.
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
