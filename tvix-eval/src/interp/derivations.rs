//! The derivations that an evaluation has instantiated.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use nix_compat::derivation::{Derivation, HashModulo};
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

/// The derivations that an evaluation has instantiated.
#[derive(Default)]
pub(crate) struct Derivations {
    known: RefCell<FxHashMap<StorePath, Instantiated>>,
    bytes: Cell<usize>,
}

/// An instantiated derivation.
#[derive(Clone)]
pub(crate) struct Instantiated {
    pub(crate) derivation: Arc<Derivation>,
    pub(crate) modulo: HashModulo,
}

/// About the memory of a derivation in bytes.
fn size(derivation: &Derivation) -> usize {
    /// A key, a value and what they allocate.
    const ENTRY: usize = 128;
    let env = derivation.env.iter();
    let args = derivation.args.iter();
    let inputs = derivation.input_drvs.len() + derivation.input_srcs.len();
    env.map(|(name, value)| ENTRY + name.len() + value.len())
        .chain(args.map(|arg| ENTRY + arg.len()))
        .sum::<usize>()
        + (inputs + derivation.outputs.len()) * ENTRY
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
        let bytes = size(&known.derivation);
        let is_new = self.known.borrow_mut().insert(path, known).is_none();
        if is_new {
            self.bytes.set(self.bytes.get() + bytes);
        }
        is_new
    }

    /// About the memory of all derivations in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }
}
