//! Checks before a session begins.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use tvix_store_api::{Store as _, StoreError, StoreExt as _};
use tvix_worker_protocol::{BuildMode, BuildResult, BuildStatus, DerivedPath, RemoteError};

use super::Builds;
use super::activities::Activities;
use super::plan::{Plan, Planner, Planning};
use super::session::{Finished, Goals};
use super::shared::describe;
use super::substitute::substitute;
use super::texts::{Subject, Wording, value};
use crate::client::Client;

impl Builds {
    /// Fetches the files of derivations that are not valid, where substituters have them.
    pub(super) async fn fetch_derivations(
        &self,
        paths: &[DerivedPath],
        planner: &Planner<'_>,
        activities: &mut Activities,
    ) -> Result<(), RemoteError> {
        let drvs = paths.iter().filter_map(|path| match path {
            DerivedPath::Built { drv, .. } => Some(drv.clone()),
            DerivedPath::Opaque(_) => None,
        });
        let mut drvs: Vec<StorePath> = drvs.collect();
        let valid = self.store().valid_paths(&drvs).await;
        let valid = valid.map_err(|error| RemoteError::new(describe(&error)))?;
        drvs.retain(|drv| !valid.contains(drv));
        if drvs.is_empty() {
            return Ok(());
        }
        let planning = Planning {
            fallback: false,
            rebuild: false,
        };
        let files: Vec<_> = drvs.iter().cloned().map(DerivedPath::Opaque).collect();
        let plan = planner.plan(&files, planning).await?;
        substitute(&self.coordinator, &plan, &drvs, activities).await;
        Ok(())
    }

    /// Checks that derivations to build claim no output paths of others, and computes the hashes by which outputs are
    /// known.
    pub(super) async fn check_outputs(&self, plan: &mut Plan) -> Result<(), RemoteError> {
        let dir = self.store().store_dir();
        plan.modulos = self.drvs.modulos(&plan.graph).await?;
        for path in plan.will_build.iter().chain(&plan.substitutable) {
            let Some(derivation) = plan.graph.get(path) else {
                continue;
            };
            let modulos = &plan.modulos;
            let checked = derivation.check_output_paths(dir, |input| modulos.get(input).copied());
            checked.map_err(|error| {
                let text = format!(
                    "derivation '{}' has incorrect outputs: {}",
                    dir.display(path),
                    describe(&error)
                );
                RemoteError::new(text)
            })?;
        }
        Ok(())
    }

    /// Takes out roots that cannot be checked, as their outputs are not valid.
    pub(super) async fn refuse_checks(
        &self,
        roots: &mut BTreeMap<StorePath, BTreeSet<OutputName>>,
        plan: &Plan,
        wording: Wording,
        results: &mut HashMap<StorePath, Finished>,
    ) -> Result<(), RemoteError> {
        let dir = self.store().store_dir();
        for drv in roots.keys().cloned().collect::<Vec<_>>() {
            let derivation = plan.graph.get(&drv);
            let names = derivation.into_iter().flat_map(|it| it.outputs.keys());
            let mut all_valid = true;
            for name in names {
                let known = derivation.and_then(|it| it.output_path(dir, name));
                let known =
                    known.or_else(|| plan.outputs.get(&(drv.clone(), name.clone())).cloned());
                all_valid &= match known {
                    Some(path) => self
                        .store()
                        .is_valid(&path)
                        .await
                        .map_err(|error| RemoteError::new(describe(&error)))?,
                    None => false,
                };
            }
            if all_valid {
                continue;
            }
            let subject = Subject {
                dir,
                path: &drv,
                derivation: derivation.map(|it| &**it),
                wording,
            };
            let text = subject.not_valid();
            let result = BuildResult::new(BuildStatus::MiscFailure).with_error(text);
            results.insert(
                drv.clone(),
                Finished {
                    result,
                    logged: false,
                },
            );
            roots.remove(&drv);
        }
        Ok(())
    }

    /// Fails if a known output is corrupt, as builds do not replace valid paths.
    pub(super) async fn refuse_repairs(&self, plan: &Plan) -> Result<(), RemoteError> {
        let dir = self.store().store_dir();
        for path in plan.outputs.values() {
            match self.store().verify(path).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => {
                    let text = format!(
                        "cannot repair path '{}': {}",
                        value(dir.path_text(path)),
                        describe(&error)
                    );
                    return Err(RemoteError::new(text));
                }
            }
        }
        Ok(())
    }

    /// The directory for outputs that differ from valid ones: that of the valid ones, if the client keeps failures.
    pub(super) async fn keep_differences(&self, goals: &Goals, client: &Client) -> Option<PathBuf> {
        if goals.mode != BuildMode::Check || !client.settings.keep_failed {
            return None;
        }
        let (drv, _) = goals.roots.first()?;
        let place = self.store().on_disk(drv).await.ok()??;
        Some(place.parent()?.to_owned())
    }
}
