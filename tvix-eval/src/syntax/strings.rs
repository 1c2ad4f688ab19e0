//! Strings, indented strings and paths: the text between their tokens.

use bstr::BString;

use super::Home;
use super::error::SyntaxErrorKind;
use super::parser::{Parsed, Parser};
use super::token::Tok;
use crate::ir::{Concat, ConcatPart, Expr};
use crate::source::Pos;
use crate::value::{NixPath, Value};

/// The text between two quotes.
pub(super) enum Text<'h> {
    /// Without interpolations.
    Plain(&'h [u8]),
    /// With interpolations: an [`Expr::Concat`].
    Parts(Expr<'h>),
}

/// A piece of an indented string.
pub(super) enum Piece<'h> {
    /// Literal text.
    Raw(&'h [u8]),
    /// An escape sequence, which ends the indentation of a line.
    Escaped(&'h [u8]),
    /// An interpolation.
    Expr(Expr<'h>),
}

impl<'h> Parser<'_, 'h> {
    /// A string, from behind the opening quote to behind the closing one.
    #[inline(never)]
    pub(super) fn string(&mut self) -> Parsed<Expr<'h>> {
        Ok(match self.string_text()? {
            Text::Plain(text) => self.string_constant(text),
            Text::Parts(expr) => expr,
        })
    }

    /// Like [`Parser::string`], without making a value.
    pub(super) fn string_text(&mut self) -> Parsed<Text<'h>> {
        let start = self.lx.pos;
        let (text, end) = self.string_piece(start)?;
        if self.lx.text[end] == b'"' {
            self.lx.pos = end + 1;
            return Ok(Text::Plain(text));
        }
        self.interpolated(start, text, end).map(Text::Parts)
    }

    /// The remainder of a string with its first interpolation at `end`.
    #[inline(never)]
    fn interpolated(
        &mut self,
        start: usize,
        mut text: &'h [u8],
        mut end: usize,
    ) -> Parsed<Expr<'h>> {
        let pos = self.lx.place(start);
        let base = self.parts.len();
        let mut at = start;
        loop {
            if !text.is_empty() {
                let expr = self.string_constant(text);
                let pos = self.lx.place(at);
                self.parts.push(ConcatPart { pos, expr });
            }
            if self.lx.text[end] == b'"' {
                break;
            }
            self.interpolation(end)?;
            at = self.lx.pos;
            (text, end) = self.string_piece(at)?;
        }
        self.lx.pos = end + 1;
        Ok(self.concat(pos, true, base))
    }

    /// `${ … }`: added as a part. Afterwards the lexer is behind it, and has not read the next
    /// token.
    fn interpolation(&mut self, at: usize) -> Parsed<()> {
        let expr = self.interpolated_expr(at)?;
        let pos = self.lx.place(at);
        self.parts.push(ConcatPart { pos, expr });
        Ok(())
    }

    fn interpolated_expr(&mut self, at: usize) -> Parsed<Expr<'h>> {
        self.lx.pos = at + 2;
        self.lx.advance();
        let expr = self.expr()?;
        self.want(Tok::RBrace, &["'}'"])?;
        Ok(expr)
    }

    fn concat(&mut self, pos: Pos, string: bool, base: usize) -> Expr<'h> {
        let parts = self.heap.alloc_slice_fill_iter(self.parts.drain(base..));
        let open = parts
            .iter()
            .filter(|part| !matches!(part.expr, Expr::Const(_)));
        let several = open.count() > 1;
        Expr::Concat(self.heap.alloc(Concat {
            pos,
            string,
            several,
            parts,
        }))
    }

    /// The error for a text that ends inside a string.
    #[cold]
    fn unterminated(&mut self, expected: &[&'static str]) -> super::parser::Failed {
        self.lx.tok = Tok::Eof;
        self.lx.start = self.lx.text.len();
        self.unexpected(expected)
    }

    /// The part of a string up to its end or the next interpolation, and the offset of that.
    fn string_piece(&mut self, start: usize) -> Parsed<(&'h [u8], usize)> {
        let text = self.lx.text;
        let mut at = start;
        let mut escaped = false;
        loop {
            let rest = text.get(at..).unwrap_or_default();
            let Some(len) = memchr::memchr3(b'"', b'\\', b'$', rest) else {
                return Err(self.unterminated(&["'\"'"]));
            };
            at += len;
            match text[at] {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    at += 2;
                }
                _ => match self.lx.byte(at + 1) {
                    b'{' => break,
                    b'"' | b'\\' => at += 1,
                    // In `$${`, the first dollar sign escapes the second.
                    _ => at += 2,
                },
            }
        }
        let piece = &text[start..at];
        if escaped || self.odd_bytes {
            return Ok((self.unescape(piece, start)?, at));
        }
        Ok((piece, at))
    }

    /// Replaces escape sequences and foreign line ends.
    #[inline(never)]
    fn unescape(&mut self, piece: &[u8], at: usize) -> Parsed<&'h [u8]> {
        self.bytes.clear();
        let mut rest = piece;
        while let Some(len) = memchr::memchr2(b'\\', b'\r', rest) {
            self.bytes.extend_from_slice(&rest[..len]);
            let next = rest.get(len + 1).copied();
            let (byte, used) = match (rest[len], next) {
                (b'\r', Some(b'\n')) => (b'\n', 2),
                (b'\r', _) => (b'\n', 1),
                (_, Some(b'n')) => (b'\n', 2),
                (_, Some(b'r')) => (b'\r', 2),
                (_, Some(b't')) => (b'\t', 2),
                (_, Some(byte)) => (byte, 2),
                (byte, None) => (byte, 1),
            };
            self.bytes.push(byte);
            rest = &rest[len + used..];
        }
        self.bytes.extend_from_slice(rest);
        let text = self.heap.alloc_slice_copy(&self.bytes);
        self.check_nul(text, at)?;
        Ok(text)
    }

    fn check_nul(&mut self, text: &[u8], at: usize) -> Parsed<()> {
        if memchr::memchr(0, text).is_none() {
            return Ok(());
        }
        let shown = text.split(|b| *b == 0).collect::<Vec<_>>();
        let shown = BString::from(shown.join("␀".as_bytes()));
        let pos = self.lx.place(at);
        Err(self.fail_at(SyntaxErrorKind::NulInString(shown), pos))
    }

    /// An indented string, from behind the opening quotes to behind the closing ones.
    #[inline(never)]
    pub(super) fn indented_string(&mut self, pos: Pos) -> Parsed<Expr<'h>> {
        let base = self.pieces.len();
        let text = self.lx.text;
        let mut start = self.lx.pos;
        let mut at = start;
        loop {
            let rest = text.get(at..).unwrap_or_default();
            let Some(len) = memchr::memchr2(b'\'', b'$', rest) else {
                return Err(self.unterminated(&[
                    "indented string",
                    "'${'",
                    "end of an indented string",
                ]));
            };
            at += len;
            let next = self.lx.byte(at + 1);
            let escaped: (&'h [u8], usize) = match (text[at], next) {
                (b'$', b'{') => {
                    self.raw_piece(start, at)?;
                    let expr = self.interpolated_expr(at)?;
                    self.pieces.push((self.lx.place(at), Piece::Expr(expr)));
                    at = self.lx.pos;
                    start = at;
                    continue;
                }
                (b'$', b'\'') => (b"$", 1),
                (b'\'', b'$') => (b"'", 1),
                (b'\'', b'\'') => match self.lx.byte(at + 2) {
                    b'\'' => (b"''", 3),
                    b'$' => (b"$", 3),
                    b'\\' if at + 3 < text.len() => (self.unescape(&text[at + 2..at + 4], at)?, 4),
                    _ => break,
                },
                _ => {
                    at += 2;
                    continue;
                }
            };
            self.raw_piece(start, at)?;
            self.pieces
                .push((self.lx.place(at), Piece::Escaped(escaped.0)));
            at += escaped.1;
            start = at;
        }
        self.raw_piece(start, at)?;
        self.lx.pos = at + 2;
        Ok(self.strip_indentation(pos, base))
    }

    fn raw_piece(&mut self, start: usize, end: usize) -> Parsed<()> {
        if start < end {
            let text = &self.lx.text[start..end];
            if self.odd_bytes {
                self.check_nul(text, start)?;
            }
            self.pieces.push((self.lx.place(start), Piece::Raw(text)));
        }
        Ok(())
    }

    /// Makes an expression of the pieces from `base` on.
    fn strip_indentation(&mut self, pos: Pos, base: usize) -> Expr<'h> {
        let indent = least_indent(&self.pieces[base..]);
        let parts = self.parts.len();
        let mut left = self.pieces.len() - base;
        let mut line = Line {
            start: true,
            dropped: 0,
        };
        let mut pieces = std::mem::take(&mut self.pieces);
        for (pos, piece) in pieces.drain(base..) {
            let expr = match piece {
                Piece::Expr(expr) => {
                    line = Line {
                        start: false,
                        dropped: 0,
                    };
                    Some(expr)
                }
                Piece::Raw(text) | Piece::Escaped(text) => {
                    self.bytes.clear();
                    line.strip(text, indent, &mut self.bytes);
                    let mut len = self.bytes.len();
                    // The line of the closing quotes.
                    if left == 1
                        && let Some(newline) = memchr::memrchr(b'\n', &self.bytes)
                        && self.bytes[newline + 1..].iter().all(|b| *b == b' ')
                    {
                        len = newline + 1;
                    }
                    let stripped = match text.get(..len) {
                        // Only the end was stripped, so no copy is needed.
                        Some(same) if indent == 0 => same,
                        _ => self.heap.alloc_slice_copy(&self.bytes[..len]),
                    };
                    (!stripped.is_empty()).then(|| self.string_constant(stripped))
                }
            };
            if let Some(expr) = expr {
                self.parts.push(ConcatPart { pos, expr });
            }
            left -= 1;
        }
        self.pieces = pieces;
        match &self.parts[parts..] {
            [] => self.string_constant(b""),
            [
                ConcatPart {
                    expr: Expr::Const(cell),
                    ..
                },
            ] if matches!(cell.get(), Value::String(_)) => {
                let cell = *cell;
                self.parts.pop();
                Expr::Const(cell)
            }
            _ => self.concat(pos, true, parts),
        }
    }

    /// A path. The current token is its first piece.
    pub(super) fn path(&mut self, pos: Pos) -> Parsed<Expr<'h>> {
        let text = self.lx.text;
        let literal = &text[self.lx.start..self.lx.pos];
        let first = if self.lx.tok == Tok::HomePath {
            match self.cx.home {
                Home::At(home) => self.canonical(home, &literal[1..]),
                Home::Unknown => return Err(self.fail_at(SyntaxErrorKind::NoHome, pos)),
                // C++ Nix gives no position.
                Home::Forbidden => {
                    let kind = SyntaxErrorKind::HomeInPureMode(literal.into());
                    return Err(self.fail_at(kind, Pos::NONE));
                }
            }
        } else if literal[0] == b'/' {
            self.canonical(b"", literal)
        } else {
            self.canonical(self.cx.base, literal)
        };
        let base = self.parts.len();
        self.parts.push(ConcatPart { pos, expr: first });
        let mut slash = literal.ends_with(b"/");
        let mut at = self.lx.pos;
        let mut last = pos;
        loop {
            if self.lx.byte(at) == b'$' && self.lx.byte(at + 1) == b'{' {
                self.interpolation(at)?;
                slash = false;
                at = self.lx.pos;
                continue;
            }
            let end = self.lx.path_piece(at);
            if end == at {
                break;
            }
            let expr = self.string_constant(&text[at..end]);
            let pos = self.lx.place(at);
            self.parts.push(ConcatPart { pos, expr });
            last = pos;
            slash = text[end - 1] == b'/';
            at = end;
        }
        if slash {
            return Err(self.fail_at(SyntaxErrorKind::TrailingSlash, last));
        }
        self.lx.pos = at;
        match self.parts.len() - base {
            1 => {
                let first = self.parts.pop().expect("it was pushed above");
                return Ok(first.expr);
            }
            _ if matches!(self.parts[base + 1].expr, Expr::Const(_))
                && text[self.offset(self.parts[base + 1].pos)] != b'$'
                && self
                    .parts
                    .get(base + 2)
                    .is_none_or(|part| text[self.offset(part.pos)] != b'$') =>
            {
                // `./a//b`: the grammar requires an interpolation after the first two pieces.
                let kind = SyntaxErrorKind::Unexpected {
                    found: "end of path",
                    expected: vec!["'${'"],
                };
                return Err(self.fail_at(kind, pos));
            }
            _ => {}
        }
        Ok(self.concat(pos, false, base))
    }

    fn offset(&self, pos: Pos) -> usize {
        (pos.0 - self.lx.place(0).0) as usize
    }

    /// An absolute path without `.`, `..` and repeated slashes. A trailing slash is kept.
    fn canonical(&mut self, base: &[u8], path: &[u8]) -> Expr<'h> {
        self.bytes.clear();
        if base != b"/" {
            self.bytes.extend_from_slice(base);
        }
        for name in path.split(|b| *b == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    let parent = memchr::memrchr(b'/', &self.bytes).unwrap_or(0);
                    self.bytes.truncate(parent);
                }
                name => {
                    self.bytes.push(b'/');
                    self.bytes.extend_from_slice(name);
                }
            }
        }
        if self.bytes.is_empty() {
            self.bytes.push(b'/');
        }
        if path.ends_with(b"/") && (path.len() > 1 || !base.is_empty()) {
            self.bytes.push(b'/');
        }
        let bytes = self.heap.alloc_slice_copy(&self.bytes);
        let path = self.heap.alloc(NixPath { bytes });
        self.constant(Value::Path(path))
    }
}

/// The common indentation of all lines, in spaces. Lines of spaces only do not count.
fn least_indent(pieces: &[(Pos, Piece<'_>)]) -> usize {
    let mut least = 1_000_000;
    let mut line_start = true;
    let mut indent = 0;
    for (_, piece) in pieces {
        let Piece::Raw(text) = piece else {
            if line_start {
                line_start = false;
                least = least.min(indent);
            }
            continue;
        };
        let mut rest = *text;
        loop {
            if line_start {
                let spaces = spaces(rest);
                indent += spaces;
                rest = &rest[spaces..];
                match rest.first() {
                    None => break,
                    Some(b'\n') => {
                        indent = 0;
                        rest = &rest[1..];
                        continue;
                    }
                    Some(_) => {
                        line_start = false;
                        least = least.min(indent);
                    }
                }
            }
            match memchr::memchr(b'\n', rest) {
                None => break,
                Some(len) => {
                    line_start = true;
                    indent = 0;
                    rest = &rest[len + 1..];
                }
            }
        }
    }
    least
}

fn spaces(text: &[u8]) -> usize {
    text.iter().take_while(|b| **b == b' ').count()
}

/// State of stripping within a line.
struct Line {
    /// Whether the line had only spaces so far.
    start: bool,
    /// Number of spaces stripped.
    dropped: usize,
}

impl Line {
    /// Appends a text without the indentation of its lines.
    fn strip(&mut self, mut rest: &[u8], indent: usize, out: &mut Vec<u8>) {
        loop {
            if self.start {
                let spaces = spaces(rest);
                let drop = spaces.min(indent.saturating_sub(self.dropped));
                self.dropped += spaces;
                out.extend_from_slice(&rest[drop..spaces]);
                rest = &rest[spaces..];
                match rest.first() {
                    None => return,
                    Some(b'\n') => {
                        self.dropped = 0;
                        out.push(b'\n');
                        rest = &rest[1..];
                        continue;
                    }
                    Some(_) => {
                        self.start = false;
                        self.dropped = 0;
                    }
                }
            }
            match memchr::memchr(b'\n', rest) {
                None => {
                    out.extend_from_slice(rest);
                    return;
                }
                Some(len) => {
                    out.extend_from_slice(&rest[..=len]);
                    self.start = true;
                    rest = &rest[len + 1..];
                }
            }
        }
    }
}
