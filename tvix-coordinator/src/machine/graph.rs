//! The graph of derivations: nodes, and edges from each to its inputs.
//!
//! It holds a million derivations and more, so nodes are small, edges are threaded through one
//! array, and the body of a derivation is dropped as soon as its outputs are known. Each access may
//! miss the processor's caches: a node takes one cache line, and its path, which is seldom needed,
//! is kept apart. So is the path of the output `out` where it is the only one, as is usual: queries
//! and dependents read it there, and need neither the node nor the derivation.

use std::num::NonZeroU8;
use std::sync::Arc;

use hashbrown::HashTable;
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::store_path::{StoreDir, StorePath};

use crate::digest_hash;

/// A derivation, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) u32);

/// A failure, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FailureId(pub(super) u32);

/// A set of outputs, by index in the order of their names. Those from the 32nd on share a bit,
/// which is set among valid ones if all of them are, and among wanted ones if any is.
pub(super) type OutputMask = u32;

const NONE: u32 = u32::MAX;

/// The scheduler's number of the system, for derivations that require no feature; `None` for others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SystemNumber(pub(super) Option<NonZeroU8>);

/// Where a derivation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// An input of something; it was not yielded itself.
    Unknown,
    /// Yielded; nobody asked for it.
    Idle,
    /// Whether its outputs are valid is being found out.
    Looking,
    /// That is known, and nothing needs to be built.
    Present,
    /// It has to be built, and so many of its inputs are not valid.
    Waiting { unmet: u32 },
    /// It can be built.
    Ready,
    /// It is being built, or its outputs are being pushed, or it waits to be tried again.
    Building,
    /// It resolved to another derivation.
    Delegated(NodeId),
    /// Substituters are asked for its outputs.
    Asking,
    /// A substituter has some of its outputs, and nothing wants any.
    Offered,
    /// Its outputs are being substituted.
    Fetching,
    /// It failed in itself.
    Failed(FailureId),
    /// Something that it needs failed.
    Skipped(FailureId),
    /// Evaluation has ended, and nothing needs it.
    Unneeded,
}

/// The part of a derivation that is kept.
#[derive(Debug)]
pub(super) enum Body {
    Unknown,
    Full(Arc<Derivation>),
    /// The paths of its outputs only: dependents need no more.
    Outputs(Box<[(OutputName, Option<StorePath>)]>),
    /// As `Outputs`, for a derivation with the only output `out`; its path is in the graph.
    Out,
}

/// How evaluation waits for something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It does not.
    #[default]
    None,
    /// It has asked for it ahead.
    Ahead,
    /// It is stalled.
    Stalled,
}

#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node {
    pub(super) body: Body,
    pub(super) state: State,
    pub(super) valid: OutputMask,
    pub(super) wanted: OutputMask,
    /// Something that was asked for needs it.
    pub(super) needed: bool,
    /// How evaluation waits for it.
    pub(super) urgency: Urgency,
    /// Its output paths follow from a build, its own or another's.
    pub(super) floating: bool,
    /// Its outputs are known, and `out` is the only one, as it mostly is.
    pub(super) only_out: bool,
    /// No substituter has the wanted outputs.
    pub(super) refused: bool,
    /// It uses sources.
    pub(super) has_sources: bool,
    /// For the scheduler, which reads the environment of a new derivation once.
    pub(super) system: SystemNumber,
    /// Estimated milliseconds from its start to the end of the longest known chain of dependents.
    pub(super) height: u32,
    first_edge: u32,
    edge_count: u32,
    first_dependent: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) dependent: NodeId,
    pub(super) input: NodeId,
    pub(super) outputs: OutputMask,
    next_dependent: u32,
}

#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    paths: Vec<StorePath>,
    /// For each node with the only output `out`, its path, once it is known.
    outs: Vec<Option<StorePath>>,
    out: OutputName,
    any_floating: bool,
    edges: Vec<Edge>,
    index: HashTable<NodeId>,
}

impl Default for Graph {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            paths: Vec::new(),
            outs: Vec::new(),
            out: OutputName::out(),
            any_floating: false,
            edges: Vec::new(),
            index: HashTable::new(),
        }
    }
}

impl std::ops::Index<NodeId> for Graph {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}

impl std::ops::IndexMut<NodeId> for Graph {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

impl Graph {
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    pub(super) fn find(&self, path: &StorePath) -> Option<NodeId> {
        self.index
            .find(digest_hash(path), |id| self.path(*id) == path)
            .copied()
    }

    pub(super) fn path(&self, id: NodeId) -> &StorePath {
        &self.paths[id.0 as usize]
    }

    /// The node of `path`, made if there is none.
    pub(super) fn intern(&mut self, path: &StorePath) -> NodeId {
        if let Some(id) = self.find(path) {
            return id;
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(Node {
            body: Body::Unknown,
            state: State::Unknown,
            valid: 0,
            wanted: 0,
            needed: false,
            urgency: Urgency::None,
            floating: false,
            only_out: false,
            refused: false,
            has_sources: false,
            system: SystemNumber::default(),
            height: 0,
            first_edge: 0,
            edge_count: 0,
            first_dependent: NONE,
        });
        self.paths.push(path.clone());
        self.outs.push(None);
        let paths = &self.paths;
        let rehash = |id: &NodeId| digest_hash(&paths[id.0 as usize]);
        self.index.insert_unique(digest_hash(path), id, rehash);
        id
    }

    /// Gives a node its derivation.
    pub(super) fn set_derivation(
        &mut self,
        id: NodeId,
        derivation: Arc<Derivation>,
        dir: &StoreDir,
    ) {
        let node = &mut self.nodes[id.0 as usize];
        node.floating = derivation
            .outputs
            .values()
            .any(|output| !matches!(output, Output::InputAddressed(_) | Output::Fixed(_)));
        let first = derivation.outputs.keys().next();
        let first_is_out = first.is_some_and(|name| name.as_str() == "out");
        node.only_out = first_is_out && derivation.outputs.len() == 1;
        if node.only_out {
            let out = derivation.output_paths(dir).next();
            self.outs[id.0 as usize] = out.and_then(|(_, path)| path);
        }
        node.has_sources = !derivation.input_srcs.is_empty();
        node.body = Body::Full(derivation);
        self.any_floating |= node.floating;
    }

    /// The path of `out`, if that is the only output and it is known where it is or will be.
    pub(super) fn only_out(&self, id: NodeId) -> Option<&StorePath> {
        self.outs[id.0 as usize].as_ref()
    }

    /// The outputs with their paths, as far as they are known.
    pub(super) fn outputs<'a>(
        &'a self,
        id: NodeId,
        dir: &'a StoreDir,
    ) -> impl Iterator<Item = (&'a OutputName, Option<StorePath>)> + 'a {
        let out = self.only_out(id);
        let (derivation, outputs) = match &self[id].body {
            Body::Full(derivation) if out.is_none() => (Some(derivation), &[][..]),
            Body::Outputs(outputs) => (None, &outputs[..]),
            Body::Unknown | Body::Full(_) | Body::Out => (None, &[][..]),
        };
        let of_derivation = derivation
            .into_iter()
            .flat_map(|derivation| derivation.output_paths(dir));
        out.map(|path| (&self.out, Some(path.clone())))
            .into_iter()
            .chain(of_derivation)
            .chain(outputs.iter().map(|(name, path)| (name, path.clone())))
    }

    /// Keeps of a derivation only where its outputs are, which are all of these in order.
    pub(super) fn set_outputs(
        &mut self,
        id: NodeId,
        mut outputs: impl Iterator<Item = (OutputName, Option<StorePath>)>,
    ) {
        let node = &mut self.nodes[id.0 as usize];
        if node.only_out {
            self.outs[id.0 as usize] = outputs.next().and_then(|(_, path)| path);
            node.body = Body::Out;
        } else {
            node.body = Body::Outputs(outputs.collect());
        }
    }

    /// Lets go of all but the outputs' paths.
    pub(super) fn shrink(&mut self, id: NodeId, dir: &StoreDir) {
        let node = &mut self.nodes[id.0 as usize];
        if let Body::Full(derivation) = &node.body {
            node.body = if node.only_out {
                Body::Out
            } else {
                let outputs = derivation.output_paths(dir);
                Body::Outputs(outputs.map(|(name, path)| (name.clone(), path)).collect())
            };
        }
    }

    /// Whether any node has output paths that follow from a build.
    pub(super) fn any_floating(&self) -> bool {
        self.any_floating
    }

    /// Adds an input to a node. All inputs of a node are added in one sequence.
    pub(super) fn add_input(&mut self, dependent: NodeId, input: NodeId, outputs: OutputMask) {
        let edge = self.edges.len() as u32;
        let next_dependent = std::mem::replace(&mut self[input].first_dependent, edge);
        self.edges.push(Edge {
            dependent,
            input,
            outputs,
            next_dependent,
        });
        let node = &mut self[dependent];
        if node.edge_count == 0 {
            node.first_edge = edge;
        }
        node.edge_count += 1;
    }

    /// Of an input that was not known, all outputs were taken to be used: they are these.
    pub(super) fn limit_dependents(&mut self, id: NodeId, all: OutputMask) {
        let mut next = self.first_dependent(id);
        while let Some(index) = next {
            let edge = &mut self.edges[index as usize];
            edge.outputs &= all;
            next = Some(edge.next_dependent).filter(|next| *next != NONE);
        }
    }

    pub(super) fn inputs(&self, id: NodeId) -> &[Edge] {
        let node = &self[id];
        let first = node.first_edge as usize;
        &self.edges[first..first + node.edge_count as usize]
    }

    /// The edges that end at `id`. To go over them while the graph changes, use
    /// [`Graph::first_dependent`] and [`Graph::next_dependent`].
    pub(super) fn first_dependent(&self, id: NodeId) -> Option<u32> {
        Some(self[id].first_dependent).filter(|edge| *edge != NONE)
    }

    pub(super) fn next_dependent(&self, edge: u32) -> (Edge, Option<u32>) {
        let edge = self.edges[edge as usize];
        (edge, Some(edge.next_dependent).filter(|next| *next != NONE))
    }
}

impl Node {
    pub(super) fn has(&self, outputs: OutputMask) -> bool {
        self.valid & outputs == outputs
    }

    pub(super) fn derivation(&self) -> Option<&Arc<Derivation>> {
        match &self.body {
            Body::Full(derivation) => Some(derivation),
            Body::Unknown | Body::Outputs(_) | Body::Out => None,
        }
    }

    pub(super) fn output_count(&self) -> usize {
        if self.only_out {
            return 1;
        }
        match &self.body {
            Body::Unknown => 0,
            Body::Out => 1,
            Body::Full(derivation) => derivation.outputs.len(),
            Body::Outputs(outputs) => outputs.len(),
        }
    }

    /// All outputs.
    pub(super) fn all_outputs(&self) -> OutputMask {
        match self.output_count() {
            0 => 0,
            count => (0..count).fold(0, |mask, index| mask | bit(index)),
        }
    }

    pub(super) fn output_index(&self, name: &str) -> Option<usize> {
        if self.only_out {
            return (name == "out").then_some(0);
        }
        match &self.body {
            Body::Unknown | Body::Out => None,
            Body::Full(derivation) => derivation
                .outputs
                .keys()
                .position(|output| output.as_str() == name),
            Body::Outputs(outputs) => outputs
                .iter()
                .position(|(output, _)| output.as_str() == name),
        }
    }

    /// Outputs by name; `Err` names one that there is not. All of them while that is not known.
    pub(super) fn mask<'n>(
        &self,
        names: impl IntoIterator<Item = &'n OutputName>,
    ) -> Result<OutputMask, OutputName> {
        if matches!(self.body, Body::Unknown) {
            return Ok(OutputMask::MAX);
        }
        names
            .into_iter()
            .try_fold(0, |mask, name| match self.output_index(name.as_str()) {
                Some(index) => Ok(mask | bit(index)),
                None => Err(name.clone()),
            })
    }
}

/// The bit of the output with this index.
pub(super) const fn bit(index: usize) -> OutputMask {
    1 << if index < 31 { index } else { 31 }
}

/// Folds one flag for each output into a mask.
pub(super) fn mask_of_all(holds: impl Iterator<Item = bool>) -> OutputMask {
    let mut mask = 0;
    let mut spoiled = 0;
    for (index, holds) in holds.enumerate() {
        if holds {
            mask |= bit(index);
        } else {
            spoiled |= bit(index);
        }
    }
    mask & !spoiled
}
