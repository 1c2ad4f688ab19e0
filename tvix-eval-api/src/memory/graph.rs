//! Nodes by path, and a walk that yields inputs first.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{EvalError, EvalEvent, SourceAddition};

/// A derivation or source, yielded before the nodes that refer to it.
#[derive(Clone)]
pub(super) enum Node {
    Derivation {
        path: StorePath,
        derivation: Arc<Derivation>,
        /// Boxed, because most nodes have none and a graph has many nodes.
        modulo: Option<Box<[u8; 32]>>,
    },
    Source(Arc<SourceAddition>),
}

impl Node {
    pub(super) fn path(&self) -> &StorePath {
        match self {
            Self::Derivation { path, .. } => path,
            Self::Source(source) => &source.path,
        }
    }

    fn event(&self) -> EvalEvent {
        match self {
            Self::Derivation {
                path,
                derivation,
                modulo,
            } => EvalEvent::Derivation {
                path: path.clone(),
                modulo: modulo.as_deref().copied(),
                derivation: Arc::clone(derivation),
            },
            Self::Source(source) => EvalEvent::AddSource((**source).clone()),
        }
    }

    /// The reference at `index`, and whether it must be in the graph: derivations must, sources may
    /// be in the store already.
    fn reference(&self, index: usize) -> Option<(&StorePath, bool)> {
        match self {
            Self::Derivation { derivation, .. } => {
                let drvs = derivation.input_drvs.len();
                if let Some((path, _)) = derivation.input_drvs.get_index(index) {
                    return Some((path, true));
                }
                let path = derivation.input_srcs.get_index(index - drvs)?;
                Some((path, false))
            }
            Self::Source(source) => Some((source.references.get_index(index)?, false)),
        }
    }
}

/// Nodes by path. Walks refer to nodes by index, so that a graph of a million derivations needs
/// little more memory than its derivations.
#[derive(Clone, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    by_path: HashTable<u32>,
}

impl Graph {
    /// Adds a node, unless there is one with the same path, which is equal then.
    pub(super) fn insert(&mut self, node: Node) {
        let (nodes, hash) = (&self.nodes, hash(node.path()));
        let entry = self.by_path.entry(
            hash,
            |id| *nodes[*id as usize].path() == *node.path(),
            |id| self::hash(nodes[*id as usize].path()),
        );
        if let hashbrown::hash_table::Entry::Vacant(entry) = entry {
            // Memory does not suffice for four billion derivations.
            entry.insert(self.nodes.len() as u32);
            self.nodes.push(node);
        }
    }

    fn find(&self, hash: u64, path: &StorePath) -> Option<u32> {
        let same = |id: &u32| self.nodes[*id as usize].path() == path;
        self.by_path.find(hash, same).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }
}

fn hash(path: &StorePath) -> u64 {
    FxBuildHasher.hash_one(path)
}

/// The graph of the evaluator, and the nodes that imports have added during this evaluation.
pub(super) struct Layers {
    pub(super) base: Arc<Graph>,
    pub(super) added: Graph,
}

impl Layers {
    pub(super) fn find(&self, path: &StorePath) -> Option<u32> {
        let hash = hash(path);
        self.base.find(hash, path).or_else(|| {
            let id = self.added.find(hash, path)?;
            Some(id + self.base.len() as u32)
        })
    }

    fn node(&self, id: u32) -> &Node {
        let id = id as usize;
        match self.base.nodes.get(id) {
            Some(node) => node,
            None => &self.added.nodes[id - self.base.len()],
        }
    }

    pub(super) fn derivation(&self, path: &StorePath) -> Option<(u32, &Derivation)> {
        let id = self.find(path)?;
        match self.node(id) {
            Node::Derivation { derivation, .. } => Some((id, derivation)),
            Node::Source(_) => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    New,
    /// On the stack.
    Open,
    Yielded,
    Failed,
}

struct Frame {
    id: u32,
    /// Number of references that have been visited.
    next: u32,
}

/// A walk of unlimited depth, because its stack is on the heap.
#[derive(Default)]
pub(super) struct Walk {
    states: Vec<State>,
    stack: Vec<Frame>,
    /// Failed nodes and their errors. A second attribute that needs a failed node fails with the
    /// same error.
    failures: FxHashMap<u32, Arc<EvalError>>,
}

pub(super) enum Step {
    Yield(EvalEvent),
    /// The target and its inputs have been yielded.
    Done,
    Failed(Arc<EvalError>),
}

impl Walk {
    /// Advances towards `target`. Must be called with the same target until the result is `Done` or
    /// `Failed`.
    pub(super) fn advance(&mut self, graph: &Layers, target: u32) -> Step {
        if self.stack.is_empty() {
            let len = graph.base.len() + graph.added.len();
            if self.states.is_empty() {
                self.states = vec![State::New; len];
            }
            self.states.resize(len, State::New);
            match self.states[target as usize] {
                State::Yielded => return Step::Done,
                State::Failed => return Step::Failed(self.fail(target)),
                State::New | State::Open => self.open(target),
            }
        }
        while let Some(frame) = self.stack.last_mut() {
            let id = frame.id;
            let node = graph.node(id);
            let Some((path, required)) = node.reference(frame.next as usize) else {
                self.states[id as usize] = State::Yielded;
                self.stack.pop();
                return Step::Yield(node.event());
            };
            frame.next += 1;
            let Some(input) = graph.find(path) else {
                if required {
                    return Step::Failed(self.fail_with(EvalError::MissingInput {
                        dependent: node.path().clone(),
                        missing: path.clone(),
                        searched: "the graph that was given".into(),
                    }));
                }
                continue;
            };
            match self.states[input as usize] {
                State::Yielded => {}
                State::New => self.open(input),
                State::Failed => return Step::Failed(self.fail(input)),
                // A store object may refer to itself.
                State::Open if input == id && !required => {}
                State::Open => return Step::Failed(self.fail_with(self.cycle(graph, input))),
            }
        }
        Step::Done
    }

    fn open(&mut self, id: u32) {
        self.states[id as usize] = State::Open;
        self.stack.push(Frame { id, next: 0 });
    }

    fn cycle(&self, graph: &Layers, entry: u32) -> EvalError {
        let begin = self.stack.iter().rposition(|frame| frame.id == entry);
        let members = self.stack[begin.unwrap_or(0)..].iter();
        let ids = members.map(|frame| frame.id).chain([entry]);
        EvalError::Cycle {
            cycle: ids.map(|id| graph.node(id).path().clone()).collect(),
        }
    }

    /// Fails the nodes on the stack because `input` failed.
    fn fail(&mut self, input: u32) -> Arc<EvalError> {
        let error = Arc::clone(&self.failures[&input]);
        self.fail_stack(&error);
        error
    }

    fn fail_with(&mut self, error: EvalError) -> Arc<EvalError> {
        let error = Arc::new(error);
        self.fail_stack(&error);
        error
    }

    fn fail_stack(&mut self, error: &Arc<EvalError>) {
        for frame in self.stack.drain(..) {
            self.states[frame.id as usize] = State::Failed;
            self.failures.insert(frame.id, Arc::clone(error));
        }
    }
}
