//! Substitution of paths that no derivation is known of.

use std::collections::{HashMap, HashSet};

use futures::stream::{FuturesUnordered, StreamExt as _};
use nix_compat::store_path::StorePath;
use tvix_coordinator::Coordinator;
use tvix_store_api::{StoreError, StoreExt as _};
use tvix_worker_protocol::Verbosity;

use super::activities::Activities;
use super::plan::{Offer, Plan};
use super::shared::describe;
use super::texts::{Text, as_line, no_substituter};

/// Paths that are fetched at once, unless the coordinator's options say otherwise.
const COPIES: usize = 16;

/// Fetches `paths` and their references as planned, references first. Returns the errors of paths that are not valid.
///
/// A path that is being copied when the future is dropped is added as a whole or not at all.
pub(super) async fn substitute(
    coordinator: &Coordinator,
    plan: &Plan,
    paths: &[StorePath],
    activities: &mut Activities,
) -> HashMap<StorePath, Text> {
    let dir = coordinator.store().store_dir();
    let mut failed: HashMap<StorePath, Text> = HashMap::new();
    for path in &plan.unknown {
        failed.insert(path.clone(), no_substituter(dir, path));
    }
    let wanted = reachable(plan, paths);
    // How many references of each path are not there yet.
    let mut waits: HashMap<&StorePath, usize> = HashMap::new();
    let mut dependents: HashMap<&StorePath, Vec<&StorePath>> = HashMap::new();
    let mut ready: Vec<&StorePath> = Vec::new();
    for path in &wanted {
        let Some(offer) = plan.will_substitute.get(*path) else {
            continue;
        };
        let references = offer.info.references.iter();
        let references = references.filter(|it| *it != *path && wanted.contains(*it));
        let mut count = 0;
        for reference in references {
            dependents.entry(reference).or_default().push(path);
            count += 1;
        }
        waits.insert(path, count);
        if count == 0 {
            ready.push(path);
        }
    }
    let most = coordinator.options().max_substitutions.unwrap_or(COPIES);
    let mut running = FuturesUnordered::new();
    let mut copies = HashMap::new();
    loop {
        while running.len() < most.max(1)
            && let Some(path) = ready.pop()
        {
            let Some(offer) = plan.will_substitute.get(path) else {
                continue;
            };
            let missing = offer
                .info
                .references
                .iter()
                .find(|it| failed.contains_key(*it));
            if let Some(missing) = missing {
                // What refers to it cannot be valid either.
                let text = failed.get(missing).cloned();
                failed.extend(text.map(|text| (path.clone(), text)));
                release(path, &dependents, &mut waits, &mut ready);
                continue;
            }
            let uri = offer.substituter.uri().to_string();
            let copy = activities.copy_started(dir, path, &uri).await;
            copies.insert(path.clone(), copy);
            running.push(copy_one(coordinator, plan, path, offer));
        }
        let Some((path, result)) = running.next().await else {
            break;
        };
        let size = plan
            .will_substitute
            .get(path)
            .map_or(0, |it| it.info.nar_size);
        if let Some(copy) = copies.remove(path) {
            activities.copy_ended(copy, result.is_ok(), size).await;
        }
        if let Err(error) = result {
            let text = as_line(&describe(&error));
            activities.message(Verbosity::Error, text).await;
            failed.insert(path.clone(), no_substituter(dir, path));
        }
        release(path, &dependents, &mut waits, &mut ready);
    }
    failed
}

/// Copies a path from the substituter that offers it, or from any other one that has it.
async fn copy_one<'p>(
    coordinator: &Coordinator,
    plan: &Plan,
    path: &'p StorePath,
    offer: &Offer,
) -> (&'p StorePath, Result<(), StoreError>) {
    let _ = plan;
    let store = &**coordinator.store();
    let mut result = offer.substituter.copy_path(store, &offer.info).await;
    for other in coordinator.substituters() {
        if result.is_ok() {
            break;
        }
        if other.uri() == offer.substituter.uri() {
            continue;
        }
        if let Ok(Some(info)) = other.path_info(path).await {
            result = other.copy_path(store, &info).await;
        }
    }
    (path, result)
}

fn release<'p>(
    path: &StorePath,
    dependents: &HashMap<&'p StorePath, Vec<&'p StorePath>>,
    waits: &mut HashMap<&'p StorePath, usize>,
    ready: &mut Vec<&'p StorePath>,
) {
    for dependent in dependents.get(path).into_iter().flatten() {
        if let Some(count) = waits.get_mut(*dependent) {
            *count -= 1;
            if *count == 0 {
                ready.push(dependent);
            }
        }
    }
}

/// The planned substitutions of `paths` and their references.
fn reachable<'p>(plan: &'p Plan, paths: &[StorePath]) -> HashSet<&'p StorePath> {
    let mut seen = HashSet::new();
    let mut stack: Vec<StorePath> = paths.to_vec();
    while let Some(path) = stack.pop() {
        if let Some((path, offer)) = plan.will_substitute.get_key_value(&path)
            && seen.insert(path)
        {
            stack.extend(offer.info.references.iter().cloned());
        }
    }
    seen
}
