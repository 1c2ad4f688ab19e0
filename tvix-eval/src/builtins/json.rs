//! JSON.

use super::{Def, def};
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::eval::Coercion;
use crate::heap::HeapVec;
use crate::internal;
use crate::interp::{Demand, Interp};
use crate::source::Pos;
use crate::text::{json, number};
use crate::value::{Attr, ContextId, Ref, Value};

pub(super) const BUILTINS: &[Def] = &[
    def("fromJSON", 1, from_json).strict(0b1),
    def("toJSON", 1, to_json),
];

/// Maximum nesting depth of documents that are parsed. The parser does not recurse; a level takes
/// only memory.
const MAX_READ_NESTING: usize = 4_000_000;

/// Maximum nesting depth of documents that are reformatted.
pub(super) const MAX_NESTING: usize = 10_000;

fn to_json<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    interp.with_buffer(|buffer| {
        let mut context = ContextId::EMPTY;
        interp.write_json(args[0], pos, true, buffer, &mut context)?;
        Ok(interp.string(&*buffer, context))
    })
}

fn from_json<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let text = interp.expect_plain_string(
        args[0],
        pos,
        "while evaluating the first argument passed to builtins.fromJSON",
    )?;
    interp.read_json(text.bytes, pos)
}

/// Number of elements from which on a list is long.
const LONG: usize = 4096;

/// Builds values from parser events.
struct Sink<'i, 'h> {
    interp: &'i Interp<'h>,
    open: Vec<Open<'h>>,
    result: Value<'h>,
}

enum Open<'h> {
    List(Vec<Ref<'h>>),
    /// A long list. Its elements count for the memory limit at once.
    LongList(HeapVec<'h, Ref<'h>>),
    Set {
        entries: Vec<Attr<'h>>,
        key: Option<crate::symbol::Symbol>,
    },
}

impl<'h> Sink<'_, 'h> {
    fn add(&mut self, value: Value<'h>) {
        match self.open.last_mut() {
            None => self.result = value,
            Some(Open::List(items)) => {
                items.push(self.interp.cell(value));
                if items.len() == LONG {
                    let mut long = HeapVec::with_capacity(self.interp.heap, 2 * LONG);
                    long.extend_from_slice(items);
                    self.open.pop();
                    self.open.push(Open::LongList(long));
                }
            }
            Some(Open::LongList(items)) => items.push(self.interp.cell(value)),
            Some(Open::Set { entries, key }) => {
                if let Some(name) = key.take() {
                    entries.push(Attr {
                        name,
                        pos: Pos::NONE,
                        value: self.interp.cell(value),
                    });
                }
            }
        }
    }
}

impl<'h> Interp<'h> {
    /// Parses a JSON text to a value.
    pub fn read_json(&self, text: &[u8], pos: Pos) -> Result<Value<'h>> {
        let mut sink = Sink {
            interp: self,
            open: Vec::new(),
            result: Value::Null,
        };
        match json::read(text, MAX_READ_NESTING, &mut sink) {
            Ok(()) => Ok(sink.result),
            Err(error) => {
                let message = error.to_string();
                // C++ Nix adds this frame to errors of the parser, but not to values that it cannot
                // represent.
                let why = match message.starts_with('[') {
                    true => "while decoding a JSON string",
                    false => "",
                };
                Err(Error::new(ErrorKind::Other, message).within(pos, why))
            }
        }
    }
}

impl json::JsonSink for Sink<'_, '_> {
    type Error = std::convert::Infallible;

    fn null(&mut self) -> std::result::Result<(), Self::Error> {
        self.add(Value::Null);
        Ok(())
    }

    fn bool(&mut self, value: bool) -> std::result::Result<(), Self::Error> {
        self.add(Value::Bool(value));
        Ok(())
    }

    fn int(&mut self, value: i64) -> std::result::Result<(), Self::Error> {
        self.add(Value::Int(value));
        Ok(())
    }

    fn float(&mut self, value: f64) -> std::result::Result<(), Self::Error> {
        self.add(Value::Float(value));
        Ok(())
    }

    fn string(&mut self, value: &str) -> std::result::Result<(), Self::Error> {
        let value = self.interp.text(value);
        self.add(value);
        Ok(())
    }

    fn begin_list(&mut self) -> std::result::Result<(), Self::Error> {
        self.open.push(Open::List(Vec::new()));
        Ok(())
    }

    fn end_list(&mut self) -> std::result::Result<(), Self::Error> {
        let list = match self.open.pop() {
            Some(Open::List(items)) => self.interp.list(&items),
            Some(Open::LongList(items)) => self.interp.list_in_heap(items.into_slice()),
            _ => return Ok(()),
        };
        self.add(list);
        Ok(())
    }

    fn begin_set(&mut self) -> std::result::Result<(), Self::Error> {
        self.open.push(Open::Set {
            entries: Vec::new(),
            key: None,
        });
        Ok(())
    }

    fn key(&mut self, name: &str) -> std::result::Result<(), Self::Error> {
        if let Some(Open::Set { key, .. }) = self.open.last_mut() {
            *key = Some(self.interp.intern(name));
        }
        Ok(())
    }

    fn end_set(&mut self) -> std::result::Result<(), Self::Error> {
        if let Some(Open::Set { mut entries, .. }) = self.open.pop() {
            // The last of several equal names wins.
            entries.reverse();
            let set = self.interp.attrs(entries);
            self.add(set);
        }
        Ok(())
    }
}

impl<'h> Interp<'h> {
    /// Appends text as a JSON string.
    pub(crate) fn json_string(&self, text: &[u8], out: &mut Vec<u8>) -> Result<()> {
        json::write_string(out, text).map_err(|error| {
            Error::new(
                ErrorKind::Other,
                format!("JSON serialization error: {error}"),
            )
        })
    }

    /// Appends a value as JSON, evaluating it deeply. Paths are copied to the store if
    /// `copy_to_store`.
    pub fn write_json(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        copy_to_store: bool,
        out: &mut Vec<u8>,
        context: &mut ContextId,
    ) -> Result<()> {
        let value = self.force_at(cell, pos)?;
        self.make_room(out.len())?;
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(value) => number::write_int(out, value),
            Value::Float(value) => number::write_json(out, value),
            Value::String(string) => {
                *context = self.contexts.union(*context, string.context);
                self.json_string(string.bytes, out)?;
            }
            Value::Path(path) if copy_to_store => {
                let copied = self.copy_to_store(path)?;
                *context = self.contexts.union(*context, copied.context);
                self.json_string(copied.bytes, out)?;
            }
            Value::Path(path) => self.json_string(path.bytes, out)?,
            Value::List(list) => self.nested(pos, || {
                out.push(b'[');
                self.each_upcoming(
                    list.items,
                    |item| item,
                    Demand::Json,
                    |index, item| {
                        if index > 0 {
                            out.push(b',');
                        }
                        self.write_json(item, pos, copy_to_store, out, context)
                            .within_with(pos, || {
                                format!("while evaluating list element at index {index}")
                            })
                    },
                )?;
                out.push(b']');
                Ok(())
            })?,
            Value::Attrs(attrs) => {
                if attrs.get(self.known.to_string).is_some() {
                    return self.json_text(value, pos, out, context);
                }
                if let Some(path) = attrs.get(self.known.out_path) {
                    return self.nested(pos, || {
                        self.write_json(path.value, path.pos, copy_to_store, out, context)
                    });
                }
                self.nested(pos, || {
                    out.push(b'{');
                    let members = self.by_name(attrs);
                    self.each_upcoming(
                        &members,
                        |(_, attr)| attr.value,
                        Demand::Json,
                        |index, (name, attr)| {
                            if index > 0 {
                                out.push(b',');
                            }
                            self.json_string(name, out)?;
                            out.push(b':');
                            self.write_json(attr.value, attr.pos, copy_to_store, out, context)
                                .within_with(attr.pos, || {
                                    let name = String::from_utf8_lossy(name);
                                    format!("while evaluating attribute '{name}'")
                                })
                        },
                    )?;
                    out.push(b'}');
                    Ok(())
                })?;
            }
            other => {
                let pos = match other {
                    Value::Lambda { code, .. } => self.lambdas.get(code).pos,
                    Value::Builtin(builtin) if builtin.is_derivation() => internal::FUNCTION,
                    _ => pos,
                };
                return Err(Error::new(
                    ErrorKind::Type,
                    format!("cannot convert {} to JSON", other.type_phrase()),
                )
                .at(pos));
            }
        }
        Ok(())
    }

    fn json_text(
        &self,
        value: Value<'h>,
        pos: Pos,
        out: &mut Vec<u8>,
        context: &mut ContextId,
    ) -> Result<()> {
        let mut text = Vec::new();
        self.coerce(value, Coercion::STRICT, pos, "", &mut text, context)?;
        self.json_string(&text, out)
    }
}
