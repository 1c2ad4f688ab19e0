//! String contexts: the store paths that a string depends on, and the kind of dependency (Nix
//! manual, "String context").

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher as _;
use std::rc::Rc;

use hashbrown::HashTable;
use nix_compat::derivation::OutputName;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxBuildHasher, FxHashMap};

/// An interned string context. Equal contexts have equal numbers. The default is the empty one.
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

/// All contexts of an evaluation.
///
/// Elements are numbered by first use. A set is a binary trie of these numbers, whose leaves have a
/// bit for each of 64 numbers. Each distinct node exists once, so that sets share the parts that
/// they have in common: a union takes a few nodes, and none if it is one of the two sets. The nodes
/// of a set follow from its elements alone, which makes the number of its root its identity.
#[derive(Debug)]
pub struct Contexts {
    state: RefCell<State>,
    /// Recent unions: two sets and their union.
    recent: Vec<Cell<(u32, u32, u32)>>,
}

/// Number of recent unions; a power of two.
const RECENT: usize = 1 << 12;

#[derive(Debug, Default)]
struct State {
    elements: Vec<Rc<ContextElement>>,
    by_element: FxHashMap<Rc<ContextElement>, u32>,
    /// The node with the number `n` is at `n - 1`.
    nodes: Vec<Node>,
    /// Numbers of nodes, by their contents.
    known: HashTable<u32>,
}

/// A part of a trie. Numbers of elements are split into a key and the number of a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Leaf {
        key: u32,
        /// Not 0.
        bits: u64,
    },
    Branch {
        /// The bits of keys above `bit`.
        prefix: u32,
        /// The highest bit in which keys on the two sides differ.
        bit: u32,
        /// Keys without the bit.
        zero: u32,
        /// Keys with the bit.
        one: u32,
    },
}

impl Node {
    /// The bits that all keys have in common, and the highest one in which they differ, if any.
    fn place(self) -> (u32, u32) {
        match self {
            Self::Leaf { key, .. } => (key, 0),
            Self::Branch { prefix, bit, .. } => (prefix, bit),
        }
    }
}

/// The bits of a key above `bit`.
fn above(key: u32, bit: u32) -> u32 {
    key & !(bit | (bit - 1))
}

impl Default for Contexts {
    fn default() -> Self {
        Self {
            state: RefCell::default(),
            recent: vec![Cell::new((0, 0, 0)); RECENT],
        }
    }
}

impl Contexts {
    /// The set of one element.
    pub fn single(&self, element: ContextElement) -> ContextId {
        let mut state = self.state.borrow_mut();
        let element = state.element(element);
        ContextId(state.single(element))
    }

    /// The set of several elements.
    pub fn of(&self, elements: impl IntoIterator<Item = ContextElement>) -> ContextId {
        let mut set = ContextId::EMPTY;
        for element in elements {
            set = self.union(set, self.single(element));
        }
        set
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
        let (a, b) = (a.0.min(b.0), a.0.max(b.0));
        let place = FxBuildHasher.hash_one((a, b)) as usize >> 20 & (RECENT - 1);
        match self.recent[place].get() {
            (x, y, union) if (x, y) == (a, b) => ContextId(union),
            _ => {
                let union = self.state.borrow_mut().union(a, b);
                self.recent[place].set((a, b, union));
                ContextId(union)
            }
        }
    }

    /// The elements of a set, sorted.
    pub fn elements(&self, id: ContextId) -> Vec<Rc<ContextElement>> {
        if id.is_empty() {
            return Vec::new();
        }
        let state = self.state.borrow();
        let mut elements = Vec::new();
        state.collect(id.0, &mut elements);
        elements.sort_unstable();
        elements
    }

    /// The memory of all contexts in bytes, without what allocators add.
    pub(crate) fn bytes(&self) -> usize {
        let state = self.state.borrow();
        let element = size_of::<ContextElement>() + 64;
        state.nodes.capacity() * size_of::<Node>()
            + state.known.capacity() * (size_of::<u32>() + 1)
            + state.elements.len() * element
            + state.by_element.capacity() * (size_of::<(Rc<ContextElement>, u32)>() + 1)
    }
}

impl State {
    fn element(&mut self, element: ContextElement) -> u32 {
        if let Some(known) = self.by_element.get(&element) {
            return *known;
        }
        let id = self.elements.len() as u32;
        let element = Rc::new(element);
        self.elements.push(element.clone());
        self.by_element.insert(element, id);
        id
    }

    fn node(&self, number: u32) -> Node {
        self.nodes[number as usize - 1]
    }

    /// The number of a node.
    fn number(&mut self, node: Node) -> u32 {
        let hash = FxBuildHasher.hash_one(node);
        let nodes = &self.nodes;
        let known = self
            .known
            .find(hash, |number| nodes[*number as usize - 1] == node);
        if let Some(known) = known {
            return *known;
        }
        self.nodes.push(node);
        let number = u32::try_from(self.nodes.len()).expect("fewer than 2^32 parts of contexts");
        let nodes = &self.nodes;
        self.known.insert_unique(hash, number, |number| {
            FxBuildHasher.hash_one(nodes[*number as usize - 1])
        });
        number
    }

    fn single(&mut self, element: u32) -> u32 {
        self.number(Node::Leaf {
            key: element / 64,
            bits: 1 << (element % 64),
        })
    }

    /// The union of two sets that are not empty. Recurses once per bit of a key.
    fn union(&mut self, a: u32, b: u32) -> u32 {
        if a == b {
            return a;
        }
        let (left, right) = (self.node(a), self.node(b));
        let (key_a, bit_a) = left.place();
        let (key_b, bit_b) = right.place();
        match (left, right) {
            (Node::Leaf { key, bits }, Node::Leaf { bits: more, .. }) if key_a == key_b => self
                .number(Node::Leaf {
                    key,
                    bits: bits | more,
                }),
            (
                Node::Branch { zero, one, .. },
                Node::Branch {
                    zero: more_zero,
                    one: more_one,
                    ..
                },
            ) if bit_a == bit_b && key_a == key_b => {
                let zero = self.union(zero, more_zero);
                let one = self.union(one, more_one);
                self.number(Node::Branch {
                    prefix: key_a,
                    bit: bit_a,
                    zero,
                    one,
                })
            }
            (Node::Branch { zero, one, .. }, _)
                if bit_a > bit_b && above(key_b, bit_a) == key_a =>
            {
                self.below(key_a, bit_a, (zero, one), key_b, b)
            }
            (_, Node::Branch { zero, one, .. })
                if bit_b > bit_a && above(key_a, bit_b) == key_b =>
            {
                self.below(key_b, bit_b, (zero, one), key_a, a)
            }
            _ => {
                let bit = 1 << (31 - (key_a ^ key_b).leading_zeros());
                let (zero, one) = if key_a & bit == 0 { (a, b) } else { (b, a) };
                self.number(Node::Branch {
                    prefix: above(key_a, bit),
                    bit,
                    zero,
                    one,
                })
            }
        }
    }

    /// The union of a branch and a set that belongs below it.
    fn below(
        &mut self,
        prefix: u32,
        bit: u32,
        (mut zero, mut one): (u32, u32),
        key: u32,
        set: u32,
    ) -> u32 {
        if key & bit == 0 {
            zero = self.union(zero, set);
        } else {
            one = self.union(one, set);
        }
        self.number(Node::Branch {
            prefix,
            bit,
            zero,
            one,
        })
    }

    fn collect(&self, number: u32, elements: &mut Vec<Rc<ContextElement>>) {
        match self.node(number) {
            Node::Leaf { key, mut bits } => {
                while bits != 0 {
                    let element = key * 64 + bits.trailing_zeros();
                    elements.push(self.elements[element as usize].clone());
                    bits &= bits - 1;
                }
            }
            Node::Branch { zero, one, .. } => {
                self.collect(zero, elements);
                self.collect(one, elements);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn element(number: u32) -> ContextElement {
        let text = format!("{:0>32}-x", number);
        ContextElement::Opaque(StorePath::from_base_name(&text).unwrap())
    }

    #[test]
    fn many_unions_take_little() {
        let contexts = Contexts::default();
        let mut all = ContextId::EMPTY;
        for number in 0..20_000 {
            all = contexts.union(all, contexts.single(element(number)));
        }
        assert_eq!(contexts.elements(all).len(), 20_000);
        let bytes = contexts.bytes();
        assert!(bytes < 20_000 * 1000, "{bytes}");
        // What is there already adds nothing.
        let nodes = contexts.state.borrow().nodes.len();
        for number in 0..20_000 {
            assert_eq!(contexts.union(all, contexts.single(element(number))), all);
        }
        assert_eq!(contexts.state.borrow().nodes.len(), nodes);
    }

    proptest! {
        #[test]
        fn sets_are_sets(
            groups in proptest::collection::vec(
                proptest::collection::vec(0_u32..40_000, 0..30),
                0..12,
            )
        ) {
            let contexts = Contexts::default();
            // Numbers are given out by first use.
            for number in (0..40_000).step_by(7) {
                contexts.single(element(number));
            }
            let mut all = ContextId::EMPTY;
            let mut expected = BTreeSet::new();
            for group in &groups {
                let set = contexts.of(group.iter().map(|number| element(*number)));
                let numbers: BTreeSet<_> = group.iter().map(|number| element(*number)).collect();
                let elements = contexts.elements(set);
                prop_assert!(elements.iter().map(|it| &**it).eq(&numbers));
                all = contexts.union(all, set);
                prop_assert_eq!(contexts.union(set, all), all);
                expected.extend(numbers);
            }
            let elements = contexts.elements(all);
            prop_assert!(elements.iter().map(|it| &**it).eq(&expected));
            prop_assert_eq!(contexts.of(expected), all);
        }
    }
}
