//! Functions and their arguments, and their distinction from sets.

use std::cell::Cell;

use bstr::BString;

use super::error::SyntaxErrorKind;
use super::parser::{Parsed, Parser};
use super::token::Tok;
use crate::ir::{Delayed, Expr, Formal, Formals, Lambda};
use crate::source::Pos;
use crate::symbol::Symbol;

impl<'h> Parser<'_, 'h> {
    /// `name: body`, from the colon.
    #[inline(never)]
    pub(super) fn lambda(&mut self, pos: Pos, arg: Symbol) -> Parsed<Expr<'h>> {
        self.lx.advance();
        let body = self.expr()?;
        Ok(self.function(pos, Some(arg), None, body))
    }

    /// `name@{ … }: body`, from the at sign.
    #[inline(never)]
    pub(super) fn lambda_with_formals_after(&mut self, pos: Pos, arg: Symbol) -> Parsed<Expr<'h>> {
        self.lx.advance();
        self.pass(Tok::LBrace)?;
        let formals = match self.lx.tok {
            Tok::Ident | Tok::Ellipsis | Tok::RBrace => self.formals(None)?,
            _ => return Err(self.unexpected(&["identifier", "'...'", "'}'"])),
        };
        self.check_arg(&formals, arg, pos)?;
        self.pass(Tok::Colon)?;
        let body = self.expr()?;
        Ok(self.function(pos, Some(arg), Some(formals), body))
    }

    /// An expression that starts with a brace: a function, or an operation that starts with a set.
    #[inline(never)]
    pub(super) fn brace(&mut self) -> Parsed<Expr<'h>> {
        let pos = self.lx.here();
        self.lx.advance();
        let formals = match self.lx.tok {
            Tok::Ident => {
                let (name, name_pos) = (self.lx.name, self.lx.here());
                self.lx.advance();
                match self.lx.tok {
                    Tok::Comma | Tok::Question | Tok::RBrace => {
                        self.formals(Some((name, name_pos)))?
                    }
                    Tok::Dot | Tok::Assign => {
                        let attrs = self.bindings_from(pos, name, name_pos)?;
                        self.want(Tok::RBrace, &["'inherit'"])?;
                        self.lx.advance();
                        let head = Expr::AttrSet(self.heap.alloc(attrs));
                        return self.operation(Some((head, pos)));
                    }
                    _ => return Err(self.unexpected(&["'.'", "'='"])),
                }
            }
            Tok::Ellipsis => self.formals(None)?,
            Tok::RBrace => {
                let head = self.set(pos, false)?;
                match self.lx.tok {
                    Tok::Colon | Tok::At => Formals {
                        items: &mut [],
                        ellipsis: false,
                    },
                    _ => return self.operation(Some((head, pos))),
                }
            }
            _ => {
                let head = self.set(pos, false)?;
                return self.operation(Some((head, pos)));
            }
        };
        let arg = match self.lx.tok {
            Tok::Colon => None,
            Tok::At => {
                self.lx.advance();
                self.want(Tok::Ident, &["identifier"])?;
                let arg = self.lx.name;
                self.lx.advance();
                self.check_arg(&formals, arg, pos)?;
                Some(arg)
            }
            _ => return Err(self.unexpected(&["':'", "'@'"])),
        };
        self.pass(Tok::Colon)?;
        let body = self.expr()?;
        Ok(self.function(pos, arg, Some(formals), body))
    }

    fn function(
        &self,
        pos: Pos,
        arg: Option<Symbol>,
        formals: Option<Formals<'h>>,
        body: Expr<'h>,
    ) -> Expr<'h> {
        Expr::Lambda(self.heap.alloc(Lambda {
            code: Cell::new(0),
            pos,
            name: Cell::new(None),
            arg,
            formals,
            body,
            before: 0,
            more: 0,
        }))
    }

    /// Formals up to the closing brace. The first name may have been read already.
    fn formals(&mut self, mut first: Option<(Symbol, Pos)>) -> Parsed<Formals<'h>> {
        let base = self.formals.len();
        let mut ellipsis = false;
        loop {
            let (name, pos) = match first.take() {
                Some(first) => first,
                None => match self.lx.tok {
                    Tok::Ident => {
                        let first = (self.lx.name, self.lx.here());
                        self.lx.advance();
                        first
                    }
                    Tok::Ellipsis => {
                        ellipsis = true;
                        self.lx.advance();
                        break;
                    }
                    Tok::RBrace => break,
                    _ => return Err(self.unexpected(&["identifier", "'...'", "'}'"])),
                },
            };
            let default = if self.lx.tok == Tok::Question {
                self.lx.advance();
                Some(Delayed::new(self.expr()?))
            } else {
                None
            };
            self.formals.push(Formal { name, pos, default });
            match self.lx.tok {
                Tok::Comma => self.lx.advance(),
                Tok::RBrace => break,
                _ => return Err(self.unexpected(&["'}'", "','"])),
            }
        }
        self.pass(Tok::RBrace)?;
        let formals = &mut self.formals[base..];
        if !formals.is_sorted_by(|a, b| a.name < b.name) {
            formals.sort_by_key(|formal| formal.name);
            if let Some(pair) = formals.windows(2).find(|pair| pair[0].name == pair[1].name) {
                let (name, pos) = (pair[1].name, pair[1].pos);
                return Err(self.duplicate_formal(name, pos));
            }
        }
        let items = self.heap.alloc_slice_fill_iter(self.formals.drain(base..));
        Ok(Formals { items, ellipsis })
    }

    fn check_arg(&mut self, formals: &Formals<'h>, arg: Symbol, pos: Pos) -> Parsed<()> {
        match formals
            .items
            .binary_search_by_key(&arg, |formal| formal.name)
        {
            Ok(_) => Err(self.duplicate_formal(arg, pos)),
            Err(_) => Ok(()),
        }
    }

    #[cold]
    fn duplicate_formal(&mut self, name: Symbol, pos: Pos) -> super::parser::Failed {
        let name = BString::from(self.cx.symbols.name(name));
        self.fail_at(SyntaxErrorKind::DuplicateFormal(name), pos)
    }
}
