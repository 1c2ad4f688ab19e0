//! Harvesting: turns the files that a process has left into outputs with complete infos.

use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tvix_tree::{Bounds, canonicalise_within, measure};

use super::field::{Field, Found, Harvested};
use super::settle::Settler;
use super::trouble::Trouble;
use crate::FailureKind;
use crate::outputs::{MadeOutput, PlannedOutput, references_first};

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
            let bounds = Bounds::default().with_interrupted(&interrupted);
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
            let bounds = Bounds::default()
                .with_interrupted(interrupted)
                .with_nar_size(room);
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
