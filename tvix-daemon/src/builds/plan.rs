//! The work that makes paths valid, without doing it: `QueryMissing`, and the input of a session.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::{HashModulo, OutputName};
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::DrvKey;
use nix_compat::store_path::StorePath;
use tvix_store_api::{Store, StoreError, StoreExt as _};
use tvix_worker_protocol::{DerivedPath, RemoteError, WantedOutputs};

use super::LogSender;
use super::activities::Single;
use super::drvs::{Drvs, Graph};
use super::shared::describe;

/// Paths that a substituter is asked for at once.
const QUERIES: usize = 64;

/// A path that a substituter has.
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub info: Arc<PathInfo>,
    pub substituter: Arc<dyn Store>,
}

/// The work that makes paths valid.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The derivations that were read: those to build, and their inputs.
    pub graph: Graph,
    pub will_build: BTreeSet<StorePath>,
    pub will_substitute: BTreeMap<StorePath, Offer>,
    pub unknown: BTreeSet<StorePath>,
    /// Derivations with outputs that are missing and that substituters have.
    pub substitutable: HashSet<StorePath>,
    /// Known paths of outputs, which may not be valid.
    pub outputs: HashMap<(StorePath, OutputName), StorePath>,
    /// Hashes of derivations, if any has floating outputs.
    pub modulos: HashMap<StorePath, HashModulo>,
}

/// How to plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planning {
    /// Whether the inputs of derivations that substituters have are needed as well.
    pub fallback: bool,
    /// Whether requested derivations are built although their outputs are valid.
    pub rebuild: bool,
}

/// Makes plans.
pub(super) struct Planner<'a> {
    pub store: &'a Arc<dyn Store>,
    pub substituters: Vec<Arc<dyn Store>>,
    pub drvs: &'a Drvs,
    /// Where queries of substituters are reported.
    pub log: &'a LogSender,
}

impl Plan {
    pub fn download_size(&self) -> u64 {
        0
    }

    pub fn nar_size(&self) -> u64 {
        let sizes = self.will_substitute.values().map(|it| it.info.nar_size);
        sizes.fold(0, u64::saturating_add)
    }
}

type Wanted = (StorePath, Option<OutputName>);

impl Planner<'_> {
    pub async fn plan(
        &self,
        paths: &[DerivedPath],
        planning: Planning,
    ) -> Result<Plan, RemoteError> {
        let mut plan = Plan::default();
        let (mut seen, mut seen_opaque) = (HashSet::new(), HashSet::new());
        let (mut drvs, mut opaque): (Vec<Wanted>, Vec<StorePath>) = (Vec::new(), Vec::new());
        for path in paths {
            match path {
                DerivedPath::Opaque(path) => opaque.push(path.clone()),
                DerivedPath::Built { drv, outputs } => match outputs {
                    WantedOutputs::All => drvs.push((drv.clone(), None)),
                    WantedOutputs::Names(names) => {
                        let names = names.iter().cloned();
                        drvs.extend(names.map(|name| (drv.clone(), Some(name))));
                    }
                },
            }
        }
        let mut requested = true;
        while !drvs.is_empty() || !opaque.is_empty() {
            drvs.retain(|wanted| seen.insert(wanted.clone()));
            opaque.retain(|path| seen_opaque.insert(path.clone()));
            let rebuild = planning.rebuild && std::mem::take(&mut requested);
            let frontier = std::mem::take(&mut drvs);
            let (more_drvs, more_opaque) = self
                .derivations(&mut plan, frontier, planning, rebuild)
                .await?;
            let frontier = std::mem::take(&mut opaque);
            opaque = self.opaque(&mut plan, frontier).await?;
            (drvs, opaque) = (more_drvs, [opaque, more_opaque].concat());
            requested = false;
        }
        Ok(plan)
    }

    /// One step: derivations whose outputs are wanted. Returns inputs and references.
    async fn derivations(
        &self,
        plan: &mut Plan,
        wanted: Vec<Wanted>,
        planning: Planning,
        rebuild: bool,
    ) -> Result<(Vec<Wanted>, Vec<StorePath>), RemoteError> {
        let wanted = self.read(plan, wanted).await?;
        let mut outputs: Vec<(StorePath, Option<StorePath>)> = Vec::new();
        for (drv, output) in &wanted {
            for output in self.names(plan, drv, output.as_ref()) {
                let path = self.output_path(plan, drv, &output).await?;
                outputs.push((drv.clone(), path));
            }
        }
        let known: Vec<StorePath> = outputs
            .iter()
            .filter_map(|(_, path)| path.clone())
            .collect();
        let valid = self
            .store
            .valid_paths(&known)
            .await
            .map_err(|it| failed(&it))?;
        // Derivations with missing outputs, in the order of requests; `None` if a path is not known.
        let mut missing: BTreeMap<StorePath, Option<Vec<StorePath>>> = BTreeMap::new();
        for (drv, path) in outputs {
            match path {
                Some(path) if valid.contains(&path) && !rebuild => {}
                Some(path) if valid.contains(&path) => {
                    missing.entry(drv).or_insert(None);
                }
                Some(path) => {
                    if let Some(paths) = missing.entry(drv).or_insert_with(|| Some(Vec::new())) {
                        paths.push(path);
                    }
                }
                None => {
                    missing.insert(drv, None);
                }
            }
        }
        let queried = missing
            .iter()
            .filter(|(drv, _)| substitutes_allowed(plan, drv));
        let queried = queried.filter_map(|(_, paths)| paths.clone()).flatten();
        let offers = self.query(queried.collect()).await;
        let (mut inputs, mut references) = (Vec::new(), Vec::new());
        for (drv, paths) in missing {
            let found = paths.as_ref().filter(|_| substitutes_allowed(plan, &drv));
            let found = found.and_then(|paths| {
                let found = paths.iter().map(|path| offers.get(path).cloned());
                found.collect::<Option<Vec<Offer>>>()
            });
            let substitutable = found.is_some() && !self.substituters.is_empty();
            match found {
                Some(found) if substitutable => {
                    plan.substitutable.insert(drv.clone());
                    for offer in found {
                        references.extend(offer.info.references.iter().cloned());
                        plan.will_substitute.insert(offer.info.path.clone(), offer);
                    }
                }
                _ => {
                    plan.will_build.insert(drv.clone());
                }
            }
            if (!substitutable || planning.fallback)
                && let Some(derivation) = plan.graph.get(&drv)
            {
                for (input, outputs) in derivation.input_drvs.iter() {
                    let outputs = outputs.iter().cloned();
                    inputs.extend(outputs.map(|output| (input.clone(), Some(output))));
                }
            }
        }
        Ok((inputs, references))
    }

    /// Reads derivations. Returns requests for those that are valid.
    async fn read(
        &self,
        plan: &mut Plan,
        mut wanted: Vec<Wanted>,
    ) -> Result<Vec<Wanted>, RemoteError> {
        let mut unread: Vec<StorePath> = wanted.iter().map(|(drv, _)| drv.clone()).collect();
        unread.sort_unstable();
        unread.dedup();
        unread.retain(|drv| !plan.graph.contains_key(drv));
        let valid = self
            .store
            .valid_paths(&unread)
            .await
            .map_err(|it| failed(&it))?;
        let (known, missing): (Vec<_>, Vec<_>) =
            unread.into_iter().partition(|drv| valid.contains(drv));
        wanted.retain(|(drv, _)| !missing.contains(drv));
        plan.unknown.extend(missing);
        plan.graph.extend(self.drvs.read(known).await?);
        Ok(wanted)
    }

    fn names(&self, plan: &Plan, drv: &StorePath, output: Option<&OutputName>) -> Vec<OutputName> {
        match (output, plan.graph.get(drv)) {
            (None, Some(derivation)) => derivation.outputs.keys().cloned().collect(),
            (Some(output), Some(derivation)) if derivation.outputs.contains_key(output) => {
                vec![output.clone()]
            }
            _ => Vec::new(),
        }
    }

    /// The path of an output, if it is known.
    async fn output_path(
        &self,
        plan: &mut Plan,
        drv: &StorePath,
        output: &OutputName,
    ) -> Result<Option<StorePath>, RemoteError> {
        let key = (drv.clone(), output.clone());
        if let Some(known) = plan.outputs.get(&key) {
            return Ok(Some(known.clone()));
        }
        let Some(derivation) = plan.graph.get(drv).cloned() else {
            return Ok(None);
        };
        let dir = self.store.store_dir();
        let mut path = derivation.output_path(dir, output);
        if path.is_none() {
            let mut keys = vec![DrvKey::Path(drv.clone())];
            let graph = Graph::from([(drv.clone(), derivation.clone())]);
            if !plan.modulos.contains_key(drv) {
                plan.modulos.extend(self.drvs.modulos(&graph).await?);
            }
            let modulos = &plan.modulos;
            let hash = derivation.masked_hash_modulo(dir, |input| modulos.get(input).copied());
            keys.extend(hash.ok().map(|hash| DrvKey::HashModulo(hash.hash)));
            let found = self.store.realisation_of(keys, output).await;
            path = found.ok().flatten().map(|found| found.out_path);
        }
        if let Some(path) = &path {
            plan.outputs.insert(key, path.clone());
        }
        Ok(path)
    }

    /// One step: paths that are wanted. Returns references.
    async fn opaque(
        &self,
        plan: &mut Plan,
        mut paths: Vec<StorePath>,
    ) -> Result<Vec<StorePath>, RemoteError> {
        let valid = self
            .store
            .valid_paths(&paths)
            .await
            .map_err(|it| failed(&it))?;
        paths.retain(|path| !valid.contains(path) && !plan.will_substitute.contains_key(path));
        let offers = self.query(paths.clone()).await;
        let mut references = Vec::new();
        for path in paths {
            match offers.get(&path) {
                Some(offer) => {
                    references.extend(offer.info.references.iter().cloned());
                    plan.will_substitute.insert(path, offer.clone());
                }
                None => {
                    plan.unknown.insert(path);
                }
            }
        }
        Ok(references)
    }

    /// The first substituter that has each of `paths`. Substituters that fail are left out.
    pub async fn query(&self, mut paths: Vec<StorePath>) -> HashMap<StorePath, Offer> {
        let mut offers = HashMap::new();
        for substituter in &self.substituters {
            if paths.is_empty() {
                break;
            }
            let uri = substituter.uri().to_string();
            let query = |path: StorePath| {
                let uri = &uri;
                async move {
                    let text = self.store.store_dir().path_text(&path);
                    let activity = Single::query(self.log.clone(), &text, uri).await;
                    let info = substituter.path_info(&path).await;
                    activity.end().await;
                    (path, info)
                }
            };
            let answers = stream::iter(std::mem::take(&mut paths)).map(query);
            let mut answers = answers.buffered(QUERIES);
            while let Some((path, info)) = answers.next().await {
                match info {
                    Ok(Some(info)) => {
                        let substituter = substituter.clone();
                        offers.insert(path, Offer { info, substituter });
                    }
                    Ok(None) | Err(_) => paths.push(path),
                }
            }
        }
        offers
    }
}

/// Whether a derivation may be substituted (`allowSubstitutes`).
fn substitutes_allowed(plan: &Plan, drv: &StorePath) -> bool {
    let derivation = plan.graph.get(drv);
    let setting = derivation.and_then(|it| it.env_var("allowSubstitutes"));
    setting.is_none_or(|value| value == "1")
}

fn failed(error: &StoreError) -> RemoteError {
    RemoteError::new(describe(error))
}
