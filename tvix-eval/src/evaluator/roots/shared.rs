//! The search as one of several that share a request.

use std::rc::Rc;
use std::time::Instant;

use tvix_eval_api::tasks::{Reached, Taken};
use tvix_eval_api::{EvalCost, RootOrder};

use super::{Failed, Search, Searched, Target, Task, Trail};
use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::select::SelectError;
use crate::value::{Ref, Value};

impl<'h> Search<'h, '_> {
    /// The next value to search. `None` if there is none now, or none at all.
    pub(super) fn next(&self, interp: &Interp<'h>) -> Option<Task<'h>> {
        if let Some(task) = self.tasks.borrow_mut().pop_front() {
            return Some(task);
        }
        let shared = self.shared.as_ref().filter(|_| !self.ended.get())?;
        match shared.try_take(interp.heap_used() as u64) {
            Taken::Later => {
                self.wire.await_task(shared.ready());
                let name = self.ahead.take().filter(|_| shared.count() == 0)?;
                Some(Task {
                    name,
                    order: RootOrder::default(),
                    target: Target::Ahead,
                    trail: None,
                    shared: None,
                    began: Began::default(),
                })
            }
            Taken::End => {
                self.ended.set(true);
                None
            }
            Taken::Task(task) => Some(Task {
                name: task.place().attr_path(),
                order: task.place().order(),
                target: Target::Shared,
                trail: None,
                shared: Some(task),
                began: Began::default(),
            }),
        }
    }

    /// Evaluates a requested set or list, of which other evaluations make tasks.
    pub(super) fn begin(&self, interp: &Interp<'h>, name: &str) {
        let selected = self.selector.try_select(interp, self.source.cell(), name);
        if let Ok(cell) = selected {
            // Tasks report errors.
            let _ = self.called(interp, cell);
        }
    }

    /// Waits until there may be a task. Returns false if there will be none.
    pub(super) fn wait(&self) -> bool {
        self.shared.is_some() && !self.ended.get() && self.wire.await_answer()
    }

    /// Searches the value at the place of a shared task.
    pub(super) fn shared(&self, interp: &Interp<'h>, task: &mut Task<'h>) -> Searched {
        let Some(shared) = &task.shared else {
            return Ok(());
        };
        let place = shared.place().clone();
        let trail = place.trail();
        let requested = trail.first().map_or("", |requested| requested.name());
        let mut cell = match self
            .selector
            .try_select(interp, self.source.cell(), requested)
        {
            Ok(cell) => cell,
            Err(SelectError::NotFound(error)) => return Err(Failed::NotFound(error)),
            Err(SelectError::Failed(error)) => return Err(error.into()),
        };
        for member in trail.iter().skip(1) {
            cell = self.member(interp, task, cell, member.name())?;
        }
        match place.reached() {
            Reached::Attribute => self.attribute(interp, task, cell),
            _ => self.search(interp, task, cell),
        }
    }

    /// The attribute or element of a value that another evaluation has searched.
    fn member(
        &self,
        interp: &Interp<'h>,
        task: &mut Task<'h>,
        cell: Ref<'h>,
        name: &str,
    ) -> std::result::Result<Ref<'h>, Failed> {
        let cell = self.called(interp, cell)?;
        let member = match interp.force(cell)? {
            Value::Attrs(attrs) => attrs.get(interp.intern(name)).map(|attr| {
                task.trail = Some(Rc::new(Trail {
                    pos: attr.pos,
                    name: attr.name,
                    around: task.trail.take(),
                }));
                attr.value
            }),
            Value::List(list) => {
                let number = name.parse::<usize>().ok();
                number.and_then(|number| list.items.get(number).copied())
            }
            _ => None,
        };
        // Evaluation is deterministic, except for files and settings that changed meanwhile.
        member.ok_or_else(|| {
            let message = format!(
                "attribute '{name}' in selection path '{}' not found",
                task.name
            );
            Failed::NotFound(Error::new(ErrorKind::Missing, message))
        })
    }

    /// The value that is searched: functions are called where that is possible.
    pub(super) fn called(&self, interp: &Interp<'h>, cell: Ref<'h>) -> Result<Ref<'h>> {
        match interp.force(cell)? {
            Value::Attrs(attrs) if self.jobs.is_some() && interp.is_derivation(attrs)? => Ok(cell),
            _ => self.selector.called(interp, cell),
        }
    }

    /// Reports an error, unless the task has better chances in a new evaluation.
    pub(super) fn failed(&self, interp: &Interp<'h>, mut task: Task<'h>, failed: Failed) {
        if let Some(source) = self.shared.as_ref().filter(|_| failed.is_of_limits()) {
            // What is in the heap stays there.
            self.ended.set(true);
            source.release();
            if source.count() > 1
                && let Some(shared) = task.shared.take()
            {
                shared.retry();
                return;
            }
        }
        let cost = task.began.cost(interp);
        if let Some(error) = failed.of(interp, &task) {
            self.wire.failed(match self.jobs {
                Some(_) => error.with_cost(cost),
                None => error,
            });
        }
    }
}

/// The time and the memory at the beginning of a task.
#[derive(Clone, Copy, Default)]
pub(super) struct Began(Option<(Instant, usize)>);

impl Began {
    pub(super) fn now(interp: &Interp<'_>) -> Self {
        Self(Some((Instant::now(), interp.heap_used())))
    }

    /// The cost since then.
    pub(super) fn cost(self, interp: &Interp<'_>) -> EvalCost {
        self.0.map_or_else(EvalCost::default, |(time, bytes)| {
            let bytes = interp.heap_used().saturating_sub(bytes);
            EvalCost::new(time.elapsed(), bytes as u64)
        })
    }
}

impl Failed {
    fn is_of_limits(&self) -> bool {
        match self {
            Self::NotFound(error) | Self::Error(error) | Self::Derivation(error) => {
                error.kind == ErrorKind::Limit
            }
            Self::NoSuchOutput(_) => false,
        }
    }
}
