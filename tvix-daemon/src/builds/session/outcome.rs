//! The results of requests at the end of a session.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use tvix_coordinator::{CheckProblem, Coordinator, Report};
use tvix_worker_protocol::{BuildResult, BuildStatus, Realised};

use super::{Finished, Goals, Tracker};
use crate::builds::texts::Text;

impl Tracker<'_> {
    /// The result for a root; `None` if the session ended before there was one.
    pub(super) async fn finished(
        &self,
        report: &Report,
        index: usize,
        drv_path: &StorePath,
        outputs: &[OutputName],
        goals: &Goals,
    ) -> Option<Finished> {
        let failed = |(status, text): &Text| Finished {
            result: BuildResult::new(*status).with_error(text.as_str()),
            logged: self.waited_for.contains(drv_path),
        };
        let check = report
            .checks
            .iter()
            .find(|check| check.drv_path == *drv_path);
        if let Some(problem) = check.and_then(|check| check.problem.as_ref()) {
            let mut places = HashMap::new();
            if let CheckProblem::Differs { differences } = problem {
                for difference in differences {
                    let place = self.coordinator.store().on_disk(&difference.path).await;
                    places.insert(difference.path.clone(), place.ok().flatten());
                }
            }
            let dir = self.coordinator.store().store_dir();
            let real = |path: &StorePath| match places.get(path).cloned().flatten() {
                Some(place) => place.to_string_lossy().into_owned(),
                None => dir.path_text(path),
            };
            let text = self.subject(drv_path).check(problem, &self.profiles, &real);
            let mut ended = failed(&text);
            ended.logged = false;
            ended.result.is_non_deterministic = text.0 == BuildStatus::NotDeterministic;
            return Some(ended);
        }
        if let Some(text) = self.failed.get(drv_path) {
            let mut ended = failed(text);
            self.set_times(&mut ended.result, drv_path);
            return Some(ended);
        }
        let mut roots = report.roots.iter();
        let root = roots.find(|root| root.order.request_index() == Some(index))?;
        if !root.success {
            let error = report.errors.first()?;
            let text = (BuildStatus::MiscFailure, error.to_string());
            return Some(failed(&text));
        }
        let built = self.built.get(drv_path);
        let status = match built {
            Some(_) => BuildStatus::Built,
            None if goals.plan.substitutable.contains(drv_path) => BuildStatus::Substituted,
            None if self.resolved.contains_key(drv_path) => BuildStatus::ResolvesToAlreadyValid,
            None => BuildStatus::AlreadyValid,
        };
        let mut result = BuildResult::new(status);
        if let Some(built) = built {
            result.times_built = 1;
            self.set_times(&mut result, drv_path);
            if let Some(usage) = built.usage {
                result.cpu_user = Some(microseconds(usage.user));
                result.cpu_system = Some(microseconds(usage.system));
            }
        }
        let paths = outputs.iter().filter_map(|output| {
            let path = root.outputs.get(output)?;
            Some((output.clone(), path.clone()))
        });
        result.built_outputs = realised(drv_path, paths.collect(), goals, self.coordinator);
        Some(Finished {
            result,
            logged: false,
        })
    }

    fn set_times(&self, result: &mut BuildResult, drv_path: &StorePath) {
        let times = self.hooks.times(drv_path);
        (result.start_time, result.stop_time) = (times.start, times.stop);
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Realisations of outputs, by the hash of their derivation if that is known.
pub(in crate::builds) fn realised(
    drv_path: &StorePath,
    outputs: BTreeMap<OutputName, StorePath>,
    goals: &Goals,
    coordinator: &Coordinator,
) -> BTreeMap<OutputName, Realised> {
    let dir = coordinator.store().store_dir();
    let modulos = &goals.plan.modulos;
    let derivation = goals.plan.graph.get(drv_path);
    let hash = derivation.and_then(|derivation| {
        let hash = derivation.masked_hash_modulo(dir, |input| modulos.get(input).copied());
        Some(hash.ok()?.hash)
    });
    let outputs = outputs.into_iter().map(|(name, path)| {
        let mut realised = Realised::new(path);
        realised.id = hash.map(|hash| DrvOutput::by_hash(hash, name.clone()));
        (name, realised)
    });
    outputs.collect()
}
