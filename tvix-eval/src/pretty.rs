//! Values for display, as in the REPL of C++ Nix: evaluated, indented, coloured.

use std::collections::HashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::eval::Coercion;
use crate::interp::Interp;
use crate::source::Pos;
use crate::text::{number, print as literal};
use crate::value::{Attr, Attrs, List, Ref, Value};

const NORMAL: &str = "\u{1b}[0m";
const RED: &str = "\u{1b}[31;1m";
const GREEN: &str = "\u{1b}[32;1m";
const BLUE: &str = "\u{1b}[34;1m";
const MAGENTA: &str = "\u{1b}[35;1m";
const CYAN: &str = "\u{1b}[36;1m";

/// Columns of indentation per level.
const INDENT: usize = 2;

/// Options for displaying a value.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PrettyOptions {
    /// Maximum depth of sets and lists; deeper ones are displayed as `{ ... }` and `[ ... ]`.
    pub depth: u32,
    /// Whether values are coloured by type (ANSI escape sequences).
    pub colours: bool,
}

impl Default for PrettyOptions {
    fn default() -> Self {
        Self {
            depth: u32::MAX,
            colours: false,
        }
    }
}

impl PrettyOptions {
    /// Sets the maximum depth.
    #[must_use]
    pub fn with_depth(mut self, levels: u32) -> Self {
        self.depth = levels;
        self
    }

    /// Enables or disables colours.
    #[must_use]
    pub fn with_colours(mut self, on: bool) -> Self {
        self.colours = on;
        self
    }
}

/// The state of printing a value.
struct Printer<'o> {
    out: &'o mut Vec<u8>,
    options: &'o PrettyOptions,
    seen: HashSet<usize>,
    indent: usize,
}

impl Printer<'_> {
    fn coloured(&mut self, colour: &str, write: impl FnOnce(&mut Vec<u8>)) {
        if self.options.colours {
            self.out.extend_from_slice(colour.as_bytes());
        }
        write(self.out);
        if self.options.colours {
            self.out.extend_from_slice(NORMAL.as_bytes());
        }
    }

    fn text(&mut self, colour: &str, text: &str) {
        self.coloured(colour, |out| out.extend_from_slice(text.as_bytes()));
    }

    fn space(&mut self, lines: bool) {
        if lines {
            self.out.push(b'\n');
            self.out.resize(self.out.len() + self.indent, b' ');
        } else {
            self.out.push(b' ');
        }
    }

    /// Whether a set or list has not been printed before.
    fn is_new(&mut self, identity: usize) -> bool {
        let new = self.seen.insert(identity);
        if !new {
            self.text(MAGENTA, "«repeated»");
        }
        new
    }
}

impl<'h> Interp<'h> {
    /// Prints a value as the REPL of C++ Nix does, evaluating its parts. A part that fails is
    /// printed as `«error: …»`.
    ///
    /// # Errors
    ///
    /// If the value itself cannot be evaluated, or if evaluation is cancelled or exceeds a limit.
    /// `out` holds the output up to that point.
    pub fn pretty(&self, cell: Ref<'h>, options: &PrettyOptions, out: &mut Vec<u8>) -> Result<()> {
        let mut printer = Printer {
            out,
            options,
            seen: HashSet::new(),
            indent: 0,
        };
        self.pretty_cell(cell, 0, &mut printer)
    }

    fn pretty_cell(&self, cell: Ref<'h>, depth: u32, printer: &mut Printer<'_>) -> Result<()> {
        let printed = self.nested(Pos::NONE, || {
            let value = self.force(cell)?;
            self.pretty_value(value, cell, depth, printer)
        });
        match printed {
            Err(error) if depth > 0 && may_be_shown(&error) => {
                let message = format!("«error: {}»", error.message);
                printer.text(RED, &message);
                Ok(())
            }
            printed => printed,
        }
    }

    fn pretty_value(
        &self,
        value: Value<'h>,
        cell: Ref<'h>,
        depth: u32,
        printer: &mut Printer<'_>,
    ) -> Result<()> {
        self.make_room(printer.out.len())?;
        match value {
            Value::Attrs(attrs) => return self.pretty_attrs(attrs, depth, printer),
            Value::List(list) => {
                let identity = std::ptr::from_ref(cell).addr();
                return self.pretty_list(list, identity, depth, printer);
            }
            Value::Null => printer.text(CYAN, "null"),
            Value::Bool(true) => printer.text(CYAN, "true"),
            Value::Bool(false) => printer.text(CYAN, "false"),
            Value::Int(value) => printer.text(CYAN, &value.to_string()),
            Value::Float(value) => {
                printer.coloured(CYAN, |out| number::write_printed(out, value));
            }
            Value::String(string) => {
                printer.coloured(MAGENTA, |out| literal::write_string(out, string.bytes));
            }
            Value::Path(path) => {
                printer.coloured(GREEN, |out| out.extend_from_slice(path.bytes));
            }
            Value::Lambda { .. } | Value::Builtin(_) | Value::Partial(_) => {
                let shown = self.show(value);
                printer.text(BLUE, &shown);
            }
            Value::Hole(_) => printer.text(RED, "«potential infinite recursion»"),
            Value::Thunk { .. }
            | Value::Apply(_)
            | Value::Apply2(_)
            | Value::Element { .. }
            | Value::Failed(_)
            | Value::Uncommitted(_) => printer.text(MAGENTA, "«thunk»"),
        }
        Ok(())
    }

    fn pretty_attrs(
        &self,
        attrs: &'h Attrs<'h>,
        depth: u32,
        printer: &mut Printer<'_>,
    ) -> Result<()> {
        if !printer.is_new(std::ptr::from_ref(attrs).addr()) {
            return Ok(());
        }
        if self.is_derivation(attrs)? {
            let mut shown = String::from("«derivation");
            if let Some(attr) = attrs.get(self.known.drv_path) {
                shown.push(' ');
                shown.push_str(&self.shown_drv_path(attr)?);
            }
            shown.push('»');
            printer.text(GREEN, &shown);
            return Ok(());
        }
        if depth >= printer.options.depth {
            printer.out.extend_from_slice(b"{ ... }");
            return Ok(());
        }
        printer.indent += INDENT;
        printer.out.push(b'{');
        let entries = self.by_name(attrs);
        let cells: Vec<Ref<'h>> = entries.iter().map(|(_, attr)| attr.value).collect();
        let lines = self.takes_lines(&cells)?;
        for (name, attr) in entries {
            printer.space(lines);
            literal::write_attribute_name(printer.out, name);
            printer.out.extend_from_slice(b" = ");
            self.pretty_cell(attr.value, depth + 1, printer)?;
            printer.out.push(b';');
        }
        printer.indent -= INDENT;
        printer.space(lines);
        printer.out.push(b'}');
        Ok(())
    }

    fn pretty_list(
        &self,
        list: &'h List<'h>,
        identity: usize,
        depth: u32,
        printer: &mut Printer<'_>,
    ) -> Result<()> {
        if !list.items.is_empty() && !printer.is_new(identity) {
            return Ok(());
        }
        if depth >= printer.options.depth {
            printer.out.extend_from_slice(b"[ ... ]");
            return Ok(());
        }
        printer.indent += INDENT;
        printer.out.push(b'[');
        let lines = self.takes_lines(list.items)?;
        for item in list.items {
            printer.space(lines);
            self.pretty_cell(item, depth + 1, printer)?;
        }
        printer.indent -= INDENT;
        printer.space(lines);
        printer.out.push(b']');
        Ok(())
    }

    /// Whether elements are printed on lines of their own: several elements, or one that has
    /// elements itself.
    fn takes_lines(&self, cells: &[Ref<'h>]) -> Result<bool> {
        match cells {
            [] => Ok(false),
            [one] => Ok(matches!(self.force(one)?, Value::List(_) | Value::Attrs(_))),
            _ => Ok(true),
        }
    }

    fn shown_drv_path(&self, attr: &Attr<'h>) -> Result<String> {
        let why = "while evaluating the drvPath of a derivation";
        let text = self.coerce_cell(attr.value, Coercion::STRICT, attr.pos, why)?;
        let shown = String::from_utf8_lossy(text.bytes).into_owned();
        match self.world.settings.store_dir.parse(text.bytes) {
            Ok(_) => Ok(shown),
            Err(_) => {
                let message = format!("path '{shown}' is not in the Nix store");
                Err(Error::new(ErrorKind::Other, message).within(attr.pos, why))
            }
        }
    }
}

/// Whether printing continues after this error.
fn may_be_shown(error: &Error) -> bool {
    !matches!(
        error.kind,
        ErrorKind::Depth | ErrorKind::Cancelled | ErrorKind::Limit
    )
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::heap::Heap;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    fn pretty(text: &str, options: &PrettyOptions) -> String {
        let heap = Heap::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let value = interp.eval_text(text.as_bytes(), b"/").expect(text);
        let mut out = Vec::new();
        if let Err(error) = interp.pretty(interp.cell(value), options, &mut out) {
            out.extend_from_slice(format!("!{}", error.message).as_bytes());
        }
        String::from_utf8(out).expect(text)
    }

    /// Expected values are from C++ Nix 2.34.8.
    #[test]
    fn values() {
        let all = PrettyOptions::default();
        for (text, printed) in [
            ("{ }", "{ }"),
            ("{ a = 1; }", "{ a = 1; }"),
            ("{ a = [ ]; }", "{\n  a = [ ];\n}"),
            ("[ (throw \"a\") 2 ]", "[\n  «error: a»\n  2\n]"),
            ("[ (throw \"a\") ]", "[!a"),
            (
                "let l = [ 1 ]; in { a = l; b = l; }",
                "{\n  a = [ 1 ];\n  b = «repeated»;\n}",
            ),
            ("{ type = \"derivation\"; }", "«derivation»"),
        ] {
            assert_eq!(pretty(text, &all), printed, "{text}");
        }
        let one = PrettyOptions::default().with_depth(1).with_colours(true);
        assert_eq!(
            pretty("{ a = { }; b = \"x\"; }", &one),
            "{\n  a = { ... };\n  b = \u{1b}[35;1m\"x\"\u{1b}[0m;\n}"
        );
    }
}
