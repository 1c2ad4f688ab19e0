//! The layout of `builtins.toXML` and `nix-instantiate --xml`.

/// Writes elements, with an indentation of two spaces per level.
#[derive(Debug, Default)]
pub struct XmlWriter {
    out: Vec<u8>,
    open: Vec<&'static str>,
}

/// Name and value of an XML attribute.
pub type XmlAttribute<'a> = (&'static str, &'a [u8]);

impl XmlWriter {
    /// Starts a document.
    pub fn new() -> Self {
        Self {
            out: b"<?xml version='1.0' encoding='utf-8'?>\n".to_vec(),
            open: Vec::new(),
        }
    }

    /// Opens an element. Attributes must be sorted by name.
    pub fn open(&mut self, name: &'static str, attributes: &[XmlAttribute<'_>]) {
        self.tag(name, attributes);
        self.out.extend_from_slice(b">\n");
        self.open.push(name);
    }

    /// Writes an empty element. Attributes must be sorted by name.
    pub fn empty(&mut self, name: &'static str, attributes: &[XmlAttribute<'_>]) {
        self.tag(name, attributes);
        self.out.extend_from_slice(b" />\n");
    }

    /// Closes the innermost open element, if there is one.
    pub fn close(&mut self) {
        let Some(name) = self.open.pop() else {
            return;
        };
        self.indent();
        self.out.extend_from_slice(b"</");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b">\n");
    }

    /// Number of open elements.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// Number of bytes written so far.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Closes all open elements and returns the document.
    pub fn finish(mut self) -> Vec<u8> {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }

    fn indent(&mut self) {
        let length = self.out.len() + 2 * self.open.len();
        self.out.resize(length, b' ');
    }

    fn tag(&mut self, name: &str, attributes: &[XmlAttribute<'_>]) {
        debug_assert!(attributes.is_sorted_by_key(|(name, _)| *name));
        self.indent();
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        for (name, value) in attributes {
            self.out.push(b' ');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"=\"");
            escape(&mut self.out, value);
            self.out.push(b'"');
        }
    }
}

/// Writes the value of an attribute. The newline is the only escaped white space.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    const fn escaped(byte: u8) -> &'static [u8] {
        match byte {
            b'"' => b"&quot;",
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'&' => b"&amp;",
            b'\n' => b"&#xA;",
            _ => b"",
        }
    }
    let mut rest = value;
    // Runs without escaped bytes are copied as a whole.
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'<' | b'>' | b'&' | b'\n'))
    {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(escaped(rest[at]));
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document() {
        let mut xml = XmlWriter::new();
        xml.open("expr", &[]);
        xml.open("attrs", &[]);
        xml.open(
            "attr",
            &[("column", b"3"), ("line", b"1"), ("name", b"a<\n")],
        );
        xml.empty("string", &[("value", b"<>&\"'\t\r x")]);
        xml.close();
        xml.empty("null", &[]);
        assert_eq!(xml.depth(), 2);
        xml.close();
        let expected = "<?xml version='1.0' encoding='utf-8'?>\n\
            <expr>\n  <attrs>\n    <attr column=\"3\" line=\"1\" name=\"a&lt;&#xA;\">\n      \
            <string value=\"&lt;&gt;&amp;&quot;'\t\r x\" />\n    </attr>\n    <null />\n  </attrs>\n</expr>\n";
        assert_eq!(String::from_utf8(xml.finish()).unwrap(), expected);
    }
}
