//! Splitting a log into lines.

use bytes::{Bytes, BytesMut};

/// A line of a log, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The bytes, without the line break.
    pub text: Bytes,
    /// Whether no line break follows: the line is longer than the limit and goes on in the next
    /// piece, or the log ended within it.
    pub partial: bool,
}

/// Splits a log into lines, with a limit on the length of a line.
#[derive(Debug)]
pub struct LineBuffer {
    buffer: BytesMut,
    /// Length of the prefix that is known to hold no line break.
    searched: usize,
    limit: usize,
}

impl LineBuffer {
    /// Lines longer than `limit` bytes are returned in pieces of that size.
    pub fn new(limit: usize) -> Self {
        LineBuffer {
            buffer: BytesMut::new(),
            searched: 0,
            limit: limit.max(1),
        }
    }

    /// Appends bytes of the log. Take the lines out before appending more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, or a piece of a line that is longer than the limit.
    pub fn next_line(&mut self) -> Option<Line> {
        let window = self.buffer.len().min(self.limit + 1);
        let unsearched = self.buffer.get(self.searched..window)?;
        if let Some(at) = memchr::memchr(b'\n', unsearched) {
            let mut line = self.buffer.split_to(self.searched + at + 1);
            line.truncate(line.len() - 1);
            self.searched = 0;
            return Some(Line {
                text: line.freeze(),
                partial: false,
            });
        }
        if self.buffer.len() > self.limit {
            self.searched = 0;
            return Some(Line {
                text: self.buffer.split_to(self.limit).freeze(),
                partial: true,
            });
        }
        self.searched = self.buffer.len();
        None
    }

    /// The bytes after the last line break, once the log has ended.
    pub fn finish(&mut self) -> Option<Line> {
        self.searched = 0;
        let text = self.buffer.split().freeze();
        (!text.is_empty()).then_some(Line {
            text,
            partial: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: usize, pieces: &[&str]) -> Vec<String> {
        let mut buffer = LineBuffer::new(limit);
        let mut found = Vec::new();
        for piece in pieces {
            buffer.push(piece.as_bytes());
            found.extend(std::iter::from_fn(|| buffer.next_line()));
        }
        found.extend(buffer.finish());
        found
            .into_iter()
            .map(|line| {
                let text = String::from_utf8(line.text.to_vec()).unwrap();
                if line.partial { text + "…" } else { text }
            })
            .collect()
    }

    #[test]
    fn pieces_join_and_lines_split() {
        assert_eq!(lines(80, &["a\nb", "c\n", "\nd"]), ["a", "bc", "", "d…"]);
        assert!(lines(80, &[]).is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(lines(4, &["abcdefghij\nk"]), ["abcd…", "efgh…", "ij", "k…"]);
        assert_eq!(lines(4, &["abcd\n"]), ["abcd"]);
    }
}
