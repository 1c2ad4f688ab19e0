//! What is evaluated: expressions whose variables are resolved to slots.
//!
//! An expression is 16 bytes and sits in the node that it is part of; leaves need no node of their
//! own. The parser makes the tree, the resolver replaces every [`Expr::Name`] in place, and from
//! then on nothing but the [`Cell`]s changes.
//!
//! # Environments
//!
//! A scope is an environment of slots: level 0 is the innermost. These make one, in this order of
//! slots:
//!
//! - a [`Lambda`]: the argument if it has a name, then the formals in the order of their symbols;
//! - [`Let`] and a recursive [`AttrSet`]: the definitions in the order of their symbols (attributes with computed names
//!   have no slot), then [`AttrSet::from`];
//! - a set that is not recursive, but has [`AttrSet::from`]: an environment of those alone, in
//!   which only definitions of [`AttrKind::From`] are evaluated;
//! - [`With`]: one slot, the set.

use std::cell::Cell;

use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::Ref;

/// An expression.
pub enum Expr<'h> {
    /// A literal: a number, a string or an absolute path without interpolation. Never a thunk.
    Const(Ref<'h>),
    /// A variable, not resolved yet. There is none after the resolver.
    Name {
        /// Its name.
        name: Symbol,
        /// Where.
        pos: Pos,
    },
    /// A variable that the scope of the file binds, such as a builtin. May be a thunk.
    Global(Ref<'h>),
    /// A variable of the innermost scope.
    Local {
        /// Which slot.
        slot: u32,
        /// Where.
        pos: Pos,
    },
    /// A variable of an outer scope.
    Outer {
        /// How many scopes out; never 0.
        level: u16,
        /// Which slot.
        slot: u32,
        /// Where.
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
    /// An operator with two sides.
    Binary(&'h mut Binary<'h>),
    /// A string or path with interpolations.
    Concat(&'h mut Concat<'h>),
    /// `__curPos`.
    CurPos(Pos),
}

impl Expr<'_> {
    /// Where messages say that the expression is: literals and `let` are nowhere, as in C++ Nix, and of
    /// constants such as `null` it is not known any more.
    pub fn pos(&self) -> Pos {
        match self {
            Self::Const(_) | Self::Global(_) | Self::Let(_) => Pos::NONE,
            Self::Name { pos, .. }
            | Self::Local { pos, .. }
            | Self::Outer { pos, .. }
            | Self::CurPos(pos) => *pos,
            Self::WithName(name) => name.pos,
            Self::Select(select) => select.pos,
            Self::HasAttr(has) => has.base.pos(),
            Self::AttrSet(set) => set.pos,
            Self::List(list) => list.items.first().map_or(Pos::NONE, |item| item.expr.pos()),
            Self::Lambda(lambda) => lambda.pos,
            Self::Call(call) => call.pos,
            Self::With(with) => with.pos,
            Self::If(choice) => choice.pos,
            Self::Assert(assert) => assert.pos,
            Self::Not(not) => not.operand.pos(),
            Self::Binary(binary) => binary.pos,
            Self::Concat(concat) => concat.pos,
        }
    }
}

/// An expression that is evaluated only when it is needed.
pub struct Delayed<'h> {
    /// The expression.
    pub expr: Expr<'h>,
    /// The number under which thunks know it, once there was one; before, 0.
    pub code: Cell<u32>,
}

impl<'h> Delayed<'h> {
    /// An expression that no thunk was made of yet.
    pub fn new(expr: Expr<'h>) -> Self {
        Self {
            expr,
            code: Cell::new(0),
        }
    }
}

/// A variable that only a `with` can bind.
pub struct WithName<'h> {
    /// Its name.
    pub name: Symbol,
    /// Where.
    pub pos: Pos,
    /// How many scopes there are around it in its file.
    pub depth: u32,
    /// The innermost `with` around it.
    pub scope: &'h WithScope<'h>,
    /// The index at which the name was found last time.
    pub cache: Cell<u32>,
}

/// A `with`, as the variables in it see it.
pub struct WithScope<'h> {
    /// Where.
    pub pos: Pos,
    /// How many scopes there are around its body: `depth - scope.depth` of a variable is the level
    /// of the environment whose only slot is the set.
    pub depth: u32,
    /// The next `with` around it.
    pub outer: Option<&'h WithScope<'h>>,
}

/// The name of an attribute in a path.
pub enum AttrName<'h> {
    /// Known.
    Static(Symbol),
    /// Computed.
    Dynamic(Expr<'h>),
}

/// `base.path`, `base.path or default`.
pub struct Select<'h> {
    /// Where.
    pub pos: Pos,
    /// The index at which the name was found last time, if the path has one.
    pub cache: Cell<u32>,
    /// What is selected from.
    pub base: Expr<'h>,
    /// The path; not empty.
    pub path: &'h mut [AttrName<'h>],
    /// What follows `or`.
    pub default: Option<Expr<'h>>,
}

/// `base ? path`.
pub struct HasAttr<'h> {
    /// Where the operator is.
    pub pos: Pos,
    /// What is looked into.
    pub base: Expr<'h>,
    /// The path; not empty.
    pub path: &'h mut [AttrName<'h>],
}

/// `{ … }`, `rec { … }`, and the definitions of a `let`.
pub struct AttrSet<'h> {
    /// Where.
    pub pos: Pos,
    /// Whether the definitions see each other.
    pub recursive: bool,
    /// The definitions with known names, by symbol.
    pub defs: &'h mut [AttrDef<'h>],
    /// The sets of `inherit (set) …`.
    pub from: &'h mut [Delayed<'h>],
    /// The definitions with computed names, in the order of the text.
    pub dynamic: &'h mut [DynamicAttr<'h>],
    /// The index of `__overrides` in `defs`, in a recursive set that has it.
    pub overrides: Option<u32>,
}

/// A definition with a known name.
pub struct AttrDef<'h> {
    /// The name.
    pub name: Symbol,
    /// Where the name is.
    pub pos: Pos,
    /// In which scope the value is evaluated.
    pub kind: AttrKind,
    /// The value.
    pub value: Delayed<'h>,
}

/// In which scope the value of a definition is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrKind {
    /// `name = value;`: that of the set if it is recursive, else that around it.
    Plain,
    /// `inherit name;`: that around the set. The value is the variable.
    Inherited,
    /// `inherit (set) name;`: the value is a [`Select`] from an [`Expr::Local`], in the scope of
    /// the set if it is recursive, else in that of [`AttrSet::from`].
    From,
}

/// A definition with a computed name.
pub struct DynamicAttr<'h> {
    /// Where.
    pub pos: Pos,
    /// The name.
    pub name: Expr<'h>,
    /// The value.
    pub value: Delayed<'h>,
}

/// `[ … ]`.
pub struct ListExpr<'h> {
    /// The elements.
    pub items: &'h mut [Delayed<'h>],
}

/// A function.
pub struct Lambda<'h> {
    /// Where.
    pub pos: Pos,
    /// The name of the definition whose value it is.
    pub name: Cell<Option<Symbol>>,
    /// The name of the argument: `x: …`, `x@{ … }: …`.
    pub arg: Option<Symbol>,
    /// The attributes that the argument must have.
    pub formals: Option<Formals<'h>>,
    /// The body.
    pub body: Expr<'h>,
    /// The number under which functions know it, once there was one; before, 0.
    pub code: Cell<u32>,
    /// How many functions right around it, one being the body of the other, have their arguments
    /// in the same scope, in front of its own: of `x: y: …` there is one scope with two slots.
    pub before: u16,
    /// How many functions, one being the body of the other, follow in that scope.
    pub more: u16,
}

impl<'h> Lambda<'h> {
    /// How many of so many arguments the function, which has no formals, and those that follow in
    /// its scope take at once.
    #[inline]
    pub(crate) fn takes(&self, args: usize) -> usize {
        args.min(usize::from(self.more) + 1)
    }

    /// The body that is evaluated once so many arguments are given, as [`Lambda::takes`] says.
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

    /// This function or that of those in its body whose own body this is.
    pub(crate) fn whose_body(&self, body: &Expr<'h>) -> &Self {
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
    /// The formals, by symbol.
    pub items: &'h mut [Formal<'h>],
    /// Whether other attributes are allowed.
    pub ellipsis: bool,
}

/// One attribute that an argument must have.
pub struct Formal<'h> {
    /// Its name.
    pub name: Symbol,
    /// Where.
    pub pos: Pos,
    /// What it is if the argument has it not; evaluated in the scope of the function.
    pub default: Option<Delayed<'h>>,
}

/// `f a b`.
pub struct Call<'h> {
    /// Where.
    pub pos: Pos,
    /// The function.
    pub func: Expr<'h>,
    /// The arguments; not empty.
    pub args: &'h mut [Delayed<'h>],
}

/// `let … in body`.
pub struct Let<'h> {
    /// The definitions: recursive, none with a computed name.
    pub attrs: AttrSet<'h>,
    /// The body.
    pub body: Expr<'h>,
}

/// `with attrs; body`.
pub struct With<'h> {
    /// Where.
    pub pos: Pos,
    /// The set.
    pub attrs: Delayed<'h>,
    /// The body, one scope further in.
    pub body: Expr<'h>,
}

/// `if cond then yes else no`.
pub struct If<'h> {
    /// Where.
    pub pos: Pos,
    /// The condition.
    pub cond: Expr<'h>,
    /// If it holds.
    pub yes: Expr<'h>,
    /// If it does not.
    pub no: Expr<'h>,
}

/// `assert cond; body`.
pub struct Assert<'h> {
    /// Where.
    pub pos: Pos,
    /// The condition.
    pub cond: Expr<'h>,
    /// What it is if it holds.
    pub body: Expr<'h>,
}

/// `! e`.
pub struct Not<'h> {
    /// Where.
    pub pos: Pos,
    /// The operand.
    pub operand: Expr<'h>,
}

/// An operator with two sides.
pub struct Binary<'h> {
    /// Which.
    pub op: BinaryOp,
    /// So many bytes before the operator its left side begins; the largest number if it are more.
    pub left_length: u16,
    /// Where the operator is.
    pub pos: Pos,
    /// The left side.
    pub left: Expr<'h>,
    /// The right side.
    pub right: Expr<'h>,
}

impl Binary<'_> {
    /// Where the left side begins, or the operator is if that is too far away.
    pub fn left_pos(&self) -> Pos {
        match self.left_length {
            u16::MAX => self.pos,
            length => Pos(self.pos.0 - u32::from(length)),
        }
    }
}

/// Which operator.
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
    /// `-`; a call of `__sub` where that is not the builtin. A negation subtracts from 0.
    Sub,
    /// `*`, or `__mul`
    Mul,
    /// `/`, or `__div`
    Div,
    /// `<`, or `__lessThan`
    Less,
    /// `>`: `__lessThan` with the sides swapped
    Greater,
    /// `<=`: not `__lessThan` with the sides swapped
    LessOrEqual,
    /// `>=`: not `__lessThan`
    GreaterOrEqual,
}

/// A string or path with interpolations.
pub struct Concat<'h> {
    /// Where.
    pub pos: Pos,
    /// Whether it is a string; else it is a path, and the first part is one.
    pub string: bool,
    /// The parts.
    pub parts: &'h mut [ConcatPart<'h>],
}

/// A part of a string.
pub struct ConcatPart<'h> {
    /// Where.
    pub pos: Pos,
    /// The part.
    pub expr: Expr<'h>,
}

const _: () = assert!(size_of::<Expr<'_>>() == 16);
