//! JSON with sorted keys and without whitespace.

use super::super::number;
use super::{JsonError, JsonSink, read, write_string};

/// Reformats a JSON text as the library of C++ Nix does: keys are sorted, the last of several equal
/// keys wins, and there is no whitespace. Returns the type of the value, too.
///
/// # Errors
/// If the text is not JSON, or is nested deeper than `max_depth`.
pub fn normalize(
    text: &[u8],
    max_depth: usize,
) -> Result<(&'static str, Vec<u8>), JsonError<std::convert::Infallible>> {
    let mut writer = Writer {
        open: Vec::new(),
        kind: "null",
        done: Vec::new(),
    };
    read(text, max_depth, &mut writer)?;
    Ok((writer.kind, writer.done))
}

struct Writer {
    open: Vec<Open>,
    /// The type of the value that ended last.
    kind: &'static str,
    done: Vec<u8>,
}

enum Open {
    List(Vec<u8>),
    Set {
        entries: Vec<(String, Vec<u8>)>,
        key: String,
    },
}

impl Writer {
    fn add(&mut self, kind: &'static str, value: Vec<u8>) -> Result<(), std::convert::Infallible> {
        self.kind = kind;
        match self.open.last_mut() {
            None => self.done = value,
            Some(Open::List(list)) => {
                if list.len() > 1 {
                    list.push(b',');
                }
                list.extend_from_slice(&value);
            }
            Some(Open::Set { entries, key }) => entries.push((std::mem::take(key), value)),
        }
        Ok(())
    }
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    // The parsed text is UTF-8.
    let _ = write_string(&mut out, text.as_bytes());
    out
}

impl JsonSink for Writer {
    type Error = std::convert::Infallible;

    fn null(&mut self) -> Result<(), Self::Error> {
        self.add("null", b"null".to_vec())
    }

    fn bool(&mut self, value: bool) -> Result<(), Self::Error> {
        self.add("boolean", value.to_string().into_bytes())
    }

    fn int(&mut self, value: i64) -> Result<(), Self::Error> {
        let mut out = Vec::new();
        number::write_int(&mut out, value);
        self.add("number", out)
    }

    fn float(&mut self, value: f64) -> Result<(), Self::Error> {
        let mut out = Vec::new();
        number::write_json(&mut out, value);
        self.add("number", out)
    }

    fn string(&mut self, value: &str) -> Result<(), Self::Error> {
        self.add("string", quoted(value))
    }

    fn begin_list(&mut self) -> Result<(), Self::Error> {
        self.open.push(Open::List(b"[".to_vec()));
        Ok(())
    }

    fn end_list(&mut self) -> Result<(), Self::Error> {
        match self.open.pop() {
            Some(Open::List(mut list)) => {
                list.push(b']');
                self.add("array", list)
            }
            _ => Ok(()),
        }
    }

    fn begin_set(&mut self) -> Result<(), Self::Error> {
        self.open.push(Open::Set {
            entries: Vec::new(),
            key: String::new(),
        });
        Ok(())
    }

    fn key(&mut self, name: &str) -> Result<(), Self::Error> {
        if let Some(Open::Set { key, .. }) = self.open.last_mut() {
            name.clone_into(key);
        }
        Ok(())
    }

    fn end_set(&mut self) -> Result<(), Self::Error> {
        let Some(Open::Set { mut entries, .. }) = self.open.pop() else {
            return Ok(());
        };
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(a, _), (b, _)| a == b);
        let mut out = b"{".to_vec();
        for (key, value) in entries {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(&quoted(&key));
            out.push(b':');
            out.extend_from_slice(&value);
        }
        out.push(b'}');
        self.add("object", out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_anew() {
        for (text, kind, expected) in [
            (" { } ", "object", "{}"),
            (
                r#"{"b":1,"a":[1,2.50,1e5,"\u00e9", null],"b":{"d":true,"c":[[],[{}]]}}"#,
                "object",
                r#"{"a":[1,2.5,100000.0,"é",null],"b":{"c":[[],[{}]],"d":true}}"#,
            ),
            ("[ ]", "array", "[]"),
            ("\"x\"", "string", "\"x\""),
            ("-0.0", "number", "-0.0"),
            ("false", "boolean", "false"),
            ("null", "null", "null"),
        ] {
            let (found, written) = normalize(text.as_bytes(), 10).unwrap();
            let written = String::from_utf8(written).unwrap();
            assert_eq!((found, written.as_str()), (kind, expected), "{text}");
        }
        assert!(normalize(b"[[[[", 3).is_err());
        assert!(normalize(b"[1", 3).is_err());
    }
}
