//! `base.path`, `base ? path`.

use super::Step;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::internal;
use crate::interp::Interp;
use crate::ir::{AttrName, Expr, HasAttr, Select};
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::value::{Attrs, Env, Value, Words};

impl<'h> Interp<'h> {
    /// The value of a selection, outside of a tail position. Most have a single name, which exists, in
    /// a set that is the value of a variable.
    #[inline(never)]
    pub(super) fn select_from_variable(
        &self,
        select: &'h Select<'h>,
        expr: &'h Expr<'h>,
        env: Env<'h>,
    ) -> Words<'h> {
        let base = match &select.base {
            Expr::Local { slot, .. } => env.peek(*slot),
            Expr::Outer { level, slot, .. } => env.outer(u32::from(*level)).peek(*slot),
            Expr::Global(cell) => Some(*cell),
            _ => None,
        };
        if let Some(base) = base
            && let Value::Attrs(attrs) = base.get()
            && let [AttrName::Static(name)] = &*select.path
            && let Some(attr) = attrs.get_again(*name, &select.cache)
        {
            let value = attr.value.get();
            if value.is_evaluated() {
                return Words::new(Ok(value));
            }
        }
        self.eval_node(expr, env)
    }

    pub(super) fn select(&self, select: &'h Select<'h>, env: Env<'h>) -> Result<Step<'h>> {
        let mut value = self.eval(&select.base, env)?;
        // Most selections have a single name, which exists, with an evaluated value.
        if let [AttrName::Static(name)] = &*select.path
            && let Value::Attrs(attrs) = value
            && let Some(attr) = attrs.get_again(*name, &select.cache)
        {
            return match self.force_at(attr.value, attr.pos) {
                Ok(value) => Ok(Step::Done(value)),
                Err(error) => Err(self.in_selection(error, select, attr.pos, 0)),
            };
        }
        let mut last = Pos::NONE;
        for (index, part) in select.path.iter().enumerate() {
            let found = match self.select_one(select, part, value, env) {
                Ok(found) => found,
                Err(error) => return Err(self.in_selection(error, select, last, index)),
            };
            let Some(attr) = found else {
                if let Some(default) = &select.default {
                    return Ok(Step::Tail(default, env));
                }
                let error = self.missing(select, part, value, env);
                return Err(self.in_selection(error, select, last, index));
            };
            last = attr.pos;
            value = match self.force_at(attr.value, attr.pos) {
                Ok(value) => value,
                Err(error) => return Err(self.in_selection(error, select, last, index)),
            };
        }
        Ok(Step::Done(value))
    }

    /// The attribute, if the value has it. A value that is not a set is an error, unless there is a
    /// default.
    #[inline]
    fn select_one(
        &self,
        select: &'h Select<'h>,
        part: &'h AttrName<'h>,
        value: Value<'h>,
        env: Env<'h>,
    ) -> Result<Option<&'h crate::value::Attr<'h>>> {
        let name = self.attr_name(part, env)?;
        match value {
            Value::Attrs(attrs) => Ok(attrs.get(name)),
            _ if select.default.is_some() => Ok(None),
            other => Err(self
                .type_error("a set", other)
                .within(select.pos, "while selecting an attribute")),
        }
    }

    /// The symbol of a name in an attribute path.
    #[inline(always)]
    fn attr_name(&self, part: &'h AttrName<'h>, env: Env<'h>) -> Result<Symbol> {
        let expr = match part {
            AttrName::Static(name) => return Ok(*name),
            AttrName::Dynamic(expr) => expr,
        };
        // Most dynamic names are variables, with strings that were used as names before.
        let known = match expr {
            Expr::Local { slot, .. } => env.peek(*slot),
            Expr::Outer { level, slot, .. } => env.outer(u32::from(*level)).peek(*slot),
            _ => None,
        };
        if let Some(cell) = known
            && let Value::String(name) = cell.get()
            && name.context.is_empty()
            && let Some(symbol) = name.interned()
        {
            return Ok(symbol);
        }
        self.computed_name(expr, env)
    }

    #[inline(never)]
    fn computed_name(&self, expr: &'h Expr<'h>, env: Env<'h>) -> Result<Symbol> {
        let value = self.eval(expr, env)?;
        if let Value::String(name) = value
            && name.context.is_empty()
        {
            return Ok(self.intern_string(name));
        }
        let cell = self.cell(value);
        let why = "while evaluating an attribute name";
        let name = self.expect_plain_string(cell, expr.pos(), why)?;
        Ok(self.intern_string(name))
    }

    #[cold]
    fn missing(
        &self,
        select: &'h Select<'h>,
        part: &'h AttrName<'h>,
        value: Value<'h>,
        env: Env<'h>,
    ) -> Box<Error> {
        let name = match self.attr_name(part, env) {
            Ok(name) => name,
            Err(error) => return error,
        };
        let error = self.missing_attr(name, select.pos);
        match value {
            Value::Attrs(attrs) => {
                let known = self.entries(attrs).iter().map(|attr| attr.name);
                error.suggesting(self.suggest(name, known))
            }
            _ => error,
        }
    }

    #[cold]
    pub(crate) fn missing_attr(&self, name: Symbol, pos: Pos) -> Box<Error> {
        let message = format!("attribute '{}' missing", self.display(name));
        Error::new(ErrorKind::Missing, message).at(pos)
    }

    #[cold]
    fn in_selection(
        &self,
        error: Box<Error>,
        select: &'h Select<'h>,
        last: Pos,
        _index: usize,
    ) -> Box<Error> {
        if !last.is_some() || internal::contains(last) {
            return error;
        }
        let path: Vec<_> = select
            .path
            .iter()
            .map(|part| match part {
                AttrName::Static(name) => self.display(*name),
                AttrName::Dynamic(_) => "${...}".to_owned(),
            })
            .collect();
        error.within(
            last,
            format!("while evaluating the attribute '{}'", path.join(".")),
        )
    }

    pub(super) fn has_attr(&self, has: &'h HasAttr<'h>, env: Env<'h>) -> Result<Value<'h>> {
        let mut value = self.eval(&has.base, env)?;
        if let [part] = &*has.path {
            let name = self.attr_name(part, env)?;
            return Ok(Value::Bool(match value {
                Value::Attrs(attrs) => attrs.get(name).is_some(),
                _ => false,
            }));
        }
        for (index, part) in has.path.iter().enumerate() {
            let name = self.attr_name(part, env)?;
            let found: Option<_> = match value {
                Value::Attrs(attrs) => Attrs::get(attrs, name),
                _ => None,
            };
            match found {
                None => return Ok(Value::Bool(false)),
                Some(_) if index + 1 == has.path.len() => return Ok(Value::Bool(true)),
                Some(attr) => value = self.force_at(attr.value, attr.pos).at(has.pos)?,
            }
        }
        Ok(Value::Bool(true))
    }
}
