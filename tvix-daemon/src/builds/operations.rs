//! The operations of [`Builds`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::store_path::StorePath;
use tvix_store_api::{Store, StoreExt as _};
use tvix_worker_protocol::{
    ActivityType, BuildDerivation, BuildMode, BuildResult, BuildStatus, DerivedPath,
    KeyedBuildResult, Missing, RemoteError, Trust, Verbosity, WantedOutputs,
};

use super::activities::{Activities, Single};
use super::drvs::Graph;
use super::plan::{Plan, Planner, Planning};
use super::results::{Ended, error_of};
use super::session::{Finished, Goals, Results, Sessions, realised};
use super::shared::describe;
use super::substitute::substitute;
use super::texts::{Subject, Wording, value};
use super::{Builds, LogSender};
use crate::client::Client;

impl Builds {
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        self.coordinator.store()
    }

    fn planner<'a>(&'a self, client: &Client, log: &'a LogSender) -> Planner<'a> {
        let substituters = match client.settings.substitute {
            true => self.coordinator.substituters().cloned().collect(),
            false => Vec::new(),
        };
        Planner {
            store: self.store(),
            substituters,
            drvs: &self.drvs,
            log,
        }
    }

    /// Makes paths valid: `BuildPathsWithResults`. Results are in the order of requests; those of requests that were not
    /// finished when another one failed are missing, as in Nix.
    ///
    /// Dropping the future ends everything that only it wants.
    ///
    /// # Errors
    ///
    /// Errors of the store, and derivations that cannot be read. Everything else is a result.
    pub async fn build(
        &self,
        paths: Vec<DerivedPath>,
        mode: BuildMode,
        client: &Client,
        log: &LogSender,
    ) -> Result<Vec<KeyedBuildResult>, RemoteError> {
        let verbosity = client.settings.verbosity;
        let mut activities = Activities::begin(log.clone(), verbosity).await;
        let builds = self.of_client(client).await;
        let ended = builds
            .obtain(paths, mode, client, log, &mut activities)
            .await;
        activities.end().await;
        let results = ended?.into_iter().filter_map(|ended| {
            let (path, result) = (ended.path, ended.result?);
            Some(KeyedBuildResult { path, result })
        });
        Ok(results.collect())
    }

    /// Makes paths valid: `BuildPaths`.
    ///
    /// Dropping the future ends everything that only it wants.
    ///
    /// # Errors
    ///
    /// As [`Builds::build`], and failed builds: the error of a single one; otherwise all errors are messages, and the error names
    /// the requests.
    pub async fn build_paths(
        &self,
        paths: Vec<DerivedPath>,
        mode: BuildMode,
        client: &Client,
        log: &LogSender,
    ) -> Result<(), RemoteError> {
        let (verbosity, wording) = (client.settings.verbosity, Wording::of(client.version));
        let mut activities = Activities::begin(log.clone(), verbosity).await;
        let builds = self.of_client(client).await;
        let ended = builds
            .obtain(paths, mode, client, log, &mut activities)
            .await;
        let error = match ended {
            Ok(ended) => error_of(ended, self.store().store_dir(), wording, &activities).await,
            Err(error) => Some(error),
        };
        activities.end().await;
        error.map_or(Ok(()), Err)
    }

    async fn obtain(
        &self,
        paths: Vec<DerivedPath>,
        mode: BuildMode,
        client: &Client,
        log: &LogSender,
        activities: &mut Activities,
    ) -> Result<Vec<Ended>, RemoteError> {
        let dir = self.store().store_dir();
        let wording = Wording::of(client.version);
        let planner = self.planner(client, log);
        self.fetch_derivations(&paths, &planner, activities).await?;
        let querying = Single::begin(
            log.clone(),
            Verbosity::Debug,
            ActivityType::Unknown,
            "querying info about missing paths",
            Vec::new(),
        );
        let querying = querying.await;
        let mut planning = Planning {
            fallback: false,
            rebuild: mode == BuildMode::Check,
        };
        let plan = planner.plan(&paths, planning).await;
        querying.end().await;
        let mut plan = plan?;
        let (builds, copies) = (plan.will_build.len(), plan.will_substitute.len());
        let (download, nar) = (plan.download_size(), plan.nar_size());
        activities
            .expect(builds as u64, copies as u64, download, nar)
            .await;

        let opaque = paths.iter().filter_map(|path| match path {
            DerivedPath::Opaque(path) => Some(path.clone()),
            DerivedPath::Built { .. } => None,
        });
        let opaque: Vec<StorePath> = opaque.collect();
        let not_fetched = match opaque.is_empty() {
            true => HashMap::new(),
            false => substitute(&self.coordinator, &plan, &opaque, activities).await,
        };

        let mut results: HashMap<StorePath, Finished> = HashMap::new();
        let mut roots: BTreeMap<StorePath, BTreeSet<OutputName>> = BTreeMap::new();
        let mut no_such: HashMap<usize, BuildResult> = HashMap::new();
        for (index, path) in paths.iter().enumerate() {
            let DerivedPath::Built { drv, outputs } = path else {
                continue;
            };
            let subject = Subject {
                dir,
                path: drv,
                derivation: plan.graph.get(drv).map(|it| &**it),
                wording,
            };
            let Some(derivation) = subject.derivation else {
                let (status, text) = subject.missing();
                no_such.insert(index, BuildResult::new(status).with_error(text));
                continue;
            };
            match wanted(derivation, outputs) {
                Ok(names) => roots.entry(drv.clone()).or_default().extend(names),
                Err(names) => {
                    let (status, text) = subject.no_such_outputs(&names);
                    no_such.insert(index, BuildResult::new(status).with_error(text));
                }
            }
        }
        if mode == BuildMode::Check {
            self.refuse_checks(&mut roots, &plan, wording, &mut results)
                .await?;
        }
        if mode == BuildMode::Repair {
            self.refuse_repairs(&plan).await?;
        }
        if !roots.is_empty() {
            self.check_outputs(&mut plan).await?;
            let work = !plan.will_build.is_empty() || !plan.substitutable.is_empty();
            let roots = roots.into_iter();
            let mut roots: Vec<(StorePath, Vec<OutputName>)> = roots
                .map(|(drv, names)| (drv, names.into_iter().collect()))
                .collect();
            // As in Nix: by name.
            roots.sort_by(|(a, _), (b, _)| (a.name(), a).cmp(&(b.name(), b)));
            let goals = Goals {
                roots,
                plan,
                mode,
                may_build_all: false,
            };
            match work {
                true => {
                    let keep = self.keep_differences(&goals, client).await;
                    let sessions = self.sessions(client, wording);
                    let roots = goals.roots.clone();
                    let ended = sessions.run(goals, activities, keep.as_deref()).await;
                    fatal(&ended)?;
                    results.extend(ended.finished);
                    if ended.again {
                        planning.fallback = true;
                        let mut plan = planner.plan(&paths, planning).await?;
                        self.check_outputs(&mut plan).await?;
                        let goals = Goals {
                            roots,
                            plan,
                            mode,
                            may_build_all: true,
                        };
                        let ended = sessions.run(goals, activities, keep.as_deref()).await;
                        fatal(&ended)?;
                        results.extend(ended.finished);
                    }
                }
                false => results.extend(self.already_valid(&goals)),
            }
        }
        let ended = paths.into_iter().enumerate().map(|(index, path)| {
            let finished = match (&path, no_such.remove(&index)) {
                (_, Some(result)) => Some(Finished {
                    result,
                    logged: false,
                }),
                (DerivedPath::Opaque(path), None) => {
                    let result = match not_fetched.get(path) {
                        Some((status, text)) => BuildResult::new(*status).with_error(text.as_str()),
                        None => BuildResult::new(BuildStatus::Substituted),
                    };
                    Some(Finished {
                        result,
                        logged: false,
                    })
                }
                (DerivedPath::Built { drv, outputs }, None) => results
                    .get(drv)
                    .map(|finished| of_request(finished, outputs)),
            };
            let logged = finished.as_ref().is_some_and(|it| it.logged);
            let result = finished.map(|it| it.result);
            Ended {
                path,
                result,
                logged,
            }
        });
        Ok(ended.collect())
    }

    fn sessions<'a>(&'a self, client: &'a Client, wording: Wording) -> Sessions<'a> {
        Sessions {
            coordinator: &self.coordinator,
            registry: &self.registry,
            client,
            wording,
        }
    }

    /// The results if there is nothing to do.
    fn already_valid(&self, goals: &Goals) -> HashMap<StorePath, Finished> {
        let dir = self.store().store_dir();
        let results = goals.roots.iter().map(|(drv, names)| {
            let derivation = goals.plan.graph.get(drv);
            let paths = names.iter().filter_map(|name| {
                let known = derivation.and_then(|it| it.output_path(dir, name));
                let key = (drv.clone(), name.clone());
                let known = known.or_else(|| goals.plan.outputs.get(&key).cloned());
                Some((name.clone(), known?))
            });
            let mut result = BuildResult::new(BuildStatus::AlreadyValid);
            result.built_outputs = realised(drv, paths.collect(), goals, &self.coordinator);
            let finished = Finished {
                result,
                logged: false,
            };
            (drv.clone(), finished)
        });
        results.collect()
    }

    /// Builds a derivation that need not be in the store: `BuildDerivation`. Its inputs must be valid.
    ///
    /// Dropping the future ends the build, unless another client waits for it.
    ///
    /// # Errors
    ///
    /// An untrusted client may build content-addressed derivations only, as nothing relates other output paths to
    /// their contents; errors of the store. Everything else is a result.
    pub async fn build_derivation(
        &self,
        request: BuildDerivation,
        client: &Client,
        log: &LogSender,
    ) -> Result<BuildResult, RemoteError> {
        let BuildDerivation {
            mut path,
            derivation,
            mode,
        } = request;
        let dir = self.store().store_dir();
        let is_addressed = |output: &Output| {
            matches!(
                output,
                Output::Fixed(_) | Output::Floating { .. } | Output::Impure { .. }
            )
        };
        let content_addressed = derivation.outputs.values().all(is_addressed);
        if !content_addressed && client.trust != Trust::Trusted {
            let text = "you are not privileged to build input-addressed derivations";
            return Err(RemoteError::new(text));
        }
        if content_addressed {
            // The path that the client names is not to be trusted.
            path = derivation
                .path(dir)
                .map_err(|error| RemoteError::new(describe(&error)))?;
        }
        let derivation = Arc::new(derivation);
        let names: Vec<OutputName> = derivation.outputs.keys().cloned().collect();
        let mut plan = Plan {
            graph: Graph::from([(path.clone(), derivation.clone())]),
            ..Plan::default()
        };
        let mut known = Vec::new();
        for name in &names {
            let mut output = derivation.output_path(dir, name);
            if output.is_none() {
                let keys = derivation.realisation_keys(dir, &path);
                let found = self.store().realisation_of(keys, name).await;
                output = found.ok().flatten().map(|found| found.out_path);
            }
            if let Some(output) = output {
                plan.outputs
                    .insert((path.clone(), name.clone()), output.clone());
                known.push(output);
            }
        }
        let valid = self.store().valid_paths(&known).await;
        let valid = valid.map_err(|error| RemoteError::new(describe(&error)))?;
        let all_valid = known.len() == names.len() && known.iter().all(|it| valid.contains(it));
        let goals = Goals {
            roots: vec![(path.clone(), names)],
            plan,
            mode,
            may_build_all: true,
        };
        if all_valid && mode == BuildMode::Normal {
            let found = self.already_valid(&goals).remove(&path);
            return Ok(found.map_or_else(
                || BuildResult::new(BuildStatus::AlreadyValid),
                |found| found.result,
            ));
        }
        let verbosity = client.settings.verbosity;
        let mut activities = Activities::begin(log.clone(), verbosity).await;
        activities.expect(1, 0, 0, 0).await;
        let keep = self.keep_differences(&goals, client).await;
        let sessions = self.sessions(client, Wording::of(client.version));
        let mut ended = sessions.run(goals, &mut activities, keep.as_deref()).await;
        activities.end().await;
        fatal(&ended)?;
        let ended = ended.finished.remove(&path).map(|ended| ended.result);
        Ok(ended.unwrap_or_else(|| {
            BuildResult::new(BuildStatus::MiscFailure).with_error("the build was not finished")
        }))
    }

    /// Makes a path and its references valid: `EnsurePath`.
    ///
    /// # Errors
    ///
    /// If no substituter has it, and errors of the store.
    pub async fn ensure(
        &self,
        path: StorePath,
        client: &Client,
        log: &LogSender,
    ) -> Result<(), RemoteError> {
        let valid = self.store().is_valid(&path).await;
        if valid.map_err(|error| RemoteError::new(describe(&error)))? {
            return Ok(());
        }
        let paths = vec![DerivedPath::Opaque(path.clone())];
        let made = self
            .build_paths(paths, BuildMode::Normal, client, log)
            .await;
        made.map_err(|error| match Wording::of(client.version) {
            Wording::Current => error,
            Wording::Old => {
                let path = value(self.store().store_dir().path_text(&path));
                RemoteError::new(format!(
                    "path '{path}' does not exist and cannot be created"
                ))
            }
        })
    }

    /// Fetches those of `paths` that substituters have: `QueryValidPaths` with substitution. Failures are messages.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    pub async fn substitute(
        &self,
        paths: &[StorePath],
        client: &Client,
        log: &LogSender,
    ) -> Result<(), RemoteError> {
        let builds = self.of_client(client).await;
        let planner = builds.planner(client, log);
        let requests: Vec<_> = paths.iter().cloned().map(DerivedPath::Opaque).collect();
        let planning = Planning {
            fallback: false,
            rebuild: false,
        };
        let plan = planner.plan(&requests, planning).await?;
        if plan.will_substitute.is_empty() {
            return Ok(());
        }
        let verbosity = client.settings.verbosity;
        let mut activities = Activities::begin(log.clone(), verbosity).await;
        let copies = plan.will_substitute.len() as u64;
        activities
            .expect(0, copies, plan.download_size(), plan.nar_size())
            .await;
        substitute(&builds.coordinator, &plan, paths, &mut activities).await;
        activities.end().await;
        Ok(())
    }

    /// The work that [`Builds::build`] would do: `QueryMissing`.
    ///
    /// # Errors
    ///
    /// Errors of the store, and derivations that cannot be read.
    pub async fn missing(
        &self,
        paths: &[DerivedPath],
        client: &Client,
        log: &LogSender,
    ) -> Result<Missing, RemoteError> {
        let querying = Single::begin(
            log.clone(),
            Verbosity::Debug,
            ActivityType::Unknown,
            "querying info about missing paths",
            Vec::new(),
        );
        let querying = querying.await;
        let planning = Planning {
            fallback: false,
            rebuild: false,
        };
        let builds = self.of_client(client).await;
        let plan = builds.planner(client, log).plan(paths, planning).await;
        querying.end().await;
        let plan = plan?;
        let (download_size, nar_size) = (plan.download_size(), plan.nar_size());
        Ok(Missing {
            will_build: plan.will_build.into_iter().collect(),
            will_substitute: plan.will_substitute.into_keys().collect(),
            unknown: plan.unknown.into_iter().collect(),
            download_size,
            nar_size,
        })
    }
}

/// The error of a session that fails the operation as a whole.
fn fatal(results: &Results) -> Result<(), RemoteError> {
    match &results.fatal {
        Some(text) => Err(RemoteError::new(text.as_str())),
        None => Ok(()),
    }
}

/// The outputs of a request, or the names of those that the derivation does not have.
fn wanted(derivation: &Derivation, outputs: &WantedOutputs) -> Result<Vec<OutputName>, String> {
    let WantedOutputs::Names(names) = outputs else {
        return Ok(derivation.outputs.keys().cloned().collect());
    };
    let missing = names
        .iter()
        .filter(|name| !derivation.outputs.contains_key(*name));
    let missing: Vec<_> = missing.map(|name| format!("'{name}'")).collect();
    match missing.is_empty() {
        true => Ok(names.iter().cloned().collect()),
        false => Err(missing.join(", ")),
    }
}

/// The part of a derivation's result that a request is about.
fn of_request(finished: &Finished, outputs: &WantedOutputs) -> Finished {
    let mut finished = finished.clone();
    if let WantedOutputs::Names(names) = outputs {
        finished
            .result
            .built_outputs
            .retain(|name, _| names.contains(name));
    }
    finished
}
