//! Fibers: evaluations on stacks of their own, which wait for each other or for builds.
//!
//! A fiber that needs a build, or a value that another fiber is evaluating, is suspended. Meanwhile
//! other fibers run on the same thread and the same heap.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;

use corosensei::stack::{DefaultStack, Stack};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use rustc_hash::FxHashMap;

use super::Interp;
use super::cancelled;
use crate::error::{Error, ErrorKind, Result};
use crate::heap::{StackPart, with_registers};
use crate::host::Answer;
use crate::value::Ref;

/// The work of a fiber.
pub type Job<'h, 'i> = Box<dyn FnOnce(&Interp<'h>) + 'i>;

/// Address space of a fiber's stack per allowed call depth, in bytes. Pages are allocated on use.
const STACK_PER_CALL: usize = 26 << 10;

/// Maximum size of a fiber's stack in bytes, regardless of the call depth.
const STACK_MAX: usize = 256 << 20;

/// Stack space in bytes that is reserved for code without stack checks.
const STACK_RESERVE: usize = 256 << 10;

/// Maximum number of suspended fibers. More would approach the kernel's limit of memory mappings.
const MAX_FIBERS: usize = 16_000;

type Fiber = Coroutine<(), (), (), DefaultStack>;

/// All fibers and their waiting relations.
#[derive(Default)]
pub(crate) struct Fibers {
    /// Suspends the running fiber.
    yielder: Cell<Option<NonNull<Yielder<(), ()>>>>,
    /// Waiting fibers, by the address of the cell that they wait for.
    waiting: RefCell<FxHashMap<usize, Vec<u32>>>,
    waiters: Cell<usize>,
    /// For each waiting fiber, the fiber that evaluates its cell.
    waits_for: RefCell<FxHashMap<u32, u32>>,
    answers: RefCell<FxHashMap<u32, Answer>>,
    ready: RefCell<VecDeque<u32>>,
    importing: Cell<usize>,
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

impl Fibers {
    /// The stacks in use, and other memory that they refer to, besides the running one.
    pub(crate) fn stacks(&self, running: StackPart) -> Vec<StackPart> {
        let mut stacks = vec![running];
        stacks.extend_from_slice(&self.resuming.borrow());
        stacks.extend(self.suspended.borrow().values());
        stacks.extend(self.jobs.borrow().values());
        stacks
    }

    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.waiters.get() != 0
    }

    /// Resumes the fibers that wait for a cell.
    #[cold]
    pub(crate) fn wake(&self, cell: Ref<'_>) {
        let address = std::ptr::from_ref(cell).addr();
        if let Some(woken) = self.waiting.borrow_mut().remove(&address) {
            self.waiters.set(self.waiters.get() - woken.len());
            let mut waits_for = self.waits_for.borrow_mut();
            for fiber in &woken {
                waits_for.remove(fiber);
            }
            self.ready.borrow_mut().extend(woken);
        }
    }

    /// Waits until the fiber `owner` has evaluated a cell. Returns `false` if the fibers wait for
    /// each other in a circle.
    pub(crate) fn park(&self, interp: &Interp<'_>, cell: Ref<'_>, owner: u32) -> bool {
        let me = interp.fiber.get();
        let mut other = Some(owner);
        while let Some(fiber) = other {
            if fiber == me {
                return false;
            }
            other = self.waits_for.borrow().get(&fiber).copied();
        }
        let address = std::ptr::from_ref(cell).addr();
        self.waits_for.borrow_mut().insert(me, owner);
        self.waiting
            .borrow_mut()
            .entry(address)
            .or_default()
            .push(me);
        self.waiters.set(self.waiters.get() + 1);
        self.suspend(interp)
    }

    /// Waits for the host's answer to the running fiber.
    pub(crate) fn wait_for_answer(&self, interp: &Interp<'_>) -> Option<Answer> {
        let me = interp.fiber.get();
        self.importing.set(self.importing.get() + 1);
        if !self.suspend(interp) {
            self.importing.set(self.importing.get() - 1);
            return interp.world.host.next_answer().map(|(_, answer)| answer);
        }
        self.answers.borrow_mut().remove(&me)
    }

    fn answered(&self, fiber: u32, answer: Answer) {
        // Not for a fiber: there may be a new job.
        if matches!(answer, Answer::Task) {
            return;
        }
        self.importing.set(self.importing.get() - 1);
        self.answers.borrow_mut().insert(fiber, answer);
        self.ready.borrow_mut().push_back(fiber);
    }

    fn suspend(&self, interp: &Interp<'_>) -> bool {
        let Some(yielder) = self.yielder.get() else {
            return false;
        };
        let fiber = interp.fiber.get();
        let depth = interp.depth.get();
        let limit = interp.stack_limit.get();
        let base = interp.stack_base.get();
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
        true
    }
}

impl<'h> Interp<'h> {
    /// Runs each job on a fiber, until all have ended. A job is started when all earlier jobs have
    /// ended or wait.
    ///
    /// # Errors
    ///
    /// If a stack cannot be allocated, or if the host has no answer left while a job waits for one.
    pub fn run<'i>(&'i self, jobs: impl IntoIterator<Item = Job<'h, 'i>>) -> Result<()> {
        let mut jobs = jobs.into_iter();
        let mut live: FxHashMap<u32, Fiber> = FxHashMap::default();
        let mut stacks: Vec<DefaultStack> = Vec::new();
        let mut next = 1_u32;
        loop {
            self.take_ready_answers();
            let ready = self.fibers.ready.borrow_mut().pop_front();
            let number = match ready {
                Some(number) => number,
                None => {
                    let job = if live.len() < MAX_FIBERS {
                        jobs.next()
                    } else {
                        None
                    };
                    match job {
                        Some(job) => {
                            let stack = match stacks.pop() {
                                Some(stack) => stack,
                                None => DefaultStack::new(self.stack_size()).map_err(|error| {
                                    Error::new(
                                        ErrorKind::Limit,
                                        format!("cannot get a stack to evaluate on: {error}; if there is a limit of \
                                             address space, raise it (ulimit -v)"),
                                    )
                                })?,
                            };
                            let number = next;
                            next += 1;
                            live.insert(number, self.fiber(number, job, stack));
                            number
                        }
                        None if live.is_empty() => return Ok(()),
                        None => {
                            self.await_answer()?;
                            continue;
                        }
                    }
                }
            };
            let Some(mut fiber) = live.remove(&number) else {
                continue;
            };
            match self.resume(&mut fiber) {
                CoroutineResult::Yield(()) => {
                    live.insert(number, fiber);
                }
                CoroutineResult::Return(()) => stacks.push(fiber.into_stack()),
            }
            self.fibers.yielder.set(None);
        }
    }

    /// Continues a fiber until it is suspended or ends.
    fn resume(&self, fiber: &mut Fiber) -> CoroutineResult<(), ()> {
        let base = self.stack_base.get();
        let resuming = &self.fibers.resuming;
        let result = with_registers(|from| {
            resuming.borrow_mut().push(StackPart { from, until: base });
            let result = fiber.resume(());
            resuming.borrow_mut().pop();
            result
        });
        self.stack_base.set(base);
        result
    }

    fn fiber<'i>(&'i self, number: u32, job: Job<'h, 'i>, stack: DefaultStack) -> Fiber {
        let base = stack.base().get();
        let from = std::ptr::from_ref(&*job).cast::<u8>().addr();
        let until = from + size_of_val(&*job);
        let limit = stack.limit().get() + STACK_RESERVE;
        let body = move |yielder: &Yielder<(), ()>, ()| {
            self.fibers.yielder.set(Some(NonNull::from(yielder)));
            self.fiber.set(number);
            self.depth.set(0);
            self.stack_limit.set(limit);
            self.stack_base.set(base);
            let part = StackPart { from, until };
            let _listed = Listed::new(&self.fibers.jobs, number, part);
            job(self);
        };
        // SAFETY: the coroutine borrows `self` and the borrows of the job. `run` holds it in a
        // local variable that is dropped before `run` returns, while both are still borrowed.
        // Dropping a suspended coroutine unwinds its stack.
        unsafe { Coroutine::with_stack_unchecked(stack, body) }
    }

    fn stack_size(&self) -> usize {
        let deepest = (self.max_depth as usize).saturating_mul(STACK_PER_CALL);
        (STACK_RESERVE * 4).saturating_add(deepest).min(STACK_MAX)
    }

    fn await_answer(&self) -> Result<()> {
        let fibers = &self.fibers;
        match self.world.host.next_answer() {
            Some((fiber, answer)) => {
                fibers.answered(fiber, answer);
                Ok(())
            }
            None => Err(cancelled()),
        }
    }

    /// Takes available answers. Their fibers resume before new jobs are started.
    fn take_ready_answers(&self) {
        let fibers = &self.fibers;
        while fibers.importing.get() > 0
            && let Some((fiber, answer)) = self.world.host.ready_answer()
        {
            fibers.answered(fiber, answer);
        }
    }
}
