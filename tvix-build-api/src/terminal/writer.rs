//! A writer for terminals.

use std::io::{self, Write};

use memchr::memrchr;

use super::printable_bytes;

/// A longer line is written in pieces of this size, in bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// Passes the lines that are written to it through [`printable`](super::printable).
///
/// Incomplete lines are kept until they end; [`flush`](Write::flush) writes them as they are.
/// Dropping the writer does not flush.
#[derive(Debug)]
pub struct PrintableWriter<W> {
    inner: W,
    line: Vec<u8>,
}

impl<W: Write> PrintableWriter<W> {
    /// A writer in front of `inner`.
    pub const fn new(inner: W) -> Self {
        Self {
            inner,
            line: Vec::new(),
        }
    }

    fn write_first(&mut self, len: usize) -> io::Result<()> {
        let text = printable_bytes(&self.line[..len]);
        self.inner.write_all(text.as_bytes())?;
        self.line.drain(..len);
        Ok(())
    }
}

impl<W: Write> Write for PrintableWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = &bytes[..bytes.len().min(LINE_LIMIT)];
        self.line.extend_from_slice(taken);
        if let Some(at) = memrchr(b'\n', &self.line) {
            self.write_first(at + 1)?;
        }
        while self.line.len() > LINE_LIMIT {
            self.write_first(whole_chars(&self.line[..LINE_LIMIT]))?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_first(self.line.len())?;
        self.inner.flush()
    }
}

/// The number of bytes before a character that is incomplete at the end.
fn whole_chars(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    let last = bytes[start..].iter().rposition(|byte| *byte >= 0xc0);
    match last.map(|at| start + at) {
        Some(at) if at > 0 && std::str::from_utf8(&bytes[at..]).is_err() => at,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(pieces: &[&[u8]]) -> String {
        let mut writer = PrintableWriter::new(Vec::new());
        for piece in pieces {
            writer.write_all(piece).unwrap();
        }
        writer.flush().unwrap();
        String::from_utf8(writer.inner).unwrap()
    }

    #[test]
    fn sequences_and_characters_in_pieces() {
        assert_eq!(written(&[b"a\x1b", b"[2J", b"b\xc3", b"\xa9\n"]), "abé\n");
        assert_eq!(written(&[b"\x1b]0;ti", b"tle\x07x"]), "x");
        assert_eq!(
            written(&[b"\x1b[31mred\nplain"]),
            "\x1b[31mred\x1b[0m\nplain"
        );
        assert_eq!(written(&[]), "");
    }

    #[test]
    fn long_lines_go_in_pieces_of_whole_characters() {
        let line = "é".repeat(LINE_LIMIT);
        assert_eq!(written(&[b"a", line.as_bytes()]), format!("a{line}"));
    }
}
