//! The reference graph of a collection.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use nix_compat::store_path::{StoreDir, StorePath};

use super::GcOptions;
use super::server::Digest;
use crate::local_fs::db::Snapshot;

/// The index of a path in the graph.
pub(super) type Index = u32;

/// The valid paths, and the edges that keep paths alive.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    by_digest: HashMap<Digest, Vec<Index>>,
    by_id: HashMap<i64, Index>,
    references: Edges,
    /// Edges from an output to its deriver and from a derivation to its outputs, as far as the
    /// options keep these.
    kept: Edges,
    /// Dead paths without remaining dead referrers, oldest first. `None` before the first call of
    /// [`Graph::next_dead`].
    ready: Option<BinaryHeap<Reverse<(i64, Index)>>>,
    /// For each path, the number of its remaining dead referrers.
    referrers: Vec<u32>,
}

#[derive(Debug)]
pub(super) struct Node {
    pub id: i64,
    /// `None` if the row does not hold a path of this store.
    pub path: Option<StorePath>,
    registration_time: i64,
    alive: bool,
}

/// Edges, grouped by their source.
#[derive(Debug)]
struct Edges {
    starts: Vec<u32>,
    targets: Vec<Index>,
}

impl Edges {
    fn new(nodes: usize, edges: &[(Index, Index)]) -> Self {
        let mut starts = vec![0u32; nodes + 1];
        for (from, _) in edges {
            starts[*from as usize + 1] += 1;
        }
        for index in 0..nodes {
            starts[index + 1] += starts[index];
        }
        let mut next = starts.clone();
        let mut targets = vec![0; edges.len()];
        for (from, to) in edges {
            let place = &mut next[*from as usize];
            targets[*place as usize] = *to;
            *place += 1;
        }
        Self { starts, targets }
    }

    fn of(&self, index: Index) -> &[Index] {
        let index = index as usize;
        &self.targets[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}

impl Graph {
    pub fn new(dir: &StoreDir, snapshot: Snapshot, options: &GcOptions) -> Self {
        let count = snapshot.paths.len();
        let mut by_id = HashMap::with_capacity(count);
        let mut by_digest: HashMap<Digest, Vec<Index>> = HashMap::with_capacity(count);
        let mut nodes = Vec::with_capacity(count);
        let mut derivers = Vec::new();
        for row in snapshot.paths {
            let index = nodes.len() as Index;
            let path = dir.parse(&row.path).ok();
            by_id.insert(row.id, index);
            if let Some(path) = &path {
                by_digest.entry(*path.digest()).or_default().push(index);
            }
            if let (true, Some(deriver)) = (options.keep_derivations, row.deriver) {
                derivers.push((index, deriver));
            }
            nodes.push(Node {
                id: row.id,
                path,
                registration_time: row.registration_time,
                alive: false,
            });
        }
        let find = |text: &str| -> Option<Index> {
            let path = dir.parse(text).ok()?;
            let candidates = by_digest.get(path.digest())?.iter();
            let mut found =
                candidates.filter(|index| nodes[**index as usize].path.as_ref() == Some(&path));
            found.next().copied()
        };
        let mut kept: Vec<(Index, Index)> = derivers
            .iter()
            .filter_map(|(output, deriver)| Some((*output, find(deriver)?)))
            .collect();
        if options.keep_outputs {
            let outputs = snapshot.outputs.iter();
            kept.extend(
                outputs.filter_map(|(drv, output)| Some((*by_id.get(drv)?, find(output)?))),
            );
        }
        let references: Vec<(Index, Index)> = snapshot
            .references
            .iter()
            .filter_map(|(from, to)| Some((*by_id.get(from)?, *by_id.get(to)?)))
            .collect();
        let mut graph = Self {
            references: Edges::new(count, &references),
            kept: Edges::new(count, &kept),
            nodes,
            by_digest,
            by_id,
            ready: None,
            referrers: vec![0; count],
        };
        // A row without a readable path is never removed.
        for index in 0..count as Index {
            if graph.node(index).path.is_none() {
                graph.mark(index);
            }
        }
        graph
    }

    pub fn node(&self, index: Index) -> &Node {
        &self.nodes[index as usize]
    }

    /// Whether the path was valid when the graph was built.
    pub fn contains(&self, path: &StorePath) -> bool {
        let found = self.by_digest.get(path.digest());
        found.is_some_and(|found| {
            let mut found = found.iter();
            found.any(|index| self.node(*index).path.as_ref() == Some(path))
        })
    }

    /// Marks all paths with this hash part, and everything that they need, as alive.
    pub fn mark_digest(&mut self, digest: &Digest) {
        for index in self.by_digest.get(digest).cloned().unwrap_or_default() {
            self.mark(index);
        }
    }

    pub fn mark_path(&mut self, path: &StorePath) {
        if self.contains(path) {
            self.mark_digest(path.digest());
        }
    }

    /// Marks the path with this database id, and everything that it needs, as alive.
    pub fn mark_id(&mut self, id: i64) {
        if let Some(index) = self.by_id.get(&id) {
            self.mark(*index);
        }
    }

    fn mark(&mut self, start: Index) {
        let mut todo = vec![start];
        while let Some(index) = todo.pop() {
            let node = &mut self.nodes[index as usize];
            if std::mem::replace(&mut node.alive, true) {
                continue;
            }
            todo.extend_from_slice(self.references.of(index));
            todo.extend_from_slice(self.kept.of(index));
        }
    }

    /// Whether something needs a path, as far as marked.
    pub fn is_alive(&self, path: &StorePath) -> bool {
        let found = self.by_digest.get(path.digest()).into_iter().flatten();
        let mut nodes = found.map(|index| self.node(*index));
        nodes.any(|node| node.alive && node.path.as_ref() == Some(path))
    }

    /// Marks all paths except `only` as alive, and everything that they need.
    pub fn keep_all_but(&mut self, only: &[StorePath]) {
        let only: HashSet<&StorePath> = only.iter().collect();
        for index in 0..self.nodes.len() as Index {
            let path = &self.node(index).path;
            if !path.as_ref().is_some_and(|path| only.contains(path)) {
                self.mark(index);
            }
        }
    }

    /// All paths that are alive, or all dead ones.
    pub fn paths(&self, alive: bool) -> Vec<StorePath> {
        let nodes = self.nodes.iter().filter(|node| node.alive == alive);
        nodes.filter_map(|node| node.path.clone()).collect()
    }

    /// The next dead path without remaining referrers, in order of registration. The caller removes
    /// it.
    pub fn next_dead(&mut self) -> Option<Index> {
        if self.ready.is_none() {
            self.find_ready();
        }
        loop {
            let Reverse((_, index)) = self.ready.as_mut()?.pop()?;
            if self.node(index).alive {
                continue;
            }
            for target in self.references.of(index) {
                let referrers = &mut self.referrers[*target as usize];
                *referrers = referrers.saturating_sub(1);
                if *referrers == 0 {
                    let time = self.nodes[*target as usize].registration_time;
                    let ready = self.ready.get_or_insert_default();
                    ready.push(Reverse((time, *target)));
                }
            }
            return Some(index);
        }
    }

    fn find_ready(&mut self) {
        let dead = || (0..self.nodes.len() as Index).filter(|index| !self.node(*index).alive);
        let mut referrers = vec![0; self.nodes.len()];
        for index in dead() {
            for target in self.references.of(index) {
                referrers[*target as usize] += 1;
            }
        }
        let free = dead().filter(|index| referrers[*index as usize] == 0);
        let ready = free.map(|index| Reverse((self.node(index).registration_time, index)));
        self.ready = Some(ready.collect());
        self.referrers = referrers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local_fs::db::PathRow;

    fn name(n: u32) -> String {
        // Only characters of Nix's base 32.
        format!("{n:0>32}-n{n}")
    }

    fn graph(count: u32, references: &[(i64, i64)], options: &GcOptions) -> Graph {
        let row = |n: u32| PathRow {
            id: i64::from(n),
            path: format!("/nix/store/{}", name(n)),
            deriver: (n == 1).then(|| format!("/nix/store/{}", name(0))),
            registration_time: 0,
        };
        let snapshot = Snapshot {
            paths: (0..count).map(row).collect(),
            references: references.to_vec(),
            outputs: vec![(0, format!("/nix/store/{}", name(1)))],
        };
        Graph::new(&StoreDir::default(), snapshot, options)
    }

    fn alive(graph: &Graph) -> Vec<String> {
        let mut paths: Vec<_> = graph.paths(true).iter().map(ToString::to_string).collect();
        paths.sort();
        paths
    }

    #[test]
    fn references_and_derivers_are_kept_and_outputs_if_asked() {
        let path = |n| name(n).parse::<StorePath>().unwrap();
        let options = GcOptions::default();
        let mut it = graph(4, &[(1, 2)], &options);
        it.mark_path(&path(1));
        assert_eq!(alive(&it), [name(0), name(1), name(2)]);
        let mut it = graph(4, &[(1, 2)], &options);
        it.mark_path(&path(0));
        assert_eq!(alive(&it), [name(0)]);
        let mut it = graph(4, &[(1, 2)], &GcOptions::default().with_keep_outputs(true));
        it.mark_path(&path(0));
        assert_eq!(alive(&it), [name(0), name(1), name(2)]);
        let mut it = graph(
            4,
            &[(1, 2)],
            &GcOptions::default().with_keep_derivations(false),
        );
        it.mark_path(&path(1));
        assert_eq!(alive(&it), [name(1), name(2)]);
    }

    #[test]
    fn referrers_go_first_and_late_roots_stay() {
        let mut it = graph(5, &[(4, 3), (3, 2), (4, 2)], &GcOptions::default());
        it.mark_path(&name(1).parse().unwrap());
        assert_eq!(it.next_dead(), Some(4));
        it.mark_path(&name(2).parse().unwrap());
        assert_eq!(it.next_dead(), Some(3));
        assert_eq!(it.next_dead(), None);
        // 2 is a root that was added late; 0 is the deriver of 1.
        assert_eq!(alive(&it), [name(0), name(1), name(2)]);
    }

    #[test]
    fn long_chains_need_no_stack() {
        let references: Vec<_> = (1..200_000).map(|n| (n, n - 1)).collect();
        let mut it = graph(200_000, &references, &GcOptions::default());
        it.mark_id(199_999);
        assert_eq!(it.next_dead(), None);
    }
}
