//! Values as text: for messages and for `--eval`.

use std::collections::HashSet;

use crate::error::Result;
use crate::internal;
use crate::interp::Interp;
use crate::source::{Origin, Pos};
use crate::symbol::Symbol;
use crate::text::number;
use crate::text::print as literal;
use crate::value::{ContextElement, Ref, Value};

/// How much of a value to show.
#[derive(Clone, Copy)]
struct ShowLimits {
    depth: u32,
    items: usize,
    string: usize,
}

/// In errors.
const IN_ERRORS: ShowLimits = ShowLimits {
    depth: 10,
    items: 10,
    string: 1024,
};

/// In `builtins.trace`: everything.
const IN_TRACES: ShowLimits = ShowLimits {
    depth: u32::MAX,
    items: usize::MAX,
    string: usize::MAX,
};

/// The state of showing a value.
struct Shown {
    out: Vec<u8>,
    most: ShowLimits,
    seen: HashSet<usize>,
    /// Number of list items shown so far.
    items: usize,
    /// Number of attributes shown so far.
    attrs: usize,
}

impl<'h> Interp<'h> {
    /// A value for a message: shortened, without evaluating anything.
    pub fn show(&self, value: Value<'h>) -> String {
        self.shown(value, 0, IN_ERRORS).unwrap_or_default()
    }

    /// The value of a cell for a message.
    pub(crate) fn show_value(&self, cell: Ref<'h>) -> String {
        self.shown(self.settled(cell), 0, IN_ERRORS)
            .unwrap_or_default()
    }

    /// The same for a cell, which a list inside may contain again.
    pub(crate) fn show_cell(&self, cell: Ref<'h>) -> String {
        let identity = std::ptr::from_ref(cell).addr();
        self.shown(self.settled(cell), identity, IN_ERRORS)
            .unwrap_or_default()
    }

    /// The complete value of a cell, as far as it is evaluated.
    pub(crate) fn show_whole(&self, cell: Ref<'h>, value: Value<'h>) -> Result<String> {
        let identity = std::ptr::from_ref(cell).addr();
        self.shown(value, identity, IN_TRACES)
    }

    fn shown(&self, value: Value<'h>, identity: usize, most: ShowLimits) -> Result<String> {
        if matches!(value, Value::List(_) | Value::Attrs(_)) {
            self.wait_for_order();
        }
        let mut shown = Shown {
            out: Vec::new(),
            most,
            seen: HashSet::new(),
            items: 0,
            attrs: 0,
        };
        self.show_into(value, identity, 0, &mut shown)?;
        Ok(String::from_utf8_lossy(&shown.out).into_owned())
    }

    /// `identity` is the address of the value's cell.
    fn show_into(
        &self,
        value: Value<'h>,
        identity: usize,
        depth: u32,
        shown: &mut Shown,
    ) -> Result<()> {
        let most = shown.most;
        self.make_room(shown.out.len())?;
        let out = &mut shown.out;
        match value {
            Value::String(string) if string.bytes.len() > most.string => {
                literal::write_string(out, &string.bytes[..most.string]);
                let elided = string.bytes.len() - most.string;
                let plural = if elided == 1 { "" } else { "s" };
                out.extend_from_slice(format!(" «{elided} byte{plural} elided»").as_bytes());
            }
            Value::List(list) if !list.items.is_empty() => {
                if !shown.seen.insert(identity) {
                    out.extend_from_slice("«repeated»".as_bytes());
                    return Ok(());
                }
                if depth >= most.depth {
                    out.extend_from_slice(b"[ ... ]");
                    return Ok(());
                }
                out.extend_from_slice(b"[ ");
                for (index, item) in list.items.iter().enumerate() {
                    if shown.items >= most.items {
                        elided(&mut shown.out, list.items.len() - index, "item");
                        break;
                    }
                    let identity = std::ptr::from_ref(*item).addr();
                    self.show_nested(self.visible(item), identity, depth + 1, shown)?;
                    shown.out.push(b' ');
                    shown.items += 1;
                }
                shown.out.push(b']');
            }
            Value::Attrs(attrs) => {
                if attrs.is_empty() {
                    out.extend_from_slice(b"{ }");
                    return Ok(());
                }
                if !shown.seen.insert(std::ptr::from_ref(attrs).addr()) {
                    out.extend_from_slice("«repeated»".as_bytes());
                    return Ok(());
                }
                if depth >= most.depth {
                    out.extend_from_slice(b"{ ... }");
                    return Ok(());
                }
                out.extend_from_slice(b"{ ");
                let mut entries = self.by_name(attrs);
                // The attributes that tell the kind of a set come first, so that shortening keeps
                // them.
                if most.items != usize::MAX {
                    entries.sort_by_key(|(name, _)| !matches!(*name, b"type" | b"_type"));
                }
                for (index, (name, attr)) in entries.iter().enumerate() {
                    if shown.attrs >= most.items {
                        elided(&mut shown.out, entries.len() - index, "attribute");
                        break;
                    }
                    literal::write_attribute_name(&mut shown.out, name);
                    shown.out.extend_from_slice(b" = ");
                    let identity = std::ptr::from_ref(attr.value).addr();
                    self.show_nested(self.visible(attr.value), identity, depth + 1, shown)?;
                    shown.out.extend_from_slice(b"; ");
                    shown.attrs += 1;
                }
                shown.out.push(b'}');
            }
            Value::Lambda { code, .. } => {
                let lambda = self.lambdas.get(code);
                out.extend_from_slice("«lambda".as_bytes());
                if let Some(name) = lambda.name.get() {
                    out.push(b' ');
                    out.extend_from_slice(self.symbols.name(name));
                }
                let place = self.place_text(lambda.pos);
                out.extend_from_slice(format!(" @ {place}»").as_bytes());
            }
            Value::Builtin(builtin) if builtin.is_derivation() => {
                let place = self.place_text(internal::FUNCTION);
                out.extend_from_slice(format!("«lambda @ {place}»").as_bytes());
            }
            Value::Builtin(builtin) => {
                out.extend_from_slice(format!("«primop {}»", builtin.name).as_bytes());
            }
            Value::Partial(partial) => {
                let name = partial.builtin.name;
                out.extend_from_slice(format!("«partially applied primop {name}»").as_bytes());
            }
            Value::Thunk { .. }
            | Value::Apply(_)
            | Value::Apply2(_)
            | Value::Element { .. }
            | Value::Uncommitted(_) => out.extend_from_slice("«thunk»".as_bytes()),
            Value::Hole(_) => out.extend_from_slice("«potential infinite recursion»".as_bytes()),
            Value::Failed(_) => out.extend_from_slice("«failed»".as_bytes()),
            scalar => self.print_scalar(scalar, out),
        }
        Ok(())
    }

    /// Traces obey the limits of an evaluation. Errors show a bounded part of a value, and all of that:
    /// a limit must not change the text of an error that evaluation has come to already.
    fn show_nested(
        &self,
        value: Value<'h>,
        identity: usize,
        depth: u32,
        shown: &mut Shown,
    ) -> Result<()> {
        if shown.most.depth == u32::MAX {
            self.nested(Pos::NONE, || self.show_into(value, identity, depth, shown))
        } else {
            self.show_into(value, identity, depth, shown)
        }
    }

    fn print_scalar(&self, value: Value<'h>, out: &mut Vec<u8>) {
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
            Value::Float(value) => number::write_printed(out, value),
            Value::String(string) => literal::write_string(out, string.bytes),
            Value::Path(path) => out.extend_from_slice(path.bytes),
            Value::List(_) => out.extend_from_slice(b"[ ]"),
            _ => {}
        }
    }

    /// A value as printed by `nix-instantiate --eval`. Unevaluated parts are `<CODE>`.
    pub fn print(&self, value: Value<'h>, out: &mut Vec<u8>) -> Result<()> {
        self.print_into(value, None, &mut HashSet::new(), out)
    }

    fn print_into(
        &self,
        value: Value<'h>,
        cell: Option<Ref<'h>>,
        seen: &mut HashSet<usize>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.check_stack()?;
        match value {
            Value::List(list) if !list.items.is_empty() => {
                // In C++ Nix the identity of a list is its cell, which differs between a variable
                // and the complete value.
                let identity = cell.map_or(0, |cell| std::ptr::from_ref(cell).addr());
                if !seen.insert(identity) {
                    out.extend_from_slice("«repeated»".as_bytes());
                    return Ok(());
                }
                out.extend_from_slice(b"[ ");
                for item in list.items {
                    self.nested(Pos::NONE, || {
                        self.print_into(self.visible(item), Some(item), seen, out)
                    })?;
                    out.push(b' ');
                }
                out.push(b']');
            }
            Value::List(_) => out.extend_from_slice(b"[ ]"),
            Value::Attrs(attrs) => {
                if !attrs.is_empty() && !seen.insert(std::ptr::from_ref(attrs).addr()) {
                    out.extend_from_slice("«repeated»".as_bytes());
                    return Ok(());
                }
                out.extend_from_slice(b"{ ");
                for (name, attr) in self.by_name(attrs) {
                    literal::write_attribute_name(out, name);
                    out.extend_from_slice(b" = ");
                    self.nested(Pos::NONE, || {
                        self.print_into(self.visible(attr.value), Some(attr.value), seen, out)
                    })?;
                    out.extend_from_slice(b"; ");
                }
                out.push(b'}');
            }
            Value::Lambda { .. } => out.extend_from_slice(b"<LAMBDA>"),
            Value::Builtin(builtin) if builtin.is_derivation() => {
                out.extend_from_slice(b"<LAMBDA>");
            }
            Value::Builtin(_) => out.extend_from_slice(b"<PRIMOP>"),
            Value::Partial(_) => out.extend_from_slice(b"<PRIMOP-APP>"),
            Value::Thunk { .. }
            | Value::Apply(_)
            | Value::Apply2(_)
            | Value::Element { .. }
            | Value::Uncommitted(_) => out.extend_from_slice(b"<CODE>"),
            Value::Hole(_) => out.extend_from_slice("«potential infinite recursion»".as_bytes()),
            Value::Failed(_) => out.extend_from_slice("«failed»".as_bytes()),
            scalar => self.print_scalar(scalar, out),
        }
        Ok(())
    }

    /// A place as printed in messages.
    pub(crate) fn place_text(&self, pos: Pos) -> String {
        match self.sources.place(pos) {
            None => "«none»".to_owned(),
            Some(place) => format!("{}:{}:{}", origin(place.origin), place.line, place.column),
        }
    }

    /// An element of a string context, in the form of the language.
    pub(crate) fn context_text(&self, element: &ContextElement) -> String {
        let dir = &self.world.settings.store_dir;
        match element {
            ContextElement::Opaque(path) => dir.display(path).to_string(),
            ContextElement::Deep(path) => format!("={}", dir.display(path)),
            ContextElement::Output { drv_path, output } => {
                format!("!{}!{}", output.as_str(), dir.display(drv_path))
            }
        }
    }

    /// Names similar to a missing one, best first.
    pub(crate) fn suggest(
        &self,
        wanted: Symbol,
        known: impl Iterator<Item = Symbol>,
    ) -> Vec<String> {
        const WORST: usize = 3;
        const MOST: usize = 5;
        let wanted = self.symbols.name(wanted);
        let mut near: Vec<(usize, &[u8])> = known
            .map(|name| self.symbols.name(name))
            .filter(|name| name.len().abs_diff(wanted.len()) <= WORST)
            .map(|name| (distance(wanted, name), name))
            .filter(|(distance, _)| *distance < WORST)
            .collect();
        near.sort();
        near.truncate(MOST);
        near.into_iter()
            .map(|(_, name)| String::from_utf8_lossy(name).into_owned())
            .collect()
    }
}

fn elided(out: &mut Vec<u8>, count: usize, what: &str) {
    let plural = if count == 1 { "" } else { "s" };
    out.extend_from_slice(format!("«{count} {what}{plural} elided» ").as_bytes());
}

/// The name of a source.
pub(crate) fn origin(origin: Origin<'_>) -> String {
    match origin {
        Origin::File(path) => String::from_utf8_lossy(path).into_owned(),
        Origin::Text => "«string»".to_owned(),
        Origin::Stdin => "«stdin»".to_owned(),
        Origin::Internal => "«nix-internal»/derivation-internal.nix".to_owned(),
    }
}

/// The edit distance of two names.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
