//! Keys of `genericClosure`.

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use crate::error::Result;
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{NixString, Ref, Value};

/// Keys that have occurred, with their elements. Any comparable values can be keys, but nearly all
/// are integers or strings, which are looked up by hash.
#[derive(Default)]
pub(super) enum Keys<'h> {
    #[default]
    None,
    Ints(FxHashMap<i64, Ref<'h>>),
    Strings(FxHashMap<&'h [u8], (&'h NixString<'h>, Ref<'h>)>),
    /// Sorted.
    Mixed(Vec<(Value<'h>, Ref<'h>)>),
}

impl<'h> Keys<'h> {
    /// Adds the key of an element; `false` if the key is present. Fails if the key cannot be
    /// compared with the others.
    pub(super) fn insert(
        &mut self,
        interp: &Interp<'h>,
        key: Value<'h>,
        element: Ref<'h>,
    ) -> Result<bool> {
        match (&mut *self, key) {
            (Self::Ints(known), Value::Int(key)) => Ok(is_new(known, key, element)),
            (Self::Strings(known), Value::String(key)) => {
                Ok(is_new(known, key.bytes, (key, element)))
            }
            (Self::None, Value::Int(key)) => {
                *self = Self::Ints(std::iter::once((key, element)).collect());
                Ok(true)
            }
            (Self::None, Value::String(key)) => {
                *self = Self::Strings(std::iter::once((key.bytes, (key, element))).collect());
                Ok(true)
            }
            (Self::Mixed(known), key) => insert_sorted(interp, known, key, element),
            (_, key) => {
                let mut known = std::mem::take(self).sorted();
                let result = insert_sorted(interp, &mut known, key, element);
                *self = Self::Mixed(known);
                result
            }
        }
    }

    fn sorted(self) -> Vec<(Value<'h>, Ref<'h>)> {
        match self {
            Self::None => Vec::new(),
            Self::Ints(keys) => {
                let mut keys: Vec<_> = keys.into_iter().collect();
                keys.sort_unstable_by_key(|(key, _)| *key);
                let values = keys.into_iter();
                values.map(|(key, it)| (Value::Int(key), it)).collect()
            }
            Self::Strings(keys) => {
                let mut keys: Vec<_> = keys.into_values().collect();
                keys.sort_unstable_by_key(|(key, _)| key.bytes);
                let values = keys.into_iter();
                values.map(|(key, it)| (Value::String(key), it)).collect()
            }
            Self::Mixed(keys) => keys,
        }
    }
}

/// Inserts an entry unless the key is present; whether it was inserted.
fn is_new<K: Eq + Hash, V>(known: &mut FxHashMap<K, V>, key: K, value: V) -> bool {
    match known.entry(key) {
        Entry::Occupied(_) => false,
        Entry::Vacant(entry) => {
            entry.insert(value);
            true
        }
    }
}

fn insert_sorted<'h>(
    interp: &Interp<'h>,
    known: &mut Vec<(Value<'h>, Ref<'h>)>,
    key: Value<'h>,
    element: Ref<'h>,
) -> Result<bool> {
    let (mut low, mut high) = (0, known.len());
    while low < high {
        let middle = (low + high) / 2;
        let (value, other) = known[middle];
        let order = compare(interp, key, value).map_err(|error| {
            let (new, old) = (interp.show_value(element), interp.show_value(other));
            error
                .within(Pos::NONE, format!("with element {old}"))
                .within(Pos::NONE, format!("while comparing element {new}"))
        })?;
        match order {
            Ordering::Less => high = middle,
            Ordering::Greater => low = middle + 1,
            Ordering::Equal => return Ok(false),
        }
    }
    known.insert(low, (key, element));
    Ok(true)
}

fn compare<'h>(interp: &Interp<'h>, a: Value<'h>, b: Value<'h>) -> Result<Ordering> {
    Ok(if interp.less(a, b)? {
        Ordering::Less
    } else if interp.less(b, a)? {
        Ordering::Greater
    } else {
        Ordering::Equal
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::heap::Heap;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    #[test]
    fn keys_of_every_kind() {
        let heap = Heap::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let null = interp.cell(Value::Null);
        let mut keys = Keys::default();
        for number in [3, 1, 2] {
            assert!(keys.insert(&interp, Value::Int(number), null).unwrap());
            assert!(!keys.insert(&interp, Value::Int(number), null).unwrap());
        }
        assert!(matches!(keys, Keys::Ints(_)));
        assert!(!keys.insert(&interp, Value::Float(2.0), null).unwrap());
        assert!(keys.insert(&interp, Value::Float(2.5), null).unwrap());
        assert!(!keys.insert(&interp, Value::Int(3), null).unwrap());
        assert!(keys.insert(&interp, interp.text("a"), null).is_err());

        let mut keys = Keys::default();
        assert!(keys.insert(&interp, interp.text("a"), null).unwrap());
        assert!(!keys.insert(&interp, interp.text("a"), null).unwrap());
        assert!(keys.insert(&interp, interp.text("b"), null).unwrap());
        assert!(keys.insert(&interp, Value::Int(1), null).is_err());
        assert!(!keys.insert(&interp, interp.text("b"), null).unwrap());
        let list = |text| interp.list_of([interp.text(text)]);
        assert!(Keys::default().insert(&interp, list("a"), null).unwrap());
    }
}
