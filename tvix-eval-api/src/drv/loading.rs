//! An evaluation of `.drv` files. Files are read from the roots down; derivations are yielded from
//! the leaves up.
//!
//! A derivation is known once its file is read. It is verified and yielded once all of its inputs
//! are. Counting the missing inputs of each derivation needs neither recursion nor a second pass.
//! Derivations that remain when all files are read depend on themselves.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use nix_compat::derivation::{Derivation, HashModulo, OutputName};
use nix_compat::store_path::StorePath;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::task::JoinSet;

use super::read::{Batch, DrvFile, DrvFileError, ReadError, Reader, invalid, read_batch};
use super::request::Wanted;
use crate::{EvalError, EvalEvent, SourceAddition};

/// Number of files per read task: enough to outweigh the cost of a task.
const BATCH: usize = 32;
/// Maximum number of derivations that wait to be yielded. Above it no more files are read.
const READY: usize = 256;

type Item = Result<EvalEvent, EvalError>;
type Sources = FxHashMap<StorePath, Arc<SourceAddition>>;

pub(super) struct Loading {
    reader: Arc<Reader>,
    sources: Arc<Sources>,
    sources_yielded: FxHashSet<StorePath>,
    parallel: usize,
    nodes: Vec<Node>,
    by_path: FxHashMap<StorePath, u32>,
    /// The requested roots, by derivation.
    wanted: FxHashMap<u32, Vec<Wanted>>,
    /// A stack: the latest file is read first, so that leaves are reached early.
    unread: Vec<u32>,
    /// Dropping it aborts tasks that have not started.
    reads: JoinSet<Batch>,
    ready: Vec<u32>,
    items: VecDeque<Item>,
}

struct Node {
    path: StorePath,
    state: State,
    /// The derivations that wait for this one.
    dependents: Vec<u32>,
}

enum State {
    Unread,
    /// The number of missing inputs.
    Waiting(usize, Box<DrvFile>),
    Yielded {
        modulo: HashModulo,
        outputs: Box<[OutputName]>,
    },
    Failed(Arc<EvalError>),
}

impl Loading {
    pub(super) fn new(
        reader: Reader,
        sources: Arc<Sources>,
        parallel: usize,
        wanted: Vec<Result<Wanted, EvalError>>,
    ) -> Self {
        let mut this = Self {
            reader: Arc::new(reader),
            sources,
            sources_yielded: FxHashSet::default(),
            parallel,
            nodes: Vec::new(),
            by_path: FxHashMap::default(),
            wanted: FxHashMap::default(),
            unread: Vec::new(),
            reads: JoinSet::new(),
            ready: Vec::new(),
            items: VecDeque::new(),
        };
        for wanted in wanted {
            match wanted {
                Ok(wanted) => {
                    let id = this.node(&wanted.path);
                    this.wanted.entry(id).or_default().push(wanted);
                }
                Err(error) => this.items.push_back(Err(error)),
            }
        }
        // The first requested root is read first.
        this.unread.reverse();
        this
    }

    fn node(&mut self, path: &StorePath) -> u32 {
        if let Some(id) = self.by_path.get(path) {
            return *id;
        }
        let id = self.nodes.len() as u32;
        self.nodes.push(Node {
            path: path.clone(),
            state: State::Unread,
            dependents: Vec::new(),
        });
        self.by_path.insert(path.clone(), id);
        self.unread.push(id);
        id
    }

    fn start_reads(&mut self) {
        while self.reads.len() < self.parallel && !self.unread.is_empty() {
            let tasks = self.parallel - self.reads.len();
            let len = self.unread.len().div_ceil(tasks).min(BATCH);
            let ids = self.unread.split_off(self.unread.len() - len);
            let path = |id: u32| (id, self.nodes[id as usize].path.clone());
            let paths = ids.into_iter().rev().map(path).collect();
            let reader = Arc::clone(&self.reader);
            self.reads
                .spawn_blocking(move || read_batch(&reader, paths));
        }
    }

    fn was_read(&mut self, id: u32, result: Result<DrvFile, ReadError>) {
        let file = match result {
            Ok(file) => file,
            Err(ReadError::Failed(error)) => return self.fail(id, Arc::new(error)),
            Err(ReadError::NotFound) => {
                let error = self.not_found(id);
                return self.fail(id, Arc::new(error));
            }
        };
        let mut waits = 0;
        for (path, _) in file.derivation.input_drvs.iter() {
            let input = self.node(path);
            let input = &mut self.nodes[input as usize];
            match &input.state {
                State::Yielded { .. } => {}
                State::Failed(error) => {
                    let error = Arc::clone(error);
                    return self.fail(id, error);
                }
                State::Unread | State::Waiting(..) => {
                    input.dependents.push(id);
                    waits += 1;
                }
            }
        }
        self.nodes[id as usize].state = State::Waiting(waits, Box::new(file));
        if waits == 0 {
            self.ready.push(id);
        }
    }

    /// Processes a derivation after all of its inputs were yielded.
    fn finish_node(&mut self, id: u32) {
        let state = std::mem::replace(&mut self.nodes[id as usize].state, State::Unread);
        let State::Waiting(_, file) = state else {
            // The derivation has failed already, because of another input.
            self.nodes[id as usize].state = state;
            return;
        };
        let DrvFile { file, derivation } = *file;
        let modulo = match self.verify(&derivation) {
            Ok(modulo) => modulo,
            Err(VerifyError::File(error)) => return self.fail(id, Arc::new(invalid(file, error))),
            Err(VerifyError::Eval(error)) => return self.fail(id, Arc::new(error)),
        };
        let dir = self.reader.dir();
        let known_as = derivation.realisation_hash(dir, |path| self.modulo(path));
        self.yield_sources(&derivation);
        let derivation = Arc::new(derivation);
        let node = &mut self.nodes[id as usize];
        node.state = State::Yielded {
            modulo,
            outputs: derivation
                .outputs
                .iter()
                .map(|(name, _)| name.clone())
                .collect(),
        };
        let dependents = std::mem::take(&mut node.dependents);
        self.items.push_back(Ok(EvalEvent::Derivation {
            path: node.path.clone(),
            modulo: known_as,
            derivation: Arc::clone(&derivation),
        }));
        for wanted in self.wanted.remove(&id).unwrap_or_default() {
            let root = wanted.root(&derivation);
            self.items.push_back(root.map(EvalEvent::Root));
        }
        for dependent in dependents {
            if let State::Waiting(waits, _) = &mut self.nodes[dependent as usize].state {
                *waits -= 1;
                if *waits == 0 {
                    self.ready.push(dependent);
                }
            }
        }
    }

    fn modulo(&self, path: &StorePath) -> Option<HashModulo> {
        match &self.nodes[*self.by_path.get(path)? as usize].state {
            State::Yielded { modulo, .. } => Some(*modulo),
            _ => None,
        }
    }

    fn verify(&self, derivation: &Derivation) -> Result<HashModulo, VerifyError> {
        let yielded = |path: &StorePath| {
            let id = self.by_path.get(path)?;
            match &self.nodes[*id as usize].state {
                State::Yielded { outputs, .. } => Some(outputs),
                _ => None,
            }
        };
        for (path, wanted) in derivation.input_drvs.iter() {
            let Some(outputs) = yielded(path) else {
                continue;
            };
            if let Some(output) = wanted.iter().find(|output| !outputs.contains(output)) {
                return Err(VerifyError::Eval(EvalError::NoSuchOutput {
                    drv_path: path.clone(),
                    output: output.to_string(),
                }));
            }
        }
        let modulo = |path: &StorePath| self.modulo(path);
        let dir = self.reader.dir();
        derivation
            .check_output_paths(dir, modulo)
            .map_err(|error| VerifyError::File(Box::new(error).into()))?;
        let modulo = derivation.hash_modulo(dir, modulo);
        modulo.map_err(|error| VerifyError::File(DrvFileError::OutputPath(Box::new(error.into()))))
    }

    /// Yields the sources of a derivation, as far as they are known, in the order of their
    /// references.
    fn yield_sources(&mut self, derivation: &Derivation) {
        if self.sources.is_empty() {
            return;
        }
        let mut stack = Vec::new();
        for path in derivation.input_srcs.iter() {
            stack.extend(self.sources.get(path).map(|source| (source, 0)));
            while let Some((source, next)) = stack.pop() {
                if next == 0 && !self.sources_yielded.insert(source.path.clone()) {
                    continue;
                }
                match source.references.get_index(next) {
                    Some(reference) => {
                        stack.push((source, next + 1));
                        stack.extend(self.sources.get(reference).map(|source| (source, 0)));
                    }
                    None => {
                        let source = (**source).clone();
                        self.items.push_back(Ok(EvalEvent::AddSource(source)));
                    }
                }
            }
        }
    }

    fn not_found(&self, id: u32) -> EvalError {
        let node = &self.nodes[id as usize];
        let Some(dependent) = node.dependents.first() else {
            return EvalError::Read {
                path: self.reader.dir().absolute(&node.path),
                source: std::io::Error::new(
                    std::io::ErrorKind::NotFound,
                    format!("it is not in {}", self.reader.searched()),
                ),
            };
        };
        EvalError::MissingInput {
            dependent: self.nodes[*dependent as usize].path.clone(),
            missing: node.path.clone(),
            searched: self.reader.searched().into(),
        }
    }

    /// Fails a derivation and all of its dependents.
    fn fail(&mut self, id: u32, error: Arc<EvalError>) {
        let mut failing = vec![id];
        while let Some(id) = failing.pop() {
            let node = &mut self.nodes[id as usize];
            if matches!(node.state, State::Failed(_)) {
                continue;
            }
            node.state = State::Failed(Arc::clone(&error));
            failing.append(&mut node.dependents);
            for wanted in self.wanted.remove(&id).unwrap_or_default() {
                let error = EvalError::in_attribute(&wanted.text, Arc::clone(&error));
                let error = error.with_order(wanted.order.clone());
                self.items.push_back(Err(error));
            }
        }
    }

    /// Fails derivations that depend on themselves; called when no file is left to read and no
    /// derivation to yield. Returns false if there are none. As long as hashes hold, files that
    /// match their paths cannot form a cycle.
    fn fail_cycle(&mut self) -> bool {
        let mut at = match self.wanted.keys().next() {
            Some(id) => *id,
            None => return false,
        };
        let mut seen = FxHashMap::default();
        let mut trail = Vec::new();
        let begin = loop {
            if let Some(begin) = seen.insert(at, trail.len()) {
                break begin;
            }
            trail.push(at);
            let waits_for = match &self.nodes[at as usize].state {
                State::Waiting(_, file) => {
                    file.derivation.input_drvs.iter().find_map(|(path, _)| {
                        let id = self.by_path.get(path)?;
                        let waiting = matches!(self.nodes[*id as usize].state, State::Waiting(..));
                        waiting.then_some(*id)
                    })
                }
                _ => None,
            };
            match waits_for {
                Some(next) => at = next,
                None => return false,
            }
        };
        let ids = trail[begin..].iter().chain([&at]);
        let cycle = ids.map(|id| self.nodes[*id as usize].path.clone());
        let error = EvalError::Cycle {
            cycle: cycle.collect(),
        };
        self.fail(at, Arc::new(error));
        true
    }
}

enum VerifyError {
    File(DrvFileError),
    Eval(EvalError),
}

impl Stream for Loading {
    type Item = Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.items.pop_front() {
                return Poll::Ready(Some(item));
            }
            if this.ready.len() < READY {
                this.start_reads();
            }
            if let Some(id) = this.ready.pop() {
                this.finish_node(id);
                continue;
            }
            match this.reads.poll_join_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(batch))) => {
                    for (id, result) in batch {
                        this.was_read(id, result);
                    }
                }
                Poll::Ready(Some(Err(error))) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime is shutting down; no further file can be read.
                    Err(_) => return Poll::Ready(None),
                },
                Poll::Ready(None) => {
                    if !this.fail_cycle() {
                        return Poll::Ready(None);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use nix_compat::derivation::DerivationBuilder;
    use nix_compat::sorted::SortedSet;
    use nix_compat::store_path::StoreDir;

    #[tokio::test]
    async fn dependency_cycles_are_errors() {
        let dir = StoreDir::default();
        let path = |digit: u8| StorePath::new([digit; 20], "forged.drv".parse().unwrap());
        let wanted = dir.display(&path(0)).to_string();
        let reader = Reader::new(dir.clone(), Vec::new());
        let wanted = vec![Wanted::parse(&dir, wanted, Default::default())];
        let mut loading = Loading::new(reader, Arc::default(), 1, wanted);
        let template = DerivationBuilder::new("forged", "x86_64-linux", "/bin/sh")
            .instantiate(&dir)
            .unwrap();
        // As if hashes were broken: 0 -> 1 -> 2 -> 1.
        for (from, to) in [(0, 1), (1, 2), (2, 1)] {
            let id = loading.node(&path(from));
            let mut derivation = (*template.derivation).clone();
            let out = SortedSet::from(["out".parse().unwrap()]);
            derivation.input_drvs.insert(path(to), out);
            let file = DrvFile {
                file: "forged".into(),
                derivation,
            };
            loading.was_read(id, Ok(file));
        }
        loading.unread.clear();
        let items: Vec<_> = loading.collect().await;
        let [Err(error)] = &items[..] else {
            panic!("{items:?}");
        };
        assert!(
            matches!(error.cause(), EvalError::Cycle { cycle } if *cycle == [path(1), path(2), path(1)])
        );
    }
}
