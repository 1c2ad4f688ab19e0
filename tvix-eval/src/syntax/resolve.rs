//! The resolver: from names to slots.

use bumpalo::Bump;

use crate::heap::Heap;

use super::Context;
use super::error::{SyntaxError, SyntaxErrorKind};
use super::scope::{Binding, Scope};
use crate::deep::{FIRST_LEVELS, LEVELS, on_new_stack};
use crate::ir::{
    AttrKind, AttrName, AttrSet, Binary, BinaryOp, Call, Delayed, Expr, Lambda, Let, Not, With,
    WithName, WithScope,
};
use crate::source::Pos;
use crate::symbol::{Symbol, Symbols};

pub(super) fn resolve<'h>(cx: &Context<'_, 'h>, expr: &mut Expr<'h>) -> Result<(), SyntaxError> {
    let known = Known {
        overrides: cx.symbols.intern(b"__overrides"),
        sub: cx.symbols.intern(b"__sub"),
        mul: cx.symbols.intern(b"__mul"),
        div: cx.symbols.intern(b"__div"),
        less: cx.symbols.intern(b"__lessThan"),
    };
    let mut bindings = cx.scope.lexical().borrow_mut();
    if bindings.len() < cx.symbols.len() {
        bindings.resize(cx.symbols.len(), Binding::default());
    }
    let mut resolver = Resolver {
        heap: cx.heap.permanent(),
        roots: cx.heap,
        symbols: cx.symbols,
        scope: cx.scope,
        known,
        bindings: &mut bindings,
        undo: Vec::new(),
        with: None,
        depth: 0,
        levels: 0,
        stack_end: FIRST_LEVELS,
        waiting: Vec::new(),
    };
    let done = resolver.expr(expr);
    resolver.leave(0);
    done.map_err(|error| *error)
}

struct Known {
    overrides: Symbol,
    sub: Symbol,
    mul: Symbol,
    div: Symbol,
    less: Symbol,
}

type Resolved = Result<(), Box<SyntaxError>>;

struct Resolver<'c, 'x, 'h> {
    heap: &'h Bump,
    /// Keeps the values that expressions refer to.
    roots: &'h Heap,
    symbols: &'c Symbols<'h>,
    scope: &'c Scope<'h>,
    known: Known,
    /// The innermost binding of each symbol.
    bindings: &'c mut [Binding],
    /// Bindings to restore at the end of each scope.
    undo: Vec<(Symbol, Binding)>,
    with: Option<&'h WithScope<'h>>,
    /// Number of scopes around the current expression.
    depth: u32,
    /// Number of expressions around the current one.
    levels: u32,
    /// The number of levels for which the stack has room.
    stack_end: u32,
    /// Right operands of operators with unresolved left operands.
    waiting: Vec<&'x mut Expr<'h>>,
}

impl<'x, 'h> Resolver<'_, 'x, 'h> {
    /// Resolves an expression; the most frequent kinds without a further call.
    #[inline]
    fn expr(&mut self, expr: &'x mut Expr<'h>) -> Resolved {
        match expr {
            Expr::Const(_) => Ok(()),
            Expr::Name { name, pos } => {
                *expr = self.variable(*name, *pos)?;
                Ok(())
            }
            _ => self.compound(expr),
        }
    }

    fn compound(&mut self, expr: &'x mut Expr<'h>) -> Resolved {
        self.levels += 1;
        let resolved = match self.levels > self.stack_end {
            true => self.on_new_stack(expr),
            false => self.parts(expr),
        };
        self.levels -= 1;
        resolved
    }

    /// Continues on a new stack.
    #[cold]
    #[inline(never)]
    fn on_new_stack(&mut self, expr: &'x mut Expr<'h>) -> Resolved {
        let end = std::mem::replace(&mut self.stack_end, self.levels + LEVELS);
        let pos = expr.pos();
        let resolved = on_new_stack(|| self.parts(expr));
        self.stack_end = end;
        resolved.unwrap_or_else(|_| Err(error(SyntaxErrorKind::TooDeep, pos)))
    }

    fn parts(&mut self, mut expr: &'x mut Expr<'h>) -> Resolved {
        let waiting = self.waiting.len();
        loop {
            // The last part of an expression is resolved by this loop, and so are both operands of
            // operators, so that long chains need no recursion.
            let last = match expr {
                Expr::Name { name, pos } => {
                    *expr = self.variable(*name, *pos)?;
                    None
                }
                Expr::Binary(_) => {
                    if let Expr::Binary(binary) = &*expr
                        && let Some(name) = self.shadowed(binary.op)
                    {
                        let Expr::Binary(binary) = std::mem::replace(expr, Expr::CurPos(Pos::NONE))
                        else {
                            unreachable!("matched above");
                        };
                        *expr = self.call_instead(binary, name);
                        continue;
                    }
                    let Expr::Binary(binary) = expr else {
                        unreachable!("matched above");
                    };
                    // `a > b` is `__lessThan b a`.
                    let (mut first, mut second) = (&mut binary.left, &mut binary.right);
                    if matches!(binary.op, BinaryOp::Greater | BinaryOp::LessOrEqual) {
                        std::mem::swap(&mut first, &mut second);
                    }
                    self.waiting.push(second);
                    Some(first)
                }
                Expr::Select(select) => {
                    // The set of `inherit (set)` has a slot already.
                    if !matches!(select.base, Expr::Local { .. }) {
                        self.expr(&mut select.base)?;
                    }
                    self.path(select.path)?;
                    select.default.as_mut()
                }
                Expr::HasAttr(has) => {
                    self.path(has.path)?;
                    Some(&mut has.base)
                }
                Expr::Call(call) => {
                    self.expr(&mut call.func)?;
                    self.delayed(call.args)?;
                    None
                }
                Expr::List(list) => {
                    self.delayed(list.items)?;
                    None
                }
                Expr::Concat(concat) => {
                    for part in concat.parts.iter_mut() {
                        self.expr(&mut part.expr)?;
                    }
                    None
                }
                Expr::If(branch) => {
                    self.expr(&mut branch.cond)?;
                    self.expr(&mut branch.yes)?;
                    Some(&mut branch.no)
                }
                Expr::Assert(assert) => {
                    self.expr(&mut assert.cond)?;
                    Some(&mut assert.body)
                }
                Expr::Not(not) => Some(&mut not.operand),
                Expr::AttrSet(set) => {
                    self.attr_set(set)?;
                    None
                }
                Expr::Lambda(lambda) => {
                    self.lambda(lambda)?;
                    None
                }
                Expr::Let(let_in) => {
                    self.let_in(let_in)?;
                    None
                }
                Expr::With(with) => {
                    self.with(with)?;
                    None
                }
                Expr::Const(_)
                | Expr::Global(_)
                | Expr::Local { .. }
                | Expr::Outer { .. }
                | Expr::WithName(_)
                | Expr::CurPos(_) => None,
            };
            expr = match last {
                Some(last) => last,
                None if self.waiting.len() > waiting => match self.waiting.pop() {
                    Some(next) => next,
                    None => return Ok(()),
                },
                None => return Ok(()),
            };
        }
    }

    fn delayed(&mut self, items: &'x mut [Delayed<'h>]) -> Resolved {
        for item in items {
            self.expr(&mut item.expr)?;
        }
        Ok(())
    }

    fn path(&mut self, path: &'x mut [AttrName<'h>]) -> Resolved {
        for name in path {
            if let AttrName::Dynamic(expr) = name {
                self.expr(expr)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn variable(&mut self, name: Symbol, pos: Pos) -> Result<Expr<'h>, Box<SyntaxError>> {
        let Binding { depth, slot } = self.bindings[name.0 as usize];
        if depth == 0 {
            return self.free(name, pos);
        }
        match self.depth - depth {
            0 => Ok(Expr::Local { slot, pos }),
            level => match u16::try_from(level) {
                Ok(level) => Ok(Expr::Outer { level, slot, pos }),
                Err(_) => Err(error(SyntaxErrorKind::TooDeep, pos)),
            },
        }
    }

    /// Resolves a name that is not bound in the text.
    #[inline(never)]
    fn free(&mut self, name: Symbol, pos: Pos) -> Result<Expr<'h>, Box<SyntaxError>> {
        if let Some(value) = self.scope.lookup(name) {
            if self.scope.is_layer() {
                self.roots.add_root(value);
            }
            return Ok(Expr::Global(value));
        }
        match self.with {
            Some(scope) => Ok(Expr::WithName(self.heap.alloc(WithName {
                name,
                pos,
                depth: self.depth,
                scope,
                cache: std::cell::Cell::new(0),
            }))),
            None => Err(error(
                SyntaxErrorKind::UndefinedVariable(self.symbols.name(name).into()),
                pos,
            )),
        }
    }

    /// The name of an operator's function, if it is bound to a function other than the builtin.
    #[inline]
    fn shadowed(&self, op: BinaryOp) -> Option<Symbol> {
        let name = match op {
            BinaryOp::Sub => self.known.sub,
            BinaryOp::Mul => self.known.mul,
            BinaryOp::Div => self.known.div,
            BinaryOp::Less
            | BinaryOp::Greater
            | BinaryOp::LessOrEqual
            | BinaryOp::GreaterOrEqual => self.known.less,
            _ => return None,
        };
        let bound = self.bindings[name.0 as usize].depth != 0 || self.scope.shadows(name);
        bound.then_some(name)
    }

    #[cold]
    fn call_instead(&self, binary: &mut Binary<'h>, name: Symbol) -> Expr<'h> {
        let pos = binary.pos;
        let take =
            |expr: &mut Expr<'h>| Delayed::new(std::mem::replace(expr, Expr::CurPos(Pos::NONE)));
        let (left, right) = (take(&mut binary.left), take(&mut binary.right));
        let swapped = matches!(binary.op, BinaryOp::Greater | BinaryOp::LessOrEqual);
        let args = self.heap.alloc_slice_fill_iter(if swapped {
            [right, left]
        } else {
            [left, right]
        });
        let func = Expr::Name {
            name,
            pos: Pos::NONE,
        };
        let call = Expr::Call(self.heap.alloc(Call { pos, func, args }));
        match binary.op {
            BinaryOp::LessOrEqual | BinaryOp::GreaterOrEqual => {
                Expr::Not(self.heap.alloc(Not { pos, operand: call }))
            }
            _ => call,
        }
    }

    #[inline]
    fn bind(&mut self, name: Symbol, slot: usize) {
        let binding = &mut self.bindings[name.0 as usize];
        self.undo.push((name, *binding));
        *binding = Binding {
            depth: self.depth,
            slot: slot as u32,
        };
    }

    /// Restores the bindings that were recorded after `undo`.
    #[inline]
    fn leave(&mut self, undo: usize) {
        for (name, binding) in self.undo.drain(undo..).rev() {
            self.bindings[name.0 as usize] = binding;
        }
    }

    #[inline(never)]
    fn lambda(&mut self, lambda: &'x mut Lambda<'h>) -> Resolved {
        let undo = self.undo.len();
        self.depth += 1;
        let body = if lambda.formals.is_none() {
            self.arguments(lambda)
        } else {
            self.formals(lambda)?
        };
        self.expr(body)?;
        self.depth -= 1;
        self.leave(undo);
        Ok(())
    }

    /// Binds the arguments of directly nested functions. Returns the body of the last one.
    fn arguments(&mut self, mut lambda: &'x mut Lambda<'h>) -> &'x mut Expr<'h> {
        let mut more = 0;
        let mut body = &lambda.body;
        while let Expr::Lambda(inner) = body
            && inner.formals.is_none()
            && more < u16::MAX
        {
            more += 1;
            body = &inner.body;
        }
        let mut before = 0;
        loop {
            lambda.before = before;
            lambda.more = more;
            if let Some(arg) = lambda.arg {
                self.bind(arg, usize::from(before));
            }
            if more == 0 {
                return &mut lambda.body;
            }
            let Expr::Lambda(inner) = &mut lambda.body else {
                unreachable!("counted above");
            };
            lambda = inner;
            before += 1;
            more -= 1;
        }
    }

    /// Binds the argument and the formals of a function. Returns its body.
    fn formals(
        &mut self,
        lambda: &'x mut Lambda<'h>,
    ) -> Result<&'x mut Expr<'h>, Box<SyntaxError>> {
        let mut slot = 0;
        if let Some(arg) = lambda.arg {
            self.bind(arg, 0);
            slot = 1;
        }
        if let Some(formals) = &mut lambda.formals {
            for (index, formal) in formals.items.iter().enumerate() {
                self.bind(formal.name, slot + index);
            }
            for formal in formals.items.iter_mut() {
                if let Some(default) = &mut formal.default {
                    self.expr(&mut default.expr)?;
                }
            }
        }
        Ok(&mut lambda.body)
    }

    #[inline(never)]
    fn with(&mut self, with: &'x mut With<'h>) -> Resolved {
        self.expr(&mut with.attrs.expr)?;
        self.depth += 1;
        let outer = self.with;
        self.with = Some(self.heap.alloc(WithScope {
            pos: with.pos,
            depth: self.depth,
            outer,
        }));
        self.expr(&mut with.body)?;
        self.with = outer;
        self.depth -= 1;
        Ok(())
    }

    #[inline(never)]
    fn let_in(&mut self, let_in: &'x mut Let<'h>) -> Resolved {
        let undo = self.undo.len();
        self.recursive(&mut let_in.attrs)?;
        self.expr(&mut let_in.body)?;
        self.depth -= 1;
        self.leave(undo);
        Ok(())
    }

    #[inline(never)]
    fn attr_set(&mut self, set: &'x mut AttrSet<'h>) -> Resolved {
        if set.recursive {
            let undo = self.undo.len();
            let overrides = self.known.overrides;
            let index = set.defs.binary_search_by_key(&overrides, |def| def.name);
            set.overrides = index.ok().map(|index| index as u32);
            self.recursive(set)?;
            self.depth -= 1;
            self.leave(undo);
            return Ok(());
        }
        self.delayed(set.from)?;
        for def in set.defs.iter_mut() {
            if def.kind != AttrKind::From {
                self.expr(&mut def.value.expr)?;
            }
        }
        self.dynamic(set.dynamic)
    }

    /// Resolves the definitions of a recursive set. The caller leaves the scope.
    fn recursive(&mut self, set: &'x mut AttrSet<'h>) -> Resolved {
        let count = set.defs.len();
        let mut inherited = false;
        for def in set.defs.iter_mut() {
            match def.kind {
                AttrKind::Plain => {}
                AttrKind::Inherited => inherited = true,
                AttrKind::From => {
                    if let Expr::Select(select) = &mut def.value.expr
                        && let Expr::Local { slot, .. } = &mut select.base
                    {
                        *slot += count as u32;
                    }
                }
            }
        }
        if inherited {
            for def in set.defs.iter_mut() {
                if def.kind == AttrKind::Inherited
                    && let Expr::Name { name, pos } = def.value.expr
                {
                    def.value.expr = self.variable(name, pos)?;
                }
            }
        }
        self.depth += 1;
        for (slot, def) in set.defs.iter().enumerate() {
            self.bind(def.name, slot);
        }
        self.delayed(set.from)?;
        for def in set.defs.iter_mut() {
            if def.kind == AttrKind::Plain {
                self.expr(&mut def.value.expr)?;
            }
        }
        self.dynamic(set.dynamic)
    }

    fn dynamic(&mut self, attrs: &'x mut [crate::ir::DynamicAttr<'h>]) -> Resolved {
        for attr in attrs {
            self.expr(&mut attr.name)?;
            self.expr(&mut attr.value.expr)?;
        }
        Ok(())
    }
}

#[cold]
fn error(kind: SyntaxErrorKind, pos: Pos) -> Box<SyntaxError> {
    Box::new(SyntaxError {
        kind,
        pos,
        other: None,
    })
}
