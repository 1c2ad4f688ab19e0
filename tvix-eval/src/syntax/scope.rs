//! The scope of a file.

use std::cell::RefCell;
use std::rc::Rc;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use crate::symbol::Symbol;
use crate::value::Ref;

/// The outermost scope of a file: the builtins, or the additional names of `scopedImport`.
#[derive(Default)]
pub struct Scope<'h> {
    names: Names<'h>,
    /// Bindings within the file that is being resolved, by symbol. Empty between files. It is
    /// stored here to be allocated once.
    lexical: RefCell<Vec<Binding>>,
}

enum Names<'h> {
    /// By symbol.
    Base(Vec<Option<Ref<'h>>>),
    Layer {
        names: HashMap<Symbol, Ref<'h>, FxBuildHasher>,
        below: Rc<Scope<'h>>,
    },
}

impl Default for Names<'_> {
    fn default() -> Self {
        Self::Base(Vec::new())
    }
}

/// The binding of a name in the file that is being resolved.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Binding {
    /// Nesting depth of the binding scope, counted from 1; 0 if the name is not bound.
    pub(super) depth: u32,
    /// Slot in that scope.
    pub(super) slot: u32,
}

impl<'h> Scope<'h> {
    /// A scope without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// A scope with the given names, on top of another scope.
    pub fn layered(below: Rc<Self>, names: impl IntoIterator<Item = (Symbol, Ref<'h>)>) -> Self {
        Self {
            names: Names::Layer {
                names: names.into_iter().collect(),
                below,
            },
            lexical: RefCell::default(),
        }
    }

    /// Binds a name in this scope, replacing an earlier binding.
    pub fn insert(&mut self, name: Symbol, value: Ref<'h>) {
        match &mut self.names {
            Names::Base(table) => {
                let index = name.0 as usize;
                if table.len() <= index {
                    table.resize(index + 1, None);
                }
                table[index] = Some(value);
            }
            Names::Layer { names, .. } => {
                names.insert(name, value);
            }
        }
    }

    /// The binding of a name.
    #[inline]
    pub fn lookup(&self, name: Symbol) -> Option<Ref<'h>> {
        match &self.names {
            Names::Base(table) => table.get(name.0 as usize).copied().flatten(),
            Names::Layer { names, below } => match names.get(&name) {
                Some(value) => Some(*value),
                None => below.lookup(name),
            },
        }
    }

    /// Whether this is not the base scope.
    pub(super) fn is_layer(&self) -> bool {
        matches!(self.names, Names::Layer { .. })
    }

    /// The values of all names.
    pub(crate) fn values(&self) -> Vec<Ref<'h>> {
        match &self.names {
            Names::Base(table) => table.iter().copied().flatten().collect(),
            Names::Layer { names, below } => {
                let mut values = below.values();
                values.extend(names.values());
                values
            }
        }
    }

    /// Whether a name is bound in a layer above the base scope.
    pub(super) fn shadows(&self, name: Symbol) -> bool {
        match &self.names {
            Names::Base(_) => false,
            Names::Layer { names, below } => names.contains_key(&name) || below.shadows(name),
        }
    }

    /// The table of the base scope.
    pub(super) fn lexical(&self) -> &RefCell<Vec<Binding>> {
        match &self.names {
            Names::Base(_) => &self.lexical,
            Names::Layer { below, .. } => below.lexical(),
        }
    }
}
