//! The collector: it finds the values that are in use, and frees the memory of all others.
//!
//! *Roots* are exact where their types are known: the tables of the interpreter, handles ([`Held`])
//! and the cells that expressions refer to. Stacks are searched word by word: of the running fiber,
//! of suspended ones, and of the code that resumes them. A word that looks like the address of an
//! object, or of a part of one, keeps the object alive. Values, scopes and slices are then followed
//! by their types.
//!
//! Marks stay until a *full* collection removes them. Other collections do not follow values that are
//! marked, except for objects that were changed since the last collection
//! ([`Heap::note_change`](crate::heap::Heap::note_change)), and those that stacks referred to then:
//! their owners may have filled them further.
//!
//! Only a call of a function, and code that asks for room for a value, can start a collection
//! (`Interp::check_limits`, `make_room`, `room_left`). So whatever is built between two of these
//! needs no care. What Rust code holds *while it evaluates* must be on its stack,
//! in the heap ([`HeapVec`](crate::heap::HeapVec)), reachable from the arguments of the builtin
//! that is called, or kept ([`Keep`](crate::heap::Keep)): a vector of the ordinary heap hides it.

mod held;
mod tracer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::heap::{Kind, Marks, SEARCHES_STACKS, StackPart, with_registers};
use crate::interp::Interp;
use crate::value::{Ref, Slot};

use held::Handles;
pub use held::Held;
pub(crate) use tracer::Tracer;

/// Bytes that are handed out before the first collection.
const FIRST: usize = 192 << 20;

/// The least number of bytes that are handed out between two collections.
const LEAST: usize = 64 << 20;

/// Bytes that are in use if as many are handed out before the next collection. A heap of four times
/// the size grows by twice as much, so that its peak is closer to the memory in use.
const BALANCED: usize = 96 << 20;

/// Bytes in use after a full collection by which the heap may grow before the next full one. It may
/// grow by twice as much if they are four times as many.
const GROWTH: usize = 96 << 20;

/// The least number of bytes by which the heap grows before the next full collection: a single
/// large system has two collections that follow only what is new for each full one.
const LEAST_GROWTH: usize = 160 << 20;

/// The heap of a set of jobs grows by this factor more between two full collections: most of what
/// is evaluated stays in use, and collections free little.
const GROWTH_OF_JOBS: usize = 2;

/// In tests, one of this many collections is a full one.
const FULL_IF_STRESSED: u32 = 4;

/// Forgets addresses of objects that are not in use any more.
type Forget<'h> = Box<dyn Fn(&Alive<'_>) + 'h>;

/// The state of the collector.
#[derive(Default)]
pub(crate) struct Collector<'h> {
    /// Whether code of embedders holds no values except on stacks and by handles.
    allowed: Cell<bool>,
    /// Number of calls of the embedder's functions that have not returned.
    foreign: Cell<usize>,
    /// Whether the embedder's functions ran since the last full collection. They may change cells.
    foreign_code_ran: Cell<bool>,
    /// Whether a set of jobs is evaluated.
    of_jobs: Cell<bool>,
    handles: Rc<Handles<'h>>,
    /// Called after marking, to forget what was freed.
    forget: RefCell<Vec<Forget<'h>>>,
    /// Bytes in use after the last full collection.
    after_full: Cell<usize>,
    /// Number of collections.
    pub(crate) count: Cell<u32>,
    /// Number of requests for room, in tests.
    requests: Cell<u32>,
}

/// What is still in use after marking.
pub(crate) struct Alive<'m>(&'m Marks<'m>);

impl Alive<'_> {
    /// Whether an object or slice at an address is in use.
    pub(crate) fn has(&self, address: usize) -> bool {
        self.0.is_marked(address)
    }
}

/// Counts the calls of the embedder's functions.
pub(crate) struct Foreign<'i> {
    calls: &'i Cell<usize>,
    unwinds: &'i Cell<bool>,
    unwound: bool,
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        self.calls.set(self.calls.get() - 1);
        self.unwinds.set(self.unwound);
    }
}

impl Collector<'_> {
    /// Whether a collection of a heap of `used` bytes is a full one. Memory that was in use once
    /// counts until then, so a graph that is dropped is part of the growth.
    fn is_full_due(&self, stressed: bool, used: usize) -> bool {
        if self.foreign_code_ran.get() || self.after_full.get() == 0 {
            return true;
        }
        if stressed {
            return self.count.get().is_multiple_of(FULL_IF_STRESSED);
        }
        let after_full = self.after_full.get();
        let factor = match self.of_jobs.get() {
            true => GROWTH_OF_JOBS,
            false => 1,
        };
        let growth = after_full.saturating_mul(GROWTH).isqrt().max(LEAST_GROWTH);
        used > after_full + factor * growth
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
        let calls = &self.collector.foreign;
        self.collector.foreign_code_ran.set(true);
        calls.set(calls.get() + 1);
        // Nothing unwinds the embedder's code.
        let unwinds = &self.heap.ceiling.unwinds;
        let unwound = unwinds.replace(false);
        Foreign {
            calls,
            unwinds,
            unwound,
        }
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

    /// Collects at every so many requests for room, as tests ask for.
    #[cold]
    pub(crate) fn stress(&self) {
        let requests = &self.collector.requests;
        requests.set(requests.get() + 1);
        let every = self.world.settings.collect_every.unwrap_or(1).max(1);
        if requests.get().is_multiple_of(every) {
            self.collect(false);
        }
    }

    /// Collects if it is time and allowed.
    #[inline]
    pub(crate) fn collect_if_due(&self) {
        if self.heap.is_due() || self.heap.stressed.get() {
            self.collect(false);
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn collect(&self, full: bool) -> bool {
        let collector = &self.collector;
        if !collector.allowed.get() || collector.foreign.get() != 0 {
            return false;
        }
        let start = std::time::Instant::now();
        let before = self.heap.used_bytes();
        let full = full || collector.is_full_due(self.heap.stressed.get(), before);
        let by_kind = with_registers(|from| {
            let running = StackPart {
                from,
                until: self.stack_base.get(),
            };
            let stacks = self.fibers.stacks(running);
            let mut tracer = Tracer::new(self.heap, full);
            // SAFETY: the parts of stacks that are in use are readable, and no code runs on
            // them meanwhile, except this function on `running`, below `from`.
            unsafe { self.mark(&mut tracer, &stacks) };
            if cfg!(debug_assertions) && self.heap.stressed.get() && !full {
                let saved = tracer.marks.take();
                // SAFETY: as above.
                unsafe { self.mark(&mut tracer, &stacks) };
                tracer.marks.replace(saved);
            }
            self.finish(tracer)
        });
        let live: usize = by_kind.iter().sum();
        if full {
            collector.after_full.set(live);
            collector.foreign_code_ran.set(false);
        }
        if self.world.settings.collect_every.is_none() {
            let budget = live.saturating_mul(BALANCED).isqrt().max(LEAST);
            self.heap.set_budget(budget);
            self.heap.give_back(budget + budget / 4);
        }
        collector.count.set(collector.count.get() + 1);
        tracing::debug!(
            full,
            live,
            before,
            after = self.heap.used_bytes(),
            by_kind = ?Kind::ALL.iter().zip(by_kind).collect::<Vec<_>>(),
            micros = start.elapsed().as_micros() as u64,
            "collected"
        );
        true
    }

    /// Marks the values that stacks and the tables of the interpreter refer to.
    ///
    /// # Safety
    ///
    /// The parts of stacks are readable, and nothing writes them meanwhile.
    unsafe fn mark(&self, tracer: &mut Tracer<'h>, stacks: &[StackPart]) {
        let Collector {
            allowed: _,
            foreign: _,
            foreign_code_ran: _,
            of_jobs: _,
            handles,
            forget: _,
            after_full: _,
            count: _,
            requests: _,
        } = &self.collector;
        for part in stacks {
            // SAFETY: as the caller guarantees.
            unsafe { tracer.stack(*part) };
        }
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
        for text in self.world.texts.borrow().values() {
            tracer.bytes(text);
        }
        self.speculation.trace(tracer);
        tracer.follow();
    }

    /// Frees unmarked objects. Returns the bytes in use.
    fn finish(&self, tracer: Tracer<'h>) -> [usize; Kind::ALL.len()] {
        self.grown.bytes.forget();
        self.grown.items.forget();
        self.grown.entries.forget();
        self.fibers.note_changes();
        let marks = tracer.into_marks();
        for forget in self.collector.forget.borrow().iter() {
            forget(&Alive(&marks));
        }
        marks.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::heap::Heap;
    use crate::host::NoHost;
    use crate::source::Pos;
    use crate::value::{Attr, ContextId, Env, Value};
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
        fn collect_exactly(&self, full: bool) -> usize {
            let mut tracer = Tracer::new(self.heap, full);
            // SAFETY: there are none.
            unsafe { self.mark(&mut tracer, &[]) };
            self.finish(tracer).iter().sum()
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
                if next(5) == 0 && !pool.is_empty() {
                    // A cell becomes old, and refers to something new then.
                    let thunk = interp.cell(Value::Null);
                    let around = interp.hold(interp.cell(interp.list(&[thunk])));
                    interp.collect_exactly(next(2) == 0);
                    let (held, text) = &pool[next(pool.len())];
                    let (other, more) = &pool[next(pool.len())];
                    let list = interp.list(&[interp.cell(held.cell().get()), other.cell()]);
                    interp.store(thunk, list);
                    let text = format!("[[{text},{more}]]");
                    if text.len() < 4000 {
                        pool.push((around, text));
                    }
                }
                if next(40) == 0 {
                    interp.collect_exactly(next(4) == 0);
                    for (held, text) in &pool {
                        assert_eq!(interp.json(held.cell()), *text);
                    }
                }
            }
            let before = interp.collect_exactly(true);
            pool.clear();
            let kept = interp.collect_exactly(false);
            assert_eq!(before, kept);
            let after = interp.collect_exactly(true);
            assert!(after < before / 2 && after < 64 << 10, "{before} {after}");
        });
    }

    #[test]
    fn large_objects_are_freed_and_used_again() {
        with_interp(|interp| {
            let heap = interp.heap;
            interp.collect_exactly(true);
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
                interp.collect_exactly(true);
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
            interp.collect_exactly(true);
            assert!(heap.used_bytes() < empty + (1 << 20));
        });
    }
}
