//! JSON as parsed and printed by C++ Nix.

mod normal;
mod problem;
mod read;

pub use normal::normalize;
pub use problem::{JsonError, JsonErrorKind};
pub use read::{JsonSink, read};

/// A string cannot be written as JSON because it is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotUtf8 {
    /// An invalid byte.
    #[error("invalid UTF-8 byte at index {index}: 0x{byte:02X}")]
    Byte {
        /// Its index.
        index: usize,
        /// Its value.
        byte: u8,
    },
    /// The string ends inside a character.
    #[error("incomplete UTF-8 string; last byte: 0x{last:02X}")]
    Incomplete {
        /// The last byte.
        last: u8,
    },
}

/// Writes a string in quotes. Only quotes, backslashes and control characters are escaped.
///
/// # Errors
/// If the string is not UTF-8. Nothing is written then.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), NotUtf8> {
    out.reserve(text.len() + 2);
    let start = out.len();
    out.push(b'"');
    let mut rest = text;
    let mut verified = false;
    while let Some((lane, behind)) = rest.split_first_chunk::<LANE>() {
        out.extend_from_slice(lane);
        let Some(at) = first_special(lane) else {
            rest = behind;
            continue;
        };
        if !lane[at].is_ascii() && !verified {
            if let Err(error) = std::str::from_utf8(text) {
                out.truncate(start);
                return Err(not_utf8(text, error));
            }
            verified = true;
        }
        out.truncate(out.len() - (LANE - at));
        write_byte(out, lane[at]);
        rest = &rest[at + 1..];
    }
    if !verified
        && !rest.is_ascii()
        && let Err(error) = std::str::from_utf8(text)
    {
        out.truncate(start);
        return Err(not_utf8(text, error));
    }
    for byte in rest {
        write_byte(out, *byte);
    }
    out.push(b'"');
    Ok(())
}

/// Writes a byte of a string.
#[inline]
fn write_byte(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        b'"' | b'\\' => byte,
        ..b' ' => b'u',
        _ => return out.push(byte),
    };
    out.extend_from_slice(&[b'\\', short]);
    if short == b'u' {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        out.extend_from_slice(&[b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
    }
}

/// The number of bytes that are tested at a time.
const LANE: usize = 8;

/// The index of the first byte that must be escaped or is not ASCII.
#[inline]
fn first_special(lane: &[u8; LANE]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(*lane);
    // The high bit of each byte that is below the byte in `limits`; also of some bytes after one.
    let below = |word: u64, limits: u64| word.wrapping_sub(limits) & !word & HIGHS;
    let found = word & HIGHS
        | below(word, ONES * u64::from(b' '))
        | below(word ^ (ONES * u64::from(b'"')), ONES)
        | below(word ^ (ONES * u64::from(b'\\')), ONES);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

fn not_utf8(text: &[u8], error: std::str::Utf8Error) -> NotUtf8 {
    let start = error.valid_up_to();
    let begins = matches!(text.get(start), Some(0xc2..=0xf4));
    let index = match error.error_len() {
        Some(length) if begins => start + length,
        Some(_) => start,
        None => text.len(),
    };
    match (text.get(index), text.last()) {
        (Some(byte), _) => NotUtf8::Byte { index, byte: *byte },
        (None, last) => NotUtf8::Incomplete {
            last: last.copied().unwrap_or(0),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> Result<String, String> {
        let mut out = Vec::new();
        write_string(&mut out, text).map_err(|e| e.to_string())?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn bytes_are_escaped_at_every_place() {
        let escaped = |text: &str| {
            let escape = |character: char| match character {
                '"' | '\\' => format!("\\{character}"),
                '\u{8}' => "\\b".to_owned(),
                '\u{c}' => "\\f".to_owned(),
                '\n' => "\\n".to_owned(),
                '\r' => "\\r".to_owned(),
                '\t' => "\\t".to_owned(),
                '\0'..' ' => format!("\\u{:04x}", u32::from(character)),
                _ => character.to_string(),
            };
            format!("\"{}\"", text.chars().map(escape).collect::<String>())
        };
        for character in (0..0x200).filter_map(char::from_u32) {
            for length in 0..20 {
                for other in ["a", "é", "\u{1}", "\"", ""] {
                    let text = format!("{}{character}{}", "a".repeat(length), other.repeat(9));
                    assert_eq!(
                        written(text.as_bytes()).unwrap(),
                        escaped(&text),
                        "{text:?}"
                    );
                }
                let mut text = "a".repeat(length).into_bytes();
                text.push(0xff);
                assert!(written(&text).is_err());
                text.extend([b'a'; 9]);
                assert!(written(&text).is_err());
            }
        }
    }

    #[test]
    fn strings_as_recorded() {
        // Expected values are from C++ Nix 2.34.8.
        assert_eq!(
            written("a\"b\\\u{1}\u{2}\u{1b}\u{7f}é  \u{2028}$ / \u{8}\u{c}\n\r\t".as_bytes())
                .unwrap(),
            "\"a\\\"b\\\\\\u0001\\u0002\\u001b\u{7f}é  \u{2028}$ / \\b\\f\\n\\r\\t\""
        );
        let refused = |text: &[u8]| written(text).unwrap_err();
        assert_eq!(
            refused(b"a\"b\x01\x02\x1b\x7f\x80\xff"),
            "invalid UTF-8 byte at index 7: 0x80"
        );
        assert_eq!(refused(b"a\xe2\x28"), "invalid UTF-8 byte at index 2: 0x28");
        assert_eq!(
            refused(b"a\xe2"),
            "incomplete UTF-8 string; last byte: 0xE2"
        );
        assert_eq!(
            refused(b"a\xe2\x82"),
            "incomplete UTF-8 string; last byte: 0x82"
        );
    }
}
