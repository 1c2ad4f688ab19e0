//! A log as lines.

use bytes::{Bytes, BytesMut};

/// Cuts a log into lines without growing with a line that never ends.
#[derive(Debug)]
pub struct LineBuffer {
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line break.
    searched: usize,
    limit: usize,
}

impl LineBuffer {
    /// Lines longer than `limit` bytes are handed out in pieces of that size.
    pub fn new(limit: usize) -> Self {
        LineBuffer {
            buffer: BytesMut::new(),
            searched: 0,
            limit: limit.max(1),
        }
    }

    /// Adds a piece of log. Take the lines out before adding the next.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, without its line break.
    pub fn next_line(&mut self) -> Option<Bytes> {
        let window = self.buffer.len().min(self.limit + 1);
        let unsearched = self.buffer.get(self.searched..window)?;
        if let Some(at) = memchr::memchr(b'\n', unsearched) {
            let mut line = self.buffer.split_to(self.searched + at + 1);
            line.truncate(line.len() - 1);
            self.searched = 0;
            return Some(line.freeze());
        }
        if self.buffer.len() > self.limit {
            self.searched = 0;
            return Some(self.buffer.split_to(self.limit).freeze());
        }
        self.searched = self.buffer.len();
        None
    }

    /// What follows the last line break, once the log has ended.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.searched = 0;
        let rest = self.buffer.split().freeze();
        (!rest.is_empty()).then_some(rest)
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
            .map(|line| String::from_utf8(line.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn pieces_join_and_lines_split() {
        assert_eq!(lines(80, &["a\nb", "c\n", "\nd"]), ["a", "bc", "", "d"]);
        assert!(lines(80, &[]).is_empty());
    }

    #[test]
    fn a_line_without_end_is_cut() {
        assert_eq!(lines(4, &["abcdefghij\nk"]), ["abcd", "efgh", "ij", "k"]);
        assert_eq!(lines(4, &["abcd\n"]), ["abcd"]);
    }
}
