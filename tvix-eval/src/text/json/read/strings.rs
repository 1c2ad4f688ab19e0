//! Strings and escape sequences.

use super::{JsonErrorKind, JsonSink, Read, Reader};

impl<'t, S: JsonSink> Reader<'t, '_, S> {
    /// The end of the literal text of a string.
    fn plain(&self, from: usize) -> Read<&'t str, S> {
        let rest = &self.text[from..];
        let length = rest
            .iter()
            .position(|b| matches!(b, b'"' | b'\\' | 0..0x20))
            .unwrap_or(rest.len());
        std::str::from_utf8(&rest[..length])
            .or_else(|_| self.invalid("invalid string: ill-formed UTF-8 byte", None))
    }

    /// Parses a string, starting at its quote. The result borrows from the text if there are no
    /// escape sequences.
    pub(super) fn string<'b>(&mut self, scratch: &'b mut String) -> Read<&'b str, S>
    where
        't: 'b,
    {
        self.at += 1;
        let first = self.plain(self.at)?;
        self.at += first.len();
        if self.text.get(self.at) == Some(&b'"') {
            self.at += 1;
            return Ok(first);
        }
        scratch.clear();
        scratch.push_str(first);
        loop {
            match self.text.get(self.at) {
                None => return self.invalid("invalid string: missing closing quote", None),
                Some(b'"') => {
                    self.at += 1;
                    break;
                }
                Some(b'\\') => scratch.push(self.escape()?),
                Some(_) => {
                    return self
                        .invalid("invalid string: control characters must be escaped", None);
                }
            }
            let more = self.plain(self.at)?;
            self.at += more.len();
            scratch.push_str(more);
        }
        if scratch.contains('\0') {
            return Err(JsonErrorKind::Nul(scratch.clone()));
        }
        Ok(scratch)
    }

    fn escape(&mut self) -> Read<char, S> {
        let character = match self.text.get(self.at + 1) {
            None => return self.invalid("invalid string: missing closing quote", None),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(*byte),
            Some(b'u') => {
                let mut code = self.unit(self.at)?;
                self.at += 6;
                if let 0xd800..0xdc00 = code {
                    let low = match self.text.get(self.at..self.at + 2) {
                        Some(b"\\u") => self.unit(self.at)?,
                        _ => 0,
                    };
                    if !(0xdc00..0xe000).contains(&low) {
                        return self.invalid("invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF", None);
                    }
                    self.at += 6;
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                let Some(character) = char::from_u32(code) else {
                    return self.invalid(
                        "invalid string: surrogate U+DC00..U+DFFF must follow U+D800..U+DBFF",
                        None,
                    );
                };
                return Ok(character);
            }
            Some(_) => {
                return self.invalid("invalid string: forbidden character after backslash", None);
            }
        };
        self.at += 2;
        Ok(character)
    }

    /// The four digits of `\u....`.
    fn unit(&self, at: usize) -> Read<u32, S> {
        let digits = self.text.get(at + 2..at + 6).unwrap_or_default();
        let value = digits.iter().try_fold(0, |value, digit| {
            Some(value * 16 + char::from(*digit).to_digit(16)?)
        });
        match value {
            Some(value) if digits.len() == 4 => Ok(value),
            _ => self.invalid(
                "invalid string: '\\u' must be followed by 4 hex digits",
                None,
            ),
        }
    }
}
