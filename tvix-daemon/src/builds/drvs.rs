//! Derivations of a store.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix_compat::derivation::{Derivation, HashModulo};
use nix_compat::nar::{Event, Parser};
use nix_compat::store_path::{DRV_SUFFIX, StoreDir, StorePath, text_path};
use tvix_store_api::{Store, StoreError};
use tvix_worker_protocol::RemoteError;

use super::shared::describe;

/// Files that a task reads.
const BATCH: usize = 64;
/// Hashes that are remembered, over all clients.
const REMEMBERED: usize = 200_000;

/// Derivations by their paths.
pub(super) type Graph = HashMap<StorePath, Arc<Derivation>>;

/// Reads derivations, and remembers their hashes.
#[derive(Debug)]
pub(crate) struct Drvs {
    store: Arc<dyn Store>,
    remembered: Mutex<HashMap<StorePath, HashModulo>>,
}

impl Drvs {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            remembered: Mutex::default(),
        }
    }

    pub(super) fn dir(&self) -> &StoreDir {
        self.store.store_dir()
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<StorePath, HashModulo>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads derivations, which must be valid, and checks that their contents have their paths.
    pub async fn read(&self, paths: Vec<StorePath>) -> Result<Graph, RemoteError> {
        let Some(first) = paths.first() else {
            return Ok(Graph::new());
        };
        let on_disk = self.store.on_disk(first).await.map_err(|it| failed(&it))?;
        // A store keeps all of its paths in one directory, or none.
        let folder = on_disk.and_then(|file| Some(file.parent()?.to_owned()));
        match folder {
            Some(folder) => self.read_files(folder, paths).await,
            None => self.read_objects(paths).await,
        }
    }

    async fn read_files(
        &self,
        folder: PathBuf,
        paths: Vec<StorePath>,
    ) -> Result<Graph, RemoteError> {
        let mut tasks = tokio::task::JoinSet::new();
        for batch in paths.chunks(BATCH) {
            let (batch, folder, dir) = (batch.to_vec(), folder.clone(), self.dir().clone());
            tasks.spawn_blocking(move || {
                let read = |path: StorePath| {
                    let contents = std::fs::read(folder.join(path.to_string()));
                    let contents = contents.map_err(|error| {
                        RemoteError::new(format!("opening file '{}': {error}", dir.display(&path)))
                    })?;
                    let derivation = parse(&dir, &path, &contents)?;
                    Ok((path, Arc::new(derivation)))
                };
                batch
                    .into_iter()
                    .map(read)
                    .collect::<Result<Vec<_>, RemoteError>>()
            });
        }
        let mut graph = Graph::with_capacity(paths.len());
        while let Some(read) = tasks.join_next().await {
            graph.extend(read.map_err(|error| RemoteError::new(describe(&error)))??);
        }
        Ok(graph)
    }

    async fn read_objects(&self, paths: Vec<StorePath>) -> Result<Graph, RemoteError> {
        let mut graph = Graph::with_capacity(paths.len());
        for batch in paths.chunks(BATCH) {
            let infos = self
                .store
                .path_infos(batch)
                .await
                .map_err(|it| failed(&it))?;
            let missing = infos.iter().position(Option::is_none);
            if let Some(path) = missing.and_then(|index| batch.get(index)) {
                let text = format!("path '{}' is not valid", self.dir().display(path));
                return Err(RemoteError::new(text));
            }
            let infos = infos.into_iter().flatten().collect();
            for (path, object) in batch.iter().zip(self.store.read_many(infos).await) {
                let (_, nar) = object.map_err(|it| failed(&it))?.into_parts();
                let contents = contents(&nar).ok_or_else(|| {
                    let path = self.dir().display(path);
                    RemoteError::new(format!("path '{path}' is not a regular file"))
                })?;
                let derivation = parse(self.dir(), path, &contents)?;
                graph.insert(path.clone(), Arc::new(derivation));
            }
        }
        Ok(graph)
    }

    /// The hashes of all derivations of `graph`, which reads the inputs that it lacks as far as the hashes depend
    /// on them.
    pub async fn modulos(
        &self,
        graph: &Graph,
    ) -> Result<HashMap<StorePath, HashModulo>, RemoteError> {
        let mut known: HashMap<StorePath, HashModulo> = HashMap::new();
        let mut read = Graph::new();
        let mut seen: HashSet<StorePath> = graph.keys().cloned().collect();
        let mut frontier: Vec<Arc<Derivation>> = Vec::new();
        self.look_up(graph, &mut known, &mut frontier);
        loop {
            let mut missing = Vec::new();
            for derivation in frontier.drain(..) {
                // Its hash is that of its contents.
                if derivation.is_fixed_output() {
                    continue;
                }
                let inputs = derivation.input_drvs.keys();
                missing.extend(inputs.filter(|path| seen.insert((*path).clone())).cloned());
            }
            {
                let remembered = self.remembered();
                missing.retain(|path| match remembered.get(path) {
                    Some(modulo) => {
                        known.insert(path.clone(), *modulo);
                        false
                    }
                    None => true,
                });
            }
            if missing.is_empty() {
                break;
            }
            let more = self.read(missing).await?;
            frontier.extend(more.values().cloned());
            read.extend(more);
        }
        self.compute(graph, &read, &mut known)?;
        let mut remembered = self.remembered();
        if remembered.len() + known.len() > REMEMBERED {
            remembered.clear();
        }
        remembered.extend(known.iter().map(|(path, modulo)| (path.clone(), *modulo)));
        Ok(known)
    }

    fn look_up(
        &self,
        graph: &Graph,
        known: &mut HashMap<StorePath, HashModulo>,
        inputs_of: &mut Vec<Arc<Derivation>>,
    ) {
        let remembered = self.remembered();
        for (path, derivation) in graph {
            if let Some(modulo) = remembered.get(path) {
                known.insert(path.clone(), *modulo);
            }
            // The hashes of its inputs are wanted in any case.
            inputs_of.push(derivation.clone());
        }
    }

    /// Computes the hashes of both graphs, inputs first. Chains are long: a stack, not recursion.
    fn compute(
        &self,
        graph: &Graph,
        read: &Graph,
        known: &mut HashMap<StorePath, HashModulo>,
    ) -> Result<(), RemoteError> {
        let find = |path: &StorePath| graph.get(path).or_else(|| read.get(path));
        let mut stack: Vec<(StorePath, bool)> =
            graph.keys().map(|path| (path.clone(), false)).collect();
        while let Some((path, inputs_done)) = stack.pop() {
            if known.contains_key(&path) {
                continue;
            }
            let Some(derivation) = find(&path) else {
                continue;
            };
            if !inputs_done && !derivation.is_fixed_output() {
                stack.push((path, true));
                // Contents that have their paths cannot form a cycle.
                let inputs = derivation.input_drvs.keys();
                let inputs = inputs.filter(|input| !known.contains_key(*input));
                stack.extend(inputs.map(|input| (input.clone(), false)));
                continue;
            }
            let modulo = derivation.hash_modulo(self.dir(), |input| known.get(input).copied());
            let modulo = modulo.map_err(|error| {
                let path = self.dir().display(&path);
                RemoteError::new(format!("while reading '{path}': {error}"))
            })?;
            known.insert(path, modulo);
        }
        Ok(())
    }
}

fn failed(error: &StoreError) -> RemoteError {
    RemoteError::new(describe(error))
}

/// Parses a derivation, and checks that the contents belong to the path.
fn parse(dir: &StoreDir, path: &StorePath, contents: &[u8]) -> Result<Derivation, RemoteError> {
    let (derivation, computed) = parse_file(dir, path, contents)?;
    match computed == *path {
        true => Ok(derivation),
        false => Err(refuse(dir, path, &"its contents belong to another path")),
    }
}

/// Parses a derivation. Returns it with the path that its contents determine.
pub(super) fn parse_file(
    dir: &StoreDir,
    path: &StorePath,
    contents: &[u8],
) -> Result<(Derivation, StorePath), RemoteError> {
    let name = path.name().as_str();
    let name = name.strip_suffix(DRV_SUFFIX).unwrap_or(name);
    let name = name.parse().map_err(|error| refuse(dir, path, &error))?;
    let derivation = Derivation::from_aterm(dir, name, contents)
        .map_err(|error| refuse(dir, path, &describe(&error)))?;
    let computed = text_path(dir, path.name().clone(), contents, &derivation.references());
    Ok((derivation, computed))
}

fn refuse(dir: &StoreDir, path: &StorePath, why: &dyn std::fmt::Display) -> RemoteError {
    let path = dir.display(path);
    RemoteError::new(format!("error parsing derivation '{path}': {why}"))
}

/// The contents of a regular file's NAR.
fn contents(nar: &[u8]) -> Option<Vec<u8>> {
    let mut parser = Parser::new();
    let (mut rest, mut contents) = (nar, Vec::new());
    loop {
        let step = parser.feed(rest).ok()?;
        match step.event {
            Some(Event::RegularStart { .. } | Event::RegularEnd) => {}
            Some(Event::Contents(bytes)) => contents.extend_from_slice(bytes),
            Some(Event::End) => return Some(contents),
            _ => return None,
        }
        rest = &rest[step.consumed..];
    }
}
