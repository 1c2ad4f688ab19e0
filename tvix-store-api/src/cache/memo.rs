//! Cached answers of a binary cache.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix_compat::narinfo::NarInfo;
use nix_compat::store_path::StorePath;

/// Number of answers in each of two generations. When the newer one is full, it replaces the older
/// one.
const HALF: usize = 32_768;

/// The narinfo of a path; `None` if the cache does not have the path.
pub(super) type Known = Option<Arc<NarInfo>>;

/// Answers of a cache. Positive answers stay; negative ones expire.
#[derive(Debug)]
pub(super) struct Memo {
    halves: Mutex<[HashMap<StorePath, (Instant, Known)>; 2]>,
    negative_ttl: Duration,
}

impl Memo {
    pub fn new(negative_ttl: Duration) -> Self {
        Self {
            halves: Mutex::default(),
            negative_ttl,
        }
    }

    pub fn get(&self, path: &StorePath) -> Option<Known> {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, known) = halves.iter().find_map(|half| half.get(path))?;
        let holds = known.is_some() || at.elapsed() < self.negative_ttl;
        holds.then(|| known.clone())
    }

    pub fn learn(&self, path: &StorePath, known: Known) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let [newer, older] = &mut *halves;
        older.remove(path);
        if newer.len() >= HALF {
            std::mem::swap(newer, older);
            newer.clear();
        }
        newer.insert(path.clone(), (Instant::now(), known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_is_asked_for_again() {
        let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-y".parse().unwrap();
        let memo = Memo::new(Duration::from_secs(3600));
        assert!(memo.get(&path).is_none());
        memo.learn(&path, None);
        assert_eq!(memo.get(&path), Some(None));
        let forgetful = Memo::new(Duration::ZERO);
        forgetful.learn(&path, None);
        assert!(forgetful.get(&path).is_none());
    }
}
