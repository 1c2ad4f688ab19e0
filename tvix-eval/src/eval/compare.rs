//! Equality and order of values.

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::source::Pos;
use crate::value::{Attrs, Ref, Value};

impl<'h> Interp<'h> {
    /// Whether the values of two cells are equal. A cell equals itself, even if it holds a
    /// function.
    pub(crate) fn equal_cells(&self, left: Ref<'h>, right: Ref<'h>, pos: Pos) -> Result<bool> {
        let a = self.force_at(left, pos)?;
        let b = self.force_at(right, pos)?;
        if std::ptr::eq(left, right) {
            return Ok(true);
        }
        self.equal(a, b, pos)
    }

    /// Whether two values are equal. Functions are never equal.
    pub fn equal(&self, left: Value<'h>, right: Value<'h>, pos: Pos) -> Result<bool> {
        Ok(match (left, right) {
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Int(a), Value::Float(b)) | (Value::Float(b), Value::Int(a)) => a as f64 == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => a.bytes == b.bytes,
            (Value::Path(a), Value::Path(b)) => a.bytes == b.bytes,
            (Value::Null, Value::Null) => true,
            (Value::List(a), Value::List(b)) => {
                if a.items.len() != b.items.len() {
                    return Ok(false);
                }
                return self.nested(Pos::NONE, || {
                    for (a, b) in a.items.iter().zip(b.items) {
                        if !self.equal_cells(a, b, pos)? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                });
            }
            (Value::Attrs(a), Value::Attrs(b)) => {
                return self.nested(Pos::NONE, || self.equal_attrs(a, b, pos));
            }
            _ => false,
        })
    }

    fn equal_attrs(&self, a: &'h Attrs<'h>, b: &'h Attrs<'h>, pos: Pos) -> Result<bool> {
        // Derivations are equal if their output paths are.
        if self.is_derivation(a)? && self.is_derivation(b)? {
            let (x, y) = (a.get(self.known.out_path), b.get(self.known.out_path));
            if let (Some(x), Some(y)) = (x, y) {
                return self.equal_cells(x.value, y.value, pos);
            }
        }
        let (a, b) = (self.entries(a), self.entries(b));
        if a.len() != b.len() {
            return Ok(false);
        }
        for (x, y) in a.iter().zip(b) {
            if x.name != y.name || !self.equal_cells(x.value, y.value, pos)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a set is a derivation, by its attribute `type`.
    pub fn is_derivation(&self, attrs: &Attrs<'h>) -> Result<bool> {
        let Some(kind) = attrs.get(self.known.kind) else {
            return Ok(false);
        };
        let kind = self.force_at(kind.value, kind.pos)?;
        Ok(matches!(kind, Value::String(kind) if kind.bytes == b"derivation"))
    }

    /// Whether `left` is less than `right`.
    pub fn less(&self, left: Value<'h>, right: Value<'h>) -> Result<bool> {
        self.less_in(left, right, false)
    }

    fn less_in(&self, left: Value<'h>, right: Value<'h>, in_lists: bool) -> Result<bool> {
        Ok(match (left, right) {
            (Value::Int(a), Value::Int(b)) => a < b,
            (Value::Int(a), Value::Float(b)) => (a as f64) < b,
            (Value::Float(a), Value::Int(b)) => a < b as f64,
            (Value::Float(a), Value::Float(b)) => a < b,
            (Value::String(a), Value::String(b)) => a.bytes < b.bytes,
            (Value::Path(a), Value::Path(b)) => a.bytes < b.bytes,
            (Value::List(a), Value::List(b)) => {
                return self.nested(Pos::NONE, || {
                    for (index, y) in b.items.iter().enumerate() {
                        let Some(x) = a.items.get(index) else {
                            return Ok(true);
                        };
                        if !self.equal_cells(x, y, Pos::NONE)? {
                            return self.less_in(self.force(x)?, self.force(y)?, true);
                        }
                    }
                    Ok(false)
                });
            }
            _ if in_lists => {
                let error = self.incomparable(left, right);
                return Err(error.within(Pos::NONE, "while comparing two list elements"));
            }
            _ => return Err(self.incomparable(left, right)),
        })
    }

    #[cold]
    fn incomparable(&self, left: Value<'h>, right: Value<'h>) -> Box<Error> {
        let (a, b) = (left.type_phrase(), right.type_phrase());
        let (x, y) = (self.show(left), self.show(right));
        let message = if a == b {
            format!(
                "cannot compare {a} with {b}; values of that type are incomparable (values are {x} and {y})"
            )
        } else {
            format!("cannot compare {a} with {b}; values are {x} and {y}")
        };
        Error::new(ErrorKind::Type, message)
    }

    /// Fails with a message about the difference of two values. Succeeds if they are equal, or if
    /// the difference cannot be described.
    pub(super) fn explain_difference(&self, left: Ref<'h>, right: Ref<'h>) -> Result<()> {
        let a = self.force(left)?;
        let b = self.force(right)?;
        let message = match (a, b) {
            (Value::List(x), Value::List(y)) if x.items.len() != y.items.len() => {
                format!(
                    "list of size '{}' is not equal to list of size '{}', left hand side is '{}', right hand side is '{}'",
                    x.items.len(),
                    y.items.len(),
                    self.show(a),
                    self.show(b)
                )
            }
            (Value::List(x), Value::List(y)) => {
                for (index, (x, y)) in x.items.iter().zip(y.items).enumerate() {
                    self.explain_difference(x, y).map_err(|error| {
                        error.within(Pos::NONE, format!("while comparing list element {index}"))
                    })?;
                }
                return Ok(());
            }
            (Value::Attrs(x), Value::Attrs(y)) => return self.explain_attrs(x, y, a, b),
            _ => {
                if self.equal_cells(left, right, Pos::NONE)? {
                    return Ok(());
                }
                let (phrase_a, phrase_b) = (a.type_phrase(), b.type_phrase());
                let (shown_a, shown_b) = (self.show(a), self.show(b));
                match (a, b) {
                    (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_)) => format!(
                        "{phrase_a} with value '{shown_a}' is not equal to {phrase_b} with value '{shown_b}'"
                    ),
                    (Value::Bool(_), Value::Bool(_)) => format!("boolean '{shown_a}' is not equal to boolean '{shown_b}'"),
                    (Value::String(_), Value::String(_)) => format!("string '{shown_a}' is not equal to string '{shown_b}'"),
                    (Value::Path(_), Value::Path(_)) => format!("path '{shown_a}' is not equal to path '{shown_b}'"),
                    _ if a.is_function() && b.is_function() => "distinct functions and immediate comparisons of identical functions compare as unequal".to_owned(),
                    _ => format!("{phrase_a} of value '{shown_a}' is not equal to {phrase_b} of value '{shown_b}'"),
                }
            }
        };
        Err(Error::new(ErrorKind::Assertion, message))
    }

    fn explain_attrs(
        &self,
        x: &'h Attrs<'h>,
        y: &'h Attrs<'h>,
        a: Value<'h>,
        b: Value<'h>,
    ) -> Result<()> {
        if self.is_derivation(x)? && self.is_derivation(y)? {
            let paths = (x.get(self.known.out_path), y.get(self.known.out_path));
            if let (Some(x), Some(y)) = paths {
                return self.explain_difference(x.value, y.value).map_err(|error| {
                    error.within(
                        Pos::NONE,
                        "while comparing a derivation by its 'outPath' attribute",
                    )
                });
            }
        }
        if self.entries(x).len() != self.entries(y).len() {
            let (a, b) = (self.show(a), self.show(b));
            let message =
                format!("attribute names of attribute set '{a}' differs from attribute set '{b}'");
            return Err(Error::new(ErrorKind::Assertion, message));
        }
        for (name, attr) in self.by_name(x) {
            let Some(other) = y.get(attr.name) else {
                return Err(self.only_in(name, a, b));
            };
            self.explain_difference(attr.value, other.value)
                .map_err(|error| {
                    let name = String::from_utf8_lossy(name);
                    error
                        .within(other.pos, "where right hand side is")
                        .within(attr.pos, "where left hand side is")
                        .within(Pos::NONE, format!("while comparing attribute '{name}'"))
                })?;
        }
        Ok(())
    }

    #[cold]
    fn only_in(&self, name: &[u8], a: Value<'h>, b: Value<'h>) -> Box<Error> {
        let name = String::from_utf8_lossy(name);
        let (a, b) = (self.show(a), self.show(b));
        let message = format!("attribute name '{name}' is contained in '{a}', but not in '{b}'");
        Error::new(ErrorKind::Assertion, message)
    }
}
