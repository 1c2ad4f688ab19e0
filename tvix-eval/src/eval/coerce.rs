//! Coercion of values to strings.

use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::interp::{Demand, Interp};
use crate::source::Pos;
use crate::text::number;
use crate::value::{ContextId, List, Ref, Value};

/// The values that are coerced to strings, and the form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coercion {
    /// Whether numbers, Booleans, `null` and lists are coerced, as in `toString` and in the
    /// environment of a derivation.
    pub more: bool,
    /// Whether paths are copied to the store.
    pub copy_to_store: bool,
}

impl Coercion {
    /// Strings, paths unchanged, and sets with `__toString` or `outPath`.
    pub const STRICT: Self = Self {
        more: false,
        copy_to_store: false,
    };
    /// The coercion of `toString`.
    pub const TO_STRING: Self = Self {
        more: true,
        copy_to_store: false,
    };
    /// The coercion of a derivation's environment.
    pub const ENVIRONMENT: Self = Self {
        more: true,
        copy_to_store: true,
    };
    /// The coercion of string interpolation.
    pub const INTERPOLATION: Self = Self {
        more: false,
        copy_to_store: true,
    };
}

impl<'h> Interp<'h> {
    /// Appends a value as a string, and adds its context to a context. `why` is the trace frame of
    /// a value that cannot be coerced; errors during evaluation do not get it.
    pub(crate) fn coerce(
        &self,
        value: Value<'h>,
        mode: Coercion,
        pos: Pos,
        why: &'static str,
        out: &mut Vec<u8>,
        context: &mut ContextId,
    ) -> Result<()> {
        match value {
            Value::String(string) => {
                self.make_room(out.len() + string.bytes.len())?;
                out.extend_from_slice(string.bytes);
                *context = self.contexts.union(*context, string.context);
                Ok(())
            }
            Value::Path(path) if mode.copy_to_store => {
                let copied = self.copy_to_store(path)?;
                out.extend_from_slice(copied.bytes);
                *context = self.contexts.union(*context, copied.context);
                Ok(())
            }
            Value::Path(path) => {
                out.extend_from_slice(path.bytes);
                Ok(())
            }
            Value::Attrs(attrs) => {
                if let Some(to_string) = attrs.get(self.known.to_string) {
                    let this = self.cell(value);
                    return self.nested(pos, || {
                        let func = self.force_at(to_string.value, to_string.pos)?;
                        let text = self.call(func, &[this], pos)?;
                        let why = "while evaluating the result of the `__toString` attribute";
                        self.coerce(text, mode, pos, why, out, context)
                    });
                }
                match attrs.get(self.known.out_path) {
                    Some(path) => self.nested(pos, || {
                        let path = self.force_at(path.value, pos)?;
                        self.coerce(path, mode, pos, why, out, context)
                    }),
                    None => Err(self.not_a_string(value).within(pos, why)),
                }
            }
            _ if !mode.more => Err(self.not_a_string(value).within(pos, why)),
            Value::Bool(true) => {
                out.push(b'1');
                Ok(())
            }
            Value::Bool(false) | Value::Null => Ok(()),
            Value::Int(number) => {
                out.extend_from_slice(number.to_string().as_bytes());
                Ok(())
            }
            Value::Float(number) => {
                number::write_coerced(out, number);
                Ok(())
            }
            Value::List(list) => {
                self.nested(pos, || self.coerce_list(list, mode, pos, why, out, context))
            }
            _ => Err(self.not_a_string(value).within(pos, why)),
        }
    }

    fn coerce_list(
        &self,
        list: &'h List<'h>,
        mode: Coercion,
        pos: Pos,
        why: &'static str,
        out: &mut Vec<u8>,
        context: &mut ContextId,
    ) -> Result<()> {
        let last = list.items.len().saturating_sub(1);
        self.each_upcoming(
            list.items,
            |item| item,
            Demand::Texts,
            |index, item| {
                let value = self
                    .force_at(item, pos)
                    .and_then(|value| {
                        let item = "while evaluating one element of the list";
                        self.coerce(value, mode, pos, item, out, context)?;
                        Ok(value)
                    })
                    .within(pos, why)?;
                let is_empty_list = matches!(value, Value::List(list) if list.items.is_empty());
                if index < last && !is_empty_list {
                    out.push(b' ');
                }
                Ok(())
            },
        )
    }

    /// A cell coerced to a string, and its context.
    pub fn coerce_cell(
        &self,
        cell: Ref<'h>,
        mode: Coercion,
        pos: Pos,
        why: &'static str,
    ) -> Result<&'h crate::value::NixString<'h>> {
        let value = self.force_at(cell, pos)?;
        if let Value::String(string) = value {
            return Ok(string);
        }
        let text: Result<_> = self.with_buffer(|buffer| {
            let mut context = ContextId::EMPTY;
            if matches!(value, Value::List(_)) && !mode.more {
                let shown = self.show_cell(cell);
                return Err(self.cannot_coerce(value, &shown).within(pos, why));
            }
            self.coerce(value, mode, pos, why, buffer, &mut context)?;
            Ok(self.string(&*buffer, context))
        });
        match text? {
            Value::String(string) => Ok(string),
            _ => Ok(self.shared.empty_string),
        }
    }

    #[cold]
    fn not_a_string(&self, value: Value<'h>) -> Box<Error> {
        self.cannot_coerce(value, &self.show(value))
    }

    #[cold]
    fn cannot_coerce(&self, value: Value<'h>, shown: &str) -> Box<Error> {
        let phrase = value.type_phrase();
        Error::new(
            ErrorKind::Type,
            format!("cannot coerce {phrase} to a string: {shown}"),
        )
    }
}
