//! Attribute sets, their definitions, and the merging of definitions.

use std::cell::Cell;

use bstr::BString;

use super::error::{SyntaxError, SyntaxErrorKind};
use super::parser::{Failed, Parsed, Parser, nothing};
use super::strings::Text;
use super::token::Tok;
use crate::deep::{LEVELS, on_new_stack};
use crate::ir::{AttrDef, AttrKind, AttrName, AttrSet, Delayed, DynamicAttr, Expr, Select};
use crate::source::Pos;
use crate::symbol::Symbol;
use crate::text::print::write_attribute_name;
use crate::value::Value;

/// The start of a set's definitions in the parser's vectors.
#[derive(Clone, Copy)]
struct Bases {
    defs: usize,
    from: usize,
    dynamic: usize,
}

impl<'h> Parser<'_, 'h> {
    /// Parses definitions, up to a token that cannot start one.
    pub(super) fn bindings(&mut self, pos: Pos, recursive: bool) -> Parsed<AttrSet<'h>> {
        let bases = self.bases();
        self.bindings_after(bases)?;
        self.finish(bases, pos, recursive)
    }

    /// Like [`Parser::bindings`], after the first name was read.
    pub(super) fn bindings_from(
        &mut self,
        pos: Pos,
        first: Symbol,
        first_pos: Pos,
    ) -> Parsed<AttrSet<'h>> {
        let bases = self.bases();
        self.binding(Some((first, first_pos)))?;
        self.bindings_after(bases)?;
        self.finish(bases, pos, false)
    }

    fn bases(&self) -> Bases {
        Bases {
            defs: self.defs.len(),
            from: self.from.len(),
            dynamic: self.dynamic.len(),
        }
    }

    fn bindings_after(&mut self, bases: Bases) -> Parsed<()> {
        loop {
            match self.lx.tok {
                Tok::Ident | Tok::Or | Tok::Quote | Tok::DollarCurly => self.binding(None)?,
                Tok::Inherit => self.inherit(bases)?,
                _ => return Ok(()),
            }
        }
    }

    /// `path = value;`
    fn binding(&mut self, first: Option<(Symbol, Pos)>) -> Parsed<()> {
        let pos = first.map_or_else(|| self.lx.here(), |(_, pos)| pos);
        let names = self.names.len();
        let first = match first {
            Some((name, _)) => AttrName::Static(name),
            None => self.attr_name()?,
        };
        if let (&AttrName::Static(name), Tok::Assign) = (&first, self.lx.tok) {
            self.lx.advance();
            let value = self.expr()?;
            self.pass(Tok::Semicolon)?;
            self.define(name, pos, value);
            return Ok(());
        }
        self.names.push(first);
        self.more_names()?;
        if self.lx.tok != Tok::Assign {
            return Err(self.unexpected(&["'.'", "'='"]));
        }
        self.lx.advance();
        let levels = (self.names.len() - names) as u32;
        self.deeper(levels)?;
        let mut value = self.expr()?;
        self.depth -= levels;
        self.pass(Tok::Semicolon)?;
        // The path is converted to nested sets from its end. Sets of the same name are merged
        // later.
        while let Some(name) = self.names.pop() {
            let inner = self.bases();
            match name {
                AttrName::Static(name) => self.define(name, pos, value),
                AttrName::Dynamic(name) => self.dynamic.push(DynamicAttr {
                    pos,
                    name,
                    value: Delayed::new(value),
                }),
            }
            if self.names.len() == names {
                break;
            }
            let set = self.finish(inner, Pos::NONE, false)?;
            value = Expr::AttrSet(self.heap.alloc(set));
        }
        Ok(())
    }

    #[inline]
    fn define(&mut self, name: Symbol, pos: Pos, value: Expr<'h>) {
        name_functions(&value, name);
        self.defs.push(AttrDef {
            name,
            pos,
            kind: AttrKind::Plain,
            value: Delayed::new(value),
        });
    }

    /// `inherit a b;`, `inherit (e) a b;`
    #[inline(never)]
    fn inherit(&mut self, bases: Bases) -> Parsed<()> {
        self.lx.advance();
        let mut from = None;
        if self.lx.tok == Tok::LParen {
            self.lx.advance();
            let pos = self.lx.here();
            let expr = self.expr()?;
            self.pass(Tok::RParen)?;
            let slot = (self.from.len() - bases.from) as u32;
            self.from.push(Delayed::new(expr));
            from = Some((slot, pos));
        }
        loop {
            let pos = self.lx.here();
            let name = match self.lx.tok {
                Tok::Ident | Tok::Or | Tok::Quote | Tok::DollarCurly => self.attr_name()?,
                Tok::Semicolon => break,
                _ => return Err(self.unexpected(&[])),
            };
            let AttrName::Static(name) = name else {
                return Err(self.fail_at(SyntaxErrorKind::DynamicInInherit, pos));
            };
            let (kind, value) = match from {
                None => (AttrKind::Inherited, Expr::Name { name, pos }),
                Some((slot, from_pos)) => {
                    let select = Select {
                        cache: Cell::new(0),
                        pos,
                        base: Expr::Local {
                            slot,
                            pos: from_pos,
                        },
                        path: self.heap.alloc_slice_fill_iter([AttrName::Static(name)]),
                        default: None,
                    };
                    (AttrKind::From, Expr::Select(self.heap.alloc(select)))
                }
            };
            self.defs.push(AttrDef {
                name,
                pos,
                kind,
                value: Delayed::new(value),
            });
        }
        self.lx.advance();
        Ok(())
    }

    /// `a.b."c".${d}`
    pub(super) fn attr_path(&mut self) -> Parsed<&'h mut [AttrName<'h>]> {
        let first = self.attr_name()?;
        if self.lx.tok != Tok::Dot {
            return Ok(self.heap.alloc_slice_fill_iter([first]));
        }
        let base = self.names.len();
        self.names.push(first);
        self.more_names()?;
        Ok(self.heap.alloc_slice_fill_iter(self.names.drain(base..)))
    }

    fn more_names(&mut self) -> Parsed<()> {
        while self.lx.tok == Tok::Dot {
            self.lx.advance();
            let name = self.attr_name()?;
            self.names.push(name);
        }
        Ok(())
    }

    /// A name in an attribute path.
    fn attr_name(&mut self) -> Parsed<AttrName<'h>> {
        let name = match self.lx.tok {
            Tok::Ident | Tok::Or => AttrName::Static(self.lx.name),
            Tok::Quote => match self.string_text()? {
                Text::Plain(text) => AttrName::Static(self.cx.symbols.intern(text)),
                Text::Parts(expr) => AttrName::Dynamic(expr),
            },
            Tok::DollarCurly => {
                self.lx.advance();
                let expr = self.expr()?;
                self.want(Tok::RBrace, &["'}'"])?;
                match string_of(&expr) {
                    Some(text) => AttrName::Static(self.cx.symbols.intern(text)),
                    None => AttrName::Dynamic(expr),
                }
            }
            _ => {
                return Err(self.unexpected(&["identifier", "'or'", "'${'", "'\"'"]));
            }
        };
        self.lx.advance();
        Ok(name)
    }

    fn finish(&mut self, bases: Bases, pos: Pos, recursive: bool) -> Parsed<AttrSet<'h>> {
        if !ascending(&self.defs[bases.defs..]) {
            self.sort_and_merge(bases, &mut Vec::new())?;
        }
        let mut set = AttrSet {
            pos,
            recursive,
            defs: &mut [],
            from: &mut [],
            dynamic: &mut [],
            overrides: None,
        };
        self.fill(&mut set, bases);
        Ok(set)
    }

    /// Moves the definitions above the bases into a set.
    fn fill(&mut self, set: &mut AttrSet<'h>, bases: Bases) {
        let heap = self.heap;
        if self.defs.len() > bases.defs {
            set.defs = heap.alloc_slice_fill_iter(self.defs.drain(bases.defs..));
        }
        if self.from.len() > bases.from {
            set.from = heap.alloc_slice_fill_iter(self.from.drain(bases.from..));
        }
        if self.dynamic.len() > bases.dynamic {
            set.dynamic = heap.alloc_slice_fill_iter(self.dynamic.drain(bases.dynamic..));
        }
    }

    #[inline(never)]
    fn sort_and_merge(&mut self, bases: Bases, path: &mut Vec<Symbol>) -> Parsed<()> {
        let defs = &mut self.defs[bases.defs..];
        sort(defs, &mut self.order);
        if ascending(defs) {
            return Ok(());
        }
        self.merge(bases, path)
    }

    /// Merges definitions of the same name, which must all be sets.
    #[inline(never)]
    fn merge(&mut self, bases: Bases, path: &mut Vec<Symbol>) -> Parsed<()> {
        let mut defs: Vec<_> = self.defs.drain(bases.defs..).collect();
        self.check_mergeable(&defs, path)?;
        let mut rest = &mut defs[..];
        while let Some(first) = rest.first() {
            let name = first.name;
            let count = rest.iter().take_while(|def| def.name == name).count();
            let (group, after) = rest.split_at_mut(count);
            rest = after;
            if count > 1 {
                let inner = self.bases();
                for def in group.iter_mut() {
                    self.take_apart(def, inner);
                }
                path.push(name);
                if !ascending(&self.defs[inner.defs..]) {
                    match path.len() as u32 % LEVELS {
                        0 => on_new_stack(|| self.sort_and_merge(inner, path)).unwrap_or_else(
                            |_| Err(self.fail_at(SyntaxErrorKind::TooDeep, group[0].pos)),
                        )?,
                        _ => self.sort_and_merge(inner, path)?,
                    }
                }
                path.pop();
                // Properties of the first definition, such as `rec`, apply to the merged set.
                if let Expr::AttrSet(set) = &mut group[0].value.expr {
                    self.fill(set, inner);
                }
            }
            let empty = AttrDef {
                name,
                pos: Pos::NONE,
                kind: AttrKind::Plain,
                value: nothing(),
            };
            self.defs.push(std::mem::replace(&mut group[0], empty));
        }
        Ok(())
    }

    fn check_mergeable(&mut self, defs: &[AttrDef<'h>], path: &[Symbol]) -> Parsed<()> {
        let is_set = |def: &AttrDef<'_>| matches!(def.value.expr, Expr::AttrSet(_));
        let second = defs
            .chunk_by(|a, b| a.name == b.name)
            .flat_map(|group| {
                let (first, others) = group.split_first().unwrap_or((&group[0], &[]));
                others
                    .iter()
                    .filter(move |other| !is_set(first) || !is_set(other))
                    .map(move |other| (first, other))
            })
            .min_by_key(|(_, other)| other.pos);
        match second {
            None => Ok(()),
            Some((first, other)) => Err(self.duplicate(path, first, other)),
        }
    }

    #[cold]
    fn duplicate(&mut self, path: &[Symbol], first: &AttrDef<'h>, second: &AttrDef<'h>) -> Failed {
        let mut text = Vec::new();
        for name in path.iter().copied().chain([first.name]) {
            if !text.is_empty() {
                text.push(b'.');
            }
            write_attribute_name(&mut text, self.cx.symbols.name(name));
        }
        self.error.get_or_insert(SyntaxError {
            kind: SyntaxErrorKind::DuplicateAttribute(BString::from(text)),
            pos: second.pos,
            other: Some(first.pos),
        });
        Failed
    }

    /// Moves the definitions of a set to the end of the parser's vectors.
    fn take_apart(&mut self, def: &mut AttrDef<'h>, bases: Bases) {
        let Expr::AttrSet(set) = &mut def.value.expr else {
            return;
        };
        let shift = (self.from.len() - bases.from) as u32;
        for def in std::mem::take(&mut set.defs) {
            let mut value = std::mem::replace(&mut def.value, nothing());
            if def.kind == AttrKind::From
                && let Expr::Select(select) = &mut value.expr
                && let Expr::Local { slot, .. } = &mut select.base
            {
                *slot += shift;
            }
            self.defs.push(AttrDef {
                name: def.name,
                pos: def.pos,
                kind: def.kind,
                value,
            });
        }
        for from in std::mem::take(&mut set.from) {
            self.from.push(std::mem::replace(from, nothing()));
        }
        for attr in std::mem::take(&mut set.dynamic) {
            self.dynamic.push(DynamicAttr {
                pos: attr.pos,
                name: std::mem::replace(&mut attr.name, Expr::CurPos(Pos::NONE)),
                value: std::mem::replace(&mut attr.value, nothing()),
            });
        }
    }
}

fn ascending(defs: &[AttrDef<'_>]) -> bool {
    defs.is_sorted_by(|a, b| a.name < b.name)
}

/// Sorts definitions by name. Definitions of the same name keep the order of the text. Each
/// definition is represented by a number during sorting, and is moved once afterwards.
fn sort(defs: &mut [AttrDef<'_>], order: &mut Order) {
    if defs.len() < 16 {
        return defs.sort_by_key(|def| def.name);
    }
    let order = order.of(defs);
    // `order[n]` is the old index of element n. Following these indices always returns to the
    // start.
    for first in 0..order.len() {
        let mut to = first;
        loop {
            let from = order[to] as u32 as usize;
            order[to] = to as u64;
            if from == first {
                break;
            }
            defs.swap(to, from);
            to = from;
        }
    }
}

/// Buffers for sorting, reused between sets: names in the upper half, indices in the lower half.
#[derive(Default)]
pub(super) struct Order {
    sorted: Vec<u64>,
    other: Vec<u64>,
}

impl Order {
    /// The indices of definitions, sorted by name. A thousand or more definitions are sorted by the
    /// bytes of the symbol, of which two are relevant in most texts.
    fn of(&mut self, defs: &[AttrDef<'_>]) -> &mut [u64] {
        let numbered = defs.iter().zip(0u64..);
        self.sorted.clear();
        self.sorted
            .extend(numbered.map(|(def, n)| u64::from(def.name.0) << 32 | n));
        if defs.len() < 256 {
            self.sorted.sort_unstable();
            return &mut self.sorted;
        }
        let all = self.sorted.iter().fold(0, |all, key| all | key) >> 32;
        self.other.resize(defs.len(), 0);
        for byte in (0..32).step_by(8).take_while(|byte| all >> byte != 0) {
            let digit = |key: &u64| (key >> (32 + byte)) as u8 as usize;
            let mut starts = [0usize; 257];
            for key in &self.sorted {
                starts[digit(key) + 1] += 1;
            }
            for value in 1..256 {
                starts[value] += starts[value - 1];
            }
            for key in &self.sorted {
                let start = &mut starts[digit(key)];
                self.other[*start] = *key;
                *start += 1;
            }
            std::mem::swap(&mut self.sorted, &mut self.other);
        }
        &mut self.sorted
    }
}

/// Names a function after its definition, and likewise the functions that it returns.
fn name_functions(mut value: &Expr<'_>, name: Symbol) {
    while let Expr::Lambda(lambda) = value {
        lambda.name.set(Some(name));
        value = &lambda.body;
    }
}

/// The text of a constant string.
fn string_of<'h>(expr: &Expr<'h>) -> Option<&'h [u8]> {
    match expr {
        Expr::Const(cell) => match cell.get() {
            Value::String(string) => Some(string.bytes),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_sorted_by_name_and_then_place() {
        for (len, names) in [
            (3, 2),
            (20, 7),
            (255, 90),
            (256, 90),
            (5000, 70_000),
            (3000, 3),
        ] {
            let mut random = 7u64;
            let mut defs: Vec<_> = (0..len)
                .map(|place| {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    AttrDef {
                        name: Symbol((random >> 33) as u32 % names),
                        pos: Pos(place),
                        kind: AttrKind::Plain,
                        value: nothing(),
                    }
                })
                .collect();
            let keys = |defs: &[AttrDef<'_>]| -> Vec<_> {
                defs.iter().map(|def| (def.name, def.pos)).collect()
            };
            let mut wanted = keys(&defs);
            wanted.sort();
            sort(&mut defs, &mut Order::default());
            assert_eq!(keys(&defs), wanted);
        }
    }
}
