//! Requested roots.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::{StoreDir, StorePath};

use super::DrvFileError;
use crate::{EvalError, Root, RootOrder, WantedOutputs};

/// A requested derivation.
pub(super) struct Wanted {
    /// The text of the request.
    pub(super) text: String,
    pub(super) path: StorePath,
    /// `None` for all outputs.
    outputs: Option<Vec<String>>,
    /// Directory of the file, if the request names a local file.
    folder: Option<PathBuf>,
    pub(super) order: RootOrder,
}

impl Wanted {
    /// Parses `<path>` or `<path>!<output>,…`.
    pub(super) fn parse(dir: &StoreDir, text: String, order: RootOrder) -> Result<Self, EvalError> {
        match Self::split(dir, &text) {
            Ok((path, outputs, folder)) => Ok(Self {
                text,
                path,
                outputs,
                folder,
                order,
            }),
            Err((path, source)) => {
                let error = EvalError::InvalidDerivation {
                    path,
                    source: Box::new(source),
                };
                Err(EvalError::in_attribute(&text, Arc::new(error)).with_order(order))
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn split(
        dir: &StoreDir,
        text: &str,
    ) -> Result<(StorePath, Option<Vec<String>>, Option<PathBuf>), (PathBuf, DrvFileError)> {
        // Neither store paths nor outputs contain '!', but directories may.
        let (file, outputs) = match text.rsplit_once('!') {
            Some((file, outputs)) if !outputs.contains('/') => (file, Some(outputs)),
            _ => (text, None),
        };
        let outputs = outputs.map(|names| names.split(',').map(str::to_owned).collect());
        let failed = |error| (PathBuf::from(file), error);
        let (path, folder) = if Path::new(file).starts_with(dir.as_path()) {
            (dir.parse(file), None)
        } else {
            let (folder, name) = file.rsplit_once('/').unwrap_or((".", file));
            let folder = if folder.is_empty() { "/" } else { folder };
            (name.parse(), Some(PathBuf::from(folder)))
        };
        let path = path.map_err(|error| failed(DrvFileError::Name(error)))?;
        if !path.is_derivation() {
            return Err(failed(DrvFileError::NotDerivation));
        }
        Ok((path, outputs, folder))
    }

    pub(super) fn folder(&self) -> Option<&PathBuf> {
        self.folder.as_ref()
    }

    /// The root, once the derivation is known.
    pub(super) fn root(self, derivation: &Derivation) -> Result<Root, EvalError> {
        let all = || derivation.outputs.iter().map(|(name, _)| name);
        let outputs: Result<Vec<OutputName>, _> = match &self.outputs {
            None => Ok(all().cloned().collect()),
            Some(names) => names
                .iter()
                .map(|name| {
                    all()
                        .find(|output| output.as_str() == name)
                        .cloned()
                        .ok_or(name)
                })
                .collect(),
        };
        let outputs = outputs.map_err(|output| {
            let error = EvalError::NoSuchOutput {
                drv_path: self.path.clone(),
                output: output.clone(),
            };
            EvalError::in_attribute(&self.text, Arc::new(error)).with_order(self.order.clone())
        })?;
        let drv_path = self.path;
        let wanted = WantedOutputs { drv_path, outputs };
        Ok(Root::new(self.text, wanted).with_order(self.order))
    }
}
