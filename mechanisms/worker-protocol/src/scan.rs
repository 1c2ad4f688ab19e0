//! Finds the end of a message in bytes that arrive in pieces, before anything of it is decoded.

use crate::{Context, Feature, ProtocolError, Version};

/// The form of a value on the wire, as far as its length depends on it.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// A number: eight bytes.
    Number,
    /// A text: a length, its bytes, zeros up to a multiple of eight.
    Text,
    /// A length, and so many values of a shape.
    List(&'static Shape),
    /// Values one after the other.
    Sequence(&'static [Shape]),
    /// A number, and the value that it selects. The name is for errors.
    Choice(&'static str, &'static [(u64, Shape)]),
    /// The operation that a number selects.
    Operation(&'static [(u64, Shape)]),
    /// One shape if the version is at least 1.x, otherwise nothing.
    Since(u8, &'static Shape),
    /// One shape with a feature, another without it.
    With(Feature, &'static Shape, &'static Shape),
    /// A shape that contains itself.
    Recursive(fn() -> Shape),
}

impl Shape {
    /// Nothing.
    pub const EMPTY: Self = Self::Sequence(&[]);
}

/// Maximum depth of the work list. Shapes without recursion need about ten levels.
const MAX_DEPTH: usize = 64;

/// The work that is left: values of a list, or of a sequence.
#[derive(Debug, Clone)]
enum Work {
    One(Shape),
    Repeat(&'static Shape, u64),
    Rest(&'static [Shape]),
}

/// Finds the end of a message. Each byte is looked at once.
#[derive(Debug, Clone)]
pub struct Scan {
    work: Vec<Work>,
    /// Where the next undecided value begins.
    at: usize,
}

impl Scan {
    /// At the start of a message.
    pub fn new(shape: Shape) -> Self {
        Self {
            work: vec![Work::One(shape)],
            at: 0,
        }
    }

    /// Continues with `bytes`, the message from its beginning as far as it has arrived. Returns the
    /// length of the message once it is complete.
    pub fn advance(
        &mut self,
        bytes: &[u8],
        context: &Context,
    ) -> Result<Option<usize>, ProtocolError> {
        while let Some(work) = self.work.pop() {
            let shape = match work {
                Work::One(shape) => shape,
                Work::Repeat(_, 0) | Work::Rest([]) => continue,
                Work::Repeat(shape, count) => {
                    self.push(Work::Repeat(shape, count - 1))?;
                    *shape
                }
                Work::Rest([shape, rest @ ..]) => {
                    if !rest.is_empty() {
                        self.push(Work::Rest(rest))?;
                    }
                    *shape
                }
            };
            if !self.value(shape, bytes, context)? {
                self.work.push(Work::One(shape));
                return Ok(None);
            }
        }
        Ok(Some(self.at))
    }

    /// Takes a value, or its beginning. False if bytes are missing.
    fn value(
        &mut self,
        shape: Shape,
        bytes: &[u8],
        context: &Context,
    ) -> Result<bool, ProtocolError> {
        match shape {
            Shape::Sequence(shapes) => {
                self.push(Work::Rest(shapes))?;
                return Ok(true);
            }
            Shape::Since(minor, shape) => {
                if context.version >= Version::new(1, minor) {
                    self.push(Work::One(*shape))?;
                }
                return Ok(true);
            }
            Shape::With(feature, with, without) => {
                let shape = match context.features.contains(feature) {
                    true => with,
                    false => without,
                };
                self.push(Work::One(*shape))?;
                return Ok(true);
            }
            Shape::Recursive(shape) => {
                self.push(Work::One(shape()))?;
                return Ok(true);
            }
            Shape::Number | Shape::Text | Shape::List(_) => {}
            Shape::Choice(..) | Shape::Operation(_) => {}
        }
        let Some(number) = bytes.get(self.at..).and_then(read_number) else {
            return Ok(false);
        };
        let mut end = self.at as u64 + 8;
        match shape {
            Shape::Text => {
                check("text", number, context.limits.text)?;
                // Neither term can overflow: both are far below 2^63.
                end = end.saturating_add(padded(number.min(i64::MAX as u64)));
                check("message", end, context.limits.message)?;
                if (bytes.len() as u64) < end {
                    return Ok(false);
                }
            }
            Shape::List(shape) => {
                // Each element takes eight bytes at least.
                let most = context.limits.message.saturating_sub(end) / 8;
                check("list", number, most)?;
                self.push(Work::Repeat(shape, number))?;
            }
            Shape::Choice(what, alternatives) => {
                let found = alternatives.iter().find(|(tag, _)| *tag == number);
                let (_, shape) = found.ok_or(ProtocolError::Tag { what, tag: number })?;
                self.push(Work::One(*shape))?;
            }
            Shape::Operation(operations) => {
                let found = operations.iter().find(|(tag, _)| *tag == number);
                let (_, shape) = found.ok_or(ProtocolError::UnknownOperation(number))?;
                self.push(Work::One(*shape))?;
            }
            _ => {}
        }
        check("message", end, context.limits.message)?;
        // The end is within `bytes`.
        self.at = end as usize;
        Ok(true)
    }

    fn push(&mut self, work: Work) -> Result<(), ProtocolError> {
        if self.work.len() >= MAX_DEPTH {
            return Err(ProtocolError::TooDeep(MAX_DEPTH));
        }
        self.work.push(work);
        Ok(())
    }
}

fn check(what: &'static str, length: u64, limit: u64) -> Result<(), ProtocolError> {
    match length <= limit {
        true => Ok(()),
        false => Err(ProtocolError::TooLong {
            what,
            length,
            limit,
        }),
    }
}

/// The number at the beginning of `bytes`.
pub fn read_number(bytes: &[u8]) -> Option<u64> {
    let number = bytes.first_chunk()?;
    Some(u64::from_le_bytes(*number))
}

/// A length with its padding.
pub fn padded(length: u64) -> u64 {
    length.checked_next_multiple_of(8).unwrap_or(u64::MAX)
}
