//! The inputs of a build as files.

use std::collections::HashMap;
use std::path::PathBuf;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::derivation::Derivation;
use nix_compat::store_path::{DRV_SUFFIX, StorePath};
use tvix_store_api::{LocalPath, Store, StoreError, StoreExt as _};

use crate::BuildRequest;

/// Number of inputs that are located concurrently.
const IN_FLIGHT: usize = 16;

/// The inputs of a build as files, for the lifetime of this value.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// The file of each input. Its name is that of the store path.
    pub files: Vec<PathBuf>,
    /// Copies that were unpacked for this build.
    _unpacked: Vec<LocalPath>,
}

impl Inputs {
    /// The inputs, in a directory that contains all of them.
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

    /// Locates the inputs in any store. Inputs that the store does not keep as files are unpacked.
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

/// The outputs of derivations among the inputs, as far as they are known before a build.
pub(super) async fn outputs_of(
    store: &dyn Store,
    derivations: &[StorePath],
) -> Result<HashMap<StorePath, Vec<StorePath>>, StoreError> {
    let mut outputs = HashMap::with_capacity(derivations.len());
    for path in derivations {
        let local = store.local_path(path).await?;
        let unreadable = |file: PathBuf, source: tvix_store_api::BoxError| StoreError::Source {
            file,
            path: path.clone(),
            source,
        };
        let (dir, of) = (store.store_dir().clone(), path.clone());
        let file = local.path().to_owned();
        let read = tokio::task::spawn_blocking(move || -> Result<_, tvix_store_api::BoxError> {
            let contents = std::fs::read(local.path())?;
            let name = of.name().as_str();
            let name = name.strip_suffix(DRV_SUFFIX).unwrap_or(name).parse()?;
            let derivation = Derivation::from_aterm(&dir, name, &contents)?;
            let known = derivation.output_paths(&dir).filter_map(|(_, path)| path);
            Ok(known.collect())
        });
        let read = match read.await {
            Ok(read) => read,
            Err(lost) => Err(lost.into()),
        };
        let made = read.map_err(|source| unreadable(file, source))?;
        outputs.insert(path.clone(), made);
    }
    Ok(outputs)
}
