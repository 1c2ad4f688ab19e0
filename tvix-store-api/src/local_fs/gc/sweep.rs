//! The course of a collection.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix_compat::store_path::StorePath;
use rustix::fs::{AtFlags, Dir, Stat};

use super::graph::{Graph, Index};
use super::lock::GcLock;
use super::options::{GcAction, GcFailure, GcOptions, GcReport};
use super::server::{Digest, Server, Shared};
use super::socket;
use super::strays::{self, Verdict};
use super::trash::{Trash, c_name};
use crate::StoreError;
use crate::local_fs::files::{measure, open_directory};
use crate::local_fs::{Inner, reserve};

/// Number of paths in a group, which is one synced transaction. The first group is small, so that
/// the removing threads start early. Later ones are large, because each group rewrites most pages
/// of the database and waits for the disk.
const FIRST_GROUP: usize = 1000;
const GROUP: usize = 10_000;

/// Runs a collection. The caller holds the collector lock. Blocks.
pub(super) fn collect(
    inner: &Inner,
    _lock: GcLock,
    options: &GcOptions,
    stopped: &AtomicBool,
) -> Result<GcReport, StoreError> {
    let delete = options.action == GcAction::Delete;
    let state = &inner.layout.state;
    if delete {
        // Deleting rows takes disk space at first.
        reserve::give_up(state);
    }
    let shared = Arc::new(Shared::default());
    let listening = socket::listen(state)
        .and_then(|listener| Server::start(listener, inner.store_dir.clone(), shared.clone()));
    let _server = listening.map_err(|error| {
        let action = format!("listen in '{}'", state.join("gc-socket").display());
        inner.layout.failed(action, error)
    })?;
    // Read only now: roots added from here on arrive through the socket. Links are read last,
    // because the creator of a link holds a temporary root until the link exists.
    let temporary = inner.temporary_roots(delete)?;
    let roots = inner.permanent_roots(delete)?;
    let dir = &inner.store_dir;
    shared.extend(temporary.iter().filter_map(|(_, text)| {
        let path = dir.parse(text).ok()?;
        Some(*path.digest())
    }));
    let snapshot = inner.database.snapshot(options.keep_outputs)?;
    let mut graph = Graph::new(dir, snapshot, options);
    for root in &roots {
        graph.mark_path(&root.path);
    }
    drop(shared.begin(|new| {
        new.iter().for_each(|digest| graph.mark_digest(digest));
        ((), Vec::new())
    }));
    let mut report = GcReport::default();
    if let Some(only) = &options.only {
        graph.keep_all_but(only);
        let alive = |path: &&StorePath| graph.is_alive(path);
        report.alive = only.iter().filter(alive).cloned().collect();
        if !report.alive.is_empty() {
            return Ok(report);
        }
    }
    let is_meant = |stray: &strays::Stray| stray.is_among(options.only.as_deref());
    match options.action {
        GcAction::ListLive => report.paths = graph.paths(true),
        GcAction::ListDead => {
            report.paths = graph.paths(false);
            let strays = strays::find(inner, &graph)?.into_iter().filter(is_meant);
            report.strays = strays.map(|stray| stray.name).collect();
        }
        GcAction::Delete => {
            delete_all(inner, options, stopped, &shared, &mut graph, &mut report)?;
        }
    }
    Ok(report)
}

fn delete_all(
    inner: &Inner,
    options: &GcOptions,
    stopped: &AtomicBool,
    shared: &Shared,
    graph: &mut Graph,
    report: &mut GcReport,
) -> Result<(), StoreError> {
    let trash = Trash::new(inner);
    let swept = std::thread::scope(|scope| {
        // On every way out, the removing threads learn that no more work follows.
        let _closing = trash.start(scope).map_err(|error| {
            let action = "start a thread that removes files".to_owned();
            inner.layout.failed(action, error)
        })?;
        let mut sweep = Sweep {
            inner,
            shared,
            trash: &trash,
            left: options.max_freed,
            only: options.only.as_deref(),
            stopped,
            group_len: FIRST_GROUP,
            report,
        };
        sweep.strays(graph)?;
        while sweep.group(graph)? {}
        Ok(())
    });
    let removed = trash.into_removed();
    report.bytes_freed += removed.bytes;
    report.failures.extend(removed.failures);
    swept?;
    remove_unused_links(inner, report);
    Ok(())
}

struct Sweep<'t, 'a> {
    inner: &'a Inner,
    shared: &'a Shared,
    trash: &'t Trash<'a>,
    /// The number of bytes still to be freed; `None` if there is no limit.
    left: Option<u64>,
    /// The strays that may be removed; `None` for all.
    only: Option<&'a [StorePath]>,
    stopped: &'t AtomicBool,
    group_len: usize,
    report: &'t mut GcReport,
}

impl Sweep<'_, '_> {
    /// Whether the limit is reached or the collection is stopped.
    fn is_done(&self) -> bool {
        self.left == Some(0) || self.stopped.load(Ordering::Relaxed)
    }

    /// Subtracts the space that removing `name` frees from the limit.
    fn count(&mut self, name: &str) {
        if let Some(left) = &mut self.left {
            let bytes = measure(self.inner.store_fd.as_fd(), &c_name(name));
            *left = left.saturating_sub(bytes);
        }
    }

    /// Removes strays that no process is creating.
    fn strays(&mut self, graph: &Graph) -> Result<(), StoreError> {
        for stray in strays::find(self.inner, graph)? {
            if self.is_done() {
                break;
            }
            if !stray.is_among(self.only) {
                continue;
            }
            let Some((verdict, _pending)) = stray.judge(self.inner, self.shared)? else {
                continue;
            };
            match verdict {
                // Dropping the lock removes the file.
                Verdict::Lock { .. } => {}
                Verdict::Remove => {
                    self.count(&stray.name);
                    self.trash.take(&c_name(&stray.name));
                }
            }
            self.report.strays.push(stray.name);
        }
        Ok(())
    }

    /// Removes the next group; `false` if there is none. Its files may exist for some time
    /// afterwards; until then, adding one of its paths as a root blocks.
    fn group(&mut self, graph: &mut Graph) -> Result<bool, StoreError> {
        let shared = self.shared;
        let (group, pending) = shared.begin(|new| {
            new.iter().for_each(|digest| graph.mark_digest(digest));
            let group = self.choose(graph);
            let pending = group.iter().filter_map(|index| digest(graph, *index));
            let pending: Vec<Digest> = pending.collect();
            (group, pending)
        });
        self.group_len = GROUP;
        if group.is_empty() {
            return Ok(false);
        }
        let ids: Vec<i64> = group.iter().map(|index| graph.node(*index).id).collect();
        let referred_to = self.inner.database.remove(&ids)?;
        let stay: HashSet<i64> = referred_to.iter().copied().collect();
        let nodes = group.iter().map(|index| graph.node(*index));
        let removed = nodes.filter(|node| !stay.contains(&node.id));
        let removed: Vec<StorePath> = removed.filter_map(|node| node.path.clone()).collect();
        let names = removed.iter().map(|path| c_name(&path.to_string()));
        self.trash.take_all(names.collect(), pending);
        self.report.paths.extend(removed);
        // Referrers of these paths were registered after the graph was built.
        for id in referred_to {
            graph.mark_id(id);
        }
        Ok(true)
    }

    fn choose(&mut self, graph: &mut Graph) -> Vec<Index> {
        let mut group = Vec::new();
        while group.len() < self.group_len && !self.is_done() {
            let Some(index) = graph.next_dead() else {
                break;
            };
            if let Some(path) = &graph.node(index).path {
                self.count(&path.to_string());
            }
            group.push(index);
        }
        group
    }
}

fn digest(graph: &Graph, index: Index) -> Option<Digest> {
    graph
        .node(index)
        .path
        .as_ref()
        .map(StorePath::digest)
        .copied()
}

/// Removes files that have no hard link outside `.links`.
fn remove_unused_links(inner: &Inner, report: &mut GcReport) {
    let Ok(links) = open_directory(inner.store_fd.as_fd(), c".links") else {
        return;
    };
    let Ok(mut listing) = Dir::read_from(&links) else {
        return;
    };
    let bytes = |stat: &Stat| stat.st_blocks * 512;
    report.link_savings = -rustix::fs::fstat(&links).map_or(0, |stat| bytes(&stat));
    while let Some(Ok(entry)) = listing.read() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(&links, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        // A file that is linked to at this moment stays under its new name.
        if stat.st_nlink != 1 {
            let others = i64::try_from(stat.st_nlink).unwrap_or(0) - 2;
            report.link_savings += others.max(0) * bytes(&stat);
            continue;
        }
        match rustix::fs::unlinkat(&links, name, AtFlags::empty()) {
            Ok(()) => {
                report.unused_links += 1;
                report.bytes_freed += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            Err(error) => {
                let name = name.to_string_lossy().into_owned();
                report.failures.push(GcFailure {
                    path: inner.layout.store.join(".links").join(name),
                    source: error.into(),
                });
            }
        }
    }
}
