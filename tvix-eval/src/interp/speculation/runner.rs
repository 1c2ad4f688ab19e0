//! The state of one speculative fiber.

use std::cell::{Cell, RefCell};

use super::Upcoming;
use super::effect::Effect;
use crate::collect::Tracer;
use crate::value::Ref;

/// What a speculative fiber does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunnerState {
    /// It runs.
    Running,
    /// It can continue, and evaluation in order waits for it.
    Ready,
    /// It can continue when nothing in order can.
    Later,
    /// It continues only when evaluation in order reaches its cell.
    Held,
    /// It waits for the host's answer.
    Importing,
    /// It waits for a cell.
    Parked,
}

/// A cell under evaluation, and what its evaluation has produced besides its value.
struct Level<'h> {
    cell: Ref<'h>,
    id: u32,
    effects: Vec<Effect>,
}

/// A speculative fiber.
pub(crate) struct Runner<'h> {
    pub(crate) number: u32,
    pub(crate) state: Cell<RunnerState>,
    /// It is to end, and its cells are to become thunks again.
    pub(crate) dropped: Cell<bool>,
    /// It is to be dropped when evaluation in order does not wait for it any more.
    pub(crate) orphaned: Cell<bool>,
    /// Periodic checks that it has passed.
    pub(super) checks: Cell<u32>,
    pub(super) bytes: Cell<usize>,
    /// The list that it was started from, until that ends.
    pub(super) from: Cell<*const Upcoming<'h>>,
    /// The cells that it is evaluating, outermost first.
    levels: RefCell<Vec<Level<'h>>>,
    /// Index of the outermost level that evaluation in order waits for. From there on the fiber
    /// evaluates in order, and further cells have no level.
    in_order_from: Cell<usize>,
}

/// The end of a level.
pub(crate) struct Ended {
    pub(crate) in_order: bool,
    pub(crate) effects: Vec<Effect>,
}

impl<'h> Runner<'h> {
    pub(crate) fn new(number: u32, from: *const Upcoming<'h>) -> Self {
        Self {
            number,
            state: Cell::new(RunnerState::Running),
            dropped: Cell::new(false),
            orphaned: Cell::new(false),
            checks: Cell::new(0),
            bytes: Cell::new(0),
            from: Cell::new(from),
            levels: RefCell::default(),
            in_order_from: Cell::new(usize::MAX),
        }
    }

    pub(super) fn trace(&self, tracer: &mut Tracer<'h>) {
        for level in self.levels.borrow().iter() {
            tracer.root(level.cell);
        }
    }

    /// Whether evaluation in order waits for it.
    pub(crate) fn is_in_order(&self) -> bool {
        self.in_order_from.get() != usize::MAX
    }

    /// Whether it is evaluating a cell.
    pub(crate) fn is_in_cell(&self) -> bool {
        !self.levels.borrow().is_empty()
    }

    /// Whether its evaluation of a cell is part of evaluation in order.
    pub(crate) fn is_in_order_at(&self, cell: usize) -> bool {
        match self.level_of(cell) {
            Some(level) => level >= self.in_order_from.get(),
            // Cells without a level were begun in order.
            None => self.is_in_order(),
        }
    }

    fn level_of(&self, cell: usize) -> Option<usize> {
        let levels = self.levels.borrow();
        levels
            .iter()
            .rposition(|level| std::ptr::from_ref(level.cell).addr() == cell)
    }

    /// Ends the list that it was started from: a value failed.
    pub(crate) fn end_list(&self) {
        // SAFETY: the list clears the pointer before its stack frame ends (`list_ended`).
        if let Some(list) = unsafe { self.from.get().as_ref() } {
            list.end();
        }
    }

    pub(crate) fn begin(&self, cell: Ref<'h>, id: u32) {
        self.levels.borrow_mut().push(Level {
            cell,
            id,
            effects: Vec::new(),
        });
    }

    pub(crate) fn end(&self) -> Ended {
        let mut levels = self.levels.borrow_mut();
        let effects = levels.pop().map(|level| level.effects).unwrap_or_default();
        let in_order = self.is_in_order();
        if levels.len() == self.in_order_from.get() {
            self.in_order_from.set(usize::MAX);
            if self.orphaned.get() {
                self.dropped.set(true);
            }
        }
        Ended { in_order, effects }
    }

    /// The number of the innermost level.
    pub(crate) fn level(&self) -> Option<u32> {
        self.levels.borrow().last().map(|level| level.id)
    }

    /// Adds an effect to the innermost level.
    pub(crate) fn effect(&self, effect: Effect) {
        if let Some(level) = self.levels.borrow_mut().last_mut() {
            level.effects.push(effect);
        }
    }

    /// Evaluates in order from the level of a cell on. Returns the effects so far.
    pub(crate) fn put_in_order(&self, cell: usize) -> Vec<Effect> {
        let Some(index) = self.level_of(cell) else {
            return Vec::new();
        };
        if index >= self.in_order_from.get() {
            return Vec::new();
        }
        self.in_order_from.set(index);
        let mut levels = self.levels.borrow_mut();
        let inner = levels.iter_mut().skip(index);
        inner
            .flat_map(|level| std::mem::take(&mut level.effects))
            .collect()
    }
}
