//! `+`, and strings and paths with interpolations.

use super::Coercion;
use super::chain::{chain, is_chain};
use super::operators::add_integers;
use crate::error::{Error, ErrorKind, Result};
use crate::heap::HeapVec;
use crate::interp::{Demand, Grown, Interp, Memo, Offer, Upcoming};
use crate::ir::{Binary, Concat};
use crate::source::Pos;
use crate::value::{ContextId, Env, Value};

/// Maximum number of parts of a string that are concatenated at once.
const PIECES: usize = 8;

const SEGMENT: &str = "while evaluating a path segment";

impl<'h> Interp<'h> {
    /// `left + right`.
    pub(super) fn add(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<Value<'h>> {
        if is_chain(node) {
            return self.add_chain(node, env);
        }
        let (left, memo) = self.eval_first(&node.left, &node.right, env, Demand::Text)?;
        self.add_to(node, left, || self.eval_second(&memo, &node.right, env))
    }

    /// `a + b + c …`, without recursion.
    #[inline(never)]
    fn add_chain(&self, node: &'h Binary<'h>, env: Env<'h>) -> Result<Value<'h>> {
        let (first, nodes) = chain(node);
        let memo = Memo::new();
        let operand = |index: usize| match index.checked_sub(1) {
            None => Some(first),
            Some(index) => nodes.get(index).map(|node| &node.right),
        };
        let offer = |index: u32| match operand(index as usize) {
            None => Offer::End,
            Some(expr) => {
                let place = (nodes.len() + 1, index as usize);
                self.offer_expr(&memo, place, expr, env, Demand::Text)
            }
        };
        self.upcoming(&offer, |upcoming| {
            let mut sum = self.eval_upcoming(&memo, 0, first, env)?;
            for (index, node) in nodes.iter().enumerate() {
                sum = self.add_to(node, sum, || {
                    upcoming.at(index + 1);
                    self.eval_upcoming(&memo, index + 1, &node.right, env)
                })?;
            }
            Ok(sum)
        })
    }

    /// The sum of a value and the right operand.
    #[inline(always)]
    fn add_to(
        &self,
        node: &'h Binary<'h>,
        left: Value<'h>,
        right: impl FnOnce() -> Result<Value<'h>>,
    ) -> Result<Value<'h>> {
        // Paths in a string are copied to the store only if the left operand is a string.
        let copy_to_store = matches!(left, Value::String(_));
        let left = match left {
            Value::Int(_) | Value::Float(_) | Value::String(_) | Value::Path(_) => left,
            other => self.as_text(other, node.left_pos())?,
        };
        let right = right()?;
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => {
                add_integers(a, b).map_err(|error| error.at(self.right_of(node.pos)))
            }
            (Value::Int(a), Value::Float(b)) => Ok(Value::Float(a as f64 + b)),
            (Value::Float(a), Value::Int(b)) => Ok(Value::Float(a + b as f64)),
            (Value::Float(a), Value::Float(b)) => Ok(Value::Float(a + b)),
            (Value::Int(_), other) => Err(cannot_add(other, "an integer", self.right_of(node.pos))),
            (Value::Float(_), other) => Err(cannot_add(other, "a float", self.right_of(node.pos))),
            (Value::String(a), Value::String(b)) => {
                self.make_room(a.bytes.len() + b.bytes.len())?;
                let context = self.contexts.union(a.context, b.context);
                let length = a.bytes.len() + b.bytes.len();
                Ok(self.joined(&[a.bytes, b.bytes], length, context))
            }
            (first, second) => self.with_buffer(|buffer| {
                let mut context = ContextId::EMPTY;
                let mode = Coercion {
                    copy_to_store,
                    ..Coercion::STRICT
                };
                self.coerce(first, mode, node.pos, SEGMENT, buffer, &mut context)?;
                let at = match second {
                    Value::String(_) => node.pos,
                    _ => self.right_of(node.pos),
                };
                self.coerce(second, mode, at, SEGMENT, buffer, &mut context)?;
                match first {
                    Value::Path(_) => self.appended_path(buffer, context, node.pos),
                    _ => Ok(self.string(&*buffer, context)),
                }
            }),
        }
    }

    /// `"…${e}…"`, `./a/${e}`.
    pub(super) fn concat(&self, node: &'h Concat<'h>, env: Env<'h>) -> Result<Value<'h>> {
        match node.several {
            true => self.concat_several(node, env),
            false => self.concat_parts(node, env, &Memo::new(), None),
        }
    }

    /// A string or path with several parts that are evaluated.
    #[inline(never)]
    fn concat_several(&self, node: &'h Concat<'h>, env: Env<'h>) -> Result<Value<'h>> {
        let memo = Memo::new();
        let offer = |index: u32| match node.parts.get(index as usize) {
            None => Offer::End,
            Some(part) => {
                let place = (node.parts.len(), index as usize);
                self.offer_expr(&memo, place, &part.expr, env, Demand::Text)
            }
        };
        self.upcoming(&offer, |upcoming| {
            self.concat_parts(node, env, &memo, Some(upcoming))
        })
    }

    #[inline(always)]
    fn concat_parts(
        &self,
        node: &'h Concat<'h>,
        env: Env<'h>,
        memo: &Memo<'h>,
        upcoming: Option<&Upcoming<'h>>,
    ) -> Result<Value<'h>> {
        let mut context = ContextId::EMPTY;
        let mut pieces: [&'h [u8]; PIECES] = [b""; PIECES];
        let mut known = 0;
        let mut length = 0;
        let mut other = None;
        if node.string && node.parts.len() <= PIECES {
            // A few strings are concatenated once, directly into the heap.
            for (index, (part, piece)) in node.parts.iter().zip(&mut pieces).enumerate() {
                if let Some(upcoming) = upcoming {
                    upcoming.at(index);
                }
                match self.eval_upcoming(memo, index, &part.expr, env)? {
                    Value::String(string) => {
                        *piece = string.bytes;
                        length += string.bytes.len();
                        context = self.contexts.union(context, string.context);
                        known += 1;
                    }
                    value => {
                        other = Some(value);
                        break;
                    }
                }
            }
            self.make_room(length)?;
            if other.is_none() {
                return Ok(self.joined(&pieces[..known], length, context));
            }
        }
        self.with_buffer(|buffer| {
            let mode = Coercion {
                copy_to_store: node.string,
                ..Coercion::STRICT
            };
            for piece in &pieces[..known] {
                buffer.extend_from_slice(piece);
            }
            for (index, part) in node.parts.iter().enumerate().skip(known) {
                if let Some(upcoming) = upcoming {
                    upcoming.at(index);
                }
                if let Some(value) = other.take() {
                    self.coerce(value, mode, part.pos, SEGMENT, buffer, &mut context)?;
                    continue;
                }
                let value = self.eval_upcoming(memo, index, &part.expr, env)?;
                match value {
                    Value::String(string) => {
                        self.make_room(buffer.len() + string.bytes.len())?;
                        buffer.extend_from_slice(string.bytes);
                        context = self.contexts.union(context, string.context);
                    }
                    other => self.coerce(other, mode, part.pos, SEGMENT, buffer, &mut context)?,
                }
            }
            if node.string {
                Ok(self.string(&*buffer, context))
            } else {
                self.appended_path(buffer, context, node.pos)
            }
        })
    }

    /// A string of pieces with a total length of `length` bytes.
    fn joined(&self, pieces: &[&'h [u8]], length: usize, context: ContextId) -> Value<'h> {
        if length == 0 && context.is_empty() {
            return Value::String(self.shared.empty_string);
        }
        if length >= Grown::SMALL
            && let Some(bytes) = self.grown(pieces, length)
        {
            return self.string_in_heap(bytes, context);
        }
        let mut bytes = HeapVec::with_capacity(self.heap, length);
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        self.string_in_heap(bytes.into_slice(), context)
    }

    /// The concatenated pieces, if one of them is longer than all others together and can grow in
    /// place.
    fn grown(&self, pieces: &[&'h [u8]], length: usize) -> Option<&'h [u8]> {
        let grows =
            |piece: &[u8]| piece.len() >= Grown::SMALL && length - piece.len() < piece.len();
        let bytes = &self.grown.bytes;
        match pieces {
            [first, last] if grows(first) => Some(bytes.append(first, last)),
            [first, last] if grows(last) => Some(bytes.prepend(first, last)),
            _ => {
                let index = pieces.iter().position(|piece| grows(piece))?;
                let (before, behind) = (&pieces[..index], &pieces[index + 1..]);
                Some(bytes.surround(before, pieces[index], behind))
            }
        }
    }

    /// Coerces a left operand that is not a number, string or path, before the right operand is
    /// evaluated.
    fn as_text(&self, value: Value<'h>, pos: Pos) -> Result<Value<'h>> {
        self.with_buffer(|buffer| {
            let mut context = ContextId::EMPTY;
            self.coerce(value, Coercion::STRICT, pos, SEGMENT, buffer, &mut context)?;
            Ok(self.string(&*buffer, context))
        })
    }

    /// The position of the right operand of a one-byte operator.
    #[cold]
    pub(super) fn right_of(&self, operator: Pos) -> Pos {
        let Some(text) = self.sources.rest(operator) else {
            return operator;
        };
        let mut rest = &text[1..];
        loop {
            rest = rest.trim_ascii_start();
            let comment = if rest.first() == Some(&b'#') {
                memchr::memchr(b'\n', rest)
            } else if rest.starts_with(b"/*") {
                memchr::memmem::find(&rest[2..], b"*/").map(|at| at + 4)
            } else {
                None
            };
            match comment {
                Some(length) => rest = &rest[length..],
                None => return Pos(operator.0 + (text.len() - rest.len()) as u32),
            }
        }
    }

    fn appended_path(&self, text: &[u8], context: ContextId, pos: Pos) -> Result<Value<'h>> {
        if !context.is_empty() {
            return Err(Error::new(
                ErrorKind::Type,
                "a string that refers to a store path cannot be appended to a path",
            )
            .at(pos));
        }
        if text.contains(&0) {
            return Err(Error::new(ErrorKind::Other, "a path cannot contain a NUL byte").at(pos));
        }
        Ok(self.path(&crate::paths::canonical(text)))
    }
}

#[cold]
fn cannot_add(value: Value<'_>, to: &str, pos: Pos) -> Box<Error> {
    Error::new(
        ErrorKind::Type,
        format!("cannot add {} to {to}", value.type_phrase()),
    )
    .at(pos)
}
