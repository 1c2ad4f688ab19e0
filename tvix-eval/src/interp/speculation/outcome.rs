//! Uncommitted values, and what their evaluation has produced besides.

use std::cell::RefCell;

use super::effect::Effect;
use super::{Runner, SPECULATIVE, Speculation};
use crate::collect::Tracer;
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::value::{Ref, Value};

/// The uncommitted value of a cell.
pub(crate) struct Outcome<'h> {
    pub(crate) cell: Ref<'h>,
    /// The value, or [`Value::Failed`].
    pub(crate) value: Value<'h>,
    pub(crate) effects: Box<[Effect]>,
    /// The last level that has used it.
    pub(crate) used_by: u32,
    /// What the cell becomes when the error has been reported once.
    pub(crate) again: Option<Value<'h>>,
}

/// All uncommitted values.
#[derive(Default)]
pub(super) struct Outcomes<'h>(RefCell<Vec<Outcome<'h>>>);

impl<'h> Outcomes<'h> {
    pub(super) fn trace(&self, tracer: &mut Tracer<'h>) {
        for outcome in self.0.borrow().iter() {
            tracer.root(outcome.cell);
            tracer.value(outcome.value);
            if let Some(again) = outcome.again {
                tracer.value(again);
            }
        }
    }
}

impl<'h> Speculation<'h> {
    /// Adds an uncommitted value, which the caller stores in the cell. Returns its number.
    pub(crate) fn add_outcome(&self, outcome: Outcome<'h>) -> u32 {
        let mut outcomes = self.outcomes.0.borrow_mut();
        outcomes.push(outcome);
        outcomes.len() as u32 - 1
    }
}

impl<'h> Interp<'h> {
    /// An uncommitted value, for a speculative fiber.
    pub(crate) fn used(&self, runner: &Runner<'h>, number: u32) -> Result<Value<'h>> {
        let mut outcomes = self.speculation.outcomes.0.borrow_mut();
        let Some(outcome) = outcomes.get_mut(number as usize) else {
            return Err(Error::new(ErrorKind::Other, "a speculative value was lost"));
        };
        if let Some(level) = runner.level()
            && outcome.used_by != level
        {
            outcome.used_by = level;
            runner.effect(Effect::Used(number));
        }
        let value = outcome.value;
        drop(outcomes);
        match value {
            Value::Failed(failure) => Err(self.failure(failure)),
            value => Ok(value),
        }
    }

    /// Evaluation in order reaches an uncommitted value.
    #[cold]
    pub(crate) fn commit(&self, number: u32) -> Result<Value<'h>> {
        let outcomes = &self.speculation.outcomes.0;
        let value = match outcomes.borrow().get(number as usize) {
            Some(outcome) => outcome.value,
            None => Value::Null,
        };
        self.commit_effects(vec![Effect::Used(number)]);
        match value {
            Value::Failed(failure) => Err(self.failure(failure)),
            value => Ok(value),
        }
    }

    /// Sends the messages of an evaluation, in order, and commits the values that it has used.
    pub(super) fn commit_effects(&self, effects: Vec<Effect>) {
        let outcomes = &self.speculation.outcomes.0;
        let mut rest = vec![effects.into_iter()];
        while let Some(effects) = rest.last_mut() {
            match effects.next() {
                None => {
                    rest.pop();
                }
                Some(Effect::Message(message)) => self.world.host.diagnostic(*message),
                Some(Effect::Used(number)) => {
                    let mut outcomes = outcomes.borrow_mut();
                    let Some(outcome) = outcomes.get_mut(number as usize) else {
                        continue;
                    };
                    // Otherwise it has been committed.
                    if matches!(outcome.cell.get(), Value::Uncommitted(of) if of == number) {
                        self.store(outcome.cell, outcome.again.unwrap_or(outcome.value));
                    }
                    let effects = std::mem::take(&mut outcome.effects);
                    if !effects.is_empty() {
                        rest.push(effects.into_vec().into_iter());
                    }
                }
            }
        }
    }

    /// Makes a speculative fiber evaluate in order, because evaluation in order waits for the cell;
    /// and those that it waits for itself.
    pub(crate) fn put_in_order(&self, mut owner: u32, mut cell: usize) {
        while owner >= SPECULATIVE
            && let Some(runner) = self.speculation.runner(owner)
        {
            if runner.dropped.get() {
                return;
            }
            let was_in_order = runner.is_in_order();
            let effects = runner.put_in_order(cell);
            self.commit_effects(effects);
            if was_in_order {
                return;
            }
            match self.fibers.hasten(self, &runner) {
                Some(next) => (owner, cell) = next,
                None => return,
            }
        }
    }
}
