//! Operators: a stack of operators with incomplete right operands.

use super::parser::{Parsed, Parser};
use super::token::Tok;
use crate::ir::{Binary, BinaryOp, Expr, HasAttr, Not};
use crate::source::Pos;
use crate::value::Value;

/// An operator with an incomplete right operand.
pub(super) struct Pending {
    tok: Tok,
    prefix: bool,
    precedence: u8,
    pos: Pos,
    /// Start of its left operand, or of the operator itself if it has none.
    start: Pos,
}

impl<'h> Parser<'_, 'h> {
    /// Operators and their operands. The start of the first operand may have been read already.
    pub(super) fn operation(&mut self, head: Option<(Expr<'h>, Pos)>) -> Parsed<Expr<'h>> {
        if head.is_none() && matches!(self.lx.tok, Tok::Not | Tok::Minus) {
            return self.operators(None);
        }
        let start = match &head {
            Some((_, pos)) => *pos,
            None => self.lx.here(),
        };
        let operand = self.application(head)?;
        if self.lx.tok.is_operator() {
            return self.operators(Some((operand, start)));
        }
        Ok(operand)
    }

    #[inline(never)]
    fn operators(&mut self, mut first: Option<(Expr<'h>, Pos)>) -> Parsed<Expr<'h>> {
        let pending = self.pending.len();
        loop {
            let (mut operand, mut start) = match first.take() {
                Some(operand) => operand,
                None => {
                    loop {
                        let precedence = match self.lx.tok {
                            Tok::Not => 7,
                            Tok::Minus => 12,
                            _ => break,
                        };
                        self.pending.push(Pending {
                            tok: self.lx.tok,
                            prefix: true,
                            precedence,
                            pos: self.lx.here(),
                            start: self.lx.here(),
                        });
                        self.lx.advance();
                    }
                    let start = self.lx.here();
                    (self.application(None)?, start)
                }
            };
            if self.lx.tok == Tok::Question {
                let pos = self.lx.here();
                (operand, start) = self.complete(operand, start, pending, 11, false);
                self.lx.advance();
                let path = self.attr_path()?;
                operand = Expr::HasAttr(self.heap.alloc(HasAttr {
                    pos,
                    base: operand,
                    path,
                }));
                if self.lx.tok == Tok::Question {
                    return Err(self.unexpected(&[]));
                }
            }
            let tok = self.lx.tok;
            if !tok.is_operator() {
                return Ok(self.complete(operand, start, pending, 0, false).0);
            }
            let (precedence, right) = match tok {
                Tok::Implies => (1, true),
                Tok::OrOr => (2, false),
                Tok::AndAnd => (3, false),
                Tok::Equal | Tok::NotEqual => (4, false),
                Tok::Less | Tok::Greater | Tok::LessOrEqual | Tok::GreaterOrEqual => (5, false),
                Tok::Update => (6, true),
                Tok::Plus | Tok::Minus => (8, false),
                Tok::Times | Tok::Divide => (9, false),
                _ => (10, true),
            };
            if let 4 | 5 = precedence {
                (operand, start) = self.complete(operand, start, pending, precedence + 1, false);
                if self.pending.len() > pending
                    && self
                        .pending
                        .last()
                        .is_some_and(|p| p.precedence == precedence)
                {
                    return Err(self.unexpected(&[]));
                }
            } else {
                (operand, start) = self.complete(operand, start, pending, precedence, right);
            }
            self.operands.push(operand);
            self.pending.push(Pending {
                tok,
                prefix: false,
                precedence,
                pos: self.lx.here(),
                start,
            });
            self.lx.advance();
        }
    }

    /// Applies the operators above `base` that bind tighter than `precedence` or, unless `strict`,
    /// equally tight. Returns the start of the result, too.
    fn complete(
        &mut self,
        mut operand: Expr<'h>,
        mut start: Pos,
        base: usize,
        precedence: u8,
        strict: bool,
    ) -> (Expr<'h>, Pos) {
        while self.pending.len() > base
            && let Some(top) = self.pending.pop_if(|top| {
                top.precedence > precedence || (!strict && top.precedence == precedence)
            })
        {
            let pos = top.pos;
            start = top.start;
            operand = if top.prefix && top.tok == Tok::Not {
                Expr::Not(self.heap.alloc(Not { pos, operand }))
            } else {
                let left = if top.prefix {
                    self.constant(Value::Int(0))
                } else {
                    self.operands.pop().expect("one for each operator")
                };
                Expr::Binary(self.heap.alloc(Binary {
                    op: binary_op(top.tok),
                    left_length: u16::try_from(pos.0 - start.0).unwrap_or(u16::MAX),
                    pos,
                    left,
                    right: operand,
                }))
            };
        }
        (operand, start)
    }
}

fn binary_op(tok: Tok) -> BinaryOp {
    match tok {
        Tok::Implies => BinaryOp::Implies,
        Tok::OrOr => BinaryOp::Or,
        Tok::AndAnd => BinaryOp::And,
        Tok::Equal => BinaryOp::Equal,
        Tok::NotEqual => BinaryOp::NotEqual,
        Tok::Less => BinaryOp::Less,
        Tok::Greater => BinaryOp::Greater,
        Tok::LessOrEqual => BinaryOp::LessOrEqual,
        Tok::GreaterOrEqual => BinaryOp::GreaterOrEqual,
        Tok::Update => BinaryOp::Update,
        Tok::Plus => BinaryOp::Add,
        Tok::Minus => BinaryOp::Sub,
        Tok::Times => BinaryOp::Mul,
        Tok::Divide => BinaryOp::Div,
        _ => BinaryOp::Concat,
    }
}
