//! The keys of `genericClosure`.

use std::cmp::Ordering;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::{Result, ResultExt};
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{NixString, Value};

/// Keys that were met. They may be whatever can be compared, but are integers or strings nearly
/// always, which need no comparing.
#[derive(Default)]
pub(super) enum Keys<'h> {
    #[default]
    None,
    Ints(FxHashSet<i64>),
    Strings(FxHashMap<&'h [u8], &'h NixString<'h>>),
    /// In their order.
    Mixed(Vec<Value<'h>>),
}

impl<'h> Keys<'h> {
    /// Adds a key; `false` if it is there. Fails if it cannot be compared with those.
    pub(super) fn insert(&mut self, interp: &Interp<'h>, key: Value<'h>) -> Result<bool> {
        match (&mut *self, key) {
            (Self::Ints(known), Value::Int(key)) => Ok(known.insert(key)),
            (Self::Strings(known), Value::String(key)) => {
                Ok(known.insert(key.bytes, key).is_none())
            }
            (Self::None, Value::Int(key)) => {
                *self = Self::Ints(std::iter::once(key).collect());
                Ok(true)
            }
            (Self::None, Value::String(key)) => {
                *self = Self::Strings(std::iter::once((key.bytes, key)).collect());
                Ok(true)
            }
            (Self::Mixed(known), key) => insert_sorted(interp, known, key),
            (_, key) => {
                let mut known = std::mem::take(self).sorted();
                let result = insert_sorted(interp, &mut known, key);
                *self = Self::Mixed(known);
                result
            }
        }
    }

    fn sorted(self) -> Vec<Value<'h>> {
        match self {
            Self::None => Vec::new(),
            Self::Ints(keys) => {
                let mut keys: Vec<i64> = keys.into_iter().collect();
                keys.sort_unstable();
                keys.into_iter().map(Value::Int).collect()
            }
            Self::Strings(keys) => {
                let mut keys: Vec<_> = keys.into_values().collect();
                keys.sort_unstable_by_key(|key| key.bytes);
                keys.into_iter().map(Value::String).collect()
            }
            Self::Mixed(keys) => keys,
        }
    }
}

fn insert_sorted<'h>(
    interp: &Interp<'h>,
    known: &mut Vec<Value<'h>>,
    key: Value<'h>,
) -> Result<bool> {
    let (mut low, mut high) = (0, known.len());
    while low < high {
        let middle = (low + high) / 2;
        let order = compare(interp, key, known[middle]).within(
            Pos::NONE,
            "while comparing the `key` attributes of two genericClosure elements",
        )?;
        match order {
            Ordering::Less => high = middle,
            Ordering::Greater => low = middle + 1,
            Ordering::Equal => return Ok(false),
        }
    }
    known.insert(low, key);
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

    use bumpalo::Bump;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    #[test]
    fn keys_of_every_kind() {
        let heap = Bump::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let mut keys = Keys::default();
        for number in [3, 1, 2] {
            assert!(keys.insert(&interp, Value::Int(number)).unwrap());
            assert!(!keys.insert(&interp, Value::Int(number)).unwrap());
        }
        assert!(matches!(keys, Keys::Ints(_)));
        assert!(!keys.insert(&interp, Value::Float(2.0)).unwrap());
        assert!(keys.insert(&interp, Value::Float(2.5)).unwrap());
        assert!(!keys.insert(&interp, Value::Int(3)).unwrap());
        assert!(keys.insert(&interp, interp.text("a")).is_err());

        let mut keys = Keys::default();
        assert!(keys.insert(&interp, interp.text("a")).unwrap());
        assert!(!keys.insert(&interp, interp.text("a")).unwrap());
        assert!(keys.insert(&interp, interp.text("b")).unwrap());
        assert!(keys.insert(&interp, Value::Int(1)).is_err());
        assert!(!keys.insert(&interp, interp.text("b")).unwrap());
        let list = |text| interp.list_of([interp.text(text)]);
        assert!(Keys::default().insert(&interp, list("a")).unwrap());
    }
}
