//! Evaluation of thunks.

use tvix_eval_api::RealiseError;

use crate::error::{Error, ErrorKind, Result};
use crate::interp::{Interp, Parked, SPECULATIVE, cancelled};
use crate::source::Pos;
use crate::value::{Attrs, Elements, List, NixString, Ref, Value, Words};

impl<'h> Interp<'h> {
    /// The value of a cell, which is evaluated if necessary.
    #[inline]
    pub fn force(&self, cell: Ref<'h>) -> Result<Value<'h>> {
        self.force_at(cell, Pos::NONE)
    }

    /// The value of a cell, with the position of its use for errors.
    #[inline]
    pub fn force_at(&self, cell: Ref<'h>, pos: Pos) -> Result<Value<'h>> {
        let value = cell.get();
        if value.is_evaluated() {
            return Ok(value);
        }
        self.force_slow(cell, pos).result()
    }

    #[inline(never)]
    fn force_slow(&self, cell: Ref<'h>, pos: Pos) -> Words<'h> {
        Words::new(self.compute(cell, pos))
    }

    #[inline(always)]
    fn compute(&self, cell: Ref<'h>, pos: Pos) -> Result<Value<'h>> {
        let value = cell.get();
        let fiber = self.fiber.get();
        if fiber >= SPECULATIVE {
            return self.compute_speculatively(cell, pos);
        }
        match value {
            Value::Thunk { .. } | Value::Apply(_) | Value::Apply2(_) | Value::Element { .. } => {
                cell.set(Value::Hole(fiber));
                let result = self.without_unwinding(|| self.run_thunk(value));
                self.computed(cell, value, result)
            }
            Value::Hole(owner) => self.wait_for(cell, owner, pos),
            Value::Failed(number) => Err(self.failure(number)),
            Value::Uncommitted(number) => self.commit(number),
            evaluated => Ok(evaluated),
        }
    }

    /// Evaluates a thunk, whose cell is a hole.
    #[inline(always)]
    pub(crate) fn run_thunk(&self, thunk: Value<'h>) -> Result<Value<'h>> {
        match thunk {
            Value::Thunk { code, env } => self.eval(self.codes.get(code), env),
            Value::Apply(apply) => self
                .force(apply.func)
                .and_then(|func| self.call(func, &[apply.arg], Pos::NONE)),
            Value::Apply2(apply) => self
                .force(apply.func)
                .and_then(|func| self.call(func, &apply.args, Pos::NONE)),
            Value::Element { index, of } => self.call_element(of, index as usize),
            evaluated => Ok(evaluated),
        }
    }

    /// Stores the result of a thunk in its cell.
    #[inline(always)]
    pub(crate) fn computed(
        &self,
        cell: Ref<'h>,
        thunk: Value<'h>,
        result: Result<Value<'h>>,
    ) -> Result<Value<'h>> {
        match result {
            Ok(value) => {
                self.store(cell, value);
                Ok(value)
            }
            Err(error) => {
                self.fail(cell, thunk, &error);
                Err(error)
            }
        }
    }

    #[inline]
    fn call_element(&self, elements: &'h Elements<'h>, index: usize) -> Result<Value<'h>> {
        match elements {
            Elements::Map { func, items } => {
                let func = self.force(func)?;
                self.call(func, &[items[index]], Pos::NONE)
            }
            Elements::GenList { func } => {
                let func = self.force(func)?;
                let number = self.cell(Value::Int(index as i64));
                self.call(func, &[number], Pos::NONE)
            }
            Elements::MapAttrs { func, entries } => {
                let func = self.force(func)?;
                let attr = &entries[index];
                self.call(func, &[self.name_cell(attr.name), attr.value], Pos::NONE)
            }
        }
    }

    /// A cell with the error of its failed evaluation.
    #[cold]
    pub(super) fn failed_cell(&self, error: Box<Error>) -> Result<Ref<'h>> {
        if is_transient(&error) {
            return Err(error);
        }
        let mut failures = self.failures.borrow_mut();
        failures.push(*error);
        Ok(self.cell(Value::Failed(failures.len() as u32 - 1)))
    }

    /// Stores the error of a cell's failed evaluation in the cell.
    #[cold]
    fn fail(&self, cell: Ref<'h>, thunk: Value<'h>, error: &Error) {
        let value = match is_transient(error) {
            true => thunk,
            false => self.failed(error),
        };
        self.store(cell, value);
    }

    #[cold]
    pub(crate) fn wait_for(&self, cell: Ref<'h>, owner: u32, pos: Pos) -> Result<Value<'h>> {
        match self.fibers.park(self, cell, owner) {
            Parked::Woken => self.force_at(cell, pos),
            Parked::Circle => {
                let message = "infinite recursion encountered";
                Err(Error::new(ErrorKind::InfiniteRecursion, message).at(pos))
            }
            Parked::Dropped => Err(cancelled()),
        }
    }

    /// The value of a cell, which must be an attribute set.
    #[inline]
    pub fn expect_attrs(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<&'h Attrs<'h>> {
        match self.force_at(cell, pos)? {
            Value::Attrs(attrs) => Ok(attrs),
            other => Err(self.type_error("a set", other).within(pos, context)),
        }
    }

    /// The value of a cell, which must be a list.
    #[inline]
    pub fn expect_list(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<&'h List<'h>> {
        match self.force_at(cell, pos)? {
            Value::List(list) => Ok(list),
            other => Err(self.type_error("a list", other).within(pos, context)),
        }
    }

    /// The value of a cell, which must be a string, with or without context.
    #[inline]
    pub fn expect_string(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<&'h NixString<'h>> {
        match self.force_in(cell, pos, context)? {
            Value::String(string) => Ok(string),
            other => Err(self
                .type_error("a string", other)
                .at(pos)
                .within(pos, context)),
        }
    }

    /// The value of a cell, which must be a string without context.
    pub fn expect_plain_string(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<&'h NixString<'h>> {
        let string = self.expect_string(cell, pos, context)?;
        if string.context.is_empty() {
            return Ok(string);
        }
        Err(self.context_not_allowed(string).within(pos, context))
    }

    /// The value of a cell, which must be an integer.
    #[inline]
    pub fn expect_int(&self, cell: Ref<'h>, pos: Pos, context: &'static str) -> Result<i64> {
        match self.force_in(cell, pos, context)? {
            Value::Int(value) => Ok(value),
            other => Err(self
                .type_error("an integer", other)
                .at(pos)
                .within(pos, context)),
        }
    }

    /// The value of a cell, which must be a Boolean.
    #[inline]
    pub fn expect_bool(&self, cell: Ref<'h>, pos: Pos, context: &'static str) -> Result<bool> {
        match self.force_in(cell, pos, context)? {
            Value::Bool(value) => Ok(value),
            other => Err(self
                .type_error("a Boolean", other)
                .at(pos)
                .within(pos, context)),
        }
    }

    /// The value of a cell, which must be a function or a set that can be called.
    pub fn expect_function(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        context: &'static str,
    ) -> Result<Value<'h>> {
        let value = self.force_in(cell, pos, context)?;
        let callable = match value {
            Value::Attrs(attrs) => attrs.get(self.known.functor).is_some(),
            other => other.is_function(),
        };
        if callable {
            return Ok(value);
        }
        Err(self
            .type_error("a function", value)
            .at(pos)
            .within(pos, context))
    }

    #[inline]
    fn force_in(&self, cell: Ref<'h>, pos: Pos, context: &'static str) -> Result<Value<'h>> {
        match self.force_at(cell, pos) {
            Ok(value) => Ok(value),
            Err(error) => Err(error.within(pos, context)),
        }
    }

    #[cold]
    fn context_not_allowed(&self, string: &NixString<'h>) -> Box<Error> {
        let text = String::from_utf8_lossy(string.bytes).into_owned();
        let first = self.contexts.elements(string.context);
        let mention = first
            .first()
            .map(|element| self.context_text(element))
            .unwrap_or_default();
        Error::new(
            ErrorKind::Type,
            format!(
                "the string '{text}' is not allowed to refer to a store path (such as '{mention}')"
            ),
        )
    }
}

/// Whether another attempt may succeed, with more stack, memory or time.
pub(super) fn is_transient(error: &Error) -> bool {
    matches!(
        error.kind,
        ErrorKind::Depth | ErrorKind::Cancelled | ErrorKind::Limit
    ) || matches!(error.import.as_deref(), Some(RealiseError::Cancelled))
}
