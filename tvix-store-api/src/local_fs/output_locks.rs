//! Locks on the outputs of a build, between processes.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use super::locks::{FileLock, PathGuard};
use super::{Inner, LocalStore};
use crate::StoreError;
use crate::blocking::blocking;

/// Pause before another attempt at a lock that is held elsewhere: the first, and the longest. A
/// blocking `flock` could not be cancelled.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait for a lock before the wait is reported.
const QUIET: Duration = Duration::from_millis(100);

/// Locks on paths that exclude builds and additions by other tasks and processes, including Nix.
/// Dropping it releases the locks.
#[derive(Debug, Default)]
pub struct OutputLocks {
    paths: Vec<StorePath>,
    _files: Vec<FileLock>,
    _guards: Vec<PathGuard>,
}

impl OutputLocks {
    pub(super) fn paths(&self) -> &[StorePath] {
        &self.paths
    }
}

/// The result of [`LocalStore::lock_outputs`].
#[derive(Debug)]
pub enum LockedOutputs {
    /// An output is missing; the locks are held.
    ToBuild(OutputLocks),
    /// All outputs are valid, sorted by name. No lock is held.
    Valid(Vec<(OutputName, Arc<PathInfo>)>),
}

impl LocalStore {
    /// Locks the outputs of a derivation before a build. The lock files are those of Nix, one for
    /// each output: named after the output path or, if the path is not known before the build,
    /// after the derivation path and the output name. Waits while another process holds one of
    /// them. That process may have built the outputs, so their validity is looked up afterwards.
    ///
    /// No lock is held while waiting for another one. Dropping the future gives up. `waits` is
    /// called at most once, with the store path of the contended lock, if the wait takes long.
    ///
    /// # Errors
    ///
    /// [`StoreError::ReadOnly`], [`StoreError::Backend`].
    pub async fn lock_outputs(
        &self,
        drv_path: &StorePath,
        derivation: &Derivation,
        waits: impl FnOnce(String) + Send,
    ) -> Result<LockedOutputs, StoreError> {
        self.0.scratch()?;
        let outputs = derivation.output_paths(&self.0.store_dir);
        let outputs: Vec<(OutputName, Option<StorePath>)> =
            outputs.map(|(name, path)| (name.clone(), path)).collect();
        let mut names: Vec<String> = outputs
            .iter()
            .map(|(name, path)| match path {
                Some(path) => path.to_string(),
                None => format!("{drv_path}.{name}"),
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let known = outputs.iter().filter_map(|(_, path)| path.as_ref());
        let paths: Vec<StorePath> = known.cloned().collect();
        let mut waits = Some(waits);
        let mut waits = |name: &str| {
            if let Some(waits) = waits.take() {
                waits(format!("{}/{name}", self.0.store_dir));
            }
        };
        let guards = {
            let guards = self.0.locks.lock_all(paths.iter());
            tokio::pin!(guards);
            match tokio::time::timeout(QUIET, &mut guards).await {
                Ok(guards) => guards,
                Err(_) => {
                    waits(&names[0]);
                    guards.await
                }
            }
        };
        // The locks of outputs with unknown paths are named after the derivation.
        let mut held = paths.clone();
        held.push(drv_path.clone());
        let request = Arc::new((names, outputs, held));
        let mut pause = FIRST_PAUSE;
        let mut paused = Duration::ZERO;
        loop {
            let (inner, request) = (self.0.clone(), request.clone());
            let attempt = blocking(&self.0.uri, move || {
                inner.hold(&request.2)?;
                inner.try_lock(&request.0, &request.1)
            });
            match attempt.await? {
                Attempt::Held(name) => {
                    if paused >= QUIET {
                        waits(&name);
                    }
                    tokio::time::sleep(pause).await;
                    paused += pause;
                }
                Attempt::Valid(valid) => return Ok(LockedOutputs::Valid(valid)),
                Attempt::ToBuild(files) => {
                    return Ok(LockedOutputs::ToBuild(OutputLocks {
                        paths,
                        _files: files,
                        _guards: guards,
                    }));
                }
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// The result of an attempt to lock.
enum Attempt {
    /// The lock of this name is held elsewhere. No lock was kept.
    Held(String),
    /// All outputs are valid.
    Valid(Vec<(OutputName, Arc<PathInfo>)>),
    /// An output is missing.
    ToBuild(Vec<FileLock>),
}

impl Inner {
    fn try_lock(
        &self,
        names: &[String],
        outputs: &[(OutputName, Option<StorePath>)],
    ) -> Result<Attempt, StoreError> {
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let lock = FileLock::try_acquire(&self.store_fd, name);
            let lock = lock.map_err(|source| StoreError::Backend {
                store: self.uri.clone(),
                action: format!("lock '{name}'"),
                retryable: false,
                source: source.into(),
            })?;
            match lock {
                Some(lock) => files.push(lock),
                None => return Ok(Attempt::Held(name.clone())),
            }
        }
        let mut valid = Vec::with_capacity(outputs.len());
        for (name, path) in outputs {
            let info = match path {
                Some(path) => self.database.path_info(path)?,
                None => None,
            };
            match info {
                Some(info) => valid.push((name.clone(), info)),
                None => return Ok(Attempt::ToBuild(files)),
            }
        }
        Ok(Attempt::Valid(valid))
    }
}
