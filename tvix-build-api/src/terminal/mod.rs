//! Sanitising of text from builders, caches and file names for output on a terminal.
//!
//! Control sequences can change the title of a terminal, read its clipboard, erase its screen or
//! inject input. [`printable`] removes everything except printable text, `\n`, `\t` and colours.
//! Front ends pass all displayed text through it, in one place; log files and machine-readable
//! output keep the original bytes.
//!
//! ```
//! use tvix_build_api::terminal::{after_carriage_return, printable};
//!
//! let line = "\x1b]0;title\x07\x1b[2J10 %\r\x1b[32m100 %";
//! assert_eq!(printable(line), "10 %\x1b[32m100 %\x1b[0m");
//! assert_eq!(printable(after_carriage_return(line)), "\x1b[32m100 %\x1b[0m");
//! ```

mod colours;
mod writer;

use std::borrow::Cow;

use colours::Colours;
pub use writer::PrintableWriter;

const ESCAPE: char = '\x1b';

/// `text` without control characters and sequences, except `\n`, `\t` and colours.
///
/// - Control characters of both sets (U+0000 to U+001F, U+007F to U+009F) are removed.
/// - Complete escape sequences are removed. Of a sequence that is incomplete at the end of its line
///   only the introducer is removed, so that no text can hide the text after it.
/// - Colours and other character attributes (SGR) are kept, except concealed and blinking text.
///   They are rewritten in plain form, and reset at the end of each line.
/// - Characters that change the direction or the lines of text (bidirectional embeddings, overrides
///   and isolates, U+2028 and U+2029) are removed.
///
/// Results can be concatenated safely: none ends within a sequence. The function is idempotent.
pub fn printable(text: &str) -> Cow<'_, str> {
    if is_plain(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        push_line(&mut out, line);
    }
    Cow::Owned(out)
}

/// The same for bytes. Invalid UTF-8 becomes U+FFFD.
pub fn printable_bytes(text: &[u8]) -> Cow<'_, str> {
    match String::from_utf8_lossy(text) {
        Cow::Borrowed(text) => printable(text),
        Cow::Owned(text) => Cow::Owned(printable(&text).into_owned()),
    }
}

/// The part of a line that stays visible on a terminal: the text after the last carriage return
/// that is not at the end of the line.
pub fn after_carriage_return(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit('\r').next().unwrap_or(line)
}

/// Whether there is certainly nothing to remove. May return false for plain text.
fn is_plain(text: &[u8]) -> bool {
    // 0xc2 begins U+0080 to U+00BF, 0xe2 begins U+2000 to U+2FFF.
    let special = |byte: &u8| matches!(byte, 0..=8 | 0xb..=0x1f | 0x7f | 0xc2 | 0xe2);
    !text.iter().any(special)
}

/// Characters that are never printed by themselves.
fn is_special(char: char) -> bool {
    (char.is_control() && char != '\t') || is_layout(char)
}

/// Characters that change the layout of the surrounding text.
fn is_layout(char: char) -> bool {
    matches!(char, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Adds a line without its newline.
fn push_line(out: &mut String, line: &str) {
    let mut coloured = false;
    let mut rest = line;
    while let Some(at) = rest.find(is_special) {
        let (text, special) = rest.split_at(at);
        out.push_str(text);
        let Sequence { len, colours } = sequence(special);
        if let Some(colours) = colours {
            coloured = colours.push(out);
        }
        rest = &special[len..];
    }
    out.push_str(rest);
    if coloured {
        out.push_str("\x1b[0m");
    }
}

/// A special character, or the sequence that it begins.
struct Sequence {
    /// Its length in bytes.
    len: usize,
    /// The colours that it sets, if it does.
    colours: Option<Colours>,
}

impl Sequence {
    const fn removed(len: usize) -> Self {
        Self { len, colours: None }
    }
}

/// The sequence at the beginning of `text`, which begins with a special character.
fn sequence(text: &str) -> Sequence {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    // Each of these pairs is equivalent to a character of the second set of control characters.
    let introducer = match (first, chars.next()) {
        (ESCAPE, Some(second @ '@'..='_')) => Some((second, 2)),
        (ESCAPE, _) => return Sequence::removed(escape(text)),
        ('\u{80}'..='\u{9f}', _) => {
            let second = char::from_u32(u32::from(first) - 0x40);
            second.map(|second| (second, first.len_utf8()))
        }
        _ => None,
    };
    match introducer {
        Some(('[', len)) => control_sequence(text, len),
        Some((']' | 'P' | 'X' | '^' | '_', len)) => {
            Sequence::removed(len + control_string(&text[len..]).unwrap_or(0))
        }
        Some((_, len)) => Sequence::removed(len),
        None => Sequence::removed(first.len_utf8()),
    }
}

/// The length of an escape sequence with intermediate characters (`ESC ( B`) or a private one (`ESC
/// 7`).
fn escape(text: &str) -> usize {
    let body = text.as_bytes().get(1..).unwrap_or_default();
    let intermediates = body.iter().take_while(|byte| matches!(byte, b' '..=b'/'));
    let intermediates = intermediates.count();
    match body.get(intermediates) {
        Some(b'0'..=b'~') => 1 + intermediates + 1,
        _ => 1,
    }
}

/// A control sequence (CSI). Its introducer has `start` bytes.
fn control_sequence(text: &str, start: usize) -> Sequence {
    let body = &text.as_bytes()[start..];
    let parameters = body.iter().take_while(|byte| matches!(byte, b'0'..=b'?'));
    let parameters = parameters.count();
    let rest = &body[parameters..];
    let intermediates = rest.iter().take_while(|byte| matches!(byte, b' '..=b'/'));
    let intermediates = intermediates.count();
    let Some(last @ b'@'..=b'~') = rest.get(intermediates) else {
        return Sequence::removed(start);
    };
    let colours = match (last, intermediates) {
        (b'm', 0) => Colours::parse(&text[start..start + parameters]),
        _ => None,
    };
    Sequence {
        len: start + parameters + intermediates + 1,
        colours,
    }
}

/// The length of a control string (OSC, DCS, SOS, PM, APC) after its introducer, including its
/// terminator. `None` if another special character comes before a terminator.
fn control_string(body: &str) -> Option<usize> {
    let (at, end) = body
        .char_indices()
        .find(|(_, char)| char.is_control() && *char != '\t')?;
    match end {
        '\x07' | '\u{9c}' => Some(at + end.len_utf8()),
        ESCAPE if body[at..].starts_with("\x1b\\") => Some(at + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text before and after sanitising.
    const CASES: &[(&str, &str)] = &[
        ("plain text\twith a tab", "plain text\twith a tab"),
        ("two\nlines\n", "two\nlines\n"),
        ("Grüße «»", "Grüße «»"),
        // Titles, clipboards, links, device control, in both forms and with each terminator.
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]52;c;bHM=\x1b\\a", "a"),
        ("\u{9d}0;title\u{9c}a", "a"),
        (
            "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\ after",
            "link after",
        ),
        ("\x1bP$q\"p\x1b\\a", "a"),
        ("\x1b_Gf=24;AAAA\x1b\\a", "a"),
        ("\x1b^private\x1b\\a\x1bXstart\x1b\\b", "ab"),
        // An unterminated string hides nothing.
        ("'\x1b]0;name': no such file", "'0;name': no such file"),
        ("\x1b]0;one\ntwo\x07", "0;one\ntwo"),
        ("\x1b]0;a\x1b[31mb\x07", "0;a\x1b[31mb\x1b[0m"),
        ("\x1bPabc\x18def", "abcdef"),
        // Cursor, screen, reports, modes; with private markers and intermediates.
        ("\x1b[2J\x1b[H\x1b[10;5Ha\x1b[6n", "a"),
        ("\x1b[?1049ha\x1b[?25l\x1b[>c\x1b[!p\x1b[1 q", "a"),
        ("\u{9b}2Ja", "a"),
        ("\x1b[", ""),
        ("\x1b[31", "31"),
        ("a\x1b", "a"),
        ("\x1b[3\x071m", "31m"),
        ("\x1b\x07[2J", "[2J"),
        ("\x1b\x1b[2Ja", "a"),
        ("\x1b[2\nJ", "2\nJ"),
        ("\x1bc\x1b7\x1b(0\x1b#8a\x1b%Gb", "ab"),
        ("\x1b(\u{e9}", "(\u{e9}"),
        ("\x1bMa\u{85}b\u{8d}", "ab"),
        // Single control characters.
        ("a\x07\x08\x0b\x0c\x0e\x0f\x7fb\0", "ab"),
        ("10%\r20%\r\n", "10%20%\n"),
        // Colours.
        ("\x1b[31mred\x1b[0m plain", "\x1b[31mred\x1b[0m plain"),
        ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m"),
        ("\x1b[mx", "\x1b[0mx"),
        ("\x1b[31mone\ntwo\x1b[m", "\x1b[31mone\x1b[0m\ntwo\x1b[0m"),
        ("\u{9b}32mgreen", "\x1b[32mgreen\x1b[0m"),
        ("\x1b[38;5;208mx\x1b[39m", "\x1b[38;5;208mx\x1b[39m\x1b[0m"),
        ("\x1b[>4;2mx\x1b[?4m\x1b[31 m", "x"),
        ("\x1b[8msecret\x1b[5m", "secret"),
        // Direction and lines of text.
        ("a\u{202e}cba\u{202c}\u{2066}b\u{2069}", "acbab"),
        ("a\u{2028}b\u{2029}c", "abc"),
        ("naïve\u{200d}", "naïve\u{200d}"),
    ];

    #[test]
    fn only_text_and_colours_are_left() {
        for (text, expected) in CASES {
            assert_eq!(printable(text), *expected, "{text:?}");
            assert_eq!(printable(expected), *expected, "twice: {text:?}");
            assert_eq!(printable_bytes(text.as_bytes()), *expected, "{text:?}");
        }
    }

    #[test]
    fn bytes_of_the_second_set_are_no_controls() {
        assert_eq!(printable_bytes(b"a\x9b2Jb\x1b[31"), "a\u{fffd}2Jb31");
        assert_eq!(printable_bytes(b"\x9d0;title\x07"), "\u{fffd}0;title");
        assert_eq!(printable_bytes(b"\xc2"), "\u{fffd}");
    }

    #[test]
    fn the_last_carriage_return_that_is_not_the_end() {
        let cases = [
            ("10%\r20%\r30%", "30%"),
            ("10%\r20%\r\r", "20%"),
            ("plain", "plain"),
            ("\r", ""),
            ("", ""),
        ];
        for (line, expected) in cases {
            assert_eq!(after_carriage_return(line), expected, "{line:?}");
        }
    }
}
