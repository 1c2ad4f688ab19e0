//! The parser proper: recursive descent, with a stack for operators.

use std::cell::Cell;

use bumpalo::Bump;

use super::Context;
use super::attrs::Order;
use super::error::{SyntaxError, SyntaxErrorKind, SyntaxWarning};
use super::lexer::Lexer;
use super::operators::Pending;
use super::strings::Piece;
use super::token::{Tok, describe};
use crate::deep::{FIRST_LEVELS, LEVELS, on_new_stack};
use crate::ir::{
    Assert, AttrDef, AttrName, Call, ConcatPart, Delayed, DynamicAttr, Expr, Formal, If, Let,
    ListExpr, Select, With,
};
use crate::source::{Pos, Source};
use crate::symbol::Symbol;
use crate::value::{ContextId, NixString, Slot, Value};

/// The text has an error, which is in [`Parser::error`] or in the lexer.
#[derive(Debug)]
pub(super) struct Failed;

pub(super) type Parsed<T> = Result<T, Failed>;

/// Calls with more arguments are not merged into the outer call that has them as its function.
const JOINED_ARGS: usize = 32;

/// Names with a meaning in the language.
pub(super) struct Known {
    pub(super) or: Symbol,
    pub(super) cur_pos: Symbol,
    pub(super) body: Symbol,
    pub(super) find_file: Symbol,
    pub(super) nix_path: Symbol,
}

/// Parser state: elements that were read and are not part of a node yet. Each node under
/// construction owns the end of one of these vectors.
pub(super) struct Parser<'c, 'h> {
    pub(super) heap: &'h Bump,
    pub(super) cx: &'c Context<'c, 'h>,
    pub(super) lx: Lexer<'c, 'h>,
    pub(super) known: Known,
    pub(super) error: Option<SyntaxError>,
    pub(super) depth: u32,
    /// The depth for which the stack has room.
    stack_end: u32,
    /// Whether the text contains a CR or a NUL.
    pub(super) odd_bytes: bool,
    pub(super) items: Vec<Delayed<'h>>,
    pub(super) names: Vec<AttrName<'h>>,
    pub(super) defs: Vec<AttrDef<'h>>,
    pub(super) from: Vec<Delayed<'h>>,
    pub(super) dynamic: Vec<DynamicAttr<'h>>,
    pub(super) formals: Vec<Formal<'h>>,
    pub(super) parts: Vec<ConcatPart<'h>>,
    pub(super) pieces: Vec<(Pos, Piece<'h>)>,
    pub(super) bytes: Vec<u8>,
    pub(super) pending: Vec<Pending>,
    pub(super) operands: Vec<Expr<'h>>,
    /// Places of parentheses whose first operand is in parentheses, too.
    open: Vec<Pos>,
    /// Buffers for sorting definitions.
    pub(super) order: Order,
    /// Start and end of the last operand, if it is a call with `or`.
    or_as_name: Option<(Pos, Pos)>,
}

impl<'c, 'h> Parser<'c, 'h> {
    pub(super) fn new(cx: &'c Context<'c, 'h>, source: &Source<'h>) -> Self {
        let known = Known {
            or: cx.symbols.intern(b"or"),
            cur_pos: cx.symbols.intern(b"__curPos"),
            body: cx.symbols.intern(b"body"),
            find_file: cx.symbols.intern(b"__findFile"),
            nix_path: cx.symbols.intern(b"__nixPath"),
        };
        Self {
            heap: cx.heap.permanent(),
            cx,
            lx: Lexer::new(source, cx.symbols, known.or),
            known,
            error: None,
            depth: 0,
            stack_end: FIRST_LEVELS,
            odd_bytes: memchr::memchr2(b'\r', 0, source.text).is_some(),
            items: Vec::new(),
            names: Vec::new(),
            defs: Vec::new(),
            from: Vec::new(),
            dynamic: Vec::new(),
            formals: Vec::new(),
            parts: Vec::new(),
            pieces: Vec::new(),
            bytes: Vec::new(),
            pending: Vec::new(),
            operands: Vec::new(),
            open: Vec::new(),
            order: Order::default(),
            or_as_name: None,
        }
    }

    /// Parses the complete text.
    pub(super) fn file(&mut self) -> Result<Expr<'h>, SyntaxError> {
        self.lx.advance();
        let parsed = match self.expr() {
            Ok(expr) => self.want(Tok::Eof, &["end of file"]).map(|()| expr),
            Err(failed) => Err(failed),
        };
        self.finished(parsed)
    }

    /// Parses the complete text as definitions, at least one: the body of a set.
    pub(super) fn definitions(&mut self) -> Result<Expr<'h>, SyntaxError> {
        self.lx.advance();
        let parsed = self.definitions_to_end();
        self.finished(parsed)
    }

    fn definitions_to_end(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        if self.lx.tok == Tok::Eof {
            return Err(self.unexpected(&[]));
        }
        let set = self.bindings(pos, false)?;
        self.want(Tok::Eof, &["end of file", "'inherit'"])?;
        Ok(Expr::AttrSet(self.heap.alloc(set)))
    }

    fn finished(&mut self, parsed: Parsed<Expr<'h>>) -> Result<Expr<'h>, SyntaxError> {
        parsed.map_err(|Failed| match (self.error.take(), self.lx.error.take()) {
            (Some(error), _) => error,
            (None, Some(error)) => *error,
            (None, None) => unreachable!("every failure leaves an error"),
        })
    }

    /// The condition of the assertion at the start of the text. The text after it is not parsed.
    pub(super) fn assertion(&mut self) -> Option<Expr<'h>> {
        self.lx.advance();
        if self.lx.tok != Tok::Assert {
            return None;
        }
        self.lx.advance();
        self.expr().ok()
    }

    #[cold]
    pub(super) fn fail_at(&mut self, kind: SyntaxErrorKind, pos: Pos) -> Failed {
        self.error.get_or_insert(SyntaxError {
            kind,
            pos,
            other: None,
        });
        Failed
    }

    /// The error for the current token, which is not allowed here.
    #[cold]
    pub(super) fn unexpected(&mut self, expected: &[&'static str]) -> Failed {
        if self.lx.tok == Tok::Error {
            return Failed;
        }
        let found = describe(self.lx.tok);
        let pos = self.lx.here();
        self.fail_at(
            SyntaxErrorKind::Unexpected {
                found,
                expected: expected.to_vec(),
            },
            pos,
        )
    }

    /// Fails unless the current token is `tok`.
    #[inline]
    pub(super) fn want(&mut self, tok: Tok, expected: &[&'static str]) -> Parsed<()> {
        if self.lx.tok == tok {
            Ok(())
        } else {
            Err(self.unexpected(expected))
        }
    }

    /// Skips the current token, which must be `tok`.
    #[inline]
    pub(super) fn pass(&mut self, tok: Tok) -> Parsed<()> {
        if self.lx.tok == tok {
            self.lx.advance();
            Ok(())
        } else {
            Err(self.unexpected(&[describe(tok)]))
        }
    }

    /// Enters further nesting levels.
    #[inline]
    pub(super) fn deeper(&mut self, levels: u32) -> Parsed<()> {
        self.depth = self.depth.saturating_add(levels);
        if self.depth > self.cx.depth_limit {
            let pos = self.lx.here();
            return Err(self.fail_at(SyntaxErrorKind::TooDeep, pos));
        }
        Ok(())
    }

    pub(super) fn constant(&self, value: Value<'h>) -> Expr<'h> {
        Expr::Const(self.heap.alloc(Slot::new(value)))
    }

    pub(super) fn string_constant(&self, bytes: &'h [u8]) -> Expr<'h> {
        let string = self.heap.alloc(NixString {
            bytes,
            context: ContextId::default(),
            symbol: Cell::new(0),
        });
        self.constant(Value::String(string))
    }

    /// Continues on a new stack.
    #[cold]
    #[inline(never)]
    fn on_new_stack<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let end = std::mem::replace(&mut self.stack_end, self.depth.saturating_add(LEVELS));
        let parsed = on_new_stack(|| parse(self));
        self.stack_end = end;
        let pos = self.lx.here();
        parsed.unwrap_or_else(|_| Err(self.fail_at(SyntaxErrorKind::TooDeep, pos)))
    }

    /// Any expression.
    #[inline]
    pub(super) fn expr(&mut self) -> Parsed<Expr<'h>> {
        self.deeper(1)?;
        if self.depth > self.stack_end {
            return self.on_new_stack(Self::any_expr);
        }
        self.any_expr()
    }

    fn any_expr(&mut self) -> Parsed<Expr<'h>> {
        let expr = match self.lx.tok {
            Tok::Ident => {
                let (name, pos) = (self.lx.name, self.lx.here());
                self.lx.advance();
                match self.lx.tok {
                    Tok::Colon => self.lambda(pos, name),
                    Tok::At => self.lambda_with_formals_after(pos, name),
                    tok => {
                        let head = self.variable(name, pos);
                        if tok.ends_expression() {
                            Ok(head)
                        } else {
                            self.operation(Some((head, pos)))
                        }
                    }
                }
            }
            Tok::Quote => {
                let pos = self.lx.here();
                let head = self.string()?;
                self.lx.advance();
                if self.lx.tok.ends_expression() {
                    Ok(head)
                } else {
                    self.operation(Some((head, pos)))
                }
            }
            Tok::LBrace => self.brace(),
            Tok::Let => self.let_in(),
            Tok::If => self.if_else(),
            Tok::With => self.with(),
            Tok::Assert => self.assert(),
            _ => self.operation(None),
        };
        self.depth -= 1;
        expr
    }

    #[inline(never)]
    fn let_in(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        self.lx.advance();
        if self.lx.tok == Tok::LBrace {
            let head = self.let_set(pos)?;
            return self.operation(Some((head, pos)));
        }
        let attrs = self.bindings(pos, true)?;
        self.want(Tok::In, &["'in'", "'inherit'"])?;
        if !attrs.dynamic.is_empty() {
            return Err(self.fail_at(SyntaxErrorKind::DynamicInLet, pos));
        }
        self.lx.advance();
        let body = self.expr()?;
        Ok(Expr::Let(self.heap.alloc(Let { attrs, body })))
    }

    #[inline(never)]
    fn if_else(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        self.lx.advance();
        let cond = self.expr()?;
        self.pass(Tok::Then)?;
        let yes = self.expr()?;
        self.pass(Tok::Else)?;
        let no = self.expr()?;
        Ok(Expr::If(self.heap.alloc(If { pos, cond, yes, no })))
    }

    #[inline(never)]
    fn with(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        self.lx.advance();
        let attrs = Delayed::new(self.expr()?);
        self.pass(Tok::Semicolon)?;
        let body = self.expr()?;
        Ok(Expr::With(self.heap.alloc(With { pos, attrs, body })))
    }

    #[inline(never)]
    fn assert(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        self.lx.advance();
        let cond = self.expr()?;
        self.pass(Tok::Semicolon)?;
        let body = self.expr()?;
        Ok(Expr::Assert(self.heap.alloc(Assert { pos, cond, body })))
    }

    /// `f a b`, or `f` alone.
    pub(super) fn application(&mut self, head: Option<(Expr<'h>, Pos)>) -> Parsed<Expr<'h>> {
        let pos = match &head {
            Some((_, pos)) => *pos,
            None => self.lx.here(),
        };
        let func = self.selection(head)?;
        self.or_as_name = None;
        if self.lx.tok.starts_operand() {
            self.call(func, pos)
        } else {
            Ok(func)
        }
    }

    #[inline(never)]
    fn call(&mut self, mut func: Expr<'h>, mut pos: Pos) -> Parsed<Expr<'h>> {
        let base = self.items.len();
        // `(f a) b` is one call.
        if let Expr::Call(inner) = &mut func
            && inner.args.len() <= JOINED_ARGS
        {
            pos = inner.pos;
            for arg in inner.args.iter_mut() {
                self.items.push(std::mem::replace(arg, nothing()));
            }
            let joined = std::mem::replace(&mut inner.func, Expr::CurPos(Pos::NONE));
            func = joined;
        }
        while self.lx.tok.starts_operand() {
            let arg = self.selection(None)?;
            self.items.push(Delayed::new(arg));
            self.warn_of_or();
        }
        let args = self.heap.alloc_slice_fill_iter(self.items.drain(base..));
        Ok(Expr::Call(self.heap.alloc(Call { pos, func, args })))
    }

    /// An operand with selections.
    fn selection(&mut self, head: Option<(Expr<'h>, Pos)>) -> Parsed<Expr<'h>> {
        let (base, pos) = match head {
            Some(head) => head,
            None => {
                let pos = self.lx.here();
                (self.operand()?, pos)
            }
        };
        match self.lx.tok {
            Tok::Dot => self.select(base, pos),
            Tok::Or => self.call_with_or(base, pos),
            _ => Ok(base),
        }
    }

    #[inline(never)]
    fn select(&mut self, base: Expr<'h>, pos: Pos) -> Parsed<Expr<'h>> {
        self.lx.advance();
        let path = self.attr_path()?;
        let default = if self.lx.tok == Tok::Or {
            self.lx.advance();
            self.deeper(1)?;
            let default = match self.depth > self.stack_end {
                true => self.on_new_stack(|parser| parser.selection(None))?,
                false => self.selection(None)?,
            };
            self.warn_of_or();
            self.depth -= 1;
            Some(default)
        } else {
            None
        };
        Ok(Expr::Select(self.heap.alloc(Select {
            cache: Cell::new(0),
            pos,
            base,
            path,
            default,
        })))
    }

    /// `x or`: a call with the variable `or`, for texts older than the keyword.
    #[cold]
    fn call_with_or(&mut self, func: Expr<'h>, pos: Pos) -> Parsed<Expr<'h>> {
        self.or_as_name = Some((pos, self.lx.place(self.lx.pos)));
        self.lx.advance();
        let or = Expr::Name {
            name: self.known.or,
            pos,
        };
        let args = self.heap.alloc_slice_fill_iter([Delayed::new(or)]);
        Ok(Expr::Call(self.heap.alloc(Call { pos, func, args })))
    }

    /// Warns of a call with `or` in a place where it would have another meaning if `or` were an
    /// ordinary name.
    #[inline]
    fn warn_of_or(&mut self) {
        if let Some((start, end)) = self.or_as_name.take() {
            (self.cx.warn)(SyntaxWarning::OrAsName { start, end });
        }
    }

    #[inline]
    fn variable(&self, name: Symbol, pos: Pos) -> Expr<'h> {
        if name == self.known.cur_pos {
            Expr::CurPos(pos)
        } else {
            Expr::Name { name, pos }
        }
    }

    /// An operand: an expression without operators outside of brackets.
    fn operand(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        match self.lx.tok {
            Tok::Ident => {
                let expr = self.variable(self.lx.name, pos);
                self.lx.advance();
                Ok(expr)
            }
            Tok::Quote => {
                let expr = self.string()?;
                self.lx.advance();
                Ok(expr)
            }
            Tok::IndOpen => {
                let expr = self.indented_string(pos)?;
                self.lx.advance();
                Ok(expr)
            }
            Tok::LParen => self.parentheses(),
            Tok::LBrace => {
                self.lx.advance();
                self.set(pos, false)
            }
            Tok::LBracket => self.list(),
            Tok::Rec => {
                self.lx.advance();
                self.pass(Tok::LBrace)?;
                self.set(pos, true)
            }
            Tok::Let => {
                self.lx.advance();
                self.want(Tok::LBrace, &["'{'"])?;
                self.let_set(pos)
            }
            _ => self.literal(),
        }
    }

    /// `( … )`. Parentheses that begin where others do need no recursion.
    fn parentheses(&mut self) -> Parsed<Expr<'h>> {
        let base = self.open.len();
        self.lx.advance();
        while self.lx.tok == Tok::LParen {
            self.open.push(self.lx.here());
            self.lx.advance();
        }
        let mut expr = self.expr()?;
        self.pass(Tok::RParen)?;
        while self.open.len() > base
            && let Some(pos) = self.open.pop()
        {
            self.or_as_name = None;
            expr = self.operation(Some((expr, pos)))?;
            self.pass(Tok::RParen)?;
        }
        Ok(expr)
    }

    /// `{ … }`, after the brace.
    pub(super) fn set(&mut self, pos: Pos, recursive: bool) -> Parsed<Expr<'h>> {
        let attrs = self.bindings(pos, recursive)?;
        self.want(
            Tok::RBrace,
            match recursive {
                true => &["'inherit'", "'}'"],
                false => &["'inherit'"],
            },
        )?;
        self.lx.advance();
        Ok(Expr::AttrSet(self.heap.alloc(attrs)))
    }

    /// `let { …; body = …; }`, from the brace.
    #[inline(never)]
    fn let_set(&mut self, pos: Pos) -> Parsed<Expr<'h>> {
        self.lx.advance();
        let base = self.set(pos, true)?;
        let path = self
            .heap
            .alloc_slice_fill_iter([AttrName::Static(self.known.body)]);
        Ok(Expr::Select(self.heap.alloc(Select {
            cache: Cell::new(0),
            pos: Pos::NONE,
            base,
            path,
            default: None,
        })))
    }

    #[inline(never)]
    fn list(&mut self) -> Parsed<Expr<'h>> {
        self.deeper(1)?;
        if self.depth > self.stack_end {
            return self.on_new_stack(Self::elements);
        }
        self.elements()
    }

    /// The elements of a list, from the bracket.
    fn elements(&mut self) -> Parsed<Expr<'h>> {
        self.lx.advance();
        let base = self.items.len();
        while self.lx.tok.starts_operand() {
            let item = self.selection(None)?;
            self.items.push(Delayed::new(item));
            self.warn_of_or();
        }
        self.want(Tok::RBracket, &[])?;
        self.depth -= 1;
        self.lx.advance();
        let items = self.heap.alloc_slice_fill_iter(self.items.drain(base..));
        Ok(Expr::List(self.heap.alloc(ListExpr { items })))
    }

    #[inline(never)]
    fn literal(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        let expr = match self.lx.tok {
            Tok::Int => self.constant(Value::Int(self.lx.number as i64)),
            Tok::Float => self.constant(Value::Float(f64::from_bits(self.lx.number))),
            Tok::Uri => {
                let text = self.lx.text;
                self.string_constant(&text[self.lx.start..self.lx.pos])
            }
            Tok::Path | Tok::HomePath => self.path(pos)?,
            Tok::SearchPath => {
                let text = self.lx.text;
                let path = self.string_constant(&text[self.lx.start + 1..self.lx.pos - 1]);
                let variable = |name| Expr::Name { name, pos };
                let func = variable(self.known.find_file);
                let search = variable(self.known.nix_path);
                let args = self
                    .heap
                    .alloc_slice_fill_iter([Delayed::new(search), Delayed::new(path)]);
                Expr::Call(self.heap.alloc(Call { pos, func, args }))
            }
            _ => return Err(self.unexpected(&[])),
        };
        self.lx.advance();
        Ok(expr)
    }
}

/// The placeholder for an expression that was moved.
pub(super) fn nothing<'h>() -> Delayed<'h> {
    Delayed::new(Expr::CurPos(Pos::NONE))
}
