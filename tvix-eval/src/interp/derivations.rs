//! The derivations that an evaluation has instantiated.

use std::cell::RefCell;
use std::sync::Arc;

use nix_compat::derivation::{Derivation, HashModulo};
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

/// The derivations that an evaluation has instantiated.
#[derive(Default)]
pub(crate) struct Derivations {
    known: RefCell<FxHashMap<StorePath, Instantiated>>,
}

/// An instantiated derivation.
#[derive(Clone)]
pub(crate) struct Instantiated {
    pub(crate) derivation: Arc<Derivation>,
    pub(crate) modulo: HashModulo,
}

impl Derivations {
    pub(crate) fn get(&self, path: &StorePath) -> Option<Instantiated> {
        self.known.borrow().get(path).cloned()
    }

    pub(crate) fn modulo(&self, path: &StorePath) -> Option<HashModulo> {
        self.known.borrow().get(path).map(|known| known.modulo)
    }

    /// Stores a derivation; `false` if it was present.
    pub(crate) fn insert(&self, path: StorePath, known: Instantiated) -> bool {
        self.known.borrow_mut().insert(path, known).is_none()
    }
}
