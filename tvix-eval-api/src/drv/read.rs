//! Reads and verifies a `.drv` file.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;

use nix_compat::derivation::{AtermError, Derivation, OutputPathError};
use nix_compat::store_path::{
    DRV_SUFFIX, NameError, StoreDir, StorePath, StorePathError, text_path,
};
use thiserror::Error;

use crate::EvalError;

/// Why a `.drv` file is invalid: the source of [`EvalError::InvalidDerivation`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DrvFileError {
    /// The file name is not the base name of a store path.
    #[error("the name of the file is not that of a store path")]
    Name(#[from] StorePathError),
    /// The file name does not end in `.drv`.
    #[error("the name of the file does not end in '.drv'")]
    NotDerivation,
    /// The derivation name is invalid.
    #[error("not a name for a derivation")]
    DerivationName(#[from] NameError),
    /// The contents do not parse.
    #[error("the contents are not a derivation")]
    Aterm(#[from] AtermError),
    /// The contents belong to another path.
    #[error("the contents are those of '{computed}'")]
    OtherContents {
        /// The path computed from the contents.
        computed: StorePath,
    },
    /// The derivation has output paths that are not its own.
    #[error("it has output paths that are not its own")]
    OutputPath(#[from] Box<OutputPathError>),
}

/// Reads the files of derivations. Blocking.
pub(super) struct Reader {
    dir: StoreDir,
    search: Vec<PathBuf>,
}

/// A derivation, and the file that it was read from.
pub(super) struct DrvFile {
    pub(super) file: PathBuf,
    pub(super) derivation: Derivation,
}

pub(super) enum ReadError {
    /// The file does not exist.
    NotFound,
    Failed(EvalError),
}

impl Reader {
    pub(super) fn new(dir: StoreDir, search: Vec<PathBuf>) -> Self {
        Self { dir, search }
    }

    pub(super) fn dir(&self) -> &StoreDir {
        &self.dir
    }

    /// The search directories, for messages.
    pub(super) fn searched(&self) -> String {
        let folders = self.search.iter().map(|dir| format!("'{}'", dir.display()));
        match self.search.is_empty() {
            true => "any directory, since none is searched".to_owned(),
            false => folders.collect::<Vec<_>>().join(" or "),
        }
    }

    pub(super) fn read(&self, path: &StorePath) -> Result<DrvFile, ReadError> {
        let base_name = path.to_string();
        for folder in &self.search {
            let file = folder.join(&base_name);
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(ReadError::Failed(EvalError::Read { path: file, source }));
                }
            };
            return match self.parse(path, &bytes) {
                Ok(derivation) => Ok(DrvFile { file, derivation }),
                Err(error) => Err(ReadError::Failed(invalid(file, error))),
            };
        }
        Err(ReadError::NotFound)
    }

    fn parse(&self, path: &StorePath, bytes: &[u8]) -> Result<Derivation, DrvFileError> {
        let name = path.name().as_str();
        let name = name.strip_suffix(DRV_SUFFIX).unwrap_or(name).parse()?;
        let derivation = Derivation::from_aterm(&self.dir, name, bytes)?;
        // Parsed derivations are canonical, so serialising this one returns these bytes.
        let references = derivation.references();
        let computed = text_path(&self.dir, path.name().clone(), bytes, &references);
        if computed == *path {
            Ok(derivation)
        } else {
            Err(DrvFileError::OtherContents { computed })
        }
    }
}

pub(super) fn invalid(path: PathBuf, error: DrvFileError) -> EvalError {
    let source = Box::new(error);
    EvalError::InvalidDerivation { path, source }
}

/// The input and output of a read task.
pub(super) type Batch = Vec<(u32, Result<DrvFile, ReadError>)>;

pub(super) fn read_batch(reader: &Arc<Reader>, paths: Vec<(u32, StorePath)>) -> Batch {
    let read = |(id, path): (u32, StorePath)| (id, reader.read(&path));
    paths.into_iter().map(read).collect()
}
