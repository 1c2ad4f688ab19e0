//! Function calls.

use super::Step;
use super::force::is_transient;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::heap::Keep;
use crate::internal;
use crate::interp::{Demand, Interp, Memo, Offer};
use crate::ir::{Call, Delayed, Expr, Formals, Lambda};
use crate::source::Pos;
use crate::value::Builtin;
use crate::value::{Attrs, Env, Partial, Ref, THEN_OTHERS, Value, Words};

/// Maximum number of a builtin's parameters.
pub(crate) const MAX_ARITY: usize = 6;

/// Whether an argument that is always evaluated is evaluated before the call.
#[inline]
fn is_evaluated_early(expr: &Expr<'_>) -> bool {
    matches!(
        expr,
        Expr::Select(_)
            | Expr::Call(_)
            | Expr::Binary(_)
            | Expr::HasAttr(_)
            | Expr::If(_)
            | Expr::Not(_)
    )
}

impl<'h> Interp<'h> {
    /// Evaluates a call in tail position. The caller evaluates the body of the last function.
    pub(super) fn call_expr(&self, call: &'h Call<'h>, env: Env<'h>) -> Result<Step<'h>> {
        let pos = call.pos;
        let args = &*call.args;
        let mut func = self.eval(&call.func, env)?;
        // A call counts as one level, regardless of the number of its arguments.
        self.deeper(pos)?;
        let mut given = 0;
        loop {
            match func {
                Value::Lambda { code, env: around } => {
                    let lambda = self.lambdas.get(code);
                    let (body, scope) = if let Some(formals) = &lambda.formals {
                        let arg = self.delay(&args[given], env);
                        given += 1;
                        let scope = self.bind_formals(lambda, formals, around, arg, pos)?;
                        (&lambda.body, scope)
                    } else {
                        let taken = lambda.takes(args.len() - given);
                        let scope = self.scope_of(lambda, around, taken, |index| {
                            self.delay(&args[given + index], env)
                        });
                        given += taken;
                        (lambda.body_after(taken), scope)
                    };
                    if self.show_trace.get() {
                        let value = self.traced(lambda, body, scope, pos)?;
                        if given == args.len() {
                            return Ok(Step::Done(value));
                        }
                        func = value;
                        continue;
                    }
                    if given == args.len() {
                        return Ok(Step::Tail(body, scope));
                    }
                    func = match body {
                        Expr::Lambda(inner) => Value::Lambda {
                            code: self.lambda_code(inner),
                            env: scope,
                        },
                        body => self.eval(body, scope)?,
                    };
                }
                Value::Builtin(builtin) => {
                    let wanted = usize::from(builtin.arity);
                    if args.len() - given < wanted {
                        let rest = self.heap.slice_with(args.len() - given, |index| {
                            self.delay(&args[given + index], env)
                        });
                        return Ok(Step::Done(Value::Partial(self.heap.alloc(Partial {
                            builtin,
                            args: rest,
                        }))));
                    }
                    let mut cells = [self.shared.null; MAX_ARITY];
                    let taken = &args[given..given + wanted];
                    let cells = &mut cells[..wanted];
                    match builtin.strict.count_ones() {
                        0 | 1 => {
                            for (index, (arg, cell)) in taken.iter().zip(&mut *cells).enumerate() {
                                *cell = match builtin.strict >> index & 1 {
                                    0 => self.delay(arg, env),
                                    _ => self.evaluated(arg, env)?,
                                };
                            }
                        }
                        _ => self.several_evaluated(builtin.strict, taken, env, cells)?,
                    }
                    given += wanted;
                    func = self.call_builtin(builtin, cells, pos)?;
                    if given == args.len() {
                        return Ok(Step::Done(func));
                    }
                }
                other => {
                    let rest = self.delay(&args[given], env);
                    given += 1;
                    let depth = self.depth.get();
                    self.depth.set(depth - 1);
                    func = self.call(other, &[rest], pos)?;
                    self.depth.set(depth);
                    if given == args.len() {
                        return Ok(Step::Done(func));
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn body(
        &self,
        lambda: &'h Lambda<'h>,
        body: &'h Expr<'h>,
        scope: Env<'h>,
        pos: Pos,
    ) -> Result<Value<'h>> {
        match self.show_trace.get() {
            false => self.eval(body, scope),
            true => self.traced(lambda, body, scope, pos),
        }
    }

    /// Evaluates a function's body when traces show every call. No call is in tail position then.
    #[cold]
    fn traced(
        &self,
        lambda: &'h Lambda<'h>,
        body: &'h Expr<'h>,
        scope: Env<'h>,
        pos: Pos,
    ) -> Result<Value<'h>> {
        self.eval(body, scope).map_err(|error| {
            let called = lambda.function_with_body(body);
            let name = match called.name.get() {
                Some(name) => format!("while calling '{}'", self.display(name)),
                None => "while calling anonymous lambda".to_owned(),
            };
            let error = error.within(called.pos, name);
            match pos.is_some() {
                true => error.within(pos, "from call site"),
                false => error,
            }
        })
    }

    /// A cell for an argument that is always evaluated. If its evaluation fails, the cell holds the
    /// error, and the builtin fails when it uses the argument.
    #[inline]
    fn evaluated(&self, delayed: &'h Delayed<'h>, env: Env<'h>) -> Result<Ref<'h>> {
        if !is_evaluated_early(&delayed.expr) {
            return Ok(self.delay(delayed, env));
        }
        match self.eval(&delayed.expr, env) {
            Ok(value) => Ok(self.cell(value)),
            Err(error) => self.failed_cell(error),
        }
    }

    /// Cells for the arguments of a builtin that always evaluates several of them.
    fn several_evaluated(
        &self,
        strict: u8,
        args: &'h [Delayed<'h>],
        env: Env<'h>,
        cells: &mut [Ref<'h>],
    ) -> Result<()> {
        let memo = Memo::new();
        let is_early =
            |index: usize| strict >> index & 1 != 0 && is_evaluated_early(&args[index].expr);
        let all = strict & THEN_OTHERS != 0;
        let offer = |index: u32| match index as usize {
            index if index >= args.len() => Offer::End,
            index if all || is_early(index) => {
                let place = (args.len(), index);
                self.offer_expr(&memo, place, &args[index].expr, env, Demand::Value)
            }
            _ => Offer::Nothing,
        };
        self.upcoming(&offer, |upcoming| {
            for (index, (arg, cell)) in args.iter().zip(cells).enumerate() {
                upcoming.at(index);
                *cell = match memo.get(index) {
                    Some(started) if !is_early(index) => started,
                    Some(started) => match self.force(started) {
                        Err(error) if is_transient(&error) => return Err(error),
                        _ => started,
                    },
                    None if is_early(index) => self.evaluated(arg, env)?,
                    None => self.delay(arg, env),
                };
            }
            Ok(())
        })
    }

    /// Calls a function.
    #[inline]
    pub fn call(&self, func: Value<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
        self.call_words(func, args, pos).result()
    }

    #[inline(never)]
    fn call_words(&self, func: Value<'h>, args: &[Ref<'h>], pos: Pos) -> Words<'h> {
        if let Err(error) = self.check_stack() {
            return Words::new(Err(error));
        }
        let depth = self.depth.get();
        let result = self.without_unwinding(|| self.call_inner(func, args, pos));
        self.depth.set(depth);
        Words::new(result)
    }

    #[inline(always)]
    fn call_inner(&self, mut func: Value<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
        let mut args = args;
        self.deeper(pos)?;
        while !args.is_empty() {
            match func {
                Value::Lambda { code, env } => {
                    let lambda = self.lambdas.get(code);
                    if let Some(formals) = &lambda.formals {
                        let scope = self.bind_formals(lambda, formals, env, args[0], pos)?;
                        func = self.body(lambda, &lambda.body, scope, pos)?;
                        args = &args[1..];
                    } else {
                        let taken = lambda.takes(args.len());
                        let scope = self.scope_of(lambda, env, taken, |index| args[index]);
                        func = self.body(lambda, lambda.body_after(taken), scope, pos)?;
                        args = &args[taken..];
                    }
                }
                Value::Builtin(builtin) => {
                    let wanted = usize::from(builtin.arity);
                    if args.len() < wanted {
                        return Ok(Value::Partial(self.heap.alloc(Partial {
                            builtin,
                            args: self.heap.slice_copy(args),
                        })));
                    }
                    func = self.call_builtin(builtin, &args[..wanted], pos)?;
                    args = &args[wanted..];
                }
                Value::Partial(partial) => {
                    let wanted = usize::from(partial.builtin.arity) - partial.args.len();
                    let taken = wanted.min(args.len());
                    let mut cells = [self.shared.null; MAX_ARITY];
                    let total = partial.args.len() + taken;
                    cells[..partial.args.len()].copy_from_slice(partial.args);
                    cells[partial.args.len()..total].copy_from_slice(&args[..taken]);
                    if taken < wanted {
                        return Ok(Value::Partial(self.heap.alloc(Partial {
                            builtin: partial.builtin,
                            args: self.heap.slice_copy(&cells[..total]),
                        })));
                    }
                    func = self.call_builtin(partial.builtin, &cells[..total], pos)?;
                    args = &args[taken..];
                }
                Value::Attrs(attrs) => match attrs.get(self.known.functor) {
                    Some(functor) => {
                        let this = self.cell(func);
                        func = self
                            .force_at(functor.value, functor.pos)
                            .and_then(|called| self.call(called, &[this, args[0]], functor.pos))
                            .within(pos, "while calling a functor (an attribute set with a '__functor' attribute)")?;
                        args = &args[1..];
                    }
                    None => return Err(self.not_a_function(func, pos)),
                },
                other => return Err(self.not_a_function(other, pos)),
            }
        }
        Ok(func)
    }

    #[inline]
    fn call_builtin(
        &self,
        builtin: &'h Builtin<'h>,
        args: &[Ref<'h>],
        pos: Pos,
    ) -> Result<Value<'h>> {
        // What the arguments refer to stays alive during the call.
        let _args = Keep(args.as_ptr());
        // As in C++ Nix, builtins get no position; the position of the call is in the trace.
        match self.within_memory(|| (builtin.function)(self, args, Pos::NONE)) {
            Ok(value) => Ok(value),
            Err(error) if builtin.is_derivation() => Err(self.in_derivation(error, args[0], pos)),
            Err(error) if builtin.quiet => Err(error),
            Err(error) => {
                Err(error.within(pos, format!("while calling the '{}' builtin", builtin.name)))
            }
        }
    }

    /// The error of `derivation`, with the trace of the function in the Nix language that it is in
    /// C++ Nix.
    #[cold]
    fn in_derivation(&self, mut error: Box<Error>, arg: Ref<'h>, pos: Pos) -> Box<Error> {
        let is_called = matches!(arg.get(), Value::Attrs(_));
        if is_called && self.show_trace.get() {
            error = error.within(internal::FUNCTION, "while calling anonymous lambda");
        }
        if pos.is_some() && (!is_called || self.show_trace.get()) {
            error = error.within(pos, "from call site");
        }
        error
    }

    #[cold]
    fn not_a_function(&self, value: Value<'h>, pos: Pos) -> Box<Error> {
        let phrase = value.type_phrase();
        let shown = self.show(value);
        Error::new(
            ErrorKind::Type,
            format!("attempt to call something which is not a function but {phrase}: {shown}"),
        )
        .at(pos)
    }

    /// The scope of a function's body for the given arguments, counted as by [`Lambda::takes`].
    #[inline]
    fn scope_of(
        &self,
        lambda: &Lambda<'h>,
        around: Env<'h>,
        taken: usize,
        mut arg: impl FnMut(usize) -> Ref<'h>,
    ) -> Env<'h> {
        let before = usize::from(lambda.before);
        if before > 0 {
            // The enclosing scope holds exactly the earlier arguments.
            return around.extended(self.heap, before, before + taken, |index| {
                arg(index - before)
            });
        }
        if taken == 1 {
            return Env::one(self.heap, around, arg(0));
        }
        Env::filled(self.heap, Some(around), taken, |index| Some(arg(index)))
    }

    fn bind_formals(
        &self,
        lambda: &'h Lambda<'h>,
        formals: &'h Formals<'h>,
        around: Env<'h>,
        arg: Ref<'h>,
        pos: Pos,
    ) -> Result<Env<'h>> {
        let attrs = match self.expect_attrs(
            arg,
            lambda.pos,
            "while evaluating the value passed for the lambda argument",
        ) {
            Ok(attrs) => attrs,
            Err(error) => return Err(error.within(pos, "from call site")),
        };
        let base = usize::from(lambda.arg.is_some());
        let scope = Env::new(self.heap, Some(around), base + formals.items.len());
        if base == 1 {
            scope.set(0, arg);
        }
        let mut used = 0;
        for (index, formal) in formals.items.iter().enumerate() {
            let cell = match attrs.get(formal.name) {
                Some(attr) => {
                    used += 1;
                    attr.value
                }
                None => match &formal.default {
                    Some(default) => self.delay(default, scope),
                    None => {
                        let message = format!(
                            "function '{}' called without required argument '{}'",
                            self.lambda_name(lambda),
                            self.display(formal.name)
                        );
                        return Err(Error::new(ErrorKind::Type, message)
                            .at(lambda.pos)
                            .within(pos, "from call site"));
                    }
                },
            };
            scope.set(base + index, cell);
        }
        if !formals.ellipsis && used != self.entries(attrs).len() {
            return Err(self.unexpected_argument(lambda, formals, attrs, pos));
        }
        Ok(scope)
    }

    #[cold]
    fn unexpected_argument(
        &self,
        lambda: &Lambda<'h>,
        formals: &Formals<'h>,
        attrs: &Attrs<'h>,
        pos: Pos,
    ) -> Box<Error> {
        let is_formal = |attr| formals.items.iter().any(|formal| formal.name == attr);
        let unexpected = self
            .by_name(attrs)
            .into_iter()
            .map(|(_, attr)| attr.name)
            .find(|name| !is_formal(*name));
        let Some(unexpected) = unexpected else {
            return Error::new(ErrorKind::Other, "a formal was counted twice");
        };
        let message = format!(
            "function '{}' called with unexpected argument '{}'",
            self.lambda_name(lambda),
            self.display(unexpected)
        );
        let known = formals.items.iter().map(|formal| formal.name);
        Error::new(ErrorKind::Type, message)
            .at(lambda.pos)
            .suggesting(self.suggest(unexpected, known))
            .within(pos, "from call site")
    }

    pub(crate) fn lambda_name(&self, lambda: &Lambda<'h>) -> String {
        match lambda.name.get() {
            Some(name) => self.display(name),
            None => "anonymous lambda".to_owned(),
        }
    }
}
