//! Derivations that clients add: their output paths are the ones that they determine. As Nix checks it when it registers
//! a derivation, so that no valid derivation claims the outputs of another.

use std::sync::Arc;

use nix_compat::derivation::{Derivation, Output, OutputPathError};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::VerifiedObject;
use tvix_worker_protocol::RemoteError;

use super::drvs::{Drvs, Graph, parse_file};
use super::shared::describe;

/// A derivation that is to be added.
pub(crate) struct NewDrv {
    path: StorePath,
    /// The path that the contents determine. Another one (`nix-store --add`) cannot be an input.
    own: StorePath,
    derivation: Arc<Derivation>,
}

impl NewDrv {
    /// Parses the file of a derivation.
    pub fn parse(dir: &StoreDir, path: &StorePath, file: &[u8]) -> Result<Self, RemoteError> {
        let (derivation, own) = parse_file(dir, path, file)?;
        Ok(Self {
            path: path.clone(),
            own,
            derivation: Arc::new(derivation),
        })
    }

    /// Parses an object.
    pub fn of_object(object: &VerifiedObject) -> Result<Self, RemoteError> {
        let (dir, path) = (object.store_dir(), object.path());
        let (_, file) = object.single_file().ok_or_else(|| {
            let path = dir.display(path);
            RemoteError::new(format!("path '{path}' is not a regular file"))
        })?;
        Self::parse(dir, path, file)
    }

    /// Whether the paths of its outputs depend on the hashes of its inputs.
    fn depends_on_inputs(&self) -> bool {
        let mut outputs = self.derivation.outputs.values();
        outputs.any(|it| matches!(it, Output::InputAddressed(_) | Output::Deferred))
    }
}

impl Drvs {
    /// Checks the output paths of derivations that are to be added together. Their inputs are among them, or in the
    /// store.
    pub async fn check_new(&self, new: &[NewDrv]) -> Result<(), RemoteError> {
        let graph: Graph = match new.iter().any(NewDrv::depends_on_inputs) {
            true => new
                .iter()
                .map(|it| (it.own.clone(), it.derivation.clone()))
                .collect(),
            false => Graph::new(),
        };
        let modulos = self.modulos(&graph).await?;
        for NewDrv {
            path, derivation, ..
        } in new
        {
            let checked =
                derivation.check_output_paths(self.dir(), |input| modulos.get(input).copied());
            match checked {
                // Nix takes it, and builds refuse it.
                Ok(()) | Err(OutputPathError::MissingPath { .. }) => {}
                Err(error) => return Err(self.incorrect(path, derivation, &error)),
            }
        }
        Ok(())
    }

    /// The error in the words of Nix.
    fn incorrect(
        &self,
        path: &StorePath,
        derivation: &Derivation,
        error: &OutputPathError,
    ) -> RemoteError {
        let dir = self.dir();
        let drv = dir.display(path);
        RemoteError::new(match error {
            OutputPathError::Mismatch {
                claimed, expected, ..
            } => format!(
                "derivation '{drv}' has incorrect output '{}', should be '{}'",
                dir.display(claimed),
                dir.display(expected)
            ),
            OutputPathError::Environment { output, .. } => {
                let expected = derivation.output_path(dir, output);
                let expected = expected.map_or(String::new(), |it| dir.display(&it).to_string());
                format!(
                    "derivation '{drv}' has incorrect environment variable '{output}', should be \
                     '{expected}'"
                )
            }
            error => format!(
                "derivation '{drv}' has incorrect outputs: {}",
                describe(error)
            ),
        })
    }
}
