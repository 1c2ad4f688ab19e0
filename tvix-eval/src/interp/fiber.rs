//! Fibers: evaluations on stacks of their own, which wait for each other or for builds.
//!
//! A fiber that needs a build, or a value that another fiber is evaluating, is suspended. Meanwhile
//! other fibers run on the same thread and the same heap.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rustc_hash::{FxHashMap, FxHashSet};

use super::speculation::{Runner, RunnerState, SPECULATIVE, Waiting};
use super::{Interp, cancelled};
use crate::error::{Error, ErrorKind, Result};
use crate::heap::{StackPart, with_registers};
use crate::host::Answer;
use crate::machine::addresses_left;
use crate::value::{Attrs, Ref, Value};

/// The work of a fiber.
pub type Job<'h, 'i> = Box<dyn FnOnce(&Interp<'h>) + 'i>;

/// Address space of a fiber's stack per allowed call depth, in bytes. Pages are allocated on use.
const STACK_PER_CALL: usize = 26 << 10;

/// Maximum size of a fiber's stack in bytes, regardless of the call depth.
const STACK_MAX: usize = 256 << 20;

/// Part of the addresses that are left, if they are limited, for a fiber's stack.
const STACK_SHARE: usize = 8;

/// The least size of a fiber's stack in bytes where addresses are limited.
const STACK_LEAST: usize = 4 << 20;

/// Stack space in bytes that is reserved for code without stack checks.
const STACK_RESERVE: usize = 256 << 10;

/// Maximum number of suspended fibers. More would approach the kernel's limit of memory mappings.
const MAX_FIBERS: usize = 16_000;

type Fiber = Coroutine<(), (), (), DefaultStack>;

/// How a fiber starts.
struct Start {
    number: u32,
    /// Call depth.
    depth: u32,
    /// Stack space in bytes, if less than the stack has.
    room: usize,
}

/// Maximum number of fibers with which speculative ones are started.
const MAX_SPECULATIVE: usize = 12_000;

/// All fibers and their waiting relations.
#[derive(Default)]
pub(crate) struct Fibers {
    /// Suspends the running fiber.
    yielder: Cell<Option<NonNull<Yielder<(), ()>>>>,
    /// Waiting fibers, by the address of the cell that they wait for.
    waiting: RefCell<FxHashMap<usize, Vec<u32>>>,
    waiters: Cell<usize>,
    /// Whether something happens after a cell was evaluated: there are waiting fibers, or there was
    /// a collection.
    after_cells: Cell<bool>,
    /// Whether there was a collection.
    notes_changes: Cell<bool>,
    /// For each waiting fiber, the fiber that evaluates its cell, and the cell's address.
    waits_for: RefCell<FxHashMap<u32, (u32, usize)>>,
    /// Fibers that wait for the host's answer.
    importing: RefCell<FxHashSet<u32>>,
    answers: RefCell<FxHashMap<u32, Answer>>,
    /// Fibers that can continue in the order of evaluation.
    ready: RefCell<VecDeque<u32>>,
    /// The stacks of suspended fibers.
    suspended: RefCell<FxHashMap<u32, StackPart>>,
    /// The stacks of the code that resumed a fiber and has not continued yet.
    resuming: RefCell<Vec<StackPart>>,
    /// The jobs of fibers, which are in the ordinary heap.
    jobs: RefCell<FxHashMap<u32, StackPart>>,
}

/// Removes an entry when it is dropped: at the end of a fiber, and if it is dropped before.
struct Listed<'a>(&'a RefCell<FxHashMap<u32, StackPart>>, u32);

impl<'a> Listed<'a> {
    fn new(list: &'a RefCell<FxHashMap<u32, StackPart>>, fiber: u32, part: StackPart) -> Self {
        list.borrow_mut().insert(fiber, part);
        Self(list, fiber)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().remove(&self.1);
    }
}

/// The end of waiting for a cell.
pub(crate) enum Parked {
    /// The cell is not under evaluation any more.
    Woken,
    /// The fibers wait for each other in a circle.
    Circle,
    /// The waiting fiber is speculative, and was dropped.
    Dropped,
}

impl Fibers {
    /// The stacks in use, and other memory that they refer to, besides the running one.
    pub(crate) fn stacks(&self, running: StackPart) -> Vec<StackPart> {
        let mut stacks = vec![running];
        stacks.extend_from_slice(&self.resuming.borrow());
        stacks.extend(self.suspended.borrow().values());
        stacks.extend(self.jobs.borrow().values());
        stacks
    }

    /// Whether [`Interp::cell_changed`] has anything to do.
    #[inline]
    pub(crate) fn has_to_know(&self) -> bool {
        self.after_cells.get()
    }

    /// There was a collection: changes of cells are noted from now on.
    pub(crate) fn note_changes(&self) {
        self.notes_changes.set(true);
        self.after_cells.set(true);
    }

    fn set_waiters(&self, waiters: usize) {
        self.waiters.set(waiters);
        self.after_cells
            .set(waiters != 0 || self.notes_changes.get());
    }

    /// Resumes the fibers that wait for a cell.
    fn wake<'h>(&self, interp: &Interp<'h>, cell: Ref<'h>) {
        let address = std::ptr::from_ref(cell).addr();
        if let Some(woken) = self.waiting.borrow_mut().remove(&address) {
            self.set_waiters(self.waiters.get() - woken.len());
            for fiber in woken {
                self.waits_for.borrow_mut().remove(&fiber);
                self.make_ready(interp, fiber);
            }
        }
    }

    /// Waits until the fiber `owner` has evaluated a cell.
    pub(crate) fn park<'h>(&self, interp: &Interp<'h>, cell: Ref<'h>, owner: u32) -> Parked {
        let me = interp.fiber.get();
        let speculation = &interp.speculation;
        let address = std::ptr::from_ref(cell).addr();
        // If the fibers wait for each other in a circle, a speculative one may have closed it by
        // being ahead of the order of evaluation.
        let mut ahead = None;
        let mut edge = (owner, address);
        loop {
            let (owner, cell) = edge;
            if ahead.is_none() && !speculation.is_in_order(owner, cell) {
                ahead = Some(owner);
            }
            if owner == me {
                match ahead.and_then(|ahead| speculation.runner(ahead)) {
                    None => return Parked::Circle,
                    Some(runner) => {
                        self.abandon(interp, &runner);
                        if runner.number == me {
                            return Parked::Dropped;
                        }
                    }
                }
                break;
            }
            match self.waits_for.borrow().get(&owner) {
                Some(next) => edge = *next,
                None => break,
            }
        }
        let runner = interp.runner();
        if self.yielder.get().is_none() {
            return Parked::Circle;
        }
        match &runner {
            Some(runner) if runner.dropped.get() => return Parked::Dropped,
            Some(runner) => runner.state.set(RunnerState::Parked),
            None => {}
        }
        // It may have been abandoned, but not ended yet.
        self.waits_for.borrow_mut().insert(me, (owner, address));
        self.waiting
            .borrow_mut()
            .entry(address)
            .or_default()
            .push(me);
        self.set_waiters(self.waiters.get() + 1);
        if interp.ahead().is_none() {
            interp.put_in_order(owner, address);
        }
        self.suspend(interp);
        match runner {
            Some(runner) if runner.dropped.get() => Parked::Dropped,
            _ => Parked::Woken,
        }
    }

    /// Waits for the host's answer to the running fiber.
    pub(crate) fn wait_for_answer(&self, interp: &Interp<'_>) -> Option<Answer> {
        let me = interp.fiber.get();
        let runner = interp.runner();
        if let Some(runner) = &runner {
            if runner.dropped.get() {
                interp.world.host.forget(me);
                return None;
            }
            runner.state.set(RunnerState::Importing);
        }
        self.importing.borrow_mut().insert(me);
        if !self.suspend(interp) {
            self.importing.borrow_mut().remove(&me);
            return interp.world.host.next_answer().map(|(_, answer)| answer);
        }
        self.answers.borrow_mut().remove(&me)
    }

    fn answered(&self, interp: &Interp<'_>, fiber: u32, answer: Answer) {
        // Not for a fiber: there may be a new job.
        if matches!(answer, Answer::Task) {
            return;
        }
        // A dropped fiber does not wait any more.
        if self.importing.borrow_mut().remove(&fiber) {
            self.answers.borrow_mut().insert(fiber, answer);
            self.make_ready(interp, fiber);
        }
    }

    fn make_ready(&self, interp: &Interp<'_>, fiber: u32) {
        let speculation = &interp.speculation;
        match speculation.runner(fiber) {
            Some(runner) if !runner.is_in_order() && !runner.dropped.get() => {
                speculation.continue_later(&runner);
            }
            Some(runner) => {
                runner.state.set(RunnerState::Ready);
                self.ready.borrow_mut().push_back(fiber);
            }
            None => self.ready.borrow_mut().push_back(fiber),
        }
    }

    /// Makes a suspended speculative fiber continue in the order of evaluation. If it waits for a
    /// cell, returns the fiber that evaluates it, and its address.
    pub(crate) fn hasten<'h>(
        &self,
        interp: &Interp<'h>,
        runner: &Runner<'h>,
    ) -> Option<(u32, usize)> {
        match runner.state.get() {
            RunnerState::Later | RunnerState::Held => {
                runner.state.set(RunnerState::Ready);
                self.ready.borrow_mut().push_back(runner.number);
            }
            RunnerState::Importing => interp.world.host.needed(runner.number),
            RunnerState::Parked => {
                return self.waits_for.borrow().get(&runner.number).copied();
            }
            RunnerState::Running | RunnerState::Ready => {}
        }
        None
    }

    /// Drops a speculative fiber, unless evaluation in order waits for it.
    pub(crate) fn drop_speculation<'h>(&self, interp: &Interp<'h>, runner: &Runner<'h>) {
        match runner.is_in_order() {
            true => runner.orphaned.set(true),
            false => self.abandon(interp, runner),
        }
    }

    /// Makes a speculative fiber end: its wait fails, and its cells become thunks again.
    fn abandon<'h>(&self, interp: &Interp<'h>, runner: &Runner<'h>) {
        let number = runner.number;
        if runner.dropped.replace(true) {
            return;
        }
        match runner.state.get() {
            RunnerState::Running | RunnerState::Ready => return,
            RunnerState::Later | RunnerState::Held => {}
            RunnerState::Importing => {
                self.importing.borrow_mut().remove(&number);
                interp.world.host.forget(number);
            }
            RunnerState::Parked => {
                let waits_for = self.waits_for.borrow_mut().remove(&number);
                let mut waiting = self.waiting.borrow_mut();
                if let Some((_, cell)) = waits_for
                    && let Some(others) = waiting.get_mut(&cell)
                {
                    others.retain(|other| *other != number);
                    self.set_waiters(self.waiters.get() - 1);
                }
            }
        }
        runner.state.set(RunnerState::Ready);
        self.ready.borrow_mut().push_front(number);
    }

    /// Suspends the running fiber, which waits for something. Meanwhile values that it forces next
    /// may begin. Returns false outside fibers.
    pub(crate) fn suspend(&self, interp: &Interp<'_>) -> bool {
        let list = interp.upcoming.get();
        let speculation = &interp.speculation;
        let fiber = interp.fiber.get();
        speculation.suspended(fiber, Waiting::new(list, interp.stack_limit.get()));
        let suspended = self.pause(interp);
        speculation.resumed(fiber);
        suspended
    }

    /// Lets other fibers run.
    pub(crate) fn pause(&self, interp: &Interp<'_>) -> bool {
        let Some(yielder) = self.yielder.get() else {
            return false;
        };
        let fiber = interp.fiber.get();
        let depth = interp.depth.get();
        let limit = interp.stack_limit.get();
        let upcoming = interp.upcoming.get();
        let base = interp.stack_base.get();
        let unwinds = interp.heap.ceiling.unwinds.get();
        with_registers(|from| {
            let part = StackPart { from, until: base };
            let _suspended = Listed::new(&self.suspended, fiber, part);
            // SAFETY: `run` sets the pointer from the reference that the running coroutine was
            // given, which lives as long as its stack, and this code runs on that stack.
            unsafe { yielder.as_ref() }.suspend(());
        });
        interp.stack_base.set(base);
        self.yielder.set(Some(yielder));
        interp.fiber.set(fiber);
        interp.depth.set(depth);
        interp.stack_limit.set(limit);
        interp.upcoming.set(upcoming);
        interp.heap.ceiling.unwinds.set(unwinds);
        true
    }

    /// The next fiber that can continue in the order of evaluation, or has been dropped.
    fn next_ready(&self, interp: &Interp<'_>) -> Option<u32> {
        loop {
            let number = self.ready.borrow_mut().pop_front()?;
            match interp.speculation.runner(number) {
                Some(runner) if runner.state.get() != RunnerState::Ready => {}
                None if number >= SPECULATIVE => {}
                _ => return Some(number),
            }
        }
    }
}

/// The fibers that have not ended.
#[derive(Default)]
struct Live {
    fibers: FxHashMap<u32, Fiber>,
    /// How many of them are not speculative.
    in_order: usize,
    /// Stacks for new fibers.
    stacks: Vec<DefaultStack>,
}

impl<'h> Interp<'h> {
    /// Stores a value in a cell that others may refer to, and resumes the fibers that wait for it.
    #[inline(always)]
    pub(crate) fn store(&self, cell: Ref<'h>, value: Value<'h>) {
        cell.set(value);
        if self.fibers.has_to_know() {
            self.cell_changed(cell);
        }
    }

    /// A cell has a new value.
    #[inline(never)]
    fn cell_changed(&self, cell: Ref<'h>) {
        if self.fibers.notes_changes.get() {
            self.heap.note_change(cell);
        }
        if self.fibers.waiters.get() != 0 {
            self.fibers.wake(self, cell);
        }
    }

    /// A set refers to other attributes.
    pub(crate) fn attrs_changed(&self, attrs: &Attrs<'h>) {
        if self.fibers.notes_changes.get() {
            self.heap.note_change(attrs);
        }
    }

    /// Runs each job on a fiber, until all have ended. A job is started when all earlier jobs have
    /// ended or wait.
    ///
    /// # Errors
    ///
    /// If a stack cannot be allocated, or if the host has no answer left while a job waits for one.
    pub fn run<'i>(&'i self, jobs: impl IntoIterator<Item = Job<'h, 'i>>) -> Result<()> {
        let mut jobs = jobs.into_iter();
        let mut live = Live::default();
        let around = self.upcoming.get();
        let result = self.run_all(&mut jobs, &mut live);
        drop(live);
        self.upcoming.set(around);
        result
    }

    fn run_all<'i>(
        &'i self,
        jobs: &mut dyn Iterator<Item = Job<'h, 'i>>,
        live: &mut Live,
    ) -> Result<()> {
        let mut next = 1_u32;
        let speculation = &self.speculation;
        loop {
            self.take_ready_answers();
            let number = if let Some(number) = self.fibers.next_ready(self) {
                number
            } else if live.fibers.len() < MAX_FIBERS
                && let Some(job) = jobs.next()
            {
                let number = next;
                next += 1;
                let stack = self.stack(live)?;
                let start = Start {
                    number,
                    depth: 0,
                    room: usize::MAX,
                };
                live.fibers.insert(number, self.fiber(start, job, stack));
                live.in_order += 1;
                number
            } else if live.in_order == 0 {
                if live.fibers.is_empty() {
                    return Ok(());
                }
                for runner in speculation.live() {
                    self.fibers.abandon(self, &runner);
                }
                continue;
            } else if let Some(number) = speculation.next_later() {
                number
            } else if live.fibers.len() < MAX_SPECULATIVE
                && let Some(task) = speculation.next_task()
                && let Ok(stack) = self.stack(live)
            {
                let number = speculation.start(&task);
                let start = Start {
                    number,
                    depth: task.depth,
                    room: task.room,
                };
                let (cell, demand) = (task.cell, task.demand);
                let job = Box::new(move |interp: &Interp<'h>| interp.speculate(cell, demand));
                live.fibers.insert(number, self.fiber(start, job, stack));
                number
            } else {
                self.await_answer()?;
                continue;
            };
            self.resume(live, number);
        }
    }

    /// Runs a fiber until it waits or ends.
    fn resume(&self, live: &mut Live, number: u32) {
        let Some(fiber) = live.fibers.get_mut(&number) else {
            return;
        };
        let speculation = &self.speculation;
        let runner = speculation.runner(number);
        speculation.switch(runner.clone());
        let before = runner.as_ref().map(|_| self.heap.used_bytes());
        let base = self.stack_base.get();
        let unwinds = self.heap.ceiling.unwinds.get();
        let resuming = &self.fibers.resuming;
        let result = with_registers(|from| {
            resuming.borrow_mut().push(StackPart { from, until: base });
            let result = fiber.resume(());
            resuming.borrow_mut().pop();
            result
        });
        self.stack_base.set(base);
        self.heap.ceiling.unwinds.set(unwinds);
        if let (Some(runner), Some(before)) = (runner, before) {
            let bytes = self.heap.used_bytes().saturating_sub(before);
            speculation.count(&runner, bytes);
        }
        if let CoroutineResult::Return(()) = result
            && let Some(fiber) = live.fibers.remove(&number)
        {
            live.stacks.push(fiber.into_stack());
            match number >= SPECULATIVE {
                true => speculation.ended(number),
                false => live.in_order -= 1,
            }
        }
        speculation.switch(None);
        self.fibers.yielder.set(None);
    }

    fn stack(&self, live: &mut Live) -> Result<DefaultStack> {
        match live.stacks.pop() {
            Some(stack) => Ok(stack),
            None => DefaultStack::new(self.stack_size()).map_err(|error| {
                let message = match addresses_left() {
                    Some(_) => {
                        "address space for a stack is exhausted; raise the limit (ulimit -v)"
                            .to_owned()
                    }
                    None => format!("cannot allocate a stack: {error}"),
                };
                Error::new(ErrorKind::Limit, message)
            }),
        }
    }

    fn fiber<'i>(&'i self, start: Start, job: Job<'h, 'i>, stack: DefaultStack) -> Fiber {
        let base = stack.base().get();
        let from = std::ptr::from_ref(&*job).cast::<u8>().addr();
        let until = from + size_of_val(&*job);
        let limit = stack.limit().get() + STACK_RESERVE;
        let limit = limit.max(stack.base().get().saturating_sub(start.room));
        let body = move |yielder: &Yielder<(), ()>, ()| {
            self.fibers.yielder.set(Some(NonNull::from(yielder)));
            self.fiber.set(start.number);
            self.depth.set(start.depth);
            self.stack_limit.set(limit);
            self.upcoming.set(std::ptr::null());
            self.heap.ceiling.unwinds.set(false);
            self.stack_base.set(base);
            let part = StackPart { from, until };
            let _listed = Listed::new(&self.fibers.jobs, start.number, part);
            job(self);
        };
        // SAFETY: the coroutine borrows `self` and the borrows of the job. `run` holds it in a
        // local variable that is dropped before `run` returns, while both are still borrowed.
        // Dropping a suspended coroutine unwinds its stack.
        unsafe { Coroutine::with_stack_unchecked(stack, body) }
    }

    fn stack_size(&self) -> usize {
        let deepest = (self.max_depth as usize).saturating_mul(STACK_PER_CALL);
        let wanted = (STACK_RESERVE * 4).saturating_add(deepest).min(STACK_MAX);
        // Where addresses are limited, others need some too.
        addresses_left().map_or(wanted, |left| {
            wanted.min((left / STACK_SHARE).max(STACK_LEAST))
        })
    }

    fn await_answer(&self) -> Result<()> {
        let fibers = &self.fibers;
        match self.world.host.next_answer() {
            Some((fiber, answer)) => {
                fibers.answered(self, fiber, answer);
                Ok(())
            }
            None => Err(cancelled()),
        }
    }

    /// Takes available answers. Their fibers resume before new jobs are started.
    fn take_ready_answers(&self) {
        let fibers = &self.fibers;
        while !fibers.importing.borrow().is_empty()
            && let Some((fiber, answer)) = self.world.host.ready_answer()
        {
            fibers.answered(self, fiber, answer);
        }
    }
}
