//! Where the inputs of a build are as files.

use std::path::PathBuf;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::store_path::StorePath;
use tvix_store_api::{LocalPath, Store, StoreError, StoreExt as _};

use crate::BuildRequest;

/// How many inputs are located at once.
const IN_FLIGHT: usize = 16;

/// The inputs of a build as files, for as long as this is held.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// Each has the name of its store path.
    pub files: Vec<PathBuf>,
    /// Those that were unpacked for this build.
    _unpacked: Vec<LocalPath>,
}

impl Inputs {
    /// Inputs in a directory that holds all of them.
    #[cfg(feature = "local-fs")]
    pub fn in_directory(directory: &std::path::Path, request: &BuildRequest) -> Self {
        let inputs = request.inputs.iter();
        Self {
            files: inputs
                .map(|info| directory.join(info.path.to_string()))
                .collect(),
            _unpacked: Vec::new(),
        }
    }

    /// Finds the inputs in any store; those that it does not keep as files are unpacked.
    pub async fn locate(store: &dyn Store, request: &BuildRequest) -> Result<Self, StoreError> {
        let paths: Vec<StorePath> = request.inputs.iter().map(|i| i.path.clone()).collect();
        let located: Vec<LocalPath> = stream::iter(paths)
            .map(|path| async move { store.local_path(&path).await })
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Self {
            files: located.iter().map(|path| path.path().to_owned()).collect(),
            _unpacked: located,
        })
    }
}
