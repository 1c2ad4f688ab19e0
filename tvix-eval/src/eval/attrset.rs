//! Construction of attribute sets, and the scopes of `rec` and `let`.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::heap::HeapVec;
use crate::interp::{Demand, Grown, Interp, Memo, Offer};
use crate::ir::{AttrKind, AttrSet, Delayed, DynamicAttr};
use crate::source::Pos;
use crate::value::{Attr, Attrs, Env, MOST_LAYERS, Ref, Value};

impl<'h> Interp<'h> {
    pub(super) fn attr_set(&self, set: &'h AttrSet<'h>, env: Env<'h>) -> Result<Value<'h>> {
        if set.recursive {
            return self.recursive_set(set, env);
        }
        let defs = &*set.defs;
        if defs.is_empty() && set.dynamic.is_empty() {
            return Ok(Value::Attrs(self.shared.no_attrs));
        }
        let entries: &'h [Attr<'h>] = if set.from.is_empty() {
            self.heap.slice_with(defs.len(), |index| {
                let def = &defs[index];
                Attr {
                    name: def.name,
                    pos: def.pos,
                    value: self.delay(&def.value, env),
                }
            })
        } else {
            let from = self.env_of_from(set.from, env, env, 0);
            self.heap.slice_with(defs.len(), |index| {
                let def = &defs[index];
                let scope = if def.kind == AttrKind::From {
                    from
                } else {
                    env
                };
                Attr {
                    name: def.name,
                    pos: def.pos,
                    value: self.delay(&def.value, scope),
                }
            })
        };
        if set.dynamic.is_empty() {
            return Ok(self.attrs_in_heap(entries, set.pos));
        }
        self.with_dynamic(set, entries, env)
    }

    fn env_of_from(
        &self,
        from: &'h [Delayed<'h>],
        around: Env<'h>,
        evaluated_in: Env<'h>,
        first: usize,
    ) -> Env<'h> {
        let scope = Env::new(self.heap, Some(around), from.len());
        for (index, delayed) in from.iter().enumerate() {
            scope.set(first + index, self.delay(delayed, evaluated_in));
        }
        scope
    }

    /// The scope of a `let` body.
    pub(super) fn let_env(&self, set: &'h AttrSet<'h>, env: Env<'h>) -> Result<Env<'h>> {
        let scope = Env::new(self.heap, Some(env), set.defs.len() + set.from.len());
        self.fill_from(set, scope);
        for (index, def) in set.defs.iter().enumerate() {
            let around = if def.kind == AttrKind::Inherited {
                env
            } else {
                scope
            };
            scope.set(index, self.delay(&def.value, around));
        }
        Ok(scope)
    }

    fn fill_from(&self, set: &'h AttrSet<'h>, scope: Env<'h>) {
        for (index, delayed) in set.from.iter().enumerate() {
            // Not `delay`, because a variable of this scope has no cell yet.
            let cell = self.delay(delayed, scope);
            scope.set(set.defs.len() + index, cell);
        }
    }

    fn recursive_set(&self, set: &'h AttrSet<'h>, env: Env<'h>) -> Result<Value<'h>> {
        let scope = Env::new(self.heap, Some(env), set.defs.len() + set.from.len());
        self.fill_from(set, scope);
        let entries: &'h [Attr<'h>] = self.heap.slice_with(set.defs.len(), |index| {
            let def = &set.defs[index];
            let value = match def.kind {
                AttrKind::Inherited => self.delay(&def.value, env),
                // With overrides, other definitions must not share the cells of values.
                _ if set.overrides.is_some() => self.thunk(&def.value, scope),
                _ => self.delay(&def.value, scope),
            };
            scope.set(index, value);
            Attr {
                name: def.name,
                pos: def.pos,
                value,
            }
        });
        let entries = match set.overrides {
            None => entries,
            Some(index) => self.override_attrs(entries, scope, index as usize)?,
        };
        if set.dynamic.is_empty() {
            return Ok(self.attrs_in_heap(entries, set.pos));
        }
        self.with_dynamic(set, entries, scope)
    }

    /// `rec { __overrides = …; }`: an old way to change definitions (`ExprAttrs` in C++ Nix).
    fn override_attrs(
        &self,
        entries: &'h [Attr<'h>],
        scope: Env<'h>,
        index: usize,
    ) -> Result<&'h [Attr<'h>]> {
        let def = entries[index];
        let overrides: &Attrs<'h> = self.expect_attrs(
            def.value,
            Pos::NONE,
            "while evaluating the `__overrides` attribute",
        )?;
        let mut merged: Vec<Attr<'h>> = entries.to_vec();
        for attr in self.entries(overrides) {
            match entries.binary_search_by(|entry| entry.name.cmp(&attr.name)) {
                Ok(at) => {
                    merged[at] = *attr;
                    scope.set(at, attr.value);
                }
                Err(_) => merged.push(*attr),
            }
        }
        merged.sort_by_key(|attr| attr.name);
        Ok(self.heap.slice_copy(&merged))
    }

    fn with_dynamic(
        &self,
        set: &'h AttrSet<'h>,
        entries: &'h [Attr<'h>],
        env: Env<'h>,
    ) -> Result<Value<'h>> {
        let mut all = HeapVec::of(self.heap, entries);
        let memo = Memo::new();
        let offer = |index: u32| match set.dynamic.get(index as usize) {
            None => Offer::End,
            Some(attr) => {
                let place = (set.dynamic.len(), index as usize);
                self.offer_expr(&memo, place, &attr.name, env, Demand::Value)
            }
        };
        self.upcoming(&offer, |upcoming| {
            for (index, attr) in set.dynamic.iter().enumerate() {
                upcoming.at(index);
                let name = self.eval_upcoming(&memo, index, &attr.name, env)?;
                self.add_dynamic(attr, name, env, &mut all)?;
            }
            Ok(())
        })?;
        all.sort_by_key(|attr| attr.name);
        Ok(self.attrs_in_heap(all.into_slice(), set.pos))
    }

    /// The attributes of a set, sorted by symbol.
    #[inline]
    pub fn entries(&self, attrs: &Attrs<'h>) -> &'h [Attr<'h>] {
        match attrs.is_flat() {
            true => attrs.top(),
            false => self.flatten(attrs),
        }
    }

    #[inline(never)]
    fn flatten(&self, attrs: &Attrs<'h>) -> &'h [Attr<'h>] {
        let mut layers = attrs.layers();
        let mut all = layers.next().unwrap_or_default();
        for layer in layers {
            all = self.merged(layer, all);
        }
        attrs.replace_layers(all, None);
        self.attrs_changed(attrs);
        all
    }

    /// Adds an attribute with a computed name.
    fn add_dynamic(
        &self,
        attr: &'h DynamicAttr<'h>,
        name: Value<'h>,
        env: Env<'h>,
        all: &mut HeapVec<'h, Attr<'h>>,
    ) -> Result<()> {
        let name: Ref<'h> = match name {
            Value::Null => return Ok(()),
            value => self.cell(value),
        };
        let name = self
            .expect_plain_string(
                name,
                attr.pos,
                "while evaluating the name of a dynamic attribute",
            )
            .map_err(|error| error.of_type_at(attr.pos))?;
        let name = self.intern_string(name);
        if let Some(before) = all.iter().find(|other| other.name == name) {
            let message = format!(
                "dynamic attribute '{}' already defined at {}",
                self.display(name),
                self.place_text(before.pos)
            );
            return Err(Error::new(ErrorKind::Other, message)).at(attr.pos);
        }
        // Not an alias, so the function is not named after it.
        let value = self.delay(&attr.value, env);
        all.push(Attr {
            name,
            pos: attr.pos,
            value,
        });
        Ok(())
    }

    /// `left // right`.
    pub(crate) fn update(&self, left: &'h Attrs<'h>, right: &'h Attrs<'h>) -> Value<'h> {
        if left.is_empty() {
            return Value::Attrs(right);
        }
        if right.is_empty() {
            return Value::Attrs(left);
        }
        if let Some(layered) = self.layered(left, right) {
            return Value::Attrs(self.heap.alloc(layered));
        }
        let (l, r) = (self.entries(left), self.entries(right));
        if is_few(r.len(), l.len()) && size_of_val(l) >= Grown::SMALL {
            // All names of one side precede those of the other: one slice grows.
            if l[l.len() - 1].name < r[0].name {
                return self.attrs_in_heap(self.grown.entries.append(l, r), left.pos);
            }
            if r[r.len() - 1].name < l[0].name {
                return self.attrs_in_heap(self.grown.entries.prepend(r, l), left.pos);
            }
        } else if is_few(l.len(), r.len()) && size_of_val(r) >= Grown::SMALL {
            if r[r.len() - 1].name < l[0].name {
                return self.attrs_in_heap(self.grown.entries.append(r, l), left.pos);
            }
            if l[l.len() - 1].name < r[0].name {
                return self.attrs_in_heap(self.grown.entries.prepend(l, r), left.pos);
            }
        }
        self.attrs_in_heap(self.merged(l, r), left.pos)
    }

    /// The update of a large set by a small one, of a small one by a large one, or of two that are so
    /// large that a look-up in both costs less than a copy, in layers: the left one is not copied.
    /// Sets that grow in place have no layers.
    #[inline]
    fn layered(&self, left: &'h Attrs<'h>, right: &'h Attrs<'h>) -> Option<Attrs<'h>> {
        let (l, r) = (left.size(), right.size());
        let large = if l >= r { left } else { right };
        let (few, many) = (l.min(r), l.max(r));
        let is_worth = few * 2 <= many && many >= LAYERED || few >= NEVER_COPIED;
        if !is_worth || self.grown.entries.grows(large.top()) {
            return None;
        }
        let top = self.entries(right);
        if left.layers().count() >= MOST_LAYERS {
            // One that probably continues to grow at its end does so in place.
            let is_before = |a: &[Attr<'_>], b: &[Attr<'_>]| a[a.len() - 1].name < b[0].name;
            if is_few(top.len(), left.size())
                && (left.layers().all(|layer| is_before(layer, top))
                    || left.layers().all(|layer| is_before(top, layer)))
            {
                return None;
            }
            self.join_layers(left);
        }
        Some(Attrs::layered(top, left, left.pos))
    }

    /// Joins layers of a set that has [`MOST_LAYERS`], from the top: large ones at the bottom are not copied
    /// for the sake of small ones above them.
    fn join_layers(&self, attrs: &Attrs<'h>) {
        let mut top = attrs.top();
        let mut base = attrs.base();
        let mut left = MOST_LAYERS;
        while let Some(next) = base {
            left -= 1;
            if left <= KEPT_LAYERS && top.len() * 2 <= next.top().len() {
                break;
            }
            top = self.merged(next.top(), top);
            base = next.base();
        }
        attrs.replace_layers(top, base);
        self.attrs_changed(attrs);
    }

    /// The attributes of both slices; those of the second one win.
    fn merged(&self, l: &[Attr<'h>], r: &[Attr<'h>]) -> &'h [Attr<'h>] {
        // Room for names that both sides have is given back at the end, unless it is large and may be much of all.
        let is_counted =
            l.len() + r.len() > COUNTED && !is_few(l.len(), r.len()) && !is_few(r.len(), l.len());
        let common = if is_counted { in_both(l, r) } else { 0 };
        let mut merged = HeapVec::with_capacity(self.heap, l.len() + r.len() - common);
        let mut rest = l;
        if is_few(r.len(), l.len()) {
            // Few changes to many attributes: the runs between them are copied as a whole.
            for attr in r {
                let at = rest.partition_point(|other| other.name < attr.name);
                merged.extend_from_slice(&rest[..at]);
                merged.push(*attr);
                rest = &rest[at..];
                if rest.first().is_some_and(|other| other.name == attr.name) {
                    rest = &rest[1..];
                }
            }
        } else if is_few(l.len(), r.len()) {
            let mut above = r;
            for attr in l {
                let at = above.partition_point(|other| other.name < attr.name);
                merged.extend_from_slice(&above[..at]);
                above = &above[at..];
                if above.first().is_none_or(|other| other.name != attr.name) {
                    merged.push(*attr);
                }
            }
            rest = above;
        } else {
            let (mut at_l, mut at_r) = (0, 0);
            merged.fill(|| {
                let (a, b) = (l.get(at_l)?, r.get(at_r)?);
                at_l += usize::from(a.name <= b.name);
                at_r += usize::from(a.name >= b.name);
                Some(if a.name < b.name { *a } else { *b })
            });
            merged.extend_from_slice(&r[at_r..]);
            rest = &l[at_l..];
        }
        merged.extend_from_slice(rest);
        merged.into_exact_slice()
    }
}

/// Whether one side of an update is much smaller than the other.
#[inline]
fn is_few(few: usize, many: usize) -> bool {
    few * 4 < many
}

/// The least number of attributes of a set that is not copied by an update.
const LAYERED: usize = 24;

/// Number of layers below those that are joined when there are too many.
const KEPT_LAYERS: usize = 4;

/// The least number of attributes of each of two sets that are not copied by an update.
const NEVER_COPIED: usize = 256;

/// The least number of attributes of two sets whose common names are counted before they are merged.
const COUNTED: usize = 1000;

/// The number of names that two sorted slices have in common.
fn in_both(mut l: &[Attr<'_>], mut r: &[Attr<'_>]) -> usize {
    let mut count = 0;
    while let ([a, more_l @ ..], [b, more_r @ ..]) = (l, r) {
        count += usize::from(a.name == b.name);
        if a.name <= b.name {
            l = more_l;
        }
        if b.name <= a.name {
            r = more_r;
        }
    }
    count
}
