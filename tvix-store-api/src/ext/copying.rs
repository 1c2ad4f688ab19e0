//! Copying many paths from store to store, each after its references.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;

use crate::{Store, StoreError, VerifiedObject};

/// Number of large paths that are copied concurrently.
const COPIES_IN_FLIGHT: usize = 32;

/// Number of groups of small paths that are copied concurrently.
const GROUPS_IN_FLIGHT: usize = 4;

/// Size limit of a small NAR, in bytes. Small NARs are copied in groups and held in memory
/// meanwhile.
const SMALL: u64 = 256 * 1024;

/// Limits of a group: number of paths, and approximate total size of their NARs in bytes.
const GROUP: usize = 128;
const GROUP_BYTES: u64 = 2 << 20;

/// The dependency state of a copy.
pub(super) struct Copying<'a> {
    infos: &'a [Arc<PathInfo>],
    /// For each path, the number of its references that are not copied yet.
    waits_for: Vec<usize>,
    /// For each path, its referrers.
    referrers: Vec<Vec<usize>>,
    begun: Vec<bool>,
    /// Small paths that are ready and not begun.
    small: Vec<usize>,
    large: Vec<usize>,
}

/// The result of copying a path or a group: the indices of the copied paths.
type Copied<'a> = BoxFuture<'a, Result<Vec<usize>, StoreError>>;

impl<'a> Copying<'a> {
    /// `infos` are sorted with references before their referrers.
    pub fn new(infos: &'a [Arc<PathInfo>]) -> Self {
        let index: HashMap<&StorePath, usize> = infos
            .iter()
            .enumerate()
            .map(|(index, info)| (&info.path, index))
            .collect();
        let mut waits_for = vec![0; infos.len()];
        let mut referrers = vec![Vec::new(); infos.len()];
        for (referrer, info) in infos.iter().enumerate() {
            let references = info.references.iter().filter_map(|path| index.get(path));
            // In a cycle, which no store should hold, some reference comes later. The destination
            // refuses it.
            for &reference in references.filter(|&&reference| reference < referrer) {
                waits_for[referrer] += 1;
                referrers[reference].push(referrer);
            }
        }
        let mut copying = Self {
            infos,
            waits_for,
            referrers,
            begun: vec![false; infos.len()],
            small: Vec::new(),
            large: Vec::new(),
        };
        for index in (0..infos.len()).rev() {
            copying.wake(index);
        }
        copying
    }

    pub async fn run<S: Store + ?Sized>(
        mut self,
        from: &S,
        to: &dyn Store,
    ) -> Result<(), StoreError> {
        let mut running: FuturesUnordered<Copied<'_>> = FuturesUnordered::new();
        let (mut single, mut groups) = (0, 0);
        loop {
            while single < COPIES_IN_FLIGHT
                && let Some(index) = self.large.pop()
            {
                single += 1;
                self.begun[index] = true;
                let info = self.infos[index].clone();
                let copy = async move { copy(from, to, &info).await.map(|()| vec![index]) };
                running.push(copy.boxed());
            }
            while groups < GROUPS_IN_FLIGHT
                && let Some(group) = self.group()
            {
                groups += 1;
                let infos = group.iter().map(|&index| self.infos[index].clone());
                let infos = infos.collect();
                let copy = async move { copy_group(from, to, infos).await.map(|()| group) };
                running.push(copy.boxed());
            }
            let Some(copied) = running.next().await else {
                return Ok(());
            };
            let copied = copied?;
            // Only small paths are in groups.
            match copied.first().is_some_and(|&index| self.is_small(index)) {
                true => groups -= 1,
                false => single -= 1,
            }
            for index in copied {
                for referrer in std::mem::take(&mut self.referrers[index]) {
                    self.waits_for[referrer] -= 1;
                    self.wake(referrer);
                }
            }
        }
    }

    fn is_small(&self, index: usize) -> bool {
        self.infos[index].nar_size <= SMALL
    }

    /// Queues a path if all its references are copied.
    fn wake(&mut self, index: usize) {
        match self.waits_for[index] == 0 && !self.begun[index] {
            true if self.is_small(index) => self.small.push(index),
            true => self.large.push(index),
            false => {}
        }
    }

    /// A group of small paths, each of which waits only for earlier members of the group.
    fn group(&mut self) -> Option<Vec<usize>> {
        let mut group = Vec::new();
        let mut bytes = 0;
        // For each path, the number of its references in the group; and the paths with all
        // remaining references in the group.
        let mut found: HashMap<usize, usize> = HashMap::new();
        let mut within: Vec<usize> = Vec::new();
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let Some(index) = within.pop().or_else(|| self.small.pop()) else {
                break;
            };
            self.begun[index] = true;
            bytes += self.infos[index].nar_size;
            group.push(index);
            for &referrer in &self.referrers[index] {
                let found = found.entry(referrer).or_default();
                *found += 1;
                if *found == self.waits_for[referrer] && self.is_small(referrer) {
                    within.push(referrer);
                }
            }
        }
        (!group.is_empty()).then_some(group)
    }
}

/// The info for another store: a copy is not "ultimately trusted", since it was not built there.
fn elsewhere(info: &PathInfo) -> PathInfo {
    PathInfo {
        ultimate: false,
        ..info.clone()
    }
}

pub(super) async fn copy<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    info: &PathInfo,
) -> Result<(), StoreError> {
    let nar = from.nar(&info.path).await?;
    let added = to.add(elsewhere(info), nar).await;
    added.map_err(|error| error.blame(from.uri()))
}

/// Copies as many of `infos` as possible, and returns the first error.
async fn copy_group<S: Store + ?Sized>(
    from: &S,
    to: &dyn Store,
    infos: Vec<Arc<PathInfo>>,
) -> Result<(), StoreError> {
    let infos = infos.iter().map(|info| Arc::new(elsewhere(info)));
    let read = from.read_many(infos.collect()).await;
    let mut objects: Vec<VerifiedObject> = Vec::with_capacity(read.len());
    let mut failed = None;
    for object in read {
        match object {
            Ok(object) => objects.push(object),
            Err(error) => failed = failed.or(Some(error.blame(from.uri()))),
        }
    }
    // The destination refuses referrers of a path that could not be read. The read error is the
    // cause, so it takes precedence.
    let added = to.add_many(objects).await.into_iter().collect();
    failed.map_or(added, Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(number: u8, size: u64, references: &[u8]) -> Arc<PathInfo> {
        let path = |number: u8| StorePath::new([number; 20], "x".parse().unwrap());
        let mut info = PathInfo::new(path(number), [0; 32], size);
        info.references = references.iter().map(|&number| path(number)).collect();
        Arc::new(info)
    }

    #[test]
    fn a_group_holds_what_refers_to_what_is_in_it() {
        let infos = [
            info(0, 10, &[]),
            info(1, SMALL + 1, &[]),
            info(2, 10, &[0]),
            info(3, 10, &[0, 1]),
            info(4, 10, &[0, 2]),
            info(5, 10, &[]),
        ];
        let mut copying = Copying::new(&infos);
        assert_eq!(copying.large, [1]);
        assert_eq!(copying.group(), Some(vec![0, 2, 4, 5]));
        assert_eq!(copying.group(), None);
    }

    #[test]
    fn a_group_is_not_large() {
        let infos: Vec<_> = (0..20).map(|number| info(number, SMALL, &[])).collect();
        let mut copying = Copying::new(&infos);
        let groups = std::iter::from_fn(|| copying.group().map(|group| group.len()));
        assert_eq!(groups.collect::<Vec<_>>(), [8, 8, 4]);
    }

    #[test]
    fn what_a_full_group_could_have_held_waits_for_it() {
        let mut infos: Vec<_> = (0..8).map(|number| info(number, SMALL, &[])).collect();
        infos.push(info(8, 10, &[7]));
        let mut copying = Copying::new(&infos);
        assert_eq!(copying.group(), Some((0..8).collect()));
        assert_eq!(copying.group(), None);
    }
}
