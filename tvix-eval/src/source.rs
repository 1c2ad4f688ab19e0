//! Source texts and positions. A position is a number; lines are counted only for messages.

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;

/// A position in one of the sources: 0 for none, else 1 plus the source's base plus the offset in
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pos(pub u32);

impl Pos {
    /// No position.
    pub const NONE: Self = Self(0);

    /// Whether this is a position.
    pub fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// The origin of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin<'h> {
    /// A file at this absolute path.
    File(&'h [u8]),
    /// Text given to the evaluator, such as that of `--expr`.
    Text,
    /// Text from standard input.
    Stdin,
    /// The file in which C++ Nix defines `derivation`. Its lines are blank, and are not shown.
    Internal,
}

/// A parsed text.
#[derive(Debug, Clone, Copy)]
pub struct Source<'h> {
    /// Its origin.
    pub origin: Origin<'h>,
    /// The text.
    pub text: &'h [u8],
    /// The [`Pos`] of its first byte.
    pub base: u32,
}

/// A place by line and column, both counted from 1. Columns are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'h> {
    /// Origin of the source.
    pub origin: Origin<'h>,
    /// Complete text of the source.
    pub text: &'h [u8],
    /// Line.
    pub line: u32,
    /// Column.
    pub column: u32,
}

/// All parsed texts.
#[derive(Debug, Default)]
pub struct Sources<'h> {
    sources: RefCell<Vec<Source<'h>>>,
    /// Offsets of the first bytes of all lines, by the base of the source. Counted on first use.
    lines: RefCell<FxHashMap<u32, Rc<[u32]>>>,
}

impl<'h> Sources<'h> {
    /// Adds a text; `None` if the total size of all texts exceeds 4 GiB.
    pub fn add(&self, origin: Origin<'h>, text: &'h [u8]) -> Option<Source<'h>> {
        let mut sources = self.sources.borrow_mut();
        let base = match sources.last() {
            None => 1,
            Some(last) => last
                .base
                .checked_add(u32::try_from(last.text.len()).ok()?)?
                .checked_add(1)?,
        };
        base.checked_add(u32::try_from(text.len()).ok()?)?;
        let source = Source { origin, text, base };
        sources.push(source);
        Some(source)
    }

    /// The text from a position to the end of its source.
    pub(crate) fn rest(&self, pos: Pos) -> Option<&'h [u8]> {
        let sources = self.sources.borrow();
        let index = sources.partition_point(|source| source.base <= pos.0);
        let source = sources.get(index.checked_sub(1)?)?;
        source.text.get((pos.0 - source.base) as usize..)
    }

    /// The place of a position; `None` for [`Pos::NONE`].
    pub fn place(&self, pos: Pos) -> Option<Place<'h>> {
        if !pos.is_some() {
            return None;
        }
        let sources = self.sources.borrow();
        let index = sources.partition_point(|source| source.base <= pos.0);
        let source = sources.get(index.checked_sub(1)?)?;
        let offset = ((pos.0 - source.base) as usize).min(source.text.len());
        let starts = self.line_starts(source);
        let line = starts.partition_point(|start| *start as usize <= offset);
        let line_start = starts[line - 1] as usize;
        Some(Place {
            origin: source.origin,
            text: source.text,
            line: line as u32,
            column: (offset - line_start + 1) as u32,
        })
    }

    /// The line of a position, between the one before it and the one after it.
    pub(crate) fn lines_around(&self, pos: Pos) -> [Option<&'h [u8]>; 3] {
        let sources = self.sources.borrow();
        let index = sources.partition_point(|source| source.base <= pos.0);
        let source = index.checked_sub(1).and_then(|index| sources.get(index));
        let Some(source) = source.filter(|_| pos.is_some()) else {
            return [None; 3];
        };
        let offset = ((pos.0 - source.base) as usize).min(source.text.len());
        let starts = self.line_starts(source);
        let line = starts.partition_point(|start| *start as usize <= offset) - 1;
        let text = |line: Option<usize>| {
            let start = *starts.get(line?)? as usize;
            lines(&source.text[start..]).next()
        };
        [line.checked_sub(1), Some(line), Some(line + 1)].map(text)
    }

    fn line_starts(&self, source: &Source<'h>) -> Rc<[u32]> {
        let mut known = self.lines.borrow_mut();
        let starts = known.entry(source.base).or_insert_with(|| {
            // A carriage return ends a line too, alone or before a newline.
            let ends = memchr::memchr2_iter(b'\n', b'\r', source.text).filter(|end| {
                source.text[*end] == b'\n' || source.text.get(end + 1) != Some(&b'\n')
            });
            let starts = ends.map(|end| (end + 1) as u32);
            std::iter::once(0).chain(starts).collect()
        });
        starts.clone()
    }
}

/// The lines of a text. A line ends with a newline, a carriage return, or both.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\n', b'\r', text) else {
            rest = None;
            return Some(text);
        };
        let length = match text[end..] {
            [b'\r', b'\n', ..] => 2,
            _ => 1,
        };
        rest = Some(&text[end + length..]);
        Some(&text[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_ending_counts() {
        let sources = Sources::default();
        let text = b"a\rb\r\nc\nd\r\re\n\rf";
        let source = sources.add(Origin::Text, text).expect("it is short");
        let places: Vec<_> = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| byte.is_ascii_alphabetic())
            .map(|(offset, _)| {
                let place = sources.place(Pos(source.base + offset as u32));
                place.map(|place| (place.line, place.column))
            })
            .collect();
        let lines_of_letters = [1, 2, 3, 4, 6, 8].map(|line| Some((line, 1)));
        assert_eq!(places, lines_of_letters);
        let around = sources.lines_around(Pos(source.base + 2));
        assert_eq!(around, [Some(&b"a"[..]), Some(b"b"), Some(b"c")]);
        let around = sources.lines_around(Pos(source.base + text.len() as u32));
        assert_eq!(around, [Some(&b""[..]), Some(b"f"), None]);
        let shown: Vec<_> = lines(text).collect();
        assert_eq!(
            shown,
            [b"a".as_slice(), b"b", b"c", b"d", b"", b"e", b"", b"f"]
        );
    }
}
