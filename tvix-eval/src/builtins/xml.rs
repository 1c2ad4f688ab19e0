//! `toXML`.

use super::{Def, def};
use crate::access::lossy;
use crate::error::Result;
use crate::internal;
use crate::interp::{Demand, Interp};
use crate::source::{Origin, Pos};
use crate::text::number;
use crate::text::xml::XmlWriter;
use crate::value::{Attrs, ContextId, Ref, Value};

pub(super) const BUILTINS: &[Def] = &[def("toXML", 1, to_xml)];

fn to_xml<'h>(interp: &Interp<'h>, args: &[Ref<'h>], pos: Pos) -> Result<Value<'h>> {
    let mut context = ContextId::EMPTY;
    let text = interp.to_xml(args[0], pos, true, false, &mut context)?;
    Ok(interp.string(text, context))
}

/// The state and options of the XML writer.
struct Writer<'i, 'h> {
    interp: &'i Interp<'h>,
    xml: XmlWriter,
    strict: bool,
    places: bool,
    context: ContextId,
    drvs_seen: std::collections::HashSet<Vec<u8>>,
}

impl<'h> Interp<'h> {
    /// A value as XML. Without `strict`, unevaluated parts are written as such; with `places`,
    /// attributes and functions have their source locations.
    pub fn to_xml(
        &self,
        cell: Ref<'h>,
        pos: Pos,
        strict: bool,
        places: bool,
        context: &mut ContextId,
    ) -> Result<Vec<u8>> {
        let mut writer = Writer {
            interp: self,
            xml: XmlWriter::new(),
            strict,
            places,
            context: *context,
            drvs_seen: std::collections::HashSet::new(),
        };
        writer.xml.open("expr", &[]);
        writer.value(cell, pos)?;
        writer.xml.close();
        *context = writer.context;
        Ok(writer.xml.finish())
    }
}

impl<'h> Writer<'_, 'h> {
    fn value(&mut self, cell: Ref<'h>, pos: Pos) -> Result<()> {
        self.interp.check_stack()?;
        let value = if self.strict {
            self.interp.force_at(cell, pos)?
        } else {
            cell.get()
        };
        self.interp.make_room(self.xml.len())?;
        match value {
            Value::Null => self.xml.empty("null", &[]),
            Value::Bool(value) => {
                let text: &[u8] = if value { b"true" } else { b"false" };
                self.xml.empty("bool", &[("value", text)]);
            }
            Value::Int(value) => {
                self.xml
                    .empty("int", &[("value", value.to_string().as_bytes())]);
            }
            Value::Float(value) => {
                let mut text = Vec::new();
                number::write_printed(&mut text, value);
                self.xml.empty("float", &[("value", &text)]);
            }
            Value::String(string) => {
                self.context = self.interp.contexts.union(self.context, string.context);
                self.xml.empty("string", &[("value", string.bytes)]);
            }
            Value::Path(path) => self.xml.empty("path", &[("value", path.bytes)]),
            Value::List(list) => {
                self.xml.open("list", &[]);
                self.interp.deeper(Pos::NONE)?;
                self.each(
                    list.items,
                    |item| item,
                    |writer, item| writer.value(item, pos),
                )?;
                self.interp.depth.set(self.interp.depth.get() - 1);
                self.xml.close();
            }
            Value::Attrs(attrs) => {
                if self.interp.is_derivation(attrs)? {
                    self.derivation(attrs, pos)?;
                } else {
                    self.xml.open("attrs", &[]);
                    self.attrs(attrs)?;
                    self.xml.close();
                }
            }
            Value::Lambda { code, .. } => self.function(code),
            Value::Builtin(builtin) if builtin.is_derivation() => self.derivation_function(),
            Value::Builtin(_)
            | Value::Partial(_)
            | Value::Thunk { .. }
            | Value::Apply(_)
            | Value::Apply2(_)
            | Value::Element { .. }
            | Value::Hole(_)
            | Value::Failed(_)
            | Value::Uncommitted(_) => self.xml.empty("unevaluated", &[]),
        }
        Ok(())
    }

    /// Writes each item in order. With `strict`, each of their cells is forced.
    fn each<T>(
        &mut self,
        items: &[T],
        cell: impl Fn(&T) -> Ref<'h>,
        mut work: impl FnMut(&mut Self, &T) -> Result<()>,
    ) -> Result<()> {
        if !self.strict {
            return items.iter().try_for_each(|item| work(self, item));
        }
        let interp = self.interp;
        interp.each_upcoming(items, cell, Demand::Value, |_, item| work(self, item))
    }

    fn attrs(&mut self, attrs: &Attrs<'h>) -> Result<()> {
        // Each level is indented, so the output grows with the square of the depth.
        self.interp.deeper(Pos::NONE)?;
        let members = self.interp.by_name(attrs);
        self.each(
            &members,
            |(_, attr)| attr.value,
            |writer, (name, attr)| {
                let place = writer.place(attr.pos);
                let mut attributes: Vec<(&'static str, &[u8])> = Vec::new();
                if let Some((column, line, path)) = &place {
                    attributes.push(("column", column.as_bytes()));
                    attributes.push(("line", line.as_bytes()));
                    if let Some(path) = path {
                        attributes.push(("path", path.as_bytes()));
                    }
                }
                attributes.insert(0, ("name", name));
                attributes.sort_by_key(|(name, _)| *name);
                writer.xml.open("attr", &attributes);
                writer.value(attr.value, attr.pos)?;
                writer.xml.close();
                Ok(())
            },
        )?;
        self.interp.depth.set(self.interp.depth.get() - 1);
        Ok(())
    }

    fn derivation(&mut self, attrs: &'h Attrs<'h>, pos: Pos) -> Result<()> {
        let interp = self.interp;
        let mut text = |name| -> Result<Option<Vec<u8>>> {
            let Some(attr) = attrs.get(name) else {
                return Ok(None);
            };
            let value = match self.strict {
                true => interp.force_at(attr.value, attr.pos)?,
                false => attr.value.get(),
            };
            Ok(match value {
                Value::String(string) => {
                    self.context = interp.contexts.union(self.context, string.context);
                    Some(string.bytes.to_vec())
                }
                _ => None,
            })
        };
        let drv_path = text(interp.known.drv_path)?;
        let out_path = text(interp.known.out_path)?;
        let mut attributes: Vec<(&'static str, &[u8])> = Vec::new();
        if let Some(path) = &drv_path {
            attributes.push(("drvPath", path));
        }
        if let Some(path) = &out_path {
            attributes.push(("outPath", path));
        }
        self.xml.open("derivation", &attributes);
        let is_new = match &drv_path {
            Some(path) if !path.is_empty() => self.drvs_seen.insert(path.clone()),
            _ => false,
        };
        if is_new {
            self.attrs(attrs)?;
        } else {
            self.xml.empty("repeated", &[]);
        }
        self.xml.close();
        let _ = pos;
        Ok(())
    }

    fn function(&mut self, code: u32) {
        let lambda = self.interp.lambdas.get(code);
        self.open_function(lambda.pos);
        let symbols = &self.interp.symbols;
        match &lambda.formals {
            Some(formals) => {
                let mut attributes: Vec<(&'static str, &[u8])> = Vec::new();
                if formals.ellipsis {
                    attributes.push(("ellipsis", b"1"));
                }
                if let Some(arg) = lambda.arg {
                    attributes.push(("name", symbols.name(arg)));
                }
                attributes.sort_by_key(|(name, _)| *name);
                self.xml.open("attrspat", &attributes);
                let mut names: Vec<&[u8]> = formals
                    .items
                    .iter()
                    .map(|formal| symbols.name(formal.name))
                    .collect();
                names.sort_unstable();
                for name in names {
                    self.xml.empty("attr", &[("name", name)]);
                }
                self.xml.close();
            }
            None => {
                let name = lambda.arg.map_or(b"".as_slice(), |arg| symbols.name(arg));
                self.xml.empty("varpat", &[("name", name)]);
            }
        }
        self.xml.close();
    }

    /// `derivation`, as C++ Nix defines it.
    fn derivation_function(&mut self) {
        self.open_function(internal::FUNCTION);
        let attributes: [(&str, &[u8]); 2] = [("ellipsis", b"1"), ("name", b"drvAttrs")];
        self.xml.open("attrspat", &attributes);
        self.xml.empty("attr", &[("name", b"outputs")]);
        self.xml.close();
        self.xml.close();
    }

    fn open_function(&mut self, pos: Pos) {
        let place = self.place(pos);
        let mut attributes: Vec<(&'static str, &[u8])> = Vec::new();
        if let Some((column, line, path)) = &place {
            attributes.push(("column", column.as_bytes()));
            attributes.push(("line", line.as_bytes()));
            if let Some(path) = path {
                attributes.push(("path", path.as_bytes()));
            }
        }
        self.xml.open("function", &attributes);
    }

    fn place(&self, pos: Pos) -> Option<(String, String, Option<String>)> {
        if !self.places {
            return None;
        }
        let place = self.interp.place_in_values(pos)?;
        let path = match place.origin {
            Origin::File(path) => Some(lossy(path)),
            Origin::Internal => Some("/derivation-internal.nix".to_owned()),
            _ => None,
        };
        Some((place.column.to_string(), place.line.to_string(), path))
    }
}
