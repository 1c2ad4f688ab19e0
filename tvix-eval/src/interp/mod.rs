//! The state of an evaluation.

mod by_name;
mod checks;
mod derivations;
mod fiber;
mod known;
mod speculation;
mod table;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::collect::Collector;
use crate::error::{Error, ErrorKind, Result};
use crate::heap::Heap;
use crate::internal;
use crate::ir::{Delayed, Expr, Lambda};
use crate::source::{Origin, Pos, Sources};
use crate::symbol::{Symbol, Symbols};
use crate::syntax::Scope;
use crate::value::{
    Attr, Attrs, ContextId, Contexts, Growing, List, NixPath, NixString, Ref, Slot, Value,
};
use crate::world::World;

pub(crate) use crate::error::cancelled;
pub(crate) use by_name::cmp_names;
pub use by_name::{ByName, IntoIter};
pub(crate) use derivations::{Derivations, Instantiated};
use fiber::Fibers;
pub use fiber::Job;
pub(crate) use fiber::Parked;
pub(crate) use known::Known;
use speculation::Speculation;
pub(crate) use speculation::{
    Demand, Effect, Memo, OUTCOME_BYTES, Offer, Outcome, Runner, SPECULATIVE, Upcoming,
};
pub(crate) use table::Table;

/// Maximum capacity in bytes of a buffer that is kept for reuse.
const LARGEST_KEPT: usize = 1 << 20;

/// An evaluation: the heap of its thread, interned names, and imported files.
///
/// All state is shared by reference, so that builtins and suspended fibers can hold it.
///
/// Methods that return a [`Result`] may evaluate expressions, and fail with the
/// [`Error`] of the evaluation.
pub struct Interp<'h> {
    pub(crate) heap: &'h Heap,
    pub(crate) symbols: Symbols<'h>,
    pub(crate) sources: Sources<'h>,
    pub(crate) contexts: Contexts,
    pub(crate) known: Known,
    pub(crate) shared: Shared<'h>,
    pub(crate) codes: Table<'h, Expr<'h>>,
    pub(crate) lambdas: Table<'h, Lambda<'h>>,
    pub(crate) failures: RefCell<Vec<Error>>,
    pub(crate) scope: RefCell<Rc<Scope<'h>>>,
    pub(crate) world: World<'h>,
    pub(crate) fibers: Fibers,
    pub(crate) speculation: Speculation<'h>,
    pub(crate) derivations: Derivations,
    /// Current nesting depth of calls.
    pub(crate) depth: Cell<u32>,
    pub(crate) max_depth: u32,
    /// Whether traces show every call.
    pub(crate) show_trace: Cell<bool>,
    pub(crate) began: Instant,
    /// Lowest address to which the machine's stack may grow.
    pub(crate) stack_limit: Cell<usize>,
    /// Highest address of the running stack that evaluation uses; 0 if it is not known.
    pub(crate) stack_base: Cell<usize>,
    pub(crate) collector: Collector<'h>,
    /// Number of the running fiber.
    pub(crate) fiber: Cell<u32>,
    /// The innermost list of values that the running fiber forces next.
    pub(crate) upcoming: Cell<*const Upcoming<'h>>,
    /// The values that grew last.
    pub(crate) grown: Grown<'h>,
    buffers: RefCell<Vec<Vec<u8>>>,
    name_cells: RefCell<Vec<Option<Ref<'h>>>>,
}

/// The values that grew last, of each type. Small values are not included.
pub(crate) struct Grown<'h> {
    pub(crate) bytes: Growing<'h, u8>,
    pub(crate) items: Growing<'h, Ref<'h>>,
    pub(crate) entries: Growing<'h, Attr<'h>>,
}

impl Grown<'_> {
    /// Values below this size in bytes are always copied.
    pub(crate) const SMALL: usize = 1 << 10;
}

/// Cells with constant values.
pub(crate) struct Shared<'h> {
    pub(crate) null: Ref<'h>,
    pub(crate) yes: Ref<'h>,
    pub(crate) no: Ref<'h>,
    pub(crate) empty_list: Ref<'h>,
    pub(crate) empty_string: &'h NixString<'h>,
    pub(crate) no_list: &'h List<'h>,
    pub(crate) no_attrs: &'h Attrs<'h>,
}

impl<'h> Shared<'h> {
    fn new(heap: &'h Heap) -> Self {
        let heap = heap.permanent();
        let cell = |value| &*heap.alloc(Slot::new(value));
        let no_list = heap.alloc(List { items: &[] });
        let no_attrs = heap.alloc(Attrs::new(&[], Pos::NONE));
        let empty_string = heap.alloc(NixString {
            bytes: b"",
            context: ContextId::EMPTY,
            symbol: Cell::new(0),
        });
        Self {
            null: cell(Value::Null),
            yes: cell(Value::Bool(true)),
            no: cell(Value::Bool(false)),
            empty_list: cell(Value::List(no_list)),
            empty_string,
            no_list,
            no_attrs,
        }
    }
}

impl<'h> Interp<'h> {
    /// An evaluation in an empty heap, with an empty scope.
    pub(crate) fn without_builtins(heap: &'h Heap, world: World<'h>) -> Self {
        let symbols = Symbols::new(heap);
        let sources = Sources::default();
        sources.add(Origin::Internal, internal::TEXT);
        let known = Known::new(&symbols);
        let max_depth = world.settings.limits.depth;
        let memory = world.settings.limits.memory;
        heap.ceiling.set(memory.unwrap_or(usize::MAX));
        let show_trace = world.settings.show_trace;
        Self {
            heap,
            symbols,
            sources,
            contexts: Contexts::default(),
            known,
            shared: Shared::new(heap),
            codes: Table::new(heap.permanent()),
            lambdas: Table::new(heap.permanent()),
            failures: RefCell::default(),
            scope: RefCell::new(Rc::new(Scope::new())),
            world,
            fibers: Fibers::default(),
            speculation: Speculation::new(memory),
            derivations: Derivations::default(),
            depth: Cell::new(0),
            max_depth,
            show_trace: Cell::new(show_trace),
            began: Instant::now(),
            stack_limit: Cell::new(0),
            stack_base: Cell::new(0),
            collector: Collector::default(),
            fiber: Cell::new(0),
            upcoming: Cell::new(std::ptr::null()),
            grown: Grown {
                bytes: Growing::new(heap),
                items: Growing::new(heap),
                entries: Growing::new(heap),
            },
            buffers: RefCell::default(),
            name_cells: RefCell::default(),
        }
    }

    /// A new cell.
    #[inline]
    pub fn cell(&self, value: Value<'h>) -> Ref<'h> {
        self.heap.alloc(Slot::new(value))
    }

    /// The value of a cell whose evaluation failed.
    #[cold]
    pub(crate) fn failed(&self, error: &Error) -> Value<'h> {
        let mut failures = self.failures.borrow_mut();
        failures.push(error.clone());
        Value::Failed(failures.len() as u32 - 1)
    }

    #[cold]
    pub(crate) fn failure(&self, number: u32) -> Box<Error> {
        Box::new(self.failures.borrow()[number as usize].clone())
    }

    /// The symbol of a name.
    #[inline]
    pub fn intern(&self, name: impl AsRef<[u8]>) -> Symbol {
        self.symbols.intern(name.as_ref())
    }

    /// The symbol of a string. It is stored in the string.
    #[inline]
    pub(crate) fn intern_string(&self, string: &NixString<'h>) -> Symbol {
        string.interned().unwrap_or_else(|| {
            let symbol = self.symbols.intern(string.bytes);
            string.symbol.set(symbol.0 + 1);
            symbol
        })
    }

    /// A cell with a name as a string, shared by all uses of the name.
    pub(crate) fn name_cell(&self, symbol: Symbol) -> Ref<'h> {
        let mut cells = self.name_cells.borrow_mut();
        let index = symbol.0 as usize;
        if index >= cells.len() {
            cells.resize(self.symbols.len(), None);
        }
        cells[index].get_or_insert_with(|| {
            let heap = self.heap.permanent();
            heap.alloc(Slot::new(Value::String(heap.alloc(NixString {
                bytes: self.symbols.name(symbol),
                context: ContextId::EMPTY,
                symbol: Cell::new(symbol.0 + 1),
            }))))
        })
    }

    /// A string, copied into the heap.
    pub fn string(&self, bytes: impl AsRef<[u8]>, context: ContextId) -> Value<'h> {
        let bytes = bytes.as_ref();
        if bytes.is_empty() && context.is_empty() {
            return Value::String(self.shared.empty_string);
        }
        self.string_in_heap(self.heap.slice_copy(bytes), context)
    }

    /// A string of bytes in the heap.
    #[inline]
    pub(crate) fn string_in_heap(&self, bytes: &'h [u8], context: ContextId) -> Value<'h> {
        Value::String(self.heap.alloc(NixString {
            bytes,
            context,
            symbol: Cell::new(0),
        }))
    }

    /// A string without context.
    pub fn text(&self, bytes: impl AsRef<[u8]>) -> Value<'h> {
        self.string(bytes, ContextId::EMPTY)
    }

    /// A path, which must be absolute and canonical.
    pub fn path(&self, bytes: &[u8]) -> Value<'h> {
        Value::Path(self.heap.alloc(NixPath {
            bytes: self.heap.slice_copy(bytes),
        }))
    }

    /// A list of cells, copied into the heap.
    pub fn list(&self, items: &[Ref<'h>]) -> Value<'h> {
        if items.is_empty() {
            return Value::List(self.shared.no_list);
        }
        self.list_in_heap(self.heap.slice_copy(items))
    }

    /// A list of cells in the heap.
    #[inline]
    pub(crate) fn list_in_heap(&self, items: &'h [Ref<'h>]) -> Value<'h> {
        Value::List(self.heap.alloc(List { items }))
    }

    /// A list of values.
    pub fn list_of(&self, values: impl IntoIterator<Item = Value<'h>>) -> Value<'h> {
        let items: Vec<_> = values.into_iter().map(|value| self.cell(value)).collect();
        self.list(&items)
    }

    /// An attribute set of attributes in any order. The first of several equal names wins.
    pub fn attrs(&self, mut entries: Vec<Attr<'h>>) -> Value<'h> {
        entries.sort_by_key(|attr| attr.name);
        entries.dedup_by_key(|attr| attr.name);
        self.attrs_sorted(&entries)
    }

    /// An attribute set of attributes sorted by symbol, copied into the heap.
    pub(crate) fn attrs_sorted(&self, entries: &[Attr<'h>]) -> Value<'h> {
        if entries.is_empty() {
            return Value::Attrs(self.shared.no_attrs);
        }
        self.attrs_in_heap(self.heap.slice_copy(entries), Pos::NONE)
    }

    /// An attribute set of attributes in the heap, sorted by symbol.
    #[inline]
    pub(crate) fn attrs_in_heap(&self, entries: &'h [Attr<'h>], pos: Pos) -> Value<'h> {
        Value::Attrs(self.heap.alloc(Attrs::new(entries, pos)))
    }

    /// An attribute without a position.
    pub fn attr(&self, name: impl AsRef<[u8]>, value: Value<'h>) -> Attr<'h> {
        Attr {
            name: self.intern(name),
            pos: Pos::NONE,
            value: self.cell(value),
        }
    }

    /// A name for messages.
    pub(crate) fn display(&self, symbol: Symbol) -> String {
        String::from_utf8_lossy(self.symbols.name(symbol)).into_owned()
    }

    /// The number of a delayed expression, assigned on first use.
    #[inline]
    pub(crate) fn code(&self, delayed: &'h Delayed<'h>) -> u32 {
        match delayed.code.get() {
            0 => {
                let code = self.codes.push(&delayed.expr);
                delayed.code.set(code);
                code
            }
            code => code,
        }
    }

    /// The number of a function, assigned on first use.
    #[inline]
    pub(crate) fn lambda_code(&self, lambda: &'h Lambda<'h>) -> u32 {
        match lambda.code.get() {
            0 => {
                let code = self.lambdas.push(lambda);
                lambda.code.set(code);
                code
            }
            code => code,
        }
    }

    /// Runs `work` with an empty buffer, which is reused afterwards.
    #[inline]
    pub(crate) fn with_buffer<T>(&self, work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut buffer = self.buffers.borrow_mut().pop().unwrap_or_default();
        let result = work(&mut buffer);
        if buffer.capacity() <= LARGEST_KEPT {
            buffer.clear();
            self.buffers.borrow_mut().push(buffer);
        }
        result
    }

    /// Increments the call depth, or fails if it exceeds the limit.
    #[inline]
    pub(crate) fn deeper(&self, pos: Pos) -> Result<()> {
        let depth = self.depth.get();
        if depth > self.max_depth {
            return Err(too_deep(pos));
        }
        let left = self.heap.calls_left.get();
        if left == 0 {
            self.check_limits()?;
        } else {
            self.heap.calls_left.set(left - 1);
        }
        self.depth.set(depth + 1);
        Ok(())
    }

    /// Runs `work` with an incremented call depth.
    #[inline]
    pub(crate) fn nested<T>(&self, pos: Pos, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.deeper(pos)?;
        self.check_stack()?;
        let result = work();
        self.depth.set(self.depth.get() - 1);
        result
    }

    /// The number of further recursion levels that fit on the machine's stack, at `bytes` bytes per
    /// level.
    pub(crate) fn levels_left(&self, bytes: usize) -> usize {
        let marker = 0_u8;
        let room =
            (&raw const marker).addr() - self.stack_limit.get().min((&raw const marker).addr());
        let calls = self.max_depth.saturating_sub(self.depth.get());
        (room / bytes).min(calls as usize)
    }

    /// Fails if the machine's stack is nearly full.
    #[inline]
    pub(crate) fn check_stack(&self) -> Result<()> {
        let marker = 0_u8;
        if (&raw const marker).addr() < self.stack_limit.get() {
            return Err(stack_full());
        }
        Ok(())
    }
}

#[cold]
pub(crate) fn too_deep(pos: Pos) -> Box<Error> {
    Error::new(ErrorKind::Depth, "stack overflow; max-call-depth exceeded").at(pos)
}

#[cold]
fn stack_full() -> Box<Error> {
    Error::new(
        ErrorKind::Depth,
        "stack overflow (possible infinite recursion)",
    )
}
