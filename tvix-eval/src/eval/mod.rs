//! Evaluation of expressions.
//!
//! [`Interp::eval`] loops over tail positions and recurses for all else. The machine's stack is
//! checked at each recursion. Calls in tail position count towards the depth too, so that endless
//! recursion is the same error as in C++ Nix.

mod attrset;
mod call;
mod chain;
mod coerce;
mod compare;
mod concat;
mod force;
mod operators;
mod select;
mod speculate;

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::ir::{Delayed, Expr, ListExpr, Not, With, WithName};
use crate::source::Pos;
use crate::value::{Env, List, Ref, Slot, Value, Words};

pub(crate) use call::MAX_ARITY;
pub use coerce::Coercion;

/// The remainder of an evaluation in tail position.
pub(crate) enum Step<'h> {
    Done(Value<'h>),
    Tail(&'h Expr<'h>, Env<'h>),
}

impl<'h> Interp<'h> {
    /// Evaluates an expression in a scope. The result itself is evaluated; its parts need not be.
    #[inline(always)]
    pub(crate) fn eval(&self, expr: &'h Expr<'h>, env: Env<'h>) -> Result<Value<'h>> {
        match expr {
            Expr::Const(cell) => Ok(cell.get()),
            Expr::Global(cell) => self.force(cell),
            Expr::Local { slot, pos } => self.force_at(env.get(*slot), *pos),
            Expr::Outer { level, slot, pos } => {
                self.force_at(env.outer(u32::from(*level)).get(*slot), *pos)
            }
            Expr::Binary(binary) => self.binary(binary, env).result(),
            Expr::Select(select) => self.select_from_variable(select, expr, env).result(),
            _ => self.eval_node(expr, env).result(),
        }
    }

    #[inline(never)]
    pub(super) fn eval_node(&self, expr: &'h Expr<'h>, env: Env<'h>) -> Words<'h> {
        if let Err(error) = self.check_stack() {
            return Words::new(Err(error));
        }
        let depth = self.depth.get();
        let result = self.eval_loop(expr, env);
        self.depth.set(depth);
        Words::new(result)
    }

    fn eval_loop(&self, mut expr: &'h Expr<'h>, mut env: Env<'h>) -> Result<Value<'h>> {
        loop {
            let step = match expr {
                Expr::Const(cell) => return Ok(cell.get()),
                Expr::Global(cell) => return self.force(cell),
                Expr::Local { slot, pos } => return self.force_at(env.get(*slot), *pos),
                Expr::Outer { level, slot, pos } => {
                    return self.force_at(env.outer(u32::from(*level)).get(*slot), *pos);
                }
                Expr::WithName(name) => {
                    let cell = self.with_name(name, env)?;
                    return self.force_at(cell, name.pos);
                }
                Expr::Select(select) => self.select(select, env)?,
                Expr::HasAttr(has) => return self.has_attr(has, env),
                Expr::AttrSet(set) => return self.attr_set(set, env),
                Expr::List(list) => return Ok(self.list_expr(list, env)),
                Expr::Lambda(lambda) => {
                    let code = self.lambda_code(lambda);
                    return Ok(Value::Lambda { code, env });
                }
                Expr::Call(call) => self.call_expr(call, env)?,
                Expr::Let(binding) => Step::Tail(&binding.body, self.let_env(&binding.attrs, env)?),
                Expr::With(with) => Step::Tail(&with.body, self.with_env(with, env)),
                Expr::If(choice) => {
                    let holds = self.eval_bool(
                        &choice.cond,
                        env,
                        choice.pos,
                        "while evaluating a branch condition",
                    )?;
                    Step::Tail(if holds { &choice.yes } else { &choice.no }, env)
                }
                Expr::Assert(assert) => {
                    self.check_assertion(assert, env)?;
                    Step::Tail(&assert.body, env)
                }
                Expr::Not(not) => {
                    return match self.eval(&not.operand, env) {
                        Ok(Value::Bool(holds)) => Ok(Value::Bool(!holds)),
                        other => Err(self.not_negated(not, other)),
                    };
                }
                Expr::Binary(binary) => return self.binary(binary, env).result(),
                Expr::Concat(concat) => return self.concat(concat, env),
                Expr::CurPos(pos) => return Ok(self.pos_attrs(*pos)),
                Expr::Name { name, pos } => return Err(self.undefined(*name, *pos)),
            };
            match step {
                Step::Done(value) => return Ok(value),
                Step::Tail(next, scope) => {
                    expr = next;
                    env = scope;
                }
            }
        }
    }

    /// A cell for an expression that is evaluated on demand. Variables and constants return their
    /// own cell.
    #[inline(always)]
    pub(crate) fn delay(&self, delayed: &'h Delayed<'h>, env: Env<'h>) -> Ref<'h> {
        let known = match &delayed.expr {
            Expr::Const(cell) | Expr::Global(cell) => Some(*cell),
            // An empty slot belongs to a later definition of the same scope.
            Expr::Local { slot, .. } => env.peek(*slot),
            Expr::Outer { level, slot, .. } => env.outer(u32::from(*level)).peek(*slot),
            _ => None,
        };
        match known {
            Some(cell) => cell,
            None => self.delay_other(delayed, env),
        }
    }

    #[inline(never)]
    fn delay_other(&self, delayed: &'h Delayed<'h>, env: Env<'h>) -> Ref<'h> {
        match &delayed.expr {
            Expr::Lambda(lambda) => {
                let code = self.lambda_code(lambda);
                self.heap.alloc(Slot::new(Value::Lambda { code, env }))
            }
            Expr::List(list) if list.items.is_empty() => self.shared.empty_list,
            _ => self.thunk(delayed, env),
        }
    }

    /// A new cell for an expression that is evaluated on demand.
    #[inline]
    pub(crate) fn thunk(&self, delayed: &'h Delayed<'h>, env: Env<'h>) -> Ref<'h> {
        let code = self.code(delayed);
        self.heap.alloc(Slot::new(Value::Thunk { code, env }))
    }

    fn list_expr(&self, list: &'h ListExpr<'h>, env: Env<'h>) -> Value<'h> {
        if list.items.is_empty() {
            return Value::List(self.shared.no_list);
        }
        let items = self.heap.slice_with(list.items.len(), |index| {
            self.delay(&list.items[index], env)
        });
        Value::List(self.heap.alloc(List { items }))
    }

    fn with_env(&self, with: &'h With<'h>, env: Env<'h>) -> Env<'h> {
        Env::one(self.heap, env, self.delay(&with.attrs, env))
    }

    fn with_name(&self, name: &'h WithName<'h>, env: Env<'h>) -> Result<Ref<'h>> {
        let mut scope = Some(name.scope);
        while let Some(with) = scope {
            let cell = env.outer(name.depth - with.depth).get(0);
            let attrs = match cell.get() {
                Value::Attrs(attrs) => attrs,
                _ => self.expect_attrs(
                    cell,
                    with.pos,
                    "while evaluating the first subexpression of a with expression",
                )?,
            };
            if let Some(attr) = attrs.get_again(name.name, &name.cache) {
                return Ok(attr.value);
            }
            scope = with.outer;
        }
        Err(self.undefined(name.name, name.pos))
    }

    #[cold]
    fn undefined(&self, name: crate::symbol::Symbol, pos: Pos) -> Box<Error> {
        let name = self.display(name);
        Error::new(ErrorKind::Missing, format!("undefined variable '{name}'")).at(pos)
    }

    /// Evaluates a condition.
    #[inline(always)]
    pub(crate) fn eval_bool(
        &self,
        expr: &'h Expr<'h>,
        env: Env<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<bool> {
        match self.eval(expr, env) {
            Ok(Value::Bool(value)) => Ok(value),
            other => Err(self.not_a_bool(other, pos, context)),
        }
    }

    #[cold]
    fn not_a_bool(&self, found: Result<Value<'h>>, pos: Pos, context: &'static str) -> Box<Error> {
        match found {
            Ok(value) => self.type_error("a Boolean", value).at(pos),
            Err(error) => error,
        }
        .within(pos, context)
    }

    #[cold]
    fn not_negated(&self, not: &'h Not<'h>, operand: Result<Value<'h>>) -> Box<Error> {
        let pos = match &not.operand {
            Expr::Concat(_) => Pos::NONE,
            Expr::Global(_) => self.right_of(not.pos),
            operand => operand.pos(),
        };
        match operand {
            Ok(value) => self.type_error("a Boolean", value).at(pos),
            Err(error) => error,
        }
        .within(pos, "in the argument of the not operator")
    }

    /// "expected … but found …".
    #[cold]
    pub(crate) fn type_error(&self, wanted: &str, found: Value<'h>) -> Box<Error> {
        let phrase = found.type_phrase();
        let shown = self.show(found);
        Error::new(
            ErrorKind::Type,
            format!("expected {wanted} but found {phrase}: {shown}"),
        )
    }
}
