//! Replacing hash parts in a stream.

use std::io::{self, Write};

use nix_compat::store_path::HASH_PART_LEN;

use super::{HashRewrite, rewrite_in_place};

/// Replaces hash parts in the bytes that are written through it. [`finish`](Self::finish) writes
/// the last bytes.
pub(crate) struct RewritingWriter<'a, W> {
    inner: W,
    rewrites: &'a [HashRewrite],
    /// Bytes that were not passed on yet: at least the end of the input, where a hash part may
    /// begin.
    pending: Vec<u8>,
}

/// Number of bytes that are collected before they are searched.
const CHUNK: usize = 128 * 1024;

impl<'a, W: Write> RewritingWriter<'a, W> {
    pub fn new(inner: W, rewrites: &'a [HashRewrite]) -> Self {
        Self {
            inner,
            rewrites,
            pending: Vec::new(),
        }
    }

    pub fn finish(mut self) -> io::Result<W> {
        rewrite_in_place(&mut self.pending, self.rewrites);
        self.inner.write_all(&self.pending)?;
        Ok(self.inner)
    }
}

impl<W: Write> Write for RewritingWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.rewrites.is_empty() {
            return self.inner.write(bytes);
        }
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            rewrite_in_place(&mut self.pending, self.rewrites);
            let done = self.pending.len() - (HASH_PART_LEN - 1);
            self.inner.write_all(&self.pending[..done])?;
            self.pending.drain(..done);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix_compat::store_path::StorePath;

    #[test]
    fn rewrites_across_chunks() {
        let path = |seed| StorePath::new([seed; 20], "x".parse().unwrap());
        let rewrites = [
            HashRewrite::new(&path(1), &path(2)),
            HashRewrite::new(&path(3), &path(4)),
        ];
        let mut text = vec![b'.'; 3 * CHUNK];
        let mut wanted = text.clone();
        for at in [0, CHUNK - 31, CHUNK + 100, 2 * CHUNK + 5, 3 * CHUNK - 32] {
            let (from, to) = if at % 2 == 0 { (1, 2) } else { (3, 4) };
            text[at..at + 32].copy_from_slice(path(from).hash_part().as_bytes());
            wanted[at..at + 32].copy_from_slice(path(to).hash_part().as_bytes());
        }
        for step in [7, 4096, 5 * CHUNK] {
            let mut writer = RewritingWriter::new(Vec::new(), &rewrites);
            for chunk in text.chunks(step) {
                writer.write_all(chunk).unwrap();
            }
            assert!(writer.finish().unwrap() == wanted, "{step}");
        }
    }
}
