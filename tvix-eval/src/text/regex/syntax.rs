//! The pattern parser: from a pattern to a graph of states.
//!
//! The graph has as many states as libstdc++'s automaton, including unused ones, so that both
//! reject the same patterns as too large. The parser does not recurse: open groups are kept in a
//! list.

use super::RegexError;
use super::bracket::{self, ByteSet};

/// Maximum number of states of a pattern.
const MAX_STATES: usize = 100_000;

/// No state yet.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Dummy,
    Byte(u8),
    Set(ByteSet),
    /// Try both `alt` and `next`, and keep the longer match.
    Alternative {
        alt: u32,
    },
    /// Try `alt`, and `next` if that finds nothing.
    Repeat {
        alt: u32,
    },
    Begin(u32),
    End(u32),
    LineBegin,
    LineEnd,
    Accept,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) next: u32,
}

#[derive(Debug)]
pub(super) struct Graph {
    pub(super) states: Vec<State>,
    pub(super) start: u32,
    /// Number of groups, without the whole match.
    pub(super) groups: u32,
}

/// A part of the graph with a single entry and a single exit: the `next` of `end`.
#[derive(Clone, Copy)]
struct Part {
    start: u32,
    end: u32,
}

impl Part {
    fn one(state: u32) -> Self {
        Self {
            start: state,
            end: state,
        }
    }
}

/// An open group. The complete pattern is one.
struct Open {
    group: u32,
    /// The state at its start.
    begin: u32,
    /// The complete alternatives.
    before: Option<Part>,
    /// The current alternative.
    sequence: Option<Part>,
}

pub(super) fn parse(pattern: &[u8]) -> Result<Graph, RegexError> {
    Parser {
        rest: pattern,
        states: Vec::with_capacity(pattern.len() + 4),
        groups: 0,
    }
    .pattern()
}

struct Parser<'p> {
    rest: &'p [u8],
    states: Vec<State>,
    groups: u32,
}

const fn invalid<T>(why: &'static str) -> Result<T, RegexError> {
    Err(RegexError::Invalid(why))
}

impl<'p> Parser<'p> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.rest.first() == Some(&byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }

    fn push(&mut self, kind: Kind) -> Result<u32, RegexError> {
        if self.states.len() >= MAX_STATES {
            return Err(RegexError::TooLarge);
        }
        self.states.push(State { kind, next: NONE });
        Ok(self.states.len() as u32 - 1)
    }

    fn link(&mut self, from: Part, to: Part) -> Part {
        self.states[from.end as usize].next = to.start;
        Part {
            start: from.start,
            end: to.end,
        }
    }

    fn append(&mut self, open: &mut Open, part: Part) {
        open.sequence = Some(match open.sequence {
            Some(before) => self.link(before, part),
            None => part,
        });
    }

    fn pattern(mut self) -> Result<Graph, RegexError> {
        let start = self.push(Kind::Dummy)?;
        let mut outer: Vec<Open> = Vec::new();
        let mut open = Open {
            group: 0,
            begin: start,
            before: None,
            sequence: None,
        };
        while let Some(byte) = self.next() {
            let atom = match byte {
                b'^' | b'$' => {
                    // These cannot be repeated, so no quantifier is read here.
                    let kind = if byte == b'^' {
                        Kind::LineBegin
                    } else {
                        Kind::LineEnd
                    };
                    let part = Part::one(self.push(kind)?);
                    self.append(&mut open, part);
                    continue;
                }
                b'(' => {
                    self.groups += 1;
                    let begin = self.push(Kind::Begin(self.groups))?;
                    let inner = Open {
                        group: self.groups,
                        begin,
                        before: None,
                        sequence: None,
                    };
                    outer.push(std::mem::replace(&mut open, inner));
                    continue;
                }
                b')' => {
                    let Some(parent) = outer.pop() else {
                        return invalid("a parenthesis is closed that was not opened");
                    };
                    let inner = std::mem::replace(&mut open, parent);
                    self.group(inner)?
                }
                b'|' => {
                    self.end_alternative(&mut open)?;
                    continue;
                }
                b'*' | b'+' | b'?' => return invalid("nothing to repeat"),
                b'{' => return invalid("a brace with nothing to repeat"),
                b'.' => {
                    let mut any = ByteSet::FULL;
                    any.remove(0);
                    Part::one(self.push(Kind::Set(any))?)
                }
                b'[' => {
                    let set = self.bracket()?;
                    Part::one(self.push(Kind::Set(set))?)
                }
                b'\\' => match self.next() {
                    Some(
                        c @ (b'.' | b'[' | b'\\' | b'(' | b')' | b'*' | b'+' | b'?' | b'{' | b'|'
                        | b'^' | b'$'),
                    ) => Part::one(self.push(Kind::Byte(c))?),
                    Some(_) => return invalid("an escape that is not known"),
                    None => return invalid("a backslash at the end"),
                },
                byte => Part::one(self.push(Kind::Byte(byte))?),
            };
            let repeated = self.quantifiers(atom)?;
            self.append(&mut open, repeated);
        }
        if !outer.is_empty() {
            return invalid("a parenthesis is not closed");
        }
        self.end_alternative(&mut open)?;
        let end = self.push(Kind::Dummy)?;
        let accept = self.push(Kind::Accept)?;
        if let Some(body) = open.before {
            self.states[start as usize].next = body.start;
            self.states[body.end as usize].next = end;
        }
        self.states[end as usize].next = accept;
        Ok(Graph {
            states: self.states,
            start,
            groups: self.groups,
        })
    }

    /// Completes the current sequence, and joins it with the alternatives before it.
    fn end_alternative(&mut self, open: &mut Open) -> Result<(), RegexError> {
        let dummy = Part::one(self.push(Kind::Dummy)?);
        self.append(open, dummy);
        let Some(right) = open.sequence.take() else {
            return Ok(());
        };
        open.before = Some(match open.before {
            None => right,
            Some(left) => {
                let end = Part::one(self.push(Kind::Dummy)?);
                let left = self.link(left, end);
                self.link(right, end);
                let start = self.push(Kind::Alternative { alt: left.start })?;
                self.states[start as usize].next = right.start;
                Part {
                    start,
                    end: end.end,
                }
            }
        });
        Ok(())
    }

    fn group(&mut self, mut inner: Open) -> Result<Part, RegexError> {
        self.end_alternative(&mut inner)?;
        let end = Part::one(self.push(Kind::End(inner.group))?);
        let begin = Part::one(inner.begin);
        Ok(match inner.before {
            Some(body) => {
                let body = self.link(begin, body);
                self.link(body, end)
            }
            None => self.link(begin, end),
        })
    }

    fn quantifiers(&mut self, mut atom: Part) -> Result<Part, RegexError> {
        loop {
            atom = match self.rest.first() {
                Some(b'*') => {
                    let repeat = Part::one(self.push(Kind::Repeat { alt: atom.start })?);
                    self.link(atom, repeat);
                    repeat
                }
                Some(b'+') => {
                    let repeat = Part::one(self.push(Kind::Repeat { alt: atom.start })?);
                    self.link(atom, repeat)
                }
                Some(b'?') => {
                    let end = Part::one(self.push(Kind::Dummy)?);
                    let repeat = Part::one(self.push(Kind::Repeat { alt: atom.start })?);
                    self.link(atom, end);
                    self.link(repeat, end)
                }
                Some(b'{') => {
                    self.rest = &self.rest[1..];
                    atom = self.interval(atom)?;
                    continue;
                }
                _ => return Ok(atom),
            };
            self.rest = &self.rest[1..];
        }
    }

    /// `{2}`, `{2,}` or `{2,5}`: copies of the atom, the last of which are optional.
    fn interval(&mut self, atom: Part) -> Result<Part, RegexError> {
        let mut whole = Part::one(self.push(Kind::Dummy)?);
        let least = self.number()?;
        let mut optional = Some(0);
        if self.eat(b',') {
            optional = match self.rest.first() {
                Some(b'0'..=b'9') => Some(match self.number()?.checked_sub(least) {
                    Some(more) => more,
                    None => return invalid("an interval that ends before it begins"),
                }),
                _ => None,
            };
        }
        if !self.eat(b'}') {
            return invalid("an interval that is not closed");
        }
        for _ in 0..least {
            let copy = self.copy(atom)?;
            whole = self.link(whole, copy);
        }
        let Some(optional) = optional else {
            let copy = self.copy(atom)?;
            let repeat = Part::one(self.push(Kind::Repeat { alt: copy.start })?);
            self.link(copy, repeat);
            return Ok(self.link(whole, repeat));
        };
        let end = Part::one(self.push(Kind::Dummy)?);
        for _ in 0..optional {
            let copy = self.copy(atom)?;
            let repeat = self.push(Kind::Repeat { alt: copy.start })?;
            self.states[repeat as usize].next = end.start;
            let one = Part {
                start: repeat,
                end: copy.end,
            };
            whole = self.link(whole, one);
        }
        Ok(self.link(whole, end))
    }

    fn number(&mut self) -> Result<u32, RegexError> {
        let mut value: Option<i32> = None;
        while let Some(digit @ b'0'..=b'9') = self.rest.first() {
            let grown = value
                .unwrap_or(0)
                .checked_mul(10)
                .and_then(|v| v.checked_add(i32::from(digit - b'0')));
            let Some(grown) = grown else {
                return invalid("a number that is too large");
            };
            value = Some(grown);
            self.rest = &self.rest[1..];
        }
        match value.and_then(|v| u32::try_from(v).ok()) {
            Some(value) => Ok(value),
            None => invalid("a brace without a number"),
        }
    }

    /// Copies all states between the ends of a part.
    fn copy(&mut self, part: Part) -> Result<Part, RegexError> {
        let mut copies = rustc_hash::FxHashMap::default();
        let mut order = Vec::new();
        let mut todo = vec![part.start];
        while let Some(old) = todo.pop() {
            if old == NONE || copies.contains_key(&old) {
                continue;
            }
            let State { kind, next } = self.states[old as usize];
            copies.insert(old, self.push(kind)?);
            order.push(old);
            if let Kind::Alternative { alt } | Kind::Repeat { alt } = kind {
                todo.push(alt);
            }
            if old != part.end {
                todo.push(next);
            }
        }
        let copied = |old: u32| copies.get(&old).copied().unwrap_or(NONE);
        for old in order {
            let State { mut kind, next } = self.states[old as usize];
            if let Kind::Alternative { alt } | Kind::Repeat { alt } = &mut kind {
                *alt = copied(*alt);
            }
            let next = if old == part.end { NONE } else { copied(next) };
            self.states[copied(old) as usize] = State { kind, next };
        }
        Ok(Part {
            start: copied(part.start),
            end: copied(part.end),
        })
    }

    /// A bracket expression, after `[`.
    fn bracket(&mut self) -> Result<ByteSet, RegexError> {
        let negated = self.eat(b'^');
        let mut set = ByteSet::default();
        let mut last = Last::None;
        let mut at_start = true;
        loop {
            let item = self.bracket_item(at_start)?;
            match item {
                Item::Close => break,
                Item::Byte(byte) => {
                    set.insert(byte);
                    last = Last::Byte(byte);
                }
                Item::Symbol(byte) => {
                    set.insert(byte);
                    last = Last::Byte(byte);
                }
                Item::Class(class) => {
                    set.union(&class);
                    last = Last::Class;
                }
                Item::Dash if at_start => {
                    set.insert(b'-');
                    last = Last::Byte(b'-');
                }
                Item::Dash if self.eat(b']') => {
                    set.insert(b'-');
                    break;
                }
                Item::Dash => {
                    let Last::Byte(low) = last else {
                        return invalid("a dash that is not between two characters");
                    };
                    let high = match self.bracket_item(false)? {
                        Item::Byte(byte) => byte,
                        Item::Dash => b'-',
                        _ => return invalid("a range that does not end in a character"),
                    };
                    // Bytes are compared as signed numbers.
                    let (low, high) = (low.cast_signed(), high.cast_signed());
                    if low > high {
                        return invalid("a range that ends before it begins");
                    }
                    (low..=high).for_each(|b| set.insert(b.cast_unsigned()));
                    last = Last::None;
                }
            }
            at_start = false;
        }
        Ok(if negated { set.complement() } else { set })
    }

    fn bracket_item(&mut self, at_start: bool) -> Result<Item, RegexError> {
        let Some(byte) = self.next() else {
            return invalid("a bracket is not closed");
        };
        Ok(match byte {
            b'-' => Item::Dash,
            b']' if !at_start => Item::Close,
            b'[' => match self.rest.first() {
                None => return invalid("a bracket is not closed"),
                Some(kind @ (b'.' | b':' | b'=')) => {
                    let kind = *kind;
                    self.rest = &self.rest[1..];
                    let name = self.bracket_name(kind)?;
                    match kind {
                        b':' => match bracket::class(name) {
                            Some(class) => Item::Class(class),
                            None => return invalid("a character class that is not known"),
                        },
                        _ => match (bracket::collating(name), kind) {
                            (Some(byte), b'.') => Item::Symbol(byte),
                            (Some(byte), _) => {
                                let mut same = ByteSet::one(byte.to_ascii_lowercase());
                                same.insert(byte.to_ascii_uppercase());
                                Item::Class(same)
                            }
                            (None, _) => return invalid("a collating name that is not known"),
                        },
                    }
                }
                Some(_) => Item::Byte(b'['),
            },
            byte => Item::Byte(byte),
        })
    }

    /// The text up to `kind` and `]`.
    fn bracket_name(&mut self, kind: u8) -> Result<&'p [u8], RegexError> {
        let length = memchr::memchr(kind, self.rest);
        match length.map(|l| (l, self.rest.get(l + 1))) {
            Some((length, Some(b']'))) => {
                let (name, rest) = self.rest.split_at(length);
                self.rest = &rest[2..];
                Ok(name)
            }
            _ => invalid("a name in a bracket is not closed"),
        }
    }
}

/// The previous item, for a range that may follow it.
enum Last {
    None,
    Byte(u8),
    Class,
}

enum Item {
    Byte(u8),
    /// A byte that can start a range, but not end it.
    Symbol(u8),
    Class(ByteSet),
    Dash,
    Close,
}
