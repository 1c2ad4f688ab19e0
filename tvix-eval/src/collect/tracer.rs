//! Follows references from roots, by the types of values.

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;

use crate::heap::{Found, Heap, Item, Kind, Marks, Object, StackPart};
use crate::value::{
    Apply, Apply2, Attr, Attrs, Elements, Env, List, NixPath, NixString, Partial, Ref, Slot, Value,
};

/// Follows references from roots.
pub(crate) struct Tracer<'h> {
    heap: &'h Heap,
    pub(super) marks: Marks<'h>,
    /// Addresses of objects whose references were not followed yet, plus their kind. Cells and
    /// slices are marked already; others are marked when they are taken from here, and fetched
    /// until then.
    work: Vec<usize>,
    /// Parts of long slices whose references were not followed yet.
    long: Vec<Rest>,
    /// Addresses of objects that stacks refer to.
    on_stacks: Vec<usize>,
    values: PhantomData<Cell<Ref<'h>>>,
}

/// A part of a slice: each element has a reference to a cell, or 0, at an offset.
struct Rest {
    /// The address of the first element.
    address: usize,
    /// Number of elements.
    len: usize,
    /// Size of an element in bytes.
    size: usize,
    offset: usize,
}

/// Number of elements of a slice that are followed at once. More would make the work list as long
/// as the longest list.
const PORTION: usize = 4096;

// The lowest bits of an address on the work list.
const CELL: usize = 0;
const ENV: usize = 1;
const REFS: usize = 2;
const ENTRIES: usize = 3;
const ATTRS: usize = 4;
const LIST: usize = 5;
const STRING: usize = 6;
const KINDS: usize = 7;

/// Number of objects whose memory is fetched ahead.
const FETCHED: usize = 16;

impl<'h> Tracer<'h> {
    /// Follows references from roots: all of them if `full`, otherwise only those to objects that
    /// were not marked by an earlier collection.
    pub(crate) fn new(heap: &'h Heap, full: bool) -> Self {
        let mut tracer = Self {
            heap,
            marks: Marks::new(heap, full),
            work: Vec::new(),
            long: Vec::new(),
            on_stacks: Vec::new(),
            values: PhantomData,
        };
        for found in tracer.marks.to_follow_again() {
            tracer.contents(found);
        }
        tracer
    }

    /// A reference to an object at an address in the heap.
    ///
    /// # Safety
    ///
    /// An object of this type is at the address.
    unsafe fn at<T>(&self, address: usize) -> &'h T {
        // SAFETY: as the caller guarantees; objects live for `'h` unless they are freed.
        unsafe { self.heap.pointer(address).cast().as_ref() }
    }

    /// A cell that may be anywhere; its value is followed in any case.
    pub(crate) fn root(&mut self, cell: Ref<'h>) {
        self.marks.object(cell);
        self.value(cell.get());
    }

    #[inline]
    pub(crate) fn cell(&mut self, cell: Ref<'h>) {
        let address = std::ptr::from_ref(cell).addr();
        if self.marks.cell(address) {
            self.work.push(address | CELL);
        }
    }

    /// Marks an object of one size later.
    #[inline]
    fn later<T: Object>(&mut self, object: &T, kind: usize) {
        let address = std::ptr::from_ref(object).addr();
        if self.marks.may_be_new(address) {
            self.work.push(address | kind);
        }
    }

    #[inline]
    fn env(&mut self, env: Env<'h>) {
        let address = env.address();
        if self.marks.may_be_new(address) {
            self.work.push(address | ENV);
        }
    }

    /// Follows the slots of an environment, and the enclosing one.
    #[inline]
    fn slots(&mut self, env: Env<'h>) {
        let (up, slots) = env.parts();
        slots.for_each(|cell| self.cell(cell));
        if let Some(up) = up {
            self.env(up);
        }
    }

    #[inline]
    fn slice<T: Item>(&mut self, slice: &[T]) {
        if let Some(found) = self.marks.slice(slice) {
            self.push(found);
        }
    }

    /// Bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.slice(bytes);
    }

    fn push(&mut self, found: Found) {
        let kind = match found.kind {
            Kind::Refs => REFS,
            Kind::Entries => ENTRIES,
            _ => return,
        };
        self.work.push(found.address | kind);
    }

    pub(crate) fn string(&mut self, string: &NixString<'h>) {
        if self.marks.object(string) {
            self.slice(string.bytes);
        }
    }

    fn path(&mut self, path: &NixPath<'h>) {
        if self.marks.object(path) {
            self.slice(path.bytes);
        }
    }

    fn list(&mut self, list: &List<'h>) {
        if self.marks.object(list) {
            self.slice(list.items);
        }
    }

    fn attrs(&mut self, attrs: &Attrs<'h>) {
        if self.marks.object(attrs) {
            self.slice(attrs.top());
            // There are few layers.
            if let Some(base) = attrs.base() {
                self.attrs(base);
            }
        }
    }

    fn new_object<T: Object>(&mut self, object: &T) -> bool {
        self.marks.object(object)
    }

    /// Follows the references of a value.
    #[inline]
    pub(crate) fn value(&mut self, value: Value<'h>) {
        match value {
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Float(_)
            | Value::Hole(_)
            // Its outcome is a root.
            | Value::Uncommitted(_)
            | Value::Failed(_) => {}
            Value::Lambda { env, .. } | Value::Thunk { env, .. } => self.env(env),
            Value::String(string) => self.later(string, STRING),
            Value::Path(path) => self.path(path),
            Value::List(list) => self.later(list, LIST),
            Value::Attrs(attrs) => self.later(attrs, ATTRS),
            // All that a builtin refers to lasts as long as the heap.
            Value::Builtin(builtin) => {
                self.new_object(builtin);
            }
            Value::Partial(partial) => {
                if self.new_object(partial) {
                    self.partial(partial);
                }
            }
            Value::Apply(apply) => {
                if self.new_object(apply) {
                    self.apply(apply);
                }
            }
            Value::Apply2(apply) => {
                if self.new_object(apply) {
                    self.apply2(apply);
                }
            }
            Value::Element { of, .. } => {
                if self.new_object(of) {
                    self.elements(of);
                }
            }
        }
    }

    fn partial(&mut self, Partial { builtin, args }: &Partial<'h>) {
        self.new_object(*builtin);
        self.slice(args);
    }

    fn apply(&mut self, Apply { func, arg }: &Apply<'h>) {
        self.cell(func);
        self.cell(arg);
    }

    fn apply2(&mut self, Apply2 { func, args }: &Apply2<'h>) {
        let [first, second] = args;
        self.cell(func);
        self.cell(first);
        self.cell(second);
    }

    fn elements(&mut self, elements: &Elements<'h>) {
        match elements {
            Elements::Map { func, items } => {
                self.cell(func);
                self.slice(items);
            }
            Elements::GenList { func } => self.cell(func),
            Elements::MapAttrs { func, entries } => {
                self.cell(func);
                self.slice(entries);
            }
        }
    }

    /// A word that may be the address of an object.
    fn word(&mut self, word: usize) {
        if !self.marks.near(word) {
            return;
        }
        let found: Vec<Found> = self.marks.find(word).collect();
        for found in found {
            self.on_stacks.push(found.address);
            if let Some(found) = self.marks.found(found) {
                self.contents(found);
            }
        }
    }

    /// Follows the references of an object that was found by its address. What is zero is not in
    /// use yet.
    fn contents(&mut self, found: Found) {
        let address = found.address;
        let in_use = || {
            let words = self.heap.pointer(address).cast::<usize>();
            // SAFETY: an object of this kind has this size.
            (0..found.kind.size() / 8).any(|index| unsafe { words.add(index).read() } != 0)
        };
        // SAFETY: the block of the address has objects of the kind only; it is one, as it is not
        // zero.
        unsafe {
            match found.kind {
                Kind::Cell => self.value(self.at::<Slot<'h>>(address).get()),
                Kind::Env => self.slots(Env::at(self.heap.pointer(address))),
                Kind::Refs | Kind::Entries => self.push(found),
                Kind::Bytes | Kind::Builtin => {}
                _ if !in_use() => {}
                Kind::List => self.slice(self.at::<List<'h>>(address).items),
                Kind::Attrs => {
                    let attrs = self.at::<Attrs<'h>>(address);
                    self.slice(attrs.top());
                    if let Some(base) = attrs.base() {
                        self.attrs(base);
                    }
                }
                Kind::String => self.slice(self.at::<NixString<'h>>(address).bytes),
                Kind::Path => self.slice(self.at::<NixPath<'h>>(address).bytes),
                Kind::Partial => self.partial(self.at(address)),
                Kind::Apply => self.apply(self.at(address)),
                Kind::Apply2 => self.apply2(self.at(address)),
                Kind::Elements => self.elements(self.at(address)),
            }
        }
    }

    /// A part of a stack.
    ///
    /// # Safety
    ///
    /// It is readable, and nothing writes it meanwhile.
    pub(super) unsafe fn stack(&mut self, part: StackPart) {
        // SAFETY: as the caller guarantees.
        for word in unsafe { part.words() } {
            self.word(word);
        }
    }

    /// The marks, once all references were followed.
    pub(super) fn into_marks(self) -> Marks<'h> {
        self.marks.note_on_stacks(self.on_stacks);
        self.marks
    }

    /// Follows all references from what was marked.
    pub(super) fn follow(&mut self) {
        // Entries that were taken from the work list and are being fetched; 0 for none.
        let mut fetched = [0; FETCHED];
        let mut at = 0;
        // How many times in a row the work list was empty.
        let mut empty = 0;
        loop {
            if empty >= FETCHED && self.work.is_empty() {
                match self.long.pop() {
                    // SAFETY: it is a part of a slice that was found.
                    Some(rest) => unsafe { self.portion(rest) },
                    None => return,
                }
                continue;
            }
            let next = match self.work.pop() {
                Some(entry) => {
                    self.marks.prefetch(entry & !KINDS);
                    empty = 0;
                    entry
                }
                None => {
                    empty += 1;
                    0
                }
            };
            let entry = std::mem::replace(&mut fetched[at], next);
            at = (at + 1) % FETCHED;
            if entry == 0 {
                continue;
            }
            let address = entry & !KINDS;
            // SAFETY: the entry was pushed for an object of its kind.
            unsafe {
                match entry & KINDS {
                    CELL => self.value(self.at::<Slot<'h>>(address).get()),
                    ATTRS => self.attrs(self.at(address)),
                    LIST => self.list(self.at(address)),
                    STRING => self.string(self.at(address)),
                    ENV => {
                        let env = Env::at(self.heap.pointer(address));
                        let (start, words) = env.extent();
                        if !self.marks.env(start, words) {
                            continue;
                        }
                        self.slots(env);
                    }
                    REFS => self.references(address, 8, 0),
                    _ => {
                        let value = offset_of!(Attr<'h>, value);
                        self.references(address, size_of::<Attr<'h>>(), value);
                    }
                }
            }
        }
    }

    /// The cells that the elements of a slice refer to; those that are not written yet are zero.
    ///
    /// # Safety
    ///
    /// A slice starts at the address. Each element has a reference to a cell, or 0, at an offset.
    unsafe fn references(&mut self, address: usize, size: usize, offset: usize) {
        // SAFETY: the length precedes the elements.
        unsafe {
            let first = self.heap.pointer(address);
            let len = first.cast::<usize>().sub(1).read();
            self.portion(Rest {
                address,
                len,
                size,
                offset,
            });
        }
    }

    /// The cells that the first elements of a part refer to. Others follow later.
    ///
    /// # Safety
    ///
    /// The part is one of a slice in the heap.
    unsafe fn portion(&mut self, mut rest: Rest) {
        let first = self.heap.pointer(rest.address);
        let count = rest.len.min(PORTION);
        for index in 0..count {
            // SAFETY: as the caller guarantees.
            unsafe {
                let place = first.add(index * rest.size + rest.offset);
                if let Some(cell) = place.cast::<Option<NonNull<Slot<'h>>>>().read() {
                    self.cell(cell.as_ref());
                }
            }
        }
        if rest.len > count {
            rest.address += count * rest.size;
            rest.len -= count;
            self.long.push(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_objects_but_not_their_neighbours() {
        let heap = Heap::new();
        let cells: Vec<Ref<'_>> = (0..6)
            .map(|number| heap.alloc(Cell::new(Value::Int(number))))
            .collect();
        let address = |cell: Ref<'_>| std::ptr::from_ref(cell).addr();
        let slice = heap.slice_copy(&[cells[0], cells[5]]);
        let mut tracer = Tracer::new(&heap, true);
        for word in [address(cells[2]), address(cells[4]) + 8] {
            tracer.word(word);
        }
        tracer.follow();
        let marked = |tracer: &Tracer<'_>| -> Vec<bool> {
            let each = cells.iter();
            each.map(|cell| tracer.marks.is_marked(address(cell)))
                .collect()
        };
        assert_eq!(marked(&tracer), [false, false, true, false, true, false]);
        // Code may have no more of a slice than its end.
        tracer.word(slice.as_ptr_range().end.addr());
        tracer.follow();
        assert_eq!(marked(&tracer), [true, false, true, false, true, true]);
    }
}
