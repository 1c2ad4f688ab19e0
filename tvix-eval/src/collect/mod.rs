//! The collector: it finds the values that are in use, and frees the memory of all others.
//!
//! *Roots* are exact where their types are known: the tables of the interpreter, handles ([`Held`])
//! and the cells that expressions refer to. Stacks are searched word by word: of the running fiber,
//! of suspended ones, and of the code that resumes them. A word that looks like the address of an
//! object, or of a part of one, keeps the object alive. Values, scopes and slices are then followed
//! by their types.
//!
//! Only a call of a function can start a collection (`Interp::look_around`). So whatever is built
//! between two calls needs no care. What Rust code holds *while it evaluates* must be on its stack,
//! in the heap ([`HeapVec`](crate::heap::HeapVec)), reachable from the arguments of the builtin
//! that is called, or kept ([`Keep`](crate::heap::Keep)): a vector of the ordinary heap hides it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ptr::NonNull;
use std::rc::Rc;

use crate::heap::{
    Found, Heap, Item, Kind, Marks, Object, SEARCHES_STACKS, StackPart, with_registers,
};
use crate::interp::Interp;
use crate::value::{
    Apply, Apply2, Attr, Attrs, Elements, Env, List, NixPath, NixString, Partial, Ref, Slot, Value,
};

/// Bytes that are handed out before the first collection.
const FIRST: usize = 192 << 20;

/// The least number of bytes that are handed out between two collections.
const LEAST: usize = 64 << 20;

/// Bytes that are in use if as many are handed out before the next collection. A heap of four times
/// the size grows by twice as much, so that its peak is closer to what is in use.
const BALANCED: usize = 64 << 20;

/// The same for a set of jobs: most of what is evaluated stays in use, and collections free little.
const BALANCED_FOR_JOBS: usize = 96 << 20;

/// Forgets addresses of objects that are not in use any more.
type Forget<'h> = Box<dyn Fn(&Alive<'_>) + 'h>;

/// The state of the collector.
#[derive(Default)]
pub(crate) struct Collector<'h> {
    /// Whether code of embedders holds no values except on stacks and by handles.
    allowed: Cell<bool>,
    /// Number of calls of the embedder's functions that have not returned.
    foreign: Cell<usize>,
    /// Whether a set of jobs is evaluated.
    of_jobs: Cell<bool>,
    handles: Rc<Handles<'h>>,
    /// Called after marking, to forget what was freed.
    forget: RefCell<Vec<Forget<'h>>>,
    /// Number of collections.
    pub(crate) count: Cell<u32>,
}

/// What is still in use after marking.
pub(crate) struct Alive<'m>(&'m Marks<'m>);

impl Alive<'_> {
    /// Whether an object or slice at an address is in use.
    pub(crate) fn has(&self, address: usize) -> bool {
        self.0.is_marked(address)
    }
}

/// The cells that handles keep alive.
#[derive(Default)]
struct Handles<'h> {
    cells: RefCell<Vec<Option<Ref<'h>>>>,
    free: RefCell<Vec<usize>>,
}

/// A handle of a cell. It keeps the value of the cell alive, wherever the handle is: in a vector,
/// in a closure, in a map.
pub struct Held<'h> {
    handles: Rc<Handles<'h>>,
    index: usize,
    cell: Ref<'h>,
}

impl<'h> Held<'h> {
    /// The cell.
    #[inline]
    pub fn cell(&self) -> Ref<'h> {
        self.cell
    }
}

impl Clone for Held<'_> {
    fn clone(&self) -> Self {
        self.handles.hold(self.cell)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.handles.cells.borrow_mut()[self.index] = None;
        self.handles.free.borrow_mut().push(self.index);
    }
}

impl std::fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.cell.get()).finish()
    }
}

impl<'h> Handles<'h> {
    fn hold(self: &Rc<Self>, cell: Ref<'h>) -> Held<'h> {
        let mut cells = self.cells.borrow_mut();
        let index = match self.free.borrow_mut().pop() {
            Some(index) => {
                cells[index] = Some(cell);
                index
            }
            None => {
                cells.push(Some(cell));
                cells.len() - 1
            }
        };
        Held {
            handles: self.clone(),
            index,
            cell,
        }
    }
}

/// Counts the calls of the embedder's functions.
pub(crate) struct Foreign<'i>(&'i Cell<usize>);

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Follows references from roots.
pub(crate) struct Tracer<'h> {
    heap: &'h Heap,
    marks: Marks<'h>,
    /// Addresses of marked objects whose references were not followed yet, plus their kind.
    work: Vec<usize>,
    values: PhantomData<Cell<Ref<'h>>>,
}

// The lowest bits of an address on the work list.
const CELL: usize = 0;
const ENV: usize = 1;
const REFS: usize = 2;
const ENTRIES: usize = 3;
const KINDS: usize = 3;

/// Number of objects whose memory is fetched ahead.
const FETCHED: usize = 16;

/// Length of the work list from which on it has no cells that are marked already.
const LONG: usize = 1 << 20;

impl<'h> Tracer<'h> {
    pub(crate) fn new(heap: &'h Heap) -> Self {
        Self {
            heap,
            marks: Marks::new(heap),
            work: Vec::new(),
            values: PhantomData,
        }
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

    /// Cells are marked when they are taken from the work list, and fetched until then.
    #[inline]
    pub(crate) fn cell(&mut self, cell: Ref<'h>) {
        let address = std::ptr::from_ref(cell).addr();
        if !self.marks.contains(address) {
            return;
        }
        // A list that is this long may have many of the same cell.
        if self.work.len() < LONG || !self.marks.is_marked(address) {
            self.work.push(address | CELL);
        }
    }

    #[inline]
    fn env(&mut self, env: Env<'h>) {
        let (header, start, words) = env.extent();
        if self.marks.env(start, words) {
            self.work.push(header | ENV);
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
            Kind::Env => ENV,
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
            Value::String(string) => self.string(string),
            Value::Path(path) => self.path(path),
            Value::List(list) => self.list(list),
            Value::Attrs(attrs) => self.attrs(attrs),
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
                Kind::Env | Kind::Refs | Kind::Entries => self.push(found),
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
    unsafe fn stack(&mut self, part: StackPart) {
        // SAFETY: as the caller guarantees.
        for word in unsafe { part.words() } {
            self.word(word);
        }
    }

    /// Follows all references from what was marked.
    fn follow(&mut self) {
        let mut fetched = [0; FETCHED];
        let (mut first, mut count) = (0, 0);
        loop {
            while count < FETCHED
                && let Some(entry) = self.work.pop()
            {
                self.marks.prefetch(entry & !KINDS);
                fetched[(first + count) % FETCHED] = entry;
                count += 1;
            }
            if count == 0 {
                return;
            }
            let entry = fetched[first];
            first = (first + 1) % FETCHED;
            count -= 1;
            let address = entry & !KINDS;
            // SAFETY: the entry was pushed for an object of its kind.
            unsafe {
                match entry & KINDS {
                    CELL => {
                        let cell = self.at::<Slot<'h>>(address);
                        if self.marks.object(cell) {
                            self.value(cell.get());
                        }
                    }
                    ENV => {
                        let (up, slots) = Env::at(self.heap.pointer(address)).parts();
                        slots.for_each(|cell| self.cell(cell));
                        if let Some(up) = up {
                            self.env(up);
                        }
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
        let first = self.heap.pointer(address);
        // SAFETY: the length precedes the elements.
        unsafe {
            let len = first.cast::<usize>().sub(1).read();
            for index in 0..len {
                let place = first.add(index * size + offset);
                if let Some(cell) = place.cast::<Option<NonNull<Slot<'h>>>>().read() {
                    self.cell(cell.as_ref());
                }
            }
        }
    }
}

impl<'h> Interp<'h> {
    /// A handle that keeps a cell and all that it refers to alive, wherever the handle is. Values
    /// on the stack need none.
    pub fn hold(&self, cell: Ref<'h>) -> Held<'h> {
        self.collector.handles.hold(cell)
    }

    /// Allows collections from now on, if this thread's stack is known. Only for code of this crate
    /// that holds values on its stack and in handles, and lends none to code of embedders, except
    /// to [`Native`](crate::native::Native)s: nothing is collected while one runs.
    pub(crate) fn allow_collection(&self) {
        let known = SEARCHES_STACKS && self.stack_base.get() != 0;
        self.collector.allowed.set(known);
    }

    /// Notes that a set of jobs is evaluated.
    pub(crate) fn collect_for_jobs(&self) {
        self.collector.of_jobs.set(true);
    }

    /// Notes that an embedder's function runs, until the result is dropped.
    pub(crate) fn in_foreign(&self) -> Foreign<'_> {
        let foreign = &self.collector.foreign;
        foreign.set(foreign.get() + 1);
        Foreign(foreign)
    }

    /// Adds a function that forgets addresses of freed objects.
    pub(crate) fn on_collection(&self, forget: impl Fn(&Alive<'_>) + 'h) {
        self.collector.forget.borrow_mut().push(Box::new(forget));
    }

    /// Sets the number of bytes before the first collection.
    pub(crate) fn start_collector(&self) {
        let every = self.world.settings.collect_every;
        self.heap.stressed.set(every.is_some());
        self.heap.set_budget(match every {
            Some(_) => usize::MAX,
            None => FIRST,
        });
    }

    /// Collects if it is time and allowed.
    #[inline]
    pub(crate) fn collect_if_due(&self) {
        if self.heap.is_due() || self.heap.stressed.get() {
            self.collect();
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn collect(&self) -> bool {
        let collector = &self.collector;
        if !collector.allowed.get() || collector.foreign.get() != 0 {
            return false;
        }
        let start = std::time::Instant::now();
        let before = self.heap.used_bytes();
        let live = with_registers(|from| {
            let running = StackPart {
                from,
                until: self.stack_base.get(),
            };
            let mut tracer = Tracer::new(self.heap);
            for part in self.fibers.stacks(running) {
                // SAFETY: the parts of stacks that are in use are readable, and no code runs on
                // them meanwhile, except this function on `running`, below `from`.
                unsafe { tracer.stack(part) };
            }
            self.trace(tracer)
        });
        let by_kind = live;
        let live: usize = by_kind.iter().sum();
        if self.world.settings.collect_every.is_none() {
            let balanced = match collector.of_jobs.get() {
                true => BALANCED_FOR_JOBS,
                false => BALANCED,
            };
            let budget = live.saturating_mul(balanced).isqrt().max(LEAST);
            self.heap.set_budget(budget);
            self.heap.give_back(budget + budget / 4);
        }
        collector.count.set(collector.count.get() + 1);
        tracing::debug!(
            live,
            before,
            after = self.heap.used_bytes(),
            by_kind = ?Kind::ALL.iter().zip(by_kind).collect::<Vec<_>>(),
            micros = start.elapsed().as_micros() as u64,
            "collected"
        );
        true
    }

    /// Follows the tables of the interpreter and frees what was not found. Returns the bytes in
    /// use.
    fn trace(&self, mut tracer: Tracer<'h>) -> [usize; Kind::ALL.len()] {
        let Collector {
            allowed: _,
            foreign: _,
            of_jobs: _,
            handles,
            forget,
            count: _,
        } = &self.collector;
        for cell in handles.cells.borrow().iter().flatten() {
            tracer.root(cell);
        }
        for cell in self.scope.borrow().values() {
            tracer.root(cell);
        }
        for address in self.heap.roots() {
            // SAFETY: `Heap::add_root` was called for a cell, which is kept since then.
            tracer.root(unsafe { &*std::ptr::with_exposed_provenance::<Slot<'h>>(address) });
        }
        for (cell, _) in self.world.imports.borrow().values() {
            tracer.root(cell);
        }
        for (path, copied) in self.world.copied.borrow().iter() {
            tracer.bytes(path);
            tracer.string(copied);
        }
        self.speculation.trace(&mut tracer);
        self.grown.bytes.forget();
        self.grown.items.forget();
        self.grown.entries.forget();
        tracer.follow();
        let alive = Alive(&tracer.marks);
        for forget in forget.borrow().iter() {
            forget(&alive);
        }
        tracer.marks.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::source::Pos;
    use crate::value::{ContextId, Env};
    use crate::world::{Settings, World};

    fn with_interp(work: impl FnOnce(&Interp<'_>)) {
        let heap = Heap::new();
        let settings = Settings {
            collect_every: Some(1),
            ..Settings::default()
        };
        let files = Rc::new(MemoryFiles::default());
        work(&Interp::new(
            &heap,
            World::new(settings, files, Rc::new(NoHost)),
        ));
    }

    impl<'h> Interp<'h> {
        /// Collects what no table and no handle refers to. Stacks are not searched.
        fn collect_exactly(&self) -> usize {
            let live = self.trace(Tracer::new(self.heap));
            live.iter().sum()
        }

        fn json(&self, cell: Ref<'h>) -> String {
            let (mut text, mut context) = (Vec::new(), ContextId::EMPTY);
            self.write_json(cell, Pos::NONE, false, &mut text, &mut context)
                .unwrap();
            String::from_utf8(text).unwrap()
        }
    }

    /// Random graphs of values, of which some are dropped, against a model: their text.
    #[test]
    fn handles_keep_all_that_they_refer_to() {
        with_interp(|interp| {
            let mut random = 0x1234_5678_9abc_def1_u64;
            let mut next = |below: usize| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                (random % below as u64) as usize
            };
            let rounds = if cfg!(miri) { 300 } else { 6000 };
            let mut pool: Vec<(Held<'_>, String)> = Vec::new();
            for round in 0..rounds {
                let mut parts = Vec::new();
                while !pool.is_empty() && next(4) > 0 && parts.len() < 40 {
                    parts.push(&pool[next(pool.len())]);
                }
                let cells: Vec<_> = parts.iter().map(|(held, _)| held.cell()).collect();
                let texts: Vec<_> = parts.iter().map(|(_, text)| text.as_str()).collect();
                let attrs = |from: usize| -> Vec<_> {
                    let numbers = (from..).zip(&cells);
                    numbers
                        .map(|(number, cell)| Attr {
                            name: interp.intern(format!("k{number:03}")),
                            pos: Pos::NONE,
                            value: cell,
                        })
                        .collect()
                };
                let fields = |from: usize| {
                    let numbers = (from..).zip(&texts);
                    let fields = numbers.map(|(number, text)| format!("\"k{number:03}\":{text}"));
                    fields.collect::<Vec<_>>().join(",")
                };
                let (value, text) = match next(6) {
                    0 => (Value::Int(round), round.to_string()),
                    1 => {
                        let text = "x".repeat(next(600));
                        (interp.text(&text), format!("\"{text}\""))
                    }
                    2 => (interp.list(&cells), format!("[{}]", texts.join(","))),
                    3 => (interp.attrs(attrs(0)), format!("{{{}}}", fields(0))),
                    4 => {
                        let one = interp.attrs(attrs(0));
                        let two = interp.attrs(attrs(100));
                        let both = match (one, two) {
                            (Value::Attrs(one), Value::Attrs(two)) => interp.update(one, two),
                            _ => unreachable!(),
                        };
                        let text = [fields(0), fields(100)].join(",");
                        (both, format!("{{{}}}", text.trim_matches(',')))
                    }
                    _ => {
                        let env = Env::new(interp.heap, None, cells.len());
                        for (slot, cell) in cells.iter().enumerate() {
                            env.set(slot, cell);
                        }
                        // A scope is seen through a function only.
                        (Value::Lambda { code: 0, env }, String::new())
                    }
                };
                if text.len() < 4000 {
                    let cell = interp.cell(value);
                    if !text.is_empty() {
                        assert_eq!(interp.json(cell), text);
                        pool.push((interp.hold(cell), text));
                    }
                }
                if next(3) == 0 && !pool.is_empty() {
                    pool.swap_remove(next(pool.len()));
                }
                if next(40) == 0 {
                    interp.collect_exactly();
                    for (held, text) in &pool {
                        assert_eq!(interp.json(held.cell()), *text);
                    }
                }
            }
            let before = interp.collect_exactly();
            pool.clear();
            let after = interp.collect_exactly();
            assert!(after < before / 2 && after < 64 << 10, "{before} {after}");
        });
    }

    #[test]
    fn large_objects_are_freed_and_used_again() {
        with_interp(|interp| {
            let heap = interp.heap;
            interp.collect_exactly();
            let empty = heap.used_bytes();
            for _ in 0..5 {
                let cell = interp.cell(Value::Int(7));
                let items = vec![cell; 100_000];
                let list = interp.hold(interp.cell(interp.list(&items)));
                let text = interp.text("y".repeat(1 << 20));
                let text = interp.hold(interp.cell(text));
                let env = Env::new(heap, None, 5000);
                env.set(4999, list.cell());
                let function = interp.hold(interp.cell(Value::Lambda { code: 0, env }));
                drop(list);
                interp.collect_exactly();
                let Value::Lambda { env, .. } = function.cell().get() else {
                    panic!("it was one");
                };
                let Value::List(list) = env.get(4999).get() else {
                    panic!("it was one");
                };
                assert!(
                    list.items.len() == 100_000
                        && matches!(list.items[99_999].get(), Value::Int(7))
                );
                let Value::String(text) = text.cell().get() else {
                    panic!("it was one");
                };
                assert!(text.bytes.iter().all(|byte| *byte == b'y'));
            }
            interp.collect_exactly();
            assert!(heap.used_bytes() < empty + (1 << 20));
        });
    }
}
