//! Lists of values that are forced next in any case.

use std::cell::Cell;
use std::ptr;

use super::Task;
use crate::error::Result;
use crate::interp::Interp;
use crate::value::{Ref, Value};

/// What is forced in any case of a cell's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Demand {
    /// The value itself.
    Value,
    /// What its coercion to a string forces, without elements of lists.
    Text,
    /// What its coercion to a string forces, with elements of lists.
    Texts,
    /// What its conversion to JSON forces.
    Json,
    /// Everything.
    Deep,
}

impl Demand {
    /// Whether there may be something to evaluate in a cell.
    fn is_open(self, value: Value<'_>) -> bool {
        match value {
            Value::List(_) | Value::Attrs(_) => self != Self::Value,
            // Another fiber evaluates it.
            Value::Hole(_) => self != Self::Value,
            Value::Uncommitted(_) => self != Self::Value,
            Value::Failed(_) => false,
            value => !value.is_evaluated(),
        }
    }
}

/// What a list has at an index.
pub(crate) enum Offer<'h> {
    /// A cell that is forced, and what is forced within its value.
    Cell(Ref<'h>, Demand),
    /// Nothing to evaluate.
    Nothing,
    /// The end of the list.
    End,
}

impl<'h> Offer<'h> {
    /// An item of a slice.
    #[inline]
    pub(crate) fn item<T>(
        items: &[T],
        index: u32,
        cell: impl FnOnce(&T) -> Ref<'h>,
        demand: Demand,
    ) -> Self {
        match items.get(index as usize) {
            Some(item) => Self::Cell(cell(item), demand),
            None => Self::End,
        }
    }
}

type OfferFn<'a, 'h> = dyn Fn(u32) -> Offer<'h> + 'a;

/// A list of values that running code forces one after the other unless one of them fails. It lives
/// on the stack of that code, and is linked to the list of the code around it.
pub(crate) struct Upcoming<'h> {
    /// The list around this one, without those that have nothing left.
    around: Cell<*const Upcoming<'h>>,
    offer: *const OfferFn<'h, 'h>,
    /// The index being forced.
    at: Cell<u32>,
    /// The next index to offer.
    next: Cell<u32>,
    depth: u32,
    /// Number of the fiber that was started last from this list; 0 if there is none.
    pub(super) started: Cell<u32>,
}

/// The lists of a suspended fiber.
#[derive(Clone, Copy)]
pub(crate) struct Waiting<'h> {
    pub(super) list: *const Upcoming<'h>,
    pub(super) stack_limit: usize,
}

impl<'h> Waiting<'h> {
    pub(crate) fn new(list: *const Upcoming<'h>, stack_limit: usize) -> Self {
        Self { list, stack_limit }
    }

    /// Takes the next value from the innermost list that has one.
    pub(super) fn next(&self) -> Option<Task<'h>> {
        let mut inner: Option<&Upcoming<'h>> = None;
        let mut list = self.list;
        loop {
            // SAFETY: the list is on the stack of a suspended fiber, or on one around it on the same
            // stack. `Interp::upcoming` unlinks a list before its stack frame ends.
            let here = unsafe { list.as_ref() }?;
            if let Some((cell, demand)) = here.take() {
                return Some(Task {
                    cell,
                    demand,
                    depth: here.depth,
                    room: list.addr().saturating_sub(self.stack_limit),
                    from: list,
                });
            }
            list = here.around.get();
            if let Some(inner) = inner {
                inner.around.set(list);
            }
            inner = inner.or(Some(here));
        }
    }
}

impl<'h> Upcoming<'h> {
    /// Notes the index of the value that is forced now.
    #[inline]
    pub(crate) fn at(&self, index: usize) {
        self.at.set(index as u32);
    }

    /// Ends the list: a value failed.
    pub(super) fn end(&self) {
        self.next.set(u32::MAX);
    }

    fn take(&self) -> Option<(Ref<'h>, Demand)> {
        loop {
            let index = self.next.get().max(self.at.get().saturating_add(1));
            if index == u32::MAX {
                return None;
            }
            // SAFETY: the closure is on the same stack, in the frame of `Interp::upcoming`'s caller,
            // which has not ended (see `Waiting::next`).
            let offer = unsafe { &*self.offer };
            match offer(index) {
                Offer::End => {
                    self.end();
                    return None;
                }
                Offer::Cell(cell, demand) if demand.is_open(cell.get()) => {
                    self.next.set(index + 1);
                    return Some((cell, demand));
                }
                Offer::Cell(..) | Offer::Nothing => self.next.set(index + 1),
            }
        }
    }
}

/// Detaches a list from its speculative fibers when the code that forces it unwinds.
struct Unwound<'a, 'h>(&'a Interp<'h>, &'a Upcoming<'h>);

impl Drop for Unwound<'_, '_> {
    fn drop(&mut self) {
        let Self(interp, list) = self;
        interp.upcoming.set(list.around.get());
        if list.started.get() != 0 {
            interp.list_ended(list, true);
        }
    }
}

/// Cells for values of a list that have no cell of their own, made when they are started.
pub(crate) struct Memo<'h>(Cell<&'h [Cell<Option<Ref<'h>>>]>);

impl<'h> Memo<'h> {
    #[inline]
    pub(crate) fn new() -> Self {
        Self(Cell::new(&[]))
    }

    /// The cell of a value that was started.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<Ref<'h>> {
        self.0.get().get(index)?.get()
    }

    /// Makes the cell of one of `len` values.
    pub(crate) fn make(
        &self,
        interp: &Interp<'h>,
        len: usize,
        index: usize,
        value: impl FnOnce() -> Value<'h>,
    ) -> Ref<'h> {
        if self.0.get().is_empty() {
            self.0.set(interp.heap.places(len));
        }
        let cell = interp.cell(value());
        if let Some(place) = self.0.get().get(index) {
            place.set(Some(cell));
        }
        cell
    }
}

impl<'h> Interp<'h> {
    /// Runs code that forces several values in order and ends if one of them fails. `offer` tells
    /// which they are; it must not evaluate anything. The code calls [`Upcoming::at`] before each.
    #[inline(always)]
    pub(crate) fn upcoming<T>(
        &self,
        offer: &OfferFn<'_, 'h>,
        work: impl FnOnce(&Upcoming<'h>) -> Result<T>,
    ) -> Result<T> {
        let around = self.upcoming.get();
        let offer: *const OfferFn<'_, 'h> = offer;
        let list = Upcoming {
            around: Cell::new(around),
            // SAFETY: only the lifetime bound of the trait object changes. The list is unlinked
            // before this call returns, while the closure is borrowed.
            offer: unsafe {
                std::mem::transmute::<*const OfferFn<'_, 'h>, *const OfferFn<'h, 'h>>(offer)
            },
            at: Cell::new(0),
            next: Cell::new(0),
            depth: self.depth.get(),
            started: Cell::new(0),
        };
        self.upcoming.set(ptr::from_ref(&list));
        let unwound = Unwound(self, &list);
        let result = work(&list);
        std::mem::forget(unwound);
        self.upcoming.set(around);
        if list.started.get() != 0 {
            self.list_ended(&list, result.is_err());
        }
        result
    }

    /// Runs code for each item in order, which forces the item's cell. It ends if one fails.
    #[inline(always)]
    pub(crate) fn each_upcoming<'t, T>(
        &self,
        items: &'t [T],
        cell: impl Fn(&T) -> Ref<'h>,
        demand: Demand,
        mut work: impl FnMut(usize, &'t T) -> Result<()>,
    ) -> Result<()> {
        if let [item] = items {
            return work(0, item);
        }
        let offer = |index| Offer::item(items, index, &cell, demand);
        self.upcoming(&offer, |upcoming| {
            for (index, item) in items.iter().enumerate() {
                upcoming.at(index);
                work(index, item)?;
            }
            Ok(())
        })
    }

    /// Detaches the speculative fibers that were started from a list, and drops them if a value of
    /// the list failed.
    #[cold]
    fn list_ended(&self, list: &Upcoming<'h>, failed: bool) {
        for runner in self.speculation.take_started(list.started.get()) {
            runner.from.set(ptr::null());
            if failed {
                self.fibers.drop_speculation(self, &runner);
            }
        }
    }
}
