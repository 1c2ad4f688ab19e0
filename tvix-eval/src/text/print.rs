//! Strings and attribute names in evaluation results.

use super::is_identifier;

/// Writes a string literal that parses back to the same string.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'$' if text.get(at + 1) == Some(&b'{') => out.extend_from_slice(b"\\$"),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// Writes an attribute name, in quotes if they are necessary.
pub fn write_attribute_name(out: &mut Vec<u8>, name: &[u8]) {
    if is_identifier(name) && !is_keyword(name) {
        out.extend_from_slice(name);
    } else {
        write_string(out, name);
    }
}

/// Whether a word is a keyword that cannot be a name. `or` can.
fn is_keyword(word: &[u8]) -> bool {
    matches!(
        word,
        b"if" | b"then" | b"else" | b"assert" | b"with" | b"let" | b"in" | b"rec" | b"inherit"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: fn(&mut Vec<u8>, &[u8]), text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, text);
        out
    }

    #[test]
    fn strings() {
        // Expected values are from C++ Nix 2.34.8.
        for (text, literal) in [
            (
                &b"a<>&\"'\n\t\r x $ ${ \\"[..],
                &b"\"a<>&\\\"'\\n\\t\\r x $ \\${ \\\\\""[..],
            ),
            (b"\x01\x1b\x7f\xff\xc3\xa9", b"\"\x01\x1b\x7f\xff\xc3\xa9\""),
            (b"$", b"\"$\""),
            (b"$$", b"\"$$\""),
            (b"$${", b"\"$\\${\""),
            (b"", b"\"\""),
        ] {
            assert_eq!(written(write_string, text), literal);
        }
    }

    #[test]
    fn names() {
        for plain in [
            "__curPos", "_a", "a'", "a-b", "null", "or", "rec_", "true", "A1",
        ] {
            assert_eq!(
                written(write_attribute_name, plain.as_bytes()),
                plain.as_bytes()
            );
        }
        for quoted in [
            "", "1a", "a b", "if", "then", "else", "assert", "with", "let", "in", "rec", "inherit",
            "é", "-a", "'a", "a.b",
        ] {
            let expected = format!("\"{quoted}\"");
            assert_eq!(
                written(write_attribute_name, quoted.as_bytes()),
                expected.as_bytes()
            );
        }
        assert_eq!(written(write_attribute_name, b"a${b"), b"\"a\\${b\"");
    }
}
