//! String contexts: the store paths that a string depends on, and the kind of dependency (Nix
//! manual, "String context").

use std::cell::RefCell;

use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;

/// An interned set of [`ContextElement`]s. The default is the empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ContextId(u32);

impl ContextId {
    /// The empty set.
    pub const EMPTY: Self = Self(0);

    /// Whether the set is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A store path that a string depends on. Elements are ordered like the inputs of derivations.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContextElement {
    /// The path itself: a source, or a `.drv` file.
    Opaque(StorePath),
    /// A `.drv` file with its complete closure.
    Deep(StorePath),
    /// An output of a derivation.
    Output {
        /// The derivation.
        drv_path: StorePath,
        /// Its output.
        output: OutputName,
    },
}

/// The elements of a set, by number, in ascending order.
type Members = Box<[u32]>;

/// All contexts of an evaluation. Each is stored once.
#[derive(Debug)]
pub struct Contexts {
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    elements: Vec<ContextElement>,
    by_element: FxHashMap<ContextElement, u32>,
    sets: Vec<Members>,
    by_members: FxHashMap<Members, u32>,
    unions: FxHashMap<(u32, u32), u32>,
}

impl Default for Contexts {
    fn default() -> Self {
        Self {
            state: RefCell::new(State {
                elements: Vec::new(),
                by_element: FxHashMap::default(),
                sets: vec![Box::default()],
                by_members: std::iter::once((Box::default(), 0)).collect(),
                unions: FxHashMap::default(),
            }),
        }
    }
}

impl Contexts {
    /// The set of one element.
    pub fn single(&self, element: ContextElement) -> ContextId {
        let mut state = self.state.borrow_mut();
        let element = state.element(element);
        state.set([element].into())
    }

    /// The set of several elements.
    pub fn of(&self, elements: impl IntoIterator<Item = ContextElement>) -> ContextId {
        let mut state = self.state.borrow_mut();
        let mut members: Vec<u32> = elements
            .into_iter()
            .map(|element| state.element(element))
            .collect();
        members.sort_unstable();
        members.dedup();
        state.set(members.into())
    }

    /// The union of two sets.
    #[inline]
    pub fn union(&self, a: ContextId, b: ContextId) -> ContextId {
        if a == b || b.is_empty() {
            return a;
        }
        if a.is_empty() {
            return b;
        }
        self.union_of_two(a, b)
    }

    #[inline(never)]
    fn union_of_two(&self, a: ContextId, b: ContextId) -> ContextId {
        let key = (a.0.min(b.0), a.0.max(b.0));
        let mut state = self.state.borrow_mut();
        if let Some(known) = state.unions.get(&key) {
            return ContextId(*known);
        }
        let left = &state.sets[key.0 as usize];
        let right = &state.sets[key.1 as usize];
        let mut members = Vec::with_capacity(left.len() + right.len());
        members.extend_from_slice(left);
        members.extend_from_slice(right);
        members.sort_unstable();
        members.dedup();
        let union = state.set(members.into());
        state.unions.insert(key, union.0);
        union
    }

    /// The elements of a set, sorted.
    pub fn elements(&self, id: ContextId) -> Vec<ContextElement> {
        let state = self.state.borrow();
        let mut elements: Vec<_> = state.sets[id.0 as usize]
            .iter()
            .map(|member| state.elements[*member as usize].clone())
            .collect();
        elements.sort();
        elements
    }
}

impl State {
    fn element(&mut self, element: ContextElement) -> u32 {
        if let Some(known) = self.by_element.get(&element) {
            return *known;
        }
        let id = self.elements.len() as u32;
        self.elements.push(element.clone());
        self.by_element.insert(element, id);
        id
    }

    fn set(&mut self, members: Members) -> ContextId {
        if let Some(known) = self.by_members.get(&members) {
            return ContextId(*known);
        }
        let id = self.sets.len() as u32;
        self.sets.push(members.clone());
        self.by_members.insert(members, id);
        ContextId(id)
    }
}
