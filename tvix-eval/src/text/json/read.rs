//! The JSON parser: single pass, without recursion and without a tree.

mod strings;

use super::super::number::read_float;
use super::problem::{JsonError, JsonErrorKind};

/// Receives the events of the parser, in order.
///
/// # Contract
/// Between the `begin_` and the `end_` of a set, every value is preceded by its key; keys may
/// repeat. Text is borrowed for the duration of the call, and contains no NUL. No method is called
/// after an error.
pub trait JsonSink {
    /// The error of the sink.
    type Error;

    /// `null`.
    fn null(&mut self) -> Result<(), Self::Error>;
    /// `true` and `false`.
    fn bool(&mut self, value: bool) -> Result<(), Self::Error>;
    /// A number without fraction and exponent that fits into 64 bits.
    fn int(&mut self, value: i64) -> Result<(), Self::Error>;
    /// Any other number. It is finite.
    fn float(&mut self, value: f64) -> Result<(), Self::Error>;
    /// A string.
    fn string(&mut self, value: &str) -> Result<(), Self::Error>;
    /// `[`
    fn begin_list(&mut self) -> Result<(), Self::Error>;
    /// `]`
    fn end_list(&mut self) -> Result<(), Self::Error>;
    /// `{`
    fn begin_set(&mut self) -> Result<(), Self::Error>;
    /// A key, before its value.
    fn key(&mut self, key: &str) -> Result<(), Self::Error>;
    /// `}`
    fn end_set(&mut self) -> Result<(), Self::Error>;
}

/// Parses a text and passes its contents to a sink.
///
/// # Errors
/// If the text is not JSON, if it is nested deeper than `max_depth`, or if the sink fails.
pub fn read<S: JsonSink>(
    text: &[u8],
    max_depth: usize,
    sink: &mut S,
) -> Result<(), JsonError<S::Error>> {
    let mut reader = Reader {
        text,
        at: 0,
        sink,
        open: Vec::new(),
        max_depth,
        scratch: String::new(),
        parsing: "value",
        token: 0,
    };
    reader.document().map_err(|problem| {
        let before = &text[..reader.at.min(text.len())];
        JsonError {
            line: 1 + memchr::memchr_iter(b'\n', before).count(),
            column: 1 + before.len() - memchr::memrchr(b'\n', before).map_or(0, |at| at + 1),
            problem,
        }
    })
}

struct Reader<'t, 's, S> {
    text: &'t [u8],
    at: usize,
    sink: &'s mut S,
    /// For each open list or set, whether it is a set.
    open: Vec<bool>,
    max_depth: usize,
    scratch: String,
    /// The construct that is being parsed, for messages.
    parsing: &'static str,
    /// Start of the current string, number or word.
    token: usize,
}

const WORDS: [(&str, &str); 3] = [
    ("null", "null literal"),
    ("true", "true literal"),
    ("false", "false literal"),
];

const ANY_VALUE: &str = "'[', '{', or a literal";

type Read<T, S> = Result<T, JsonErrorKind<<S as JsonSink>::Error>>;

impl<'t, S: JsonSink> Reader<'t, '_, S> {
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// The error for an unexpected token here. Afterwards the position is the token's last byte.
    fn expected<T>(&mut self, what: &'static str) -> Read<T, S> {
        self.token = self.at;
        let parsing = self.parsing;
        let found = match self.text.get(self.at) {
            None => "end of input",
            Some(b'{') => "'{'",
            Some(b'}') => "'}'",
            Some(b'[') => "'['",
            Some(b']') => "']'",
            Some(b':') => "':'",
            Some(b',') => "','",
            Some(b'"') => {
                self.string(&mut String::new())?;
                self.at -= 1;
                "string literal"
            }
            Some(b'-' | b'0'..=b'9') => {
                self.digits_and_more()?;
                self.at -= 1;
                "number literal"
            }
            Some(_) => {
                let whole = WORDS.iter().find(|(word, _)| self.word(word.as_bytes()));
                match whole {
                    Some((_, name)) => {
                        self.at -= 1;
                        name
                    }
                    None => {
                        let rest = &self.text[self.at..];
                        let common = WORDS.iter().map(|(word, _)| {
                            word.bytes().zip(rest).take_while(|(a, b)| a == *b).count()
                        });
                        self.at += common.max().unwrap_or_default();
                        return self
                            .invalid("invalid literal", (what != ANY_VALUE).then_some(what));
                    }
                }
            }
        };
        Err(JsonErrorKind::Syntax {
            parsing,
            found: format!("unexpected {found}"),
            wanted: Some(what),
        })
    }

    /// The error for the byte here, which cannot continue the current token.
    fn invalid<T>(&self, message: &str, wanted: Option<&'static str>) -> Read<T, S> {
        let end = self.text.len().min(self.at + 1);
        let mut read = String::new();
        for letter in String::from_utf8_lossy(&self.text[self.token..end]).chars() {
            match u32::from(letter) {
                code @ 0..=31 => read.push_str(&format!("<U+{code:04X}>")),
                _ => read.push(letter),
            }
        }
        Err(JsonErrorKind::Syntax {
            parsing: self.parsing,
            found: format!("{message}; last read: '{read}'"),
            wanted,
        })
    }

    fn document(&mut self) -> Read<(), S> {
        // A byte order mark is skipped.
        if self.text.starts_with(b"\xef\xbb\xbf") {
            self.at = 3;
        }
        if self.at == self.text.len() {
            return Err(JsonErrorKind::Empty);
        }
        loop {
            let complete = self.value()?;
            if complete && self.after_value()? {
                return match self.peek() {
                    None => Ok(()),
                    Some(_) => {
                        self.parsing = "value";
                        self.expected("end of input")
                    }
                };
            }
        }
    }

    /// Parses a value, or the start of a list or set. Returns whether the value is complete.
    fn value(&mut self) -> Read<bool, S> {
        self.parsing = "value";
        let next = self.peek();
        self.token = self.at;
        let done = match next {
            Some(b'{') => {
                self.begin(true)?;
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    self.open.pop();
                    self.sink.end_set()
                } else {
                    self.key()?;
                    return Ok(false);
                }
            }
            Some(b'[') => {
                self.begin(false)?;
                if self.peek() == Some(b']') {
                    self.at += 1;
                    self.open.pop();
                    self.sink.end_list()
                } else {
                    return Ok(false);
                }
            }
            Some(b'"') => {
                let mut scratch = std::mem::take(&mut self.scratch);
                let text = self.string(&mut scratch)?;
                let done = self.sink.string(text);
                self.scratch = scratch;
                done
            }
            Some(b'-' | b'0'..=b'9') => return self.number().map(|()| true),
            Some(b'n') if self.word(b"null") => self.sink.null(),
            Some(b't') if self.word(b"true") => self.sink.bool(true),
            Some(b'f') if self.word(b"false") => self.sink.bool(false),
            _ => return self.expected(ANY_VALUE),
        };
        done.map_err(JsonErrorKind::Sink)?;
        Ok(true)
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let found = self.text[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn begin(&mut self, set: bool) -> Read<(), S> {
        if self.open.len() >= self.max_depth {
            return Err(JsonErrorKind::Depth);
        }
        self.at += 1;
        self.open.push(set);
        let done = if set {
            self.sink.begin_set()
        } else {
            self.sink.begin_list()
        };
        done.map_err(JsonErrorKind::Sink)
    }

    /// Closes the lists and sets that end here. Returns whether none is open any more.
    fn after_value(&mut self) -> Read<bool, S> {
        while let Some(set) = self.open.last().copied() {
            match (self.peek(), set) {
                (Some(b','), true) => {
                    self.at += 1;
                    self.key()?;
                    return Ok(false);
                }
                (Some(b','), false) => {
                    self.at += 1;
                    return Ok(false);
                }
                (Some(b'}'), true) => self.sink.end_set().map_err(JsonErrorKind::Sink)?,
                (Some(b']'), false) => self.sink.end_list().map_err(JsonErrorKind::Sink)?,
                (_, true) => {
                    self.parsing = "object";
                    return self.expected("'}'");
                }
                (_, false) => {
                    self.parsing = "array";
                    return self.expected("']'");
                }
            }
            self.at += 1;
            self.open.pop();
        }
        Ok(true)
    }

    fn key(&mut self) -> Read<(), S> {
        self.parsing = "object key";
        if self.peek() != Some(b'"') {
            return self.expected("string literal");
        }
        self.token = self.at;
        let mut scratch = std::mem::take(&mut self.scratch);
        let text = self.string(&mut scratch)?;
        let done = self.sink.key(text);
        self.scratch = scratch;
        done.map_err(JsonErrorKind::Sink)?;
        if self.peek() != Some(b':') {
            self.parsing = "object separator";
            return self.expected("':'");
        }
        self.at += 1;
        Ok(())
    }

    /// Skips a number. Returns whether it has neither fraction nor exponent.
    fn digits_and_more(&mut self) -> Read<bool, S> {
        let digits = |reader: &mut Self| {
            let from = reader.at;
            while let Some(b'0'..=b'9') = reader.text.get(reader.at) {
                reader.at += 1;
            }
            reader.at - from
        };
        self.at += usize::from(self.text[self.at] == b'-');
        if self.text.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else if digits(self) == 0 {
            return self.invalid("invalid number; expected digit after '-'", None);
        }
        let mut whole = true;
        if self.text.get(self.at) == Some(&b'.') {
            whole = false;
            self.at += 1;
            if digits(self) == 0 {
                return self.invalid("invalid number; expected digit after '.'", None);
            }
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            whole = false;
            self.at += 1;
            let sign = matches!(self.text.get(self.at), Some(b'+' | b'-'));
            self.at += usize::from(sign);
            if digits(self) == 0 {
                return self.invalid(
                    match sign {
                        true => "invalid number; expected digit after exponent sign",
                        false => "invalid number; expected '+', '-', or digit after exponent",
                    },
                    None,
                );
            }
        }
        Ok(whole)
    }

    fn number(&mut self) -> Read<(), S> {
        let start = self.at;
        let whole = self.digits_and_more()?;
        let negative = self.text[start] == b'-';
        let literal = &self.text[start..self.at];
        if whole {
            let magnitude = literal[usize::from(negative)..]
                .iter()
                .try_fold(0u64, |value, digit| {
                    value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
                });
            match magnitude {
                Some(magnitude) if negative => {
                    if let Some(value) = 0i64.checked_sub_unsigned(magnitude) {
                        return self.sink.int(value).map_err(JsonErrorKind::Sink);
                    }
                }
                Some(magnitude) => {
                    let value = i64::try_from(magnitude);
                    let value = value.map_err(|_| JsonErrorKind::Unsigned(magnitude))?;
                    return self.sink.int(value).map_err(JsonErrorKind::Sink);
                }
                None => {}
            }
        }
        match read_float(literal) {
            Some(value) if value.is_finite() => self.sink.float(value).map_err(JsonErrorKind::Sink),
            _ => Err(JsonErrorKind::Overflow(
                String::from_utf8_lossy(literal).into_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use std::fmt::Write as _;

    /// A sink that writes down its events.
    #[derive(Default)]
    struct Log(String);

    impl JsonSink for Log {
        type Error = fmt::Error;

        fn null(&mut self) -> fmt::Result {
            self.0.write_str("null ")
        }
        fn bool(&mut self, value: bool) -> fmt::Result {
            write!(self.0, "{value} ")
        }
        fn int(&mut self, value: i64) -> fmt::Result {
            write!(self.0, "{value} ")
        }
        fn float(&mut self, value: f64) -> fmt::Result {
            write!(self.0, "{value:?}f ")
        }
        fn string(&mut self, value: &str) -> fmt::Result {
            write!(self.0, "{value:?} ")
        }
        fn begin_list(&mut self) -> fmt::Result {
            self.0.write_str("[ ")
        }
        fn end_list(&mut self) -> fmt::Result {
            self.0.write_str("] ")
        }
        fn begin_set(&mut self) -> fmt::Result {
            self.0.write_str("{ ")
        }
        fn key(&mut self, key: &str) -> fmt::Result {
            write!(self.0, "{key}= ")
        }
        fn end_set(&mut self) -> fmt::Result {
            self.0.write_str("} ")
        }
    }

    fn log(text: &[u8]) -> Result<String, String> {
        let mut log = Log::default();
        read(text, 100, &mut log).map_err(|e| e.to_string())?;
        Ok(log.0.trim_end().to_owned())
    }

    #[test]
    fn valid_documents() {
        for (text, expected) in [
            (" null ", "null"),
            ("[]", "[ ]"),
            ("{}", "{ }"),
            (
                "[1, [], {\"a\": [true,false]} ]",
                "[ 1 [ ] { a= [ true false ] } ]",
            ),
            (r#"{"a":1,"a":2}"#, "{ a= 1 a= 2 }"),
            (
                r#""a\n\"\\\/\b\f\r\t\u00e9\ud83d\ude00""#,
                r#""a\n\"\\/\u{8}\u{c}\r\té😀""#,
            ),
            ("-0", "0"),
            ("-0.0", "-0.0f"),
            ("1.0", "1.0f"),
            ("1E2", "100.0f"),
            ("1e-400", "0.0f"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("-9223372036854775809", "-9.223372036854776e18f"),
            ("18446744073709551616", "1.8446744073709552e19f"),
            ("\u{feff}1", "1"),
        ] {
            assert_eq!(log(text.as_bytes()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn invalid_documents_are_rejected() {
        for (text, expected) in [
            (
                &b""[..],
                "line 1, column 1: attempting to parse an empty input",
            ),
            (
                b"[1,]",
                "column 4: syntax error while parsing value - unexpected ']'",
            ),
            (
                b"[1,\n 2",
                "line 2, column 3: syntax error while parsing array - unexpected end",
            ),
            (
                b"{\"a\" 1}",
                "column 6: syntax error while parsing object separator - unexpected number literal; expected ':'",
            ),
            (
                b"{\"a\":1,}",
                "column 8: syntax error while parsing object key - unexpected '}'; expected string",
            ),
            (
                b"{1:2}",
                "unexpected number literal; expected string literal",
            ),
            (
                b"{} x",
                "column 4: syntax error while parsing value - invalid literal; last read: 'x'; expected end of input",
            ),
            (b"[1}", "unexpected '}'; expected ']'"),
            (
                b"01",
                "column 2: syntax error while parsing value - unexpected number literal; expected end",
            ),
            (b"1.", "invalid number"),
            (b"-", "invalid number"),
            (b"1e+", "invalid number"),
            (b"+1", "invalid literal; last read: '+'"),
            (
                b"nul",
                "column 4: syntax error while parsing value - invalid literal; last read: 'nul'",
            ),
            (b"// x\n1", "invalid literal; last read: '/'"),
            (b"1e400", "number overflow parsing '1e400'"),
            (
                b"18446744073709551615",
                "unsigned json number 18446744073709551615",
            ),
            (b"\"a", "missing closing quote"),
            (b"\"\\", "missing closing quote"),
            (b"\"\n\"", "control characters"),
            (b"\"\\x\"", "forbidden character"),
            (b"\"\\u12g4\"", "4 hex digits"),
            (b"\"\\ud800\"", "must be followed by U+DC00"),
            (b"\"\\udc00\"", "must follow U+D800"),
            (b"\"\\u0000\"", "null bytes"),
            (b"\"\xff\"", "ill-formed"),
            (b"\"\xe2\\n\"", "ill-formed"),
        ] {
            let error = log(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn depth() {
        assert!(log(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes()).is_ok());
        let deep = "[".repeat(1_000_000);
        assert!(
            log(deep.as_bytes())
                .unwrap_err()
                .contains("nested too deeply")
        );
        let error = read(deep.as_bytes(), usize::MAX, &mut Log::default()).unwrap_err();
        assert!(error.to_string().contains("unexpected end of input"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(text: Vec<u8>, json in "[\\[\\]{}:,\"\\\\u0-9eE.+a-f -]{0,40}") {
            let _ = log(&text);
            let _ = log(json.as_bytes());
        }

        #[test]
        fn written_strings_read_back(text: String) {
            let text = text.replace('\0', "");
            let mut out = Vec::new();
            super::super::write_string(&mut out, text.as_bytes()).unwrap();
            proptest::prop_assert_eq!(log(&out).unwrap(), format!("{text:?}"));
        }
    }
}
