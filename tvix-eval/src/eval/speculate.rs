//! Evaluation by speculative fibers (`interp/speculation`).

use crate::error::{Error, ErrorKind, Result};
use crate::interp::{
    Demand, Effect, Interp, Memo, OUTCOME_BYTES, Offer, Outcome, Runner, cancelled,
};
use crate::ir::Expr;
use crate::source::Pos;
use crate::value::{Apply, Attrs, Env, List, Ref, Value};

impl<'h> Interp<'h> {
    /// The value of a cell, for a speculative fiber.
    #[cold]
    #[inline(never)]
    pub(crate) fn compute_speculatively(&self, cell: Ref<'h>, pos: Pos) -> Result<Value<'h>> {
        let Some(runner) = self.runner() else {
            return Err(cancelled());
        };
        let thunk = cell.get();
        match thunk {
            Value::Thunk { .. } | Value::Apply(_) | Value::Apply2(_) | Value::Element { .. } => {}
            Value::Hole(owner) => return self.wait_for(cell, owner, pos),
            Value::Uncommitted(number) if !runner.is_in_order() => {
                return self.used(&runner, number);
            }
            Value::Uncommitted(number) => return self.commit(number),
            Value::Failed(number) => return Err(self.failure(number)),
            evaluated => return Ok(evaluated),
        }
        cell.set(Value::Hole(runner.number));
        if runner.is_in_order() {
            return self.computed(cell, thunk, self.run_thunk(thunk));
        }
        runner.begin(cell, self.speculation.new_level());
        let result = self.run_thunk(thunk);
        let ended = runner.end();
        if ended.in_order {
            if !runner.is_in_order() {
                // Evaluation in order continues.
                self.heap.calls_left.set(0);
            }
            return self.computed_in_order(&runner, cell, thunk, result);
        }
        let value = match &result {
            Ok(value) => *value,
            Err(error) if is_independent(error) => self.failed(error),
            Err(_) => {
                self.store(cell, thunk);
                return result;
            }
        };
        let outcome = Outcome {
            cell,
            value,
            effects: ended.effects.into(),
            used_by: runner.level().unwrap_or(0),
            again: None,
        };
        let number = self.speculation.add_outcome(outcome);
        self.store(cell, Value::Uncommitted(number));
        runner.effect(Effect::Used(number));
        self.speculation.count(&runner, OUTCOME_BYTES);
        result
    }

    /// Stores the result of a cell that evaluation in order waits for.
    fn computed_in_order(
        &self,
        runner: &Runner<'h>,
        cell: Ref<'h>,
        thunk: Value<'h>,
        result: Result<Value<'h>>,
    ) -> Result<Value<'h>> {
        match &result {
            // The cell becomes a thunk again, but the fiber that waits gets the error.
            Err(error) if error.kind == ErrorKind::Depth && !runner.dropped.get() => {
                let outcome = Outcome {
                    cell,
                    value: self.failed(error),
                    effects: Box::default(),
                    used_by: 0,
                    again: Some(thunk),
                };
                let number = self.speculation.add_outcome(outcome);
                self.store(cell, Value::Uncommitted(number));
                result
            }
            _ => self.computed(cell, thunk, result),
        }
    }
}

impl<'h> Interp<'h> {
    /// The work of a speculative fiber.
    pub(crate) fn speculate(&self, cell: Ref<'h>, demand: Demand) {
        let failed = self.walk(cell, demand).is_err();
        if failed && let Some(runner) = self.runner() {
            runner.end_list();
        }
    }

    /// Forces a cell, and what is forced within its value.
    fn walk(&self, cell: Ref<'h>, demand: Demand) -> Result<()> {
        let value = self.force(cell)?;
        let address = match value {
            Value::List(list) => std::ptr::from_ref(list).addr(),
            Value::Attrs(attrs) => std::ptr::from_ref(attrs).addr(),
            _ => return Ok(()),
        };
        if demand == Demand::Value || !self.speculation.walks(address, demand) {
            return Ok(());
        }
        self.nested(Pos::NONE, || match (value, demand) {
            (Value::List(_), Demand::Text) => Ok(()),
            (Value::List(list), _) => self.walk_list(list, demand),
            (Value::Attrs(attrs), Demand::Deep) => self.walk_attrs(attrs, demand),
            (Value::Attrs(attrs), Demand::Text | Demand::Texts | Demand::Json) => {
                if let Some(to_string) = attrs.get(self.known.to_string) {
                    self.walk(to_string.value, Demand::Value)
                } else if let Some(path) = attrs.get(self.known.out_path) {
                    self.walk(path.value, demand)
                } else if demand == Demand::Json {
                    self.walk_attrs(attrs, demand)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        })
    }

    fn walk_list(&self, list: &'h List<'h>, demand: Demand) -> Result<()> {
        self.each_upcoming(
            list.items,
            |item| item,
            demand,
            |_, item| self.walk(item, demand),
        )
    }

    fn walk_attrs(&self, attrs: &'h Attrs<'h>, demand: Demand) -> Result<()> {
        self.each_upcoming(
            self.entries(attrs),
            |attr| attr.value,
            demand,
            |_, attr| self.walk(attr.value, demand),
        )
    }
}

impl<'h> Interp<'h> {
    /// The cell of an expression that is evaluated next, for a list of upcoming values.
    pub(super) fn offer_expr(
        &self,
        memo: &Memo<'h>,
        (len, index): (usize, usize),
        expr: &'h Expr<'h>,
        env: Env<'h>,
        demand: Demand,
    ) -> Offer<'h> {
        let known = match expr {
            Expr::Global(cell) => Some(*cell),
            Expr::Local { slot, .. } => env.peek(*slot),
            Expr::Outer { level, slot, .. } => env.outer(u32::from(*level)).peek(*slot),
            Expr::Const(_) | Expr::Lambda(_) | Expr::CurPos(_) | Expr::Name { .. } => {
                return Offer::Nothing;
            }
            _ => None,
        };
        let cell = known.unwrap_or_else(|| {
            memo.make(self, len, index, || Value::Thunk {
                code: self.codes.push(expr),
                env,
            })
        });
        Offer::Cell(cell, demand)
    }

    /// The value of an expression, which may have been started from a list of upcoming values.
    #[inline(always)]
    pub(super) fn eval_upcoming(
        &self,
        memo: &Memo<'h>,
        index: usize,
        expr: &'h Expr<'h>,
        env: Env<'h>,
    ) -> Result<Value<'h>> {
        match memo.get(index) {
            None => self.eval(expr, env),
            Some(cell) => self.force(cell),
        }
    }

    /// Evaluates an expression. `then` is evaluated next in any case, by
    /// [`Interp::eval_second`].
    #[inline(always)]
    pub(super) fn eval_first(
        &self,
        expr: &'h Expr<'h>,
        then: &'h Expr<'h>,
        env: Env<'h>,
        demand: Demand,
    ) -> Result<(Value<'h>, Memo<'h>)> {
        let memo = Memo::new();
        // Most operands are there already.
        let known = match expr {
            Expr::Const(cell) => Some(*cell),
            Expr::Local { slot, .. } => Some(env.get(*slot)),
            Expr::Outer { level, slot, .. } => Some(env.outer(u32::from(*level)).get(*slot)),
            _ => None,
        };
        if let Some(cell) = known {
            let value = cell.get();
            if value.is_evaluated() {
                return Ok((value, memo));
            }
        } else if let Expr::Const(_) = then {
            return Ok((self.eval(expr, env)?, memo));
        }
        let offer = |index| match index {
            1 => self.offer_expr(&memo, (2, 1), then, env, demand),
            _ => Offer::End,
        };
        let value = self.upcoming(&offer, |_| self.eval(expr, env))?;
        Ok((value, memo))
    }

    #[inline(always)]
    pub(super) fn eval_second(
        &self,
        memo: &Memo<'h>,
        expr: &'h Expr<'h>,
        env: Env<'h>,
    ) -> Result<Value<'h>> {
        self.eval_upcoming(memo, 1, expr, env)
    }

    /// Evaluates two expressions in order.
    #[inline(always)]
    pub(super) fn eval_both(
        &self,
        first: &'h Expr<'h>,
        second: &'h Expr<'h>,
        env: Env<'h>,
    ) -> Result<(Value<'h>, Value<'h>)> {
        let (value, memo) = self.eval_first(first, second, env, Demand::Value)?;
        Ok((value, self.eval_second(&memo, second, env)?))
    }

    /// Calls a function of one argument for each item in order. All results are needed.
    #[inline(always)]
    pub(crate) fn call_each(
        &self,
        func: Value<'h>,
        items: &'h [Ref<'h>],
        pos: Pos,
        mut work: impl FnMut(Ref<'h>, Value<'h>) -> Result<()>,
    ) -> Result<()> {
        let memo = Memo::new();
        let offer = |index: u32| match items.get(index as usize) {
            None => Offer::End,
            Some(item) => {
                let make = || {
                    Value::Apply(self.heap.alloc(Apply {
                        func: self.cell(func),
                        arg: item,
                    }))
                };
                let cell = memo.make(self, items.len(), index as usize, make);
                Offer::Cell(cell, Demand::Value)
            }
        };
        self.upcoming(&offer, |upcoming| {
            for (index, item) in items.iter().enumerate() {
                upcoming.at(index);
                let value = match memo.get(index) {
                    None => self.call(func, &[item], pos)?,
                    Some(cell) => self.force(cell)?,
                };
                work(item, value)?;
            }
            Ok(())
        })
    }
}

/// Whether an error is the same in whatever order cells are evaluated. Messages of other errors may
/// show which cells are evaluated, or depend on the depth of the stack.
fn is_independent(error: &Error) -> bool {
    use tvix_eval_api::RealiseError;
    match error.kind {
        ErrorKind::Thrown | ErrorKind::Assertion | ErrorKind::Abort => true,
        ErrorKind::Build => !matches!(error.import.as_deref(), Some(RealiseError::Cancelled)),
        _ => false,
    }
}
