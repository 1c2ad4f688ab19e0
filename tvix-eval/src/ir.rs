//! The intermediate representation: expressions with variables resolved to slots.
//!
//! An expression has 16 bytes and is stored in its parent node; leaves need no node of their own.
//! The parser builds the tree, and the resolver replaces every [`Expr::Name`] in place. After that,
//! only [`Cell`]s change.
//!
//! # Environments
//!
//! A scope is an environment of slots; level 0 is the innermost. These nodes create one, with slots
//! in this order:
//!
//! - a [`Lambda`]: the argument if it has a name, then the formals by symbol;
//! - [`Let`] and a recursive [`AttrSet`]: the definitions by symbol (dynamic attributes have no
//!   slot), then [`AttrSet::from`];
//! - a non-recursive set with [`AttrSet::from`]: an environment of [`AttrSet::from`] alone, for
//!   definitions of kind [`AttrKind::From`];
//! - [`With`]: one slot, the set.

use std::cell::Cell;

use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::Ref;

/// An expression.
pub enum Expr<'h> {
    /// A constant: a number, or a string or absolute path without interpolation. Never a thunk.
    Const(Ref<'h>),
    /// A variable before resolution. The resolver leaves none.
    Name {
        /// Name.
        name: Symbol,
        /// Position.
        pos: Pos,
    },
    /// A variable bound by the scope of the file, such as a builtin. May be a thunk.
    Global(Ref<'h>),
    /// A variable of the innermost scope.
    Local {
        /// Slot.
        slot: u32,
        /// Position.
        pos: Pos,
    },
    /// A variable of an outer scope.
    Outer {
        /// Number of scopes between the variable and its binding; never 0.
        level: u16,
        /// Slot.
        slot: u32,
        /// Position.
        pos: Pos,
    },
    /// A variable that only a `with` can bind.
    WithName(&'h mut WithName<'h>),
    /// `base.path`, `base.path or default`.
    Select(&'h mut Select<'h>),
    /// `base ? path`.
    HasAttr(&'h mut HasAttr<'h>),
    /// `{ … }`, `rec { … }`.
    AttrSet(&'h mut AttrSet<'h>),
    /// `[ … ]`.
    List(&'h mut ListExpr<'h>),
    /// A function.
    Lambda(&'h mut Lambda<'h>),
    /// `f a b`.
    Call(&'h mut Call<'h>),
    /// `let … in body`.
    Let(&'h mut Let<'h>),
    /// `with attrs; body`.
    With(&'h mut With<'h>),
    /// `if … then … else …`.
    If(&'h mut If<'h>),
    /// `assert cond; body`.
    Assert(&'h mut Assert<'h>),
    /// `! e`.
    Not(&'h mut Not<'h>),
    /// A binary operation.
    Binary(&'h mut Binary<'h>),
    /// A string or path with interpolations.
    Concat(&'h mut Concat<'h>),
    /// `__curPos`.
    CurPos(Pos),
}

impl Expr<'_> {
    /// The position of the expression in messages. As in C++ Nix, literals and `let` have none.
    /// Constants such as `null` have lost theirs.
    pub fn pos(&self) -> Pos {
        let mut expr = self;
        loop {
            return match expr {
                Self::Const(_) | Self::Global(_) | Self::Let(_) => Pos::NONE,
                Self::Name { pos, .. }
                | Self::Local { pos, .. }
                | Self::Outer { pos, .. }
                | Self::CurPos(pos) => *pos,
                Self::WithName(name) => name.pos,
                Self::Select(select) => select.pos,
                Self::HasAttr(has) => {
                    expr = &has.base;
                    continue;
                }
                Self::AttrSet(set) => set.pos,
                Self::List(list) => match list.items.first() {
                    Some(first) => {
                        expr = &first.expr;
                        continue;
                    }
                    None => Pos::NONE,
                },
                Self::Lambda(lambda) => lambda.pos,
                Self::Call(call) => call.pos,
                Self::With(with) => with.pos,
                Self::If(choice) => choice.pos,
                Self::Assert(assert) => assert.pos,
                Self::Not(not) => {
                    expr = &not.operand;
                    continue;
                }
                Self::Binary(binary) => binary.pos,
                Self::Concat(concat) => concat.pos,
            };
        }
    }
}

/// An expression that is evaluated on demand.
pub struct Delayed<'h> {
    /// The expression.
    pub expr: Expr<'h>,
    /// The number by which thunks refer to it; 0 before the first thunk.
    pub code: Cell<u32>,
}

impl<'h> Delayed<'h> {
    /// An expression without thunks.
    pub fn new(expr: Expr<'h>) -> Self {
        Self {
            expr,
            code: Cell::new(0),
        }
    }
}

/// A variable that only a `with` can bind.
pub struct WithName<'h> {
    /// Name.
    pub name: Symbol,
    /// Position.
    pub pos: Pos,
    /// Number of enclosing scopes in its file.
    pub depth: u32,
    /// The innermost enclosing `with`.
    pub scope: &'h WithScope<'h>,
    /// Index in the set at which the last look-up found the name.
    pub cache: Cell<u32>,
}

/// A `with`, as seen by the variables in its body.
pub struct WithScope<'h> {
    /// Position.
    pub pos: Pos,
    /// Number of enclosing scopes of its body. For a variable, `depth - scope.depth` is the level
    /// of the environment that has the set as its only slot.
    pub depth: u32,
    /// The next enclosing `with`.
    pub outer: Option<&'h WithScope<'h>>,
}

/// A name in an attribute path.
pub enum AttrName<'h> {
    /// A static name.
    Static(Symbol),
    /// A dynamic name, which is evaluated.
    Dynamic(Expr<'h>),
}

/// `base.path`, `base.path or default`.
pub struct Select<'h> {
    /// Position.
    pub pos: Pos,
    /// Index in the set at which the last look-up found the name, for a path with one name.
    pub cache: Cell<u32>,
    /// The set.
    pub base: Expr<'h>,
    /// The path; not empty.
    pub path: &'h mut [AttrName<'h>],
    /// The default after `or`.
    pub default: Option<Expr<'h>>,
}

/// `base ? path`.
pub struct HasAttr<'h> {
    /// Position of the operator.
    pub pos: Pos,
    /// The set.
    pub base: Expr<'h>,
    /// The path; not empty.
    pub path: &'h mut [AttrName<'h>],
}

/// `{ … }`, `rec { … }`, and the definitions of a `let`.
pub struct AttrSet<'h> {
    /// Position.
    pub pos: Pos,
    /// Whether definitions can refer to each other.
    pub recursive: bool,
    /// Definitions with static names, by symbol.
    pub defs: &'h mut [AttrDef<'h>],
    /// The sets of `inherit (set) …`.
    pub from: &'h mut [Delayed<'h>],
    /// Definitions with dynamic names, in the order of the text.
    pub dynamic: &'h mut [DynamicAttr<'h>],
    /// Index of `__overrides` in `defs`, for a recursive set that has it.
    pub overrides: Option<u32>,
}

/// A definition with a static name.
pub struct AttrDef<'h> {
    /// Name.
    pub name: Symbol,
    /// Position of the name.
    pub pos: Pos,
    /// Scope of the value.
    pub kind: AttrKind,
    /// Value.
    pub value: Delayed<'h>,
}

/// The scope in which the value of a definition is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrKind {
    /// `name = value;`: the scope of the set if it is recursive, else the enclosing scope.
    Plain,
    /// `inherit name;`: the enclosing scope. The value is the variable.
    Inherited,
    /// `inherit (set) name;`: the value is a [`Select`] from an [`Expr::Local`], in the scope of
    /// the set if it is recursive, else in the scope of [`AttrSet::from`].
    From,
}

/// A definition with a dynamic name.
pub struct DynamicAttr<'h> {
    /// Position.
    pub pos: Pos,
    /// Name.
    pub name: Expr<'h>,
    /// Value.
    pub value: Delayed<'h>,
}

/// `[ … ]`.
pub struct ListExpr<'h> {
    /// Elements.
    pub items: &'h mut [Delayed<'h>],
}

/// A function.
pub struct Lambda<'h> {
    /// Position.
    pub pos: Pos,
    /// Name of the definition that has the function as its value.
    pub name: Cell<Option<Symbol>>,
    /// Name of the argument: `x: …`, `x@{ … }: …`.
    pub arg: Option<Symbol>,
    /// The formals, if the argument is a set pattern.
    pub formals: Option<Formals<'h>>,
    /// Body.
    pub body: Expr<'h>,
    /// The number by which function values refer to it; 0 before the first one.
    pub code: Cell<u32>,
    /// Number of directly enclosing functions, each the body of the next, with arguments in the
    /// same scope before this one's. `x: y: …` has one scope of two slots.
    pub before: u16,
    /// Number of directly nested functions, each the body of the previous one, with arguments in
    /// the same scope after this one's.
    pub more: u16,
}

impl<'h> Lambda<'h> {
    /// The number of arguments, up to `args`, that this function (without formals) and those nested
    /// in its scope take at once.
    #[inline]
    pub(crate) fn takes(&self, args: usize) -> usize {
        args.min(usize::from(self.more) + 1)
    }

    /// The body to evaluate after `args` arguments, as counted by [`Lambda::takes`].
    #[inline]
    pub(crate) fn body_after(&'h self, args: usize) -> &'h Expr<'h> {
        let mut body = &self.body;
        for _ in 1..args {
            if let Expr::Lambda(next) = body {
                body = &next.body;
            }
        }
        body
    }

    /// The function with the body `body`: this one or one nested in its scope.
    pub(crate) fn function_with_body(&self, body: &Expr<'h>) -> &Self {
        let mut lambda = self;
        while !std::ptr::eq(&lambda.body, body)
            && let Expr::Lambda(next) = &lambda.body
        {
            lambda = next;
        }
        lambda
    }
}

/// `{ a, b ? default, … }`.
pub struct Formals<'h> {
    /// Formals, by symbol.
    pub items: &'h mut [Formal<'h>],
    /// Whether other attributes are allowed.
    pub ellipsis: bool,
}

/// A formal: an attribute of a set pattern.
pub struct Formal<'h> {
    /// Name.
    pub name: Symbol,
    /// Position.
    pub pos: Pos,
    /// Default value, evaluated in the scope of the function.
    pub default: Option<Delayed<'h>>,
}

/// `f a b`.
pub struct Call<'h> {
    /// Position.
    pub pos: Pos,
    /// Function.
    pub func: Expr<'h>,
    /// Arguments; not empty.
    pub args: &'h mut [Delayed<'h>],
}

/// `let … in body`.
pub struct Let<'h> {
    /// Definitions: recursive, with static names only.
    pub attrs: AttrSet<'h>,
    /// Body.
    pub body: Expr<'h>,
}

/// `with attrs; body`.
pub struct With<'h> {
    /// Position.
    pub pos: Pos,
    /// The set.
    pub attrs: Delayed<'h>,
    /// Body, one scope deeper.
    pub body: Expr<'h>,
}

/// `if cond then yes else no`.
pub struct If<'h> {
    /// Position.
    pub pos: Pos,
    /// Condition.
    pub cond: Expr<'h>,
    /// The value if the condition is true.
    pub yes: Expr<'h>,
    /// The value if the condition is false.
    pub no: Expr<'h>,
}

/// `assert cond; body`.
pub struct Assert<'h> {
    /// Position.
    pub pos: Pos,
    /// Condition.
    pub cond: Expr<'h>,
    /// The value if the condition is true.
    pub body: Expr<'h>,
}

/// `! e`.
pub struct Not<'h> {
    /// Position.
    pub pos: Pos,
    /// Operand.
    pub operand: Expr<'h>,
}

/// A binary operation.
pub struct Binary<'h> {
    /// Operator.
    pub op: BinaryOp,
    /// Distance in bytes from the start of the left operand to the operator; the maximum number
    /// stands for any longer distance.
    pub left_length: u16,
    /// Position of the operator.
    pub pos: Pos,
    /// Left operand.
    pub left: Expr<'h>,
    /// Right operand.
    pub right: Expr<'h>,
}

impl Binary<'_> {
    /// Position of the left operand, or of the operator if the operand's start is too far away.
    pub fn left_pos(&self) -> Pos {
        match self.left_length {
            u16::MAX => self.pos,
            length => Pos(self.pos.0 - u32::from(length)),
        }
    }
}

/// A binary operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `->`
    Implies,
    /// `//`
    Update,
    /// `++`
    Concat,
    /// `+`
    Add,
    /// `-`; a call of `__sub` if that is not the builtin. A negation subtracts from 0.
    Sub,
    /// `*`, or `__mul`
    Mul,
    /// `/`, or `__div`
    Div,
    /// `<`, or `__lessThan`
    Less,
    /// `>`: `__lessThan` with swapped operands
    Greater,
    /// `<=`: negated `__lessThan` with swapped operands
    LessOrEqual,
    /// `>=`: negated `__lessThan`
    GreaterOrEqual,
}

/// A string or path with interpolations.
pub struct Concat<'h> {
    /// Position.
    pub pos: Pos,
    /// Whether it is a string; otherwise it is a path, and so is the first part.
    pub string: bool,
    /// Whether several parts are not constants.
    pub several: bool,
    /// Parts.
    pub parts: &'h mut [ConcatPart<'h>],
}

/// A part of a string or path.
pub struct ConcatPart<'h> {
    /// Position.
    pub pos: Pos,
    /// The part.
    pub expr: Expr<'h>,
}

const _: () = assert!(size_of::<Expr<'_>>() == 16);
