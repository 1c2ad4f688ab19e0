//! What the prompt prints: values on standard output, all else on standard error.

use std::borrow::Cow;
use std::io::Write as _;

/// Prints bytes. Colours are left out where there is no terminal.
pub fn out(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    // Nobody may be there to read it.
    let _ = anstream::stdout().lock().write_all(shown(&text).as_bytes());
}

/// Prints a line.
pub fn line(text: &str) {
    out(text.as_bytes());
    end_line();
}

/// Ends a line of standard output.
pub fn end_line() {
    let mut out = anstream::stdout().lock();
    let _ = out.write_all(b"\n");
    let _ = out.flush();
}

/// Text without control characters but tabs, line ends and colours: what a value holds must not
/// control the terminal.
pub fn shown(text: &str) -> Cow<'_, str> {
    let is_control = |letter: char| letter.is_control() && !matches!(letter, '\n' | '\t');
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(is_control) {
        shown.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = colour(rest) {
            shown.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let letter = rest.chars().next().unwrap_or_default();
        if u32::from(letter) < 0x20 {
            // Its picture.
            shown.push(char::from_u32(0x2400 + u32::from(letter)).unwrap_or('\u{fffd}'));
        } else {
            shown.push('\u{fffd}');
        }
        rest = &rest[letter.len_utf8()..];
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// The length of the escape sequence that a text begins with, if it only sets a colour.
fn colour(text: &str) -> Option<usize> {
    let parameters = text.strip_prefix("\u{1b}[")?;
    let end = parameters.find(|letter: char| !letter.is_ascii_digit() && letter != ';')?;
    parameters[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colours_control_the_terminal() {
        for (text, wanted) in [
            ("plain\n\ttext", "plain\n\ttext"),
            ("\u{1b}[31;1mred\u{1b}[0m", "\u{1b}[31;1mred\u{1b}[0m"),
            ("a\u{1b}[2Jb", "a␛[2Jb"),
            ("a\u{1b}]0;title\u{7}b", "a␛]0;title␇b"),
            ("over\rwritten", "over␍written"),
            ("\u{9b}2J", "\u{fffd}2J"),
            ("\u{1b}[31", "␛[31"),
        ] {
            assert_eq!(shown(text), wanted);
        }
    }
}
