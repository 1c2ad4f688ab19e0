//! The lexer: from bytes to tokens, one at a time.
//!
//! The contents of strings and paths are not tokens: the parser reads them from [`Lexer::pos`] on,
//! and then calls [`Lexer::advance`] again.

use bstr::BString;

use super::error::{SyntaxError, SyntaxErrorKind};
use super::token::Tok;
use crate::source::{Pos, Source};
use crate::symbol::{Symbol, Symbols};

pub(super) const IDENT: u8 = 1;
pub(super) const PATH: u8 = 2;
const URI: u8 = 4;
const DIGIT: u8 = 8;
const SPACE: u8 = 16;
/// Bytes that end a piece of a string: `"`, `\`, `$`.
pub(super) const STRING_STOP: u8 = 32;
/// Bytes that end a piece of an indented string: `'`, `$`.
pub(super) const INDENTED_STOP: u8 = 64;
/// Bytes that start a name.
const LETTER: u8 = 128;

/// The classes of each byte.
pub(super) static FLAGS: [u8; 256] = {
    let mut flags = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        let mut set = 0;
        if b.is_ascii_alphanumeric() {
            set |= IDENT | PATH | URI;
        }
        if b.is_ascii_digit() {
            set |= DIGIT;
        }
        if b.is_ascii_alphabetic() || b == b'_' {
            set |= LETTER;
        }
        match b {
            b'_' | b'-' => set |= IDENT | PATH | URI,
            b'\'' => set |= IDENT | URI | INDENTED_STOP,
            b'.' | b'+' => set |= PATH | URI,
            b'%' | b'/' | b'?' | b':' | b'@' | b'&' | b'=' | b',' | b'!' | b'~' | b'*' => {
                set |= URI;
            }
            b'$' => set |= URI | STRING_STOP | INDENTED_STOP,
            b'"' | b'\\' => set |= STRING_STOP,
            b' ' | b'\t' | b'\r' | b'\n' => set |= SPACE,
            _ => {}
        }
        flags[byte] = set;
        byte += 1;
    }
    flags
};

/// Bytes that are a token regardless of the next byte; [`Tok::Error`] for all other bytes.
static ALONE: [Tok; 256] = {
    let mut tokens = [Tok::Error; 256];
    tokens[b'"' as usize] = Tok::Quote;
    tokens[b'{' as usize] = Tok::LBrace;
    tokens[b'}' as usize] = Tok::RBrace;
    tokens[b'(' as usize] = Tok::LParen;
    tokens[b')' as usize] = Tok::RParen;
    tokens[b'[' as usize] = Tok::LBracket;
    tokens[b']' as usize] = Tok::RBracket;
    tokens[b';' as usize] = Tok::Semicolon;
    tokens[b':' as usize] = Tok::Colon;
    tokens[b',' as usize] = Tok::Comma;
    tokens[b'@' as usize] = Tok::At;
    tokens[b'?' as usize] = Tok::Question;
    tokens[b'*' as usize] = Tok::Times;
    tokens
};

#[inline]
pub(super) fn is(byte: u8, flag: u8) -> bool {
    FLAGS[byte as usize] & flag != 0
}

pub(super) struct Lexer<'c, 'h> {
    pub(super) text: &'h [u8],
    base: u32,
    symbols: &'c Symbols<'h>,
    /// The current token.
    pub(super) tok: Tok,
    /// Start of the token.
    pub(super) start: usize,
    /// End of the token. The text after it has not been read.
    pub(super) pos: usize,
    /// The name, for [`Tok::Ident`] and [`Tok::Or`].
    pub(super) name: Symbol,
    /// The value of [`Tok::Int`]; the bits of the value of [`Tok::Float`].
    pub(super) number: u64,
    /// End of the last run of path bytes that was scanned.
    run_end: usize,
    /// The error, for [`Tok::Error`].
    pub(super) error: Option<Box<SyntaxError>>,
    or: Symbol,
}

impl<'c, 'h> Lexer<'c, 'h> {
    pub(super) fn new(source: &Source<'h>, symbols: &'c Symbols<'h>, or: Symbol) -> Self {
        Self {
            text: source.text,
            base: source.base,
            symbols,
            tok: Tok::Eof,
            start: 0,
            pos: 0,
            name: or,
            number: 0,
            run_end: 0,
            error: None,
            or,
        }
    }

    /// The byte at an offset; 0 behind the end of the text, because a NUL byte ends a text anyway.
    #[inline]
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(0)
    }

    #[inline]
    pub(super) fn place(&self, at: usize) -> Pos {
        Pos(self.base + at as u32)
    }

    /// Position of the current token.
    #[inline]
    pub(super) fn here(&self) -> Pos {
        self.place(self.start)
    }

    /// The end of a run of bytes of a class. The end of the text is checked once per eight bytes,
    /// because names and spaces are half of a text.
    #[inline]
    pub(super) fn skip(&self, from: usize, flag: u8) -> usize {
        let mut at = from;
        while let Some(bytes) = self.text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            for byte in bytes {
                if !is(*byte, flag) {
                    return at;
                }
                at += 1;
            }
        }
        while at < self.text.len() && is(self.text[at], flag) {
            at += 1;
        }
        at
    }

    #[cold]
    pub(super) fn fail(&mut self, kind: SyntaxErrorKind, at: usize) -> Tok {
        self.error = Some(Box::new(SyntaxError {
            kind,
            pos: self.place(at),
            other: None,
        }));
        Tok::Error
    }

    /// Reads the next token. Nearly all tokens are names or single-byte tokens, preceded by at most
    /// one space; this function is optimised for them.
    pub(super) fn advance(&mut self) {
        let mut at = self.pos;
        let mut byte = self.byte(at);
        if is(byte, SPACE) {
            at += 1;
            byte = self.byte(at);
            if is(byte, SPACE) {
                at = self.skip(at + 1, SPACE);
                byte = self.byte(at);
            }
        }
        let alone = ALONE[byte as usize];
        if alone != Tok::Error {
            self.start = at;
            self.pos = at + 1;
            self.tok = alone;
        } else if is(byte, LETTER) {
            self.word(at);
        } else if byte == b'=' && self.byte(at + 1) != b'=' {
            self.start = at;
            self.pos = at + 1;
            self.tok = Tok::Assign;
        } else {
            self.other(at);
        }
    }

    /// Like [`Lexer::advance`], for any token at `at`.
    #[inline(never)]
    fn other(&mut self, mut at: usize) {
        loop {
            let byte = self.byte(at);
            let alone = ALONE[byte as usize];
            let (tok, len) = match byte {
                _ if alone != Tok::Error => (alone, 1),
                _ if is(byte, SPACE) => {
                    at = self.skip(at + 1, SPACE);
                    continue;
                }
                _ if is(byte, LETTER) => return self.word(at),
                b'#' => {
                    let rest = &self.text[at..];
                    at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                    continue;
                }
                b'0'..=b'9' => {
                    self.start = at;
                    self.tok = self.number(at);
                    return;
                }
                b'.' if let b'"' | b'$' | b' ' = self.byte(at + 1) => (Tok::Dot, 1),
                b'.' | b'+' | b'-' => {
                    if let Some((tok, end)) = self.path_from(at) {
                        self.start = at;
                        self.pos = end;
                        self.tok = tok;
                        return;
                    }
                    match (byte, self.byte(at + 1)) {
                        (b'.', b'0'..=b'9') => {
                            self.start = at;
                            self.tok = self.number(at);
                            return;
                        }
                        (b'.', b'.') if self.byte(at + 2) == b'.' => (Tok::Ellipsis, 3),
                        (b'.', _) => (Tok::Dot, 1),
                        (b'+', b'+') => (Tok::Concat, 2),
                        (b'+', _) => (Tok::Plus, 1),
                        (_, b'>') => (Tok::Implies, 2),
                        _ => (Tok::Minus, 1),
                    }
                }
                b'/' => match self.byte(at + 1) {
                    b'/' => (Tok::Update, 2),
                    b'*' => match memchr::memmem::find(&self.text[at + 2..], b"*/") {
                        Some(len) => {
                            at += len + 4;
                            continue;
                        }
                        None => (Tok::Divide, 1),
                    },
                    next if is(next, PATH) || next == b'$' => match self.path_from(at) {
                        Some((tok, end)) => (tok, end - at),
                        None => (Tok::Divide, 1),
                    },
                    _ => (Tok::Divide, 1),
                },
                b'\'' if self.byte(at + 1) == b'\'' => {
                    let line = self.text[at + 2..].iter().position(|b| *b != b' ');
                    match line {
                        Some(spaces) if self.text[at + 2 + spaces] == b'\n' => {
                            (Tok::IndOpen, spaces + 3)
                        }
                        _ => (Tok::IndOpen, 2),
                    }
                }
                b'<' => match self.search_path(at) {
                    Some(end) => (Tok::SearchPath, end - at),
                    None => match self.byte(at + 1) {
                        b'=' => (Tok::LessOrEqual, 2),
                        b'|' => (self.pipe(at), 2),
                        _ => (Tok::Less, 1),
                    },
                },
                b'~' => match self.home_path(at) {
                    Some(end) => (Tok::HomePath, end - at),
                    None => (Tok::Invalid, 1),
                },
                b'=' if self.byte(at + 1) == b'=' => (Tok::Equal, 2),
                b'=' => (Tok::Assign, 1),
                b'!' if self.byte(at + 1) == b'=' => (Tok::NotEqual, 2),
                b'!' => (Tok::Not, 1),
                b'>' if self.byte(at + 1) == b'=' => (Tok::GreaterOrEqual, 2),
                b'>' => (Tok::Greater, 1),
                b'&' if self.byte(at + 1) == b'&' => (Tok::AndAnd, 2),
                b'|' if self.byte(at + 1) == b'|' => (Tok::OrOr, 2),
                b'|' if self.byte(at + 1) == b'>' => (self.pipe(at), 2),
                b'$' if self.byte(at + 1) == b'{' => (Tok::DollarCurly, 2),
                0 => (Tok::Eof, 0),
                _ => (Tok::Invalid, 1),
            };
            self.start = at;
            self.pos = at + len;
            self.tok = tok;
            return;
        }
    }

    /// A keyword, a name, or a path or URI that starts like one.
    #[inline(never)]
    fn word(&mut self, at: usize) {
        self.start = at;
        let end = self.skip(at + 1, IDENT);
        if let b'.' | b'/' | b'+' | b':' = self.byte(end)
            && let Some((tok, end)) = self.path_behind(at, end)
        {
            self.pos = end;
            self.tok = tok;
            return;
        }
        self.pos = end;
        let word = &self.text[at..end];
        self.tok = match word {
            b"if" => Tok::If,
            b"in" => Tok::In,
            b"or" => {
                self.name = self.or;
                Tok::Or
            }
            b"let" => Tok::Let,
            b"rec" => Tok::Rec,
            b"then" => Tok::Then,
            b"else" => Tok::Else,
            b"with" => Tok::With,
            b"assert" => Tok::Assert,
            b"inherit" => Tok::Inherit,
            _ => {
                self.name = self.symbols.intern(word);
                Tok::Ident
            }
        };
    }

    /// The path or URI that starts here, if there is one, and its end.
    #[inline(never)]
    fn path_from(&mut self, at: usize) -> Option<(Tok, usize)> {
        self.path_behind(at, at)
    }

    /// Like [`Lexer::path_from`], if the bytes up to `seen` are bytes of names.
    #[inline]
    fn path_behind(&mut self, at: usize, seen: usize) -> Option<(Tok, usize)> {
        if seen >= self.run_end {
            self.run_end = self.skip(seen, PATH);
        }
        match self.byte(self.run_end) {
            b'/' | b':' => self.path_around(at, seen, self.run_end),
            _ => None,
        }
    }

    /// The path or URI that starts at `at`. Its first slash or colon is at `end`.
    #[inline(never)]
    fn path_around(&self, at: usize, seen: usize, end: usize) -> Option<(Tok, usize)> {
        let next = self.byte(end + 1);
        let found = if self.text[end] == b'/' {
            if is(next, PATH) {
                (Tok::Path, self.path_piece(end))
            } else if next == b'$' && self.byte(end + 2) == b'{' {
                (Tok::Path, end + 1)
            } else {
                return None;
            }
        } else if self.text[at].is_ascii_alphabetic()
            && is(next, URI)
            && memchr::memchr(b'_', &self.text[at..end]).is_none()
        {
            (Tok::Uri, self.skip(end + 1, URI))
        } else {
            return None;
        };
        // Names may contain quotes, paths may not.
        memchr::memchr(b'\'', &self.text[at..seen])
            .is_none()
            .then_some(found)
    }

    /// The end of the longest piece of a path that starts here. It may end in a slash.
    pub(super) fn path_piece(&self, at: usize) -> usize {
        let mut end = self.skip(at, PATH);
        while self.byte(end) == b'/' && is(self.byte(end + 1), PATH) {
            end = self.skip(end + 1, PATH);
        }
        if self.byte(end) == b'/' { end + 1 } else { end }
    }

    fn home_path(&self, at: usize) -> Option<usize> {
        if self.byte(at + 1) != b'/' {
            return None;
        }
        let next = self.byte(at + 2);
        if is(next, PATH) {
            Some(self.path_piece(at + 1))
        } else if next == b'$' && self.byte(at + 3) == b'{' {
            Some(at + 2)
        } else {
            None
        }
    }

    fn search_path(&self, at: usize) -> Option<usize> {
        let mut end = self.skip(at + 1, PATH);
        if end == at + 1 {
            return None;
        }
        while self.byte(end) == b'/' && is(self.byte(end + 1), PATH) {
            end = self.skip(end + 1, PATH);
        }
        (self.byte(end) == b'>').then_some(end + 1)
    }

    #[cold]
    fn pipe(&mut self, at: usize) -> Tok {
        self.fail(SyntaxErrorKind::Experimental("pipe-operators"), at)
    }

    /// A number, or a path that starts with one.
    fn number(&mut self, at: usize) -> Tok {
        if self.text[at] != b'.'
            && let Some((tok, end)) = self.path_from(at)
        {
            self.pos = end;
            return tok;
        }
        let digits = self.skip(at, DIGIT);
        let mut end = digits;
        let mut float = false;
        if self.byte(end) == b'.' {
            let fraction = self.skip(end + 1, DIGIT);
            // `1.`, `0.5` and `.5` are numbers; `0.` and `00.5` are not.
            float = match &self.text[at..end] {
                [] | [b'0'] => fraction > end + 1,
                [first, ..] => *first != b'0',
            };
            if float {
                end = fraction;
                if let b'e' | b'E' = self.byte(end) {
                    let mut exponent = end + 1;
                    if let b'+' | b'-' = self.byte(exponent) {
                        exponent += 1;
                    }
                    let stop = self.skip(exponent, DIGIT);
                    if stop > exponent {
                        end = stop;
                    }
                }
            }
        }
        self.pos = end;
        let text = &self.text[at..end];
        let words = std::str::from_utf8(text).unwrap_or_default();
        if float {
            let value: f64 = words.parse().unwrap_or(f64::INFINITY);
            let mantissa = text.split(|b| matches!(b, b'e' | b'E')).next();
            let zero = mantissa.is_some_and(|m| m.iter().all(|b| matches!(b, b'0' | b'.')));
            if value.is_infinite() || value.is_subnormal() || (value == 0.0 && !zero) {
                return self.fail(SyntaxErrorKind::InvalidFloat(BString::from(text)), at);
            }
            self.number = value.to_bits();
            return Tok::Float;
        }
        match words.parse::<i64>() {
            Ok(value) => {
                self.number = value as u64;
                Tok::Int
            }
            Err(_) => self.fail(SyntaxErrorKind::InvalidInteger(BString::from(text)), at),
        }
    }
}
