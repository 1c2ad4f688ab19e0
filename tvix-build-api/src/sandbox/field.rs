//! The outputs that a dead process has left, before they are harvested.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::nar::NarError;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio_util::sync::CancellationToken;
use tvix_tree::{TreeError, TreeScan};

use super::trouble::{Blame, Trouble};
use crate::outputs::{OutputChecks, PlannedOutput};
use crate::{BuildRequest, FailureKind};

/// The results of a dead process, before the harvest.
pub(super) struct Field {
    pub blame: Blame,
    pub dir: StoreDir,
    /// The host directory that was the store directory of the process.
    pub store: PathBuf,
    /// The user id of the process.
    pub owner: u32,
    pub request: Arc<BuildRequest>,
    pub outputs: Vec<PlannedOutput>,
    pub checks: OutputChecks,
    /// The maximum size of all outputs in bytes; sparse files count with their full size.
    pub disk: Option<u64>,
    /// Stops the harvest.
    pub stop: CancellationToken,
}

/// An output that was scanned.
pub(super) struct Found {
    pub output: PlannedOutput,
    pub file: PathBuf,
    pub scan: TreeScan,
    /// The recorded references: those that the scan found, or none if the derivation discards them.
    pub references: SortedSet<StorePath>,
}

/// An output as files, canonical and checked.
#[derive(Debug)]
pub(super) struct Harvested {
    pub output: PlannedOutput,
    /// The location of the files.
    pub file: PathBuf,
    /// The info of the output.
    pub info: PathInfo,
}

impl Field {
    /// The scratch location of an output.
    pub fn file(&self, output: &PlannedOutput) -> PathBuf {
        self.store.join(output.path.to_string())
    }

    /// The outcome of an error in an output: the build's failure if its files are at fault, else trouble
    /// of the builder.
    pub fn tree_error(&self, output: &PlannedOutput, error: TreeError) -> Trouble {
        match error {
            TreeError::Interrupted => FailureKind::Cancelled.into(),
            TreeError::TooLarge { path, .. } => FailureKind::OutputsExceedDisk {
                output: output.name.clone(),
                path: self.shown(&path),
                limit: self.disk.unwrap_or(u64::MAX),
            }
            .into(),
            error @ TreeError::ForeignOwner { .. } => self.invalid(output, &error),
            // The error may be a consequence of the interruption.
            _ if self.stop.is_cancelled() => FailureKind::Cancelled.into(),
            // The build has chosen the permissions of the files in its outputs.
            TreeError::File { ref source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied
                    && source.raw_os_error() == Some(libc::EACCES) =>
            {
                self.invalid(output, &error)
            }
            TreeError::File {
                action,
                path,
                source,
            } => {
                let path = self.shown(&path);
                self.blame
                    .io(format!("{action} '{path}' in an output"), source)
            }
            TreeError::Nar(NarError::Io(source)) => self.blame.io("read an output", source),
            error => self.invalid(output, &error),
        }
    }

    /// The message has the path as the process saw it.
    pub fn invalid(&self, output: &PlannedOutput, error: &dyn std::error::Error) -> Trouble {
        let store = self.store.display().to_string();
        FailureKind::InvalidOutput {
            output: output.name.clone(),
            message: error.to_string().replace(&store, self.dir.as_str()),
        }
        .into()
    }

    fn shown(&self, path: &Path) -> String {
        match path.strip_prefix(&self.store) {
            Ok(rest) => self.dir.as_path().join(rest).display().to_string(),
            Err(_) => path.display().to_string(),
        }
    }
}
