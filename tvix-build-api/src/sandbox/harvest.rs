//! Harvesting: turns the files that a process has left into outputs with complete infos.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::nar::NarError;
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio_util::sync::CancellationToken;
use tvix_tree::{Bounds, TreeError, TreeScan, canonicalise_within, measure};

use super::settle::Settler;
use super::trouble::{Blame, Trouble};
use crate::outputs::{MadeOutput, OutputChecks, PlannedOutput, references_first};
use crate::{BuildRequest, FailureKind};

/// An output as files, canonical and checked.
#[derive(Debug)]
pub(super) struct Harvested {
    pub output: PlannedOutput,
    /// The location of the files.
    pub file: PathBuf,
    /// The info of the output.
    pub info: PathInfo,
}

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

impl Field {
    /// Makes the outputs canonical, scans and checks them. The result is sorted with references
    /// first. Blocks.
    pub fn harvest(&self) -> Result<Vec<Harvested>, Trouble> {
        // A missing output fails the build before any output is read.
        for output in &self.outputs {
            match self.file(output).symlink_metadata() {
                Ok(metadata) => self.check_mode(output, &metadata)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(FailureKind::MissingOutput {
                        output: output.name.clone(),
                        path: self.dir.display(&output.path).to_string(),
                    }
                    .into());
                }
                Err(error) => return Err(self.blame.io("find the outputs", error)),
            }
        }
        let inputs = self.request.inputs.iter().map(|info| &info.path);
        let own = self.outputs.iter().map(|output| &output.path);
        let candidates: Vec<&StorePath> = inputs.chain(own).collect();
        let mut found = Vec::with_capacity(self.outputs.len());
        let interrupted = || self.stop.is_cancelled();
        if let Some(disk) = self.disk {
            self.measure(disk, &interrupted)?;
        }
        for output in &self.outputs {
            let file = self.file(output);
            let bounds = Bounds {
                interrupted: &interrupted,
                ..Bounds::default()
            };
            let scan = canonicalise_within(&file, self.owner, candidates.iter().copied(), bounds)
                .map_err(|error| self.tree_error(output, error))?;
            let references = match self.checks.discards_references(&output.name) {
                true => SortedSet::new(),
                false => scan.references.clone(),
            };
            found.push(Found {
                output: output.clone(),
                file,
                scan,
                references,
            });
        }
        let made = found.iter().map(|found| MadeOutput {
            output: &found.output,
            references: &found.references,
            nar_size: found.scan.nar_size,
        });
        let made: Vec<_> = made.collect();
        self.checks.check(&made, &self.request.inputs)?;
        let order = order(&found)?;
        let mut found: Vec<Option<Found>> = found.into_iter().map(Some).collect();
        let mut settler = Settler::new(self);
        let mut harvested = Vec::with_capacity(found.len());
        for found in order.into_iter().filter_map(|index| found[index].take()) {
            harvested.push(settler.settle(found)?);
        }
        Ok(harvested)
    }

    /// Refuses outputs that have more than `disk` bytes in total, before any of them is read.
    fn measure(&self, disk: u64, interrupted: &dyn Fn() -> bool) -> Result<(), Trouble> {
        let mut room = disk;
        for output in &self.outputs {
            let bounds = Bounds {
                interrupted,
                nar_size: room,
            };
            let size = measure(&self.file(output), bounds)
                .map_err(|error| self.tree_error(output, error))?;
            room = room.saturating_sub(size);
        }
        Ok(())
    }

    /// Refuses an output that is writable by other users, as Nix does.
    fn check_mode(
        &self,
        output: &PlannedOutput,
        metadata: &std::fs::Metadata,
    ) -> Result<(), Trouble> {
        let mode = metadata.mode() & 0o7777;
        if metadata.is_symlink() || mode & 0o022 == 0 {
            return Ok(());
        }
        Err(FailureKind::InvalidOutput {
            output: output.name.clone(),
            message: format!(
                "suspicious permissions on '{}': its mode is {mode:03o}, so its group or others can \
                 write to it",
                self.dir.display(&output.path)
            ),
        }
        .into())
    }

    fn file(&self, output: &PlannedOutput) -> PathBuf {
        self.store.join(output.path.to_string())
    }

    /// The error for an output with a file that a store cannot hold, or for a failure to read it.
    pub fn tree_error(&self, output: &PlannedOutput, error: TreeError) -> Trouble {
        match error {
            TreeError::Nar(error) => self.nar_error(output, error),
            // The canceller of the harvest knows the reason.
            TreeError::Interrupted => FailureKind::Cancelled.into(),
            TreeError::TooLarge { path, .. } => FailureKind::OutputsExceedDisk {
                output: output.name.clone(),
                path: self.shown(&path),
                limit: self.disk.unwrap_or(u64::MAX),
            }
            .into(),
            error => self.invalid(output, &error),
        }
    }

    /// As [`tree_error`](Self::tree_error).
    pub fn nar_error(&self, output: &PlannedOutput, error: NarError) -> Trouble {
        if self.stop.is_cancelled() {
            return FailureKind::Cancelled.into();
        }
        match error {
            // A fault of the derivation: its builder program has chosen the permissions in its
            // outputs.
            NarError::File { ref source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied
                    && source.raw_os_error() == Some(libc::EACCES) =>
            {
                self.invalid(output, &error)
            }
            NarError::File {
                action,
                path,
                source,
            } => {
                let path = self.shown(&path);
                self.blame
                    .io(format!("{action} '{path}' in an output"), source)
            }
            NarError::Io(source) => self.blame.io("read an output", source),
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

fn order(found: &[Found]) -> Result<Vec<usize>, FailureKind> {
    let edges: Vec<_> = found
        .iter()
        .map(|found| {
            let refers_to = |path: &StorePath| found.references.contains(path);
            (&found.output.path, refers_to)
        })
        .collect();
    references_first(&edges).map_err(|(from, to)| FailureKind::InvalidOutput {
        output: found[from].output.name.clone(),
        message: format!(
            "it and the output '{}' refer to each other in a cycle",
            found[to].output.name
        ),
    })
}
