//! The TOML parser.

use super::super::number::read_float;
use super::room::{Room, TABLE_BYTES, VALUE_BYTES};
use super::tables::Table;
use super::{TomlError, TomlErrorKind, TomlTable, TomlValue, datetime};

type Read<T> = Result<T, TomlErrorKind>;

/// Parses a document.
///
/// # Errors
/// If the document is not TOML 1.0, is nested deeper than [`super::MAX_DEPTH`], or contains a NUL.
pub fn read(text: &[u8]) -> Result<TomlTable, TomlError> {
    read_within(text, super::MAX_DEPTH, usize::MAX).map(|(table, _)| table)
}

/// Parses a document with a nesting depth of at most `max_depth`. Parsing, and dropping the result,
/// take up to [`super::STACK_PER_LEVEL`] bytes of the stack per level.
///
/// # Errors
/// As for [`read()`].
pub fn read_within(
    text: &[u8],
    max_depth: usize,
    max_bytes: usize,
) -> Result<(TomlTable, usize), TomlError> {
    let valid = std::str::from_utf8(text);
    let mut reader = Reader {
        text: valid.unwrap_or_default(),
        at: 0,
        max_depth,
        room: Room::new(max_bytes),
    };
    let result = match valid {
        Ok(_) => reader
            .document()
            .map(|table| (table, max_bytes - reader.room.left())),
        Err(error) => {
            reader.at = error.valid_up_to();
            Err(TomlErrorKind::NotUtf8)
        }
    };
    result.map_err(|problem| {
        let before = &text[..reader.at];
        TomlError {
            line: 1 + memchr::memchr_iter(b'\n', before).count(),
            column: 1 + before.len() - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1),
            problem,
        }
    })
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    max_depth: usize,
    /// Memory that is left for the tree, in bytes.
    room: Room,
}

const fn expected<T>(what: &'static str) -> Read<T> {
    Err(TomlErrorKind::Expected(what))
}

const fn number<T>(what: &'static str) -> Read<T> {
    Err(TomlErrorKind::Number(what))
}

const fn string<T>(what: &'static str) -> Read<T> {
    Err(TomlErrorKind::String(what))
}

fn is_bare(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

impl<'t> Reader<'t> {
    /// Checks the nesting depth.
    fn check_depth(&self, depth: usize) -> Read<()> {
        match depth > self.max_depth {
            true => Err(TomlErrorKind::Depth),
            false => Ok(()),
        }
    }

    fn rest(&self) -> &'t [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn eat(&mut self, text: &[u8]) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn newline(&mut self) -> bool {
        self.eat(b"\n") || self.eat(b"\r\n")
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn comment(&mut self) -> Read<()> {
        if !self.eat(b"#") {
            return Ok(());
        }
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' => break,
                b'\r' if self.rest().starts_with(b"\r\n") => break,
                0..=8 | 10..=31 | 127 => return expected("no control character in a comment"),
                _ => self.at += 1,
            }
        }
        Ok(())
    }

    /// Skips blanks, comments and newlines.
    fn lines(&mut self) -> Read<()> {
        loop {
            self.blanks();
            self.comment()?;
            if !self.newline() {
                return Ok(());
            }
        }
    }

    fn document(&mut self) -> Read<TomlTable> {
        self.eat(b"\xef\xbb\xbf");
        let mut root = Table::root();
        let mut table = &mut root;
        let mut depth = 1;
        loop {
            self.lines()?;
            if self.peek().is_none() {
                return Ok(root.finish());
            }
            if self.eat(b"[") {
                let array = self.eat(b"[");
                let path = self.key()?;
                if !self.eat(if array { b"]]" } else { b"]" }) {
                    return expected("']'");
                }
                depth = path.len() + 1;
                self.check_depth(depth)?;
                self.room.take(TABLE_BYTES)?;
                table = root.header(&path, array)?;
            } else {
                let (path, value) = self.entry(depth)?;
                table.insert(&path, value)?;
            }
            self.blanks();
            self.comment()?;
            if !self.newline() && self.peek().is_some() {
                return expected("a newline");
            }
        }
    }

    fn entry(&mut self, depth: usize) -> Read<(Vec<String>, TomlValue)> {
        let path = self.key()?;
        if !self.eat(b"=") {
            return expected("'='");
        }
        self.blanks();
        let depth = depth + path.len();
        self.check_depth(depth)?;
        Ok((path, self.value(depth)?))
    }

    /// A key, with blanks around it.
    fn key(&mut self) -> Read<Vec<String>> {
        let mut path = Vec::new();
        loop {
            self.blanks();
            let part = match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    self.basic(false)?
                }
                Some(b'\'') => {
                    self.at += 1;
                    self.literal(false)?
                }
                _ => {
                    let start = self.at;
                    while self.peek().is_some_and(is_bare) {
                        self.at += 1;
                    }
                    if start == self.at {
                        return expected("a key");
                    }
                    self.text[start..self.at].to_owned()
                }
            };
            self.room.take(part.len() + VALUE_BYTES)?;
            path.push(part);
            self.blanks();
            if !self.eat(b".") {
                return Ok(path);
            }
        }
    }

    fn value(&mut self, depth: usize) -> Read<TomlValue> {
        let start = self.at;
        let value = self.any_value(depth)?;
        let bytes = match value {
            TomlValue::Table(_) => TABLE_BYTES,
            TomlValue::String(_) => self.at - start,
            _ => 0,
        };
        self.room.take(bytes + VALUE_BYTES)?;
        Ok(value)
    }

    fn any_value(&mut self, depth: usize) -> Read<TomlValue> {
        Ok(match self.peek() {
            Some(b'"') => {
                let long = self.eat(b"\"\"\"");
                self.at += usize::from(!long);
                TomlValue::String(self.basic(long)?)
            }
            Some(b'\'') => {
                let long = self.eat(b"'''");
                self.at += usize::from(!long);
                TomlValue::String(self.literal(long)?)
            }
            Some(b'[') => self.array(depth)?,
            Some(b'{') => self.inline(depth)?,
            Some(b't') if self.eat(b"true") => TomlValue::Bool(true),
            Some(b'f') if self.eat(b"false") => TomlValue::Bool(false),
            Some(b'0'..=b'9') if datetime::begins(self.rest()) => {
                let (text, length) = datetime::read(self.rest()).ok_or(TomlErrorKind::DateTime)?;
                self.at += length;
                TomlValue::DateTime(text)
            }
            Some(b'0'..=b'9' | b'+' | b'-' | b'i' | b'n') => self.number()?,
            _ => return expected("a value"),
        })
    }

    fn array(&mut self, depth: usize) -> Read<TomlValue> {
        self.check_depth(depth + 1)?;
        self.at += 1;
        let mut values = Vec::new();
        loop {
            self.lines()?;
            if self.eat(b"]") {
                return Ok(TomlValue::Array(values));
            }
            values.push(self.value(depth + 1)?);
            self.lines()?;
            if !self.eat(b",") && self.peek() != Some(b']') {
                return expected("',' or ']'");
            }
        }
    }

    fn inline(&mut self, depth: usize) -> Read<TomlValue> {
        self.check_depth(depth + 1)?;
        self.at += 1;
        let mut table = Table::root();
        self.blanks();
        if self.eat(b"}") {
            return Ok(TomlValue::Table(table.finish()));
        }
        loop {
            let (path, value) = self.entry(depth)?;
            table.insert(&path, value)?;
            self.blanks();
            if self.eat(b"}") {
                return Ok(TomlValue::Table(table.finish()));
            }
            if !self.eat(b",") {
                return expected("',' or '}'");
            }
        }
    }

    fn number(&mut self) -> Read<TomlValue> {
        let start = self.at;
        let signed = self.eat(b"+") || self.eat(b"-");
        let negative = signed && self.text.as_bytes()[start] == b'-';
        if self.eat(b"inf") {
            let value = f64::INFINITY;
            return Ok(TomlValue::Float(if negative { -value } else { value }));
        }
        if self.eat(b"nan") {
            let value = f64::NAN.copysign(if negative { -1.0 } else { 1.0 });
            return Ok(TomlValue::Float(value));
        }
        if !signed && self.peek() == Some(b'0') {
            let radix = match self.rest().get(1) {
                Some(b'x') => 16,
                Some(b'o') => 8,
                Some(b'b') => 2,
                _ => 0,
            };
            if radix != 0 {
                self.at += 2;
                let digits = self.digits(|b| char::from(b).is_digit(radix))?;
                return match i64::from_str_radix(&digits, radix) {
                    Ok(value) => Ok(TomlValue::Int(value)),
                    Err(_) => number("it must be less than 2^63"),
                };
            }
        }
        let whole = self.digits(|b| b.is_ascii_digit())?;
        if whole.len() > 1 && whole.starts_with('0') {
            return number("it begins with 0");
        }
        let mut literal = if negative { format!("-{whole}") } else { whole };
        let mut float = false;
        if self.eat(b".") {
            float = true;
            literal.push('.');
            literal.push_str(&self.digits(|b| b.is_ascii_digit())?);
        }
        if self.eat(b"e") || self.eat(b"E") {
            float = true;
            literal.push('e');
            if self.eat(b"-") {
                literal.push('-');
            } else {
                self.eat(b"+");
            }
            literal.push_str(&self.digits(|b| b.is_ascii_digit())?);
        }
        if !float {
            return match literal.parse() {
                Ok(value) => Ok(TomlValue::Int(value)),
                Err(_) => number("it does not fit into 64 bits"),
            };
        }
        match read_float(literal.as_bytes()) {
            Some(value) if value.is_finite() => Ok(TomlValue::Float(value)),
            _ => number("it is too large"),
        }
    }

    /// Digits. Single underscores between them are removed.
    fn digits(&mut self, test: impl Fn(u8) -> bool) -> Read<String> {
        let mut digits = String::new();
        loop {
            match self.peek() {
                Some(byte) if test(byte) => digits.push(char::from(byte)),
                _ => return number("a digit is missing"),
            }
            self.at += 1;
            if self.peek() == Some(b'_') {
                self.at += 1;
            } else if !self.peek().is_some_and(&test) {
                return Ok(digits);
            }
        }
    }

    /// The literal text up to the next byte with a meaning in a string.
    fn plain(&mut self, quote: u8, escapes: bool) -> &'t str {
        let special =
            |b: &u8| *b == quote || (escapes && *b == b'\\') || b.is_ascii_control() && *b != b'\t';
        let rest = self.rest();
        let length = rest.iter().position(special).unwrap_or(rest.len());
        let start = self.at;
        self.at += length;
        &self.text[start..self.at]
    }

    /// Processes a byte that ends a string, or that is only valid in a multi-line one. Returns
    /// whether the string ends.
    fn special(&mut self, quote: u8, long: bool, out: &mut String) -> Read<bool> {
        match self.peek() {
            None => string("it is not closed"),
            Some(byte) if byte == quote => {
                if !long {
                    self.at += 1;
                    return Ok(true);
                }
                let count = self
                    .rest()
                    .iter()
                    .take_while(|b| **b == quote)
                    .take(5)
                    .count();
                self.at += count;
                // One or two quotes are allowed inside the string, including just before its end.
                let within = if count < 3 { count } else { count - 3 };
                (0..within).for_each(|_| out.push(char::from(quote)));
                Ok(count >= 3)
            }
            Some(_) if long => {
                let start = self.at;
                if !self.newline() {
                    return string("a control character");
                }
                out.push_str(&self.text[start..self.at]);
                Ok(false)
            }
            Some(_) => string("a control character"),
        }
    }

    fn literal(&mut self, long: bool) -> Read<String> {
        if long {
            self.newline();
        }
        let mut out = String::new();
        loop {
            out.push_str(self.plain(b'\'', false));
            if self.special(b'\'', long, &mut out)? {
                return Ok(out);
            }
        }
    }

    fn basic(&mut self, long: bool) -> Read<String> {
        if long {
            self.newline();
        }
        let mut out = String::new();
        loop {
            out.push_str(self.plain(b'"', true));
            if self.peek() == Some(b'\\') {
                self.at += 1;
                self.escape(long, &mut out)?;
            } else if self.special(b'"', long, &mut out)? {
                return Ok(out);
            }
        }
    }

    fn escape(&mut self, long: bool, out: &mut String) -> Read<()> {
        let character = match self.peek() {
            Some(b'b') => '\u{8}',
            Some(b't') => '\t',
            Some(b'n') => '\n',
            Some(b'f') => '\u{c}',
            Some(b'r') => '\r',
            Some(byte @ (b'"' | b'\\')) => char::from(byte),
            Some(b'u') => return self.code(4, out),
            Some(b'U') => return self.code(8, out),
            Some(b' ' | b'\t' | b'\n' | b'\r') if long => {
                self.blanks();
                if !self.newline() {
                    return string("an escape that is not known");
                }
                loop {
                    self.blanks();
                    if !self.newline() {
                        return Ok(());
                    }
                }
            }
            _ => return string("an escape that is not known"),
        };
        self.at += 1;
        out.push(character);
        Ok(())
    }

    fn code(&mut self, length: usize, out: &mut String) -> Read<()> {
        let digits = self.rest().get(1..=length).unwrap_or_default();
        let value = digits.iter().try_fold(0u32, |value, digit| {
            Some(value << 4 | char::from(*digit).to_digit(16)?)
        });
        match value
            .filter(|_| digits.len() == length)
            .and_then(char::from_u32)
        {
            Some('\0') => Err(TomlErrorKind::Nul),
            Some(character) => {
                out.push(character);
                self.at += 1 + length;
                Ok(())
            }
            None => string("an escaped character that does not exist"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_DEPTH;
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_document() {
        let table = read(
            b"\xef\xbb\xbfa = 1 # one\r\nb.c = [1.5, 'x', true,]\n[t.u]\nd = { e.f = 0x1F }\n[[l]]\n[[l]]\n[l.m]\ng = \"\"\"\na \\\n  \"b\"\"\"\"\n",
        );
        assert_eq!(
            format!("{:?}", table.unwrap()),
            "{\"a\": Int(1), \"b\": Table({\"c\": Array([Float(1.5), String(\"x\"), Bool(true)])}), \
             \"l\": Array([Table({}), Table({\"m\": Table({\"g\": String(\"a \\\"b\\\"\")})})]), \
             \"t\": Table({\"u\": Table({\"d\": Table({\"e\": Table({\"f\": Int(31)})})})})}"
        );
        let table = read(b"a = 1979-05-27 07:32:00Z\n").unwrap();
        assert_eq!(
            table["a"],
            TomlValue::DateTime("1979-05-27T07:32:00Z".into())
        );
    }

    #[test]
    fn tables_are_made_once() {
        for text in [
            "a=1\na=2",
            "[a]\n[a]",
            "a.b=1\n[a]",
            "[a.b]\n[a]\nb.d=1",
            "[a.b.c]\n[a]\nb.d=1",
            "a={b=1}\n[a.c]",
            "a={b=1}\na.c=1",
            "a={b={c=1},b.d=1}",
            "a=[{b=1}]\n[[a]]",
            "[a]\n[[a]]",
            "[[a]]\n[a]",
            "a=1\n[a.b]",
        ] {
            assert!(error(text).contains("is defined already"), "{text}");
        }
        for text in [
            "[a.b]\n[a]",
            "[a]\nb.c=1\n[a.b.d]",
            "[[a]]\n[a.b]\n[[a]]\n[a.b]",
            "a.b=1\na.c=2",
        ] {
            assert!(read(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn invalid_documents_are_rejected() {
        for (text, expected) in [
            ("a = 9223372036854775808", "64 bits"),
            ("a = 0x8000000000000000", "less than 2^63"),
            ("a = 1e400", "too large"),
            ("a = 01", "begins with 0"),
            ("a = 1__0", "a digit is missing"),
            ("a = 1.", "a digit is missing"),
            ("a = 1 b = 2", "line 1, column 7: expected a newline"),
            ("a = {\n}", "expected a key"),
            ("a = {b=1,}", "expected a key"),
            ("a = \"\\e\"", "an escape"),
            ("a = \"\\uD800\"", "does not exist"),
            ("a = \"\\u0000\"", "null bytes"),
            ("a = \"x\ny\"", "control character"),
            ("a = \"x", "not closed"),
            ("\u{e9} = 1", "expected a key"),
            ("a = 1979-13-01", "invalid date"),
            ("\n\na", "line 3, column 2: expected '='"),
            ("# \u{1}", "control character"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = read(b"a = '\xff'").unwrap_err();
        assert_eq!(error.problem, TomlErrorKind::NotUtf8);
    }

    #[test]
    fn depth() {
        for text in [
            format!("a={}", "[".repeat(1_000_000)),
            format!("a={}", "{a=".repeat(1_000_000)),
            format!("{}a=1", "a.".repeat(1_000_000)),
            format!("[{}a]", "a.".repeat(1_000_000)),
        ] {
            assert!(error(&text).contains("nested too deeply"));
        }
        let deep = MAX_DEPTH - 2;
        let text = format!("a={}{}", "[".repeat(deep), "]".repeat(deep));
        assert!(read(text.as_bytes()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(text: Vec<u8>, toml in "[a\\[\\]{}=.,'\"\\\\u0-9e:TZ\\-+_#\n\r ]{0,40}") {
            let _ = read(&text);
            let _ = read(toml.as_bytes());
        }
    }
}
