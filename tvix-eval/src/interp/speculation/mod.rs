//! Speculative evaluation: while one value waits for a build or fetch, values that are forced after
//! it in any case begin on fibers of their own.
//!
//! Evaluation in order defines every result, error and message. Speculation only moves work to an
//! earlier time:
//!
//! - Code that forces several values keeps a list of them on its stack ([`Upcoming`]). When a fiber
//!   waits, the scheduler starts speculative fibers from the lists of waiting fibers.
//! - A value that a speculative fiber computes stays *uncommitted* ([`Value::Uncommitted`]): only
//!   speculative fibers use it. When evaluation in order reaches the cell, the value is committed,
//!   and with it the messages and values that its evaluation has produced on the way.
//! - If evaluation in order reaches a cell that a speculative fiber is evaluating, it waits for that
//!   fiber, which then evaluates in order until it has the value of the cell.
//! - A speculative fiber whose values are not needed any more, or that meets an error that depends
//!   on the order of evaluation, is abandoned: its cells become thunks again.

mod effect;
mod outcome;
mod runner;
mod upcoming;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};
use tvix_eval_api::Diagnostic;

use super::{Interp, cancelled};
use crate::collect::Tracer;
use crate::error::Result;
use crate::value::{Ref, Value};

pub(crate) use effect::Effect;
pub(crate) use outcome::Outcome;
use outcome::Outcomes;
pub(crate) use runner::{Runner, RunnerState};
pub(crate) use upcoming::{Demand, Memo, Offer, Upcoming, Waiting};

/// Numbers of speculative fibers start here.
pub(crate) const SPECULATIVE: u32 = 1 << 31;

/// Maximum number of periodic checks that a speculative fiber passes before it is held.
const MAX_CHECKS: u32 = 50_000;

/// Maximum memory in bytes that all speculative fibers together may allocate before they are held,
/// unless evaluation in order needs their values.
const MAX_BYTES: usize = 256 << 20;

/// The same as a share of the limit of the heap.
const SHARE_OF_LIMIT: usize = 8;

/// Estimated memory of an uncommitted value in bytes.
pub(crate) const OUTCOME_BYTES: usize = 64;

/// A value that a speculative fiber starts with.
pub(crate) struct Task<'h> {
    pub(crate) cell: Ref<'h>,
    pub(crate) demand: Demand,
    /// The call depth at which evaluation in order would force the cell.
    pub(crate) depth: u32,
    /// Stack space in bytes that evaluation in order would have.
    pub(crate) room: usize,
    /// The list from which the task was taken.
    from: *const Upcoming<'h>,
}

/// All speculative fibers and their values.
#[derive(Default)]
pub(crate) struct Speculation<'h> {
    runners: RefCell<FxHashMap<u32, Rc<Runner<'h>>>>,
    running: RefCell<Option<Rc<Runner<'h>>>>,
    /// For each fiber that was started from a list that has not ended, the one that was started
    /// before it from the same list; 0 if there is none.
    siblings: RefCell<FxHashMap<u32, u32>>,
    /// Number of speculative fibers that were started.
    started: Cell<u32>,
    /// Speculative fibers that can continue while nothing in order can.
    later: RefCell<VecDeque<u32>>,
    /// Suspended fibers whose lists may have values to start. The last one is searched first.
    sources: RefCell<Vec<u32>>,
    waiting: RefCell<FxHashMap<u32, Waiting<'h>>>,
    outcomes: Outcomes<'h>,
    /// Lists and sets that a speculative fiber has walked or is walking, by address and demand.
    walked: RefCell<FxHashSet<(usize, Demand)>>,
    /// Memory in bytes that live speculative fibers have allocated.
    bytes: Cell<usize>,
    max_bytes: usize,
    levels: Cell<u32>,
}

impl<'h> Speculation<'h> {
    /// Without fibers, for a heap with a limit in bytes.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        let share = limit.map_or(MAX_BYTES, |limit| limit / SHARE_OF_LIMIT);
        Self {
            max_bytes: share.min(MAX_BYTES),
            ..Self::default()
        }
    }

    pub(crate) fn runner(&self, fiber: u32) -> Option<Rc<Runner<'h>>> {
        match fiber >= SPECULATIVE {
            true => self.runners.borrow().get(&fiber).cloned(),
            false => None,
        }
    }

    /// Follows what is in the ordinary heap: uncommitted values, and cells under evaluation.
    pub(crate) fn trace(&self, tracer: &mut Tracer<'h>) {
        self.outcomes.trace(tracer);
        for runner in self.runners.borrow().values() {
            runner.trace(tracer);
        }
    }

    /// Notes which fiber runs.
    pub(crate) fn switch(&self, runner: Option<Rc<Runner<'h>>>) {
        if let Some(runner) = &runner {
            runner.state.set(RunnerState::Running);
        }
        *self.running.borrow_mut() = runner;
    }

    /// The next speculative fiber that may continue.
    pub(crate) fn next_later(&self) -> Option<u32> {
        loop {
            let number = self.later.borrow_mut().pop_front()?;
            let Some(runner) = self.runner(number) else {
                continue;
            };
            if runner.state.get() != RunnerState::Later {
                continue;
            }
            if runner.checks.get() > MAX_CHECKS || self.bytes.get() > self.max_bytes {
                runner.state.set(RunnerState::Held);
                continue;
            }
            return Some(number);
        }
    }

    pub(crate) fn continue_later(&self, runner: &Runner<'h>) {
        runner.state.set(RunnerState::Later);
        self.later.borrow_mut().push_back(runner.number);
    }

    /// Registers a new speculative fiber for a task.
    pub(crate) fn start(&self, task: &Task<'h>) -> u32 {
        let number = SPECULATIVE + self.started.get();
        self.started.set((self.started.get() + 1) % SPECULATIVE);
        let runner = Rc::new(Runner::new(number, task.from));
        // SAFETY: `next_task` has just taken the task from this list, and its fiber is suspended.
        if let Some(list) = unsafe { task.from.as_ref() } {
            let before = list.started.replace(number);
            self.siblings.borrow_mut().insert(number, before);
        }
        self.runners.borrow_mut().insert(number, runner);
        number
    }

    /// The number of a new level.
    pub(crate) fn new_level(&self) -> u32 {
        let level = self.levels.get().wrapping_add(1);
        self.levels.set(level);
        level
    }

    /// Whether no speculative fiber has walked a list or set, which this one does now.
    pub(crate) fn walks(&self, address: usize, demand: Demand) -> bool {
        self.walked.borrow_mut().insert((address, demand))
    }

    /// Counts memory that a fiber has allocated.
    pub(crate) fn count(&self, runner: &Runner<'h>, bytes: usize) {
        runner.bytes.set(runner.bytes.get() + bytes);
        self.bytes.set(self.bytes.get() + bytes);
    }

    pub(crate) fn ended(&self, number: u32) {
        self.waiting.borrow_mut().remove(&number);
        let runner = self.runners.borrow_mut().remove(&number);
        if let Some(runner) = runner {
            self.bytes
                .set(self.bytes.get().saturating_sub(runner.bytes.get()));
        }
        if self.runners.borrow().is_empty() {
            self.walked.borrow_mut().clear();
        }
    }

    /// Takes the fibers that were started from a list, given the last one.
    fn take_started(&self, last: u32) -> Vec<Rc<Runner<'h>>> {
        let mut siblings = self.siblings.borrow_mut();
        let mut started = Vec::new();
        let mut next = Some(last);
        while let Some(number) = next {
            started.extend(self.runner(number));
            next = siblings.remove(&number);
        }
        started
    }

    pub(crate) fn live(&self) -> Vec<Rc<Runner<'h>>> {
        self.runners.borrow().values().cloned().collect()
    }

    /// Notes that a fiber is suspended, with its list of upcoming values.
    pub(crate) fn suspended(&self, fiber: u32, waiting: Waiting<'h>) {
        if waiting.list.is_null() {
            return;
        }
        self.waiting.borrow_mut().insert(fiber, waiting);
        self.sources.borrow_mut().push(fiber);
    }

    pub(crate) fn resumed(&self, fiber: u32) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.is_empty() {
            waiting.remove(&fiber);
        }
    }

    /// The next value to evaluate speculatively: of the fiber that was suspended last, the innermost
    /// list.
    pub(crate) fn next_task(&self) -> Option<Task<'h>> {
        if self.bytes.get() > self.max_bytes {
            return None;
        }
        loop {
            let fiber = self.sources.borrow().last().copied()?;
            let waiting = self.waiting.borrow().get(&fiber).copied();
            if let Some(waiting) = waiting
                && let Some(task) = waiting.next()
            {
                return Some(task);
            }
            self.sources.borrow_mut().pop();
        }
    }

    /// Whether a cell under evaluation by a fiber is so in the order of evaluation.
    pub(crate) fn is_in_order(&self, owner: u32, cell: usize) -> bool {
        match self.runner(owner) {
            Some(runner) => runner.is_in_order_at(cell),
            None => true,
        }
    }
}

impl<'h> Interp<'h> {
    /// The running fiber, if it evaluates ahead of the order of evaluation.
    #[inline]
    pub(crate) fn ahead(&self) -> Option<Rc<Runner<'h>>> {
        match self.fiber.get() >= SPECULATIVE {
            true => self.running_ahead(),
            false => None,
        }
    }

    #[cold]
    fn running_ahead(&self) -> Option<Rc<Runner<'h>>> {
        let running = self.speculation.running.borrow();
        running.as_ref().filter(|it| !it.is_in_order()).cloned()
    }

    #[cold]
    pub(crate) fn runner(&self) -> Option<Rc<Runner<'h>>> {
        self.speculation.running.borrow().clone()
    }

    /// Sends a message to the user once the order of evaluation has come to this point.
    pub(crate) fn diagnostic(&self, diagnostic: Diagnostic) {
        match self.ahead() {
            None => self.world.host.diagnostic(diagnostic),
            Some(runner) => runner.effect(Effect::Message(Box::new(diagnostic))),
        }
    }

    /// Waits until the order of evaluation has come to this point. What the caller does next depends
    /// on which values are evaluated.
    pub(crate) fn wait_for_order(&self) {
        if let Some(runner) = self.ahead()
            && !runner.dropped.get()
            && runner.is_in_cell()
        {
            runner.state.set(RunnerState::Held);
            self.fibers.suspend(self);
        }
    }

    /// Like [`Interp::wait_for_order`]; fails if the fiber was dropped meanwhile.
    pub(crate) fn reach_order(&self) -> Result<()> {
        self.wait_for_order();
        match self.ahead() {
            None => Ok(()),
            Some(_) => Err(cancelled()),
        }
    }

    /// The periodic check of a speculative fiber: lets others run, and fails if it was dropped.
    pub(crate) fn check_speculation(&self) -> Result<()> {
        let Some(runner) = self.runner() else {
            return Ok(());
        };
        if !runner.dropped.get() && !runner.is_in_order() {
            runner.checks.set(runner.checks.get() + 1);
            self.speculation.continue_later(&runner);
            self.fibers.pause(self);
        }
        match runner.dropped.get() {
            true => {
                self.heap.calls_left.set(0);
                Err(cancelled())
            }
            false => Ok(()),
        }
    }

    /// The value of a cell as messages show it: a value that the order of evaluation has not come to
    /// is a thunk.
    pub(crate) fn visible(&self, cell: Ref<'h>) -> Value<'h> {
        match cell.get() {
            Value::Hole(owner)
                if owner >= SPECULATIVE
                    && !self
                        .speculation
                        .is_in_order(owner, std::ptr::from_ref(cell).addr()) =>
            {
                Value::Uncommitted(0)
            }
            value => value,
        }
    }

    /// The same, once the order of evaluation has come to this point.
    pub(crate) fn settled(&self, cell: Ref<'h>) -> Value<'h> {
        if matches!(cell.get(), Value::Uncommitted(_)) {
            self.wait_for_order();
        }
        self.visible(cell)
    }

    /// Whether a cell is under evaluation, in the order of evaluation.
    pub(crate) fn is_under_evaluation(&self, cell: Ref<'h>) -> bool {
        matches!(self.visible(cell), Value::Hole(_))
    }
}
