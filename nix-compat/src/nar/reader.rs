//! The blocking reader.

use std::io::{self, BufRead, BufReader, Read};

use super::BUFFER_SIZE;
use super::error::NarError;
use super::parser::{Event, Parser, RawEvent};

/// Reads an archive from a blocking stream, event by event.
///
/// It takes a [`BufRead`], so that contents are slices of the stream's own buffer, and so that the
/// bytes after the archive (in a protocol, an export) stay in the stream. [`Reader::buffered`] is
/// for streams that hold nothing but the archive.
///
/// After [`Event::RegularStart`] a caller may continue with [`next_event`](Self::next_event), read
/// the file through [`contents`](Self::contents), or [`skip`](Self::skip) it. All three perform the
/// same checks.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    parser: Parser,
    /// Number of bytes in the stream's buffer that the latest event uses. They are consumed by the
    /// next call, because the event may borrow them.
    pending: usize,
}

impl<R: Read> Reader<BufReader<R>> {
    /// Reads from an unbuffered stream through a buffer of [`BUFFER_SIZE`] bytes. It reads ahead,
    /// so bytes after the archive may be lost.
    pub fn buffered(inner: R) -> Self {
        Self::new(BufReader::with_capacity(BUFFER_SIZE, inner))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads an archive from the stream's current position.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            parser: Parser::new(),
            pending: 0,
        }
    }

    /// The next event; `None` after [`Event::End`].
    ///
    /// # Errors
    ///
    /// [`NarError::Malformed`], which every later call repeats; [`NarError::Io`] if the stream
    /// fails, after which the call may be repeated.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, NarError> {
        let Some(raw) = self.next_raw()? else {
            return Ok(None);
        };
        let input = match raw {
            // The buffer is not empty, so this does not read.
            RawEvent::Contents(_) => self.inner.fill_buf().map_err(NarError::Io)?,
            _ => &[],
        };
        Ok(Some(self.parser.resolve(raw, input)))
    }

    /// Reads and checks the remainder of the innermost open node or directory. The position
    /// afterwards is
    ///
    /// - after [`Event::RegularStart`] or [`Event::Contents`]: behind [`Event::RegularEnd`];
    /// - after [`Event::DirectoryStart`], [`Event::DirectoryEnd`], [`Event::RegularEnd`] or
    ///   [`Event::Symlink`]: behind the [`Event::DirectoryEnd`] of the innermost open directory, or
    ///   behind [`Event::End`] if no directory is open;
    /// - after [`Event::Entry`]: behind the entry's node;
    /// - at the start: behind [`Event::End`].
    pub fn skip(&mut self) -> Result<(), NarError> {
        let skip = self.parser.skip();
        while let Some(raw) = self.next_raw()? {
            if skip.is_over(&raw, &self.parser) {
                break;
            }
        }
        Ok(())
    }

    /// The contents of the file of the latest [`Event::RegularStart`] that have not been read yet;
    /// empty outside a file.
    ///
    /// The stream ends with the contents. [`Event::RegularEnd`], and contents that are unread when
    /// the stream is dropped, are left for [`next_event`](Self::next_event).
    pub fn contents(&mut self) -> Contents<'_, R> {
        Contents { reader: self }
    }

    /// Reads and checks the remainder of the archive, checks that the stream ends there, and
    /// returns the stream.
    ///
    /// # Errors
    ///
    /// [`Violation::TrailingBytes`](super::Violation::TrailingBytes) if the stream continues, and the
    /// errors of [`next_event`](Self::next_event).
    pub fn finish(mut self) -> Result<R, NarError> {
        while self.next_raw()?.is_some() {}
        if self.fill()?.is_empty() {
            return Ok(self.inner);
        }
        Err(self.parser.trailing())
    }

    /// Returns the stream. After [`Event::End`] its position is the first byte after the archive.
    pub fn into_inner(mut self) -> R {
        self.inner.consume(self.pending);
        self.inner
    }

    /// Number of bytes of the archive that have been read.
    pub fn offset(&self) -> u64 {
        self.parser.offset()
    }

    /// Number of open directories.
    pub fn depth(&self) -> usize {
        self.parser.depth()
    }

    /// Path of the current node, relative to the root and `/`-separated; empty for the root itself.
    pub fn path(&self) -> bstr::BString {
        self.parser.path()
    }

    fn fill(&mut self) -> Result<&[u8], NarError> {
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NarError::Io(error)),
            }
        }
        // Called a second time for the borrow checker. This call does not read.
        self.inner.fill_buf().map_err(NarError::Io)
    }

    fn next_raw(&mut self) -> Result<Option<RawEvent>, NarError> {
        self.inner.consume(std::mem::take(&mut self.pending));
        // Read input only when it is needed: the stream may be a connection whose peer sends
        // nothing more before it receives an answer.
        if let (_, Some(raw)) = self.parser.advance(&[])? {
            return Ok(Some(raw));
        }
        if self.parser.is_finished() {
            return Ok(None);
        }
        loop {
            let input = loop {
                match self.inner.fill_buf() {
                    Ok(input) => break input,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(NarError::Io(error)),
                }
            };
            if input.is_empty() {
                self.parser.finish()?;
            }
            let (consumed, raw) = self.parser.advance(input)?;
            match raw {
                Some(RawEvent::Contents(_)) => {
                    self.pending = consumed;
                    return Ok(raw);
                }
                Some(_) => {
                    self.inner.consume(consumed);
                    return Ok(raw);
                }
                None => self.inner.consume(consumed),
            }
        }
    }
}

/// The contents of a file as a stream; see [`Reader::contents`].
///
/// Errors are [`io::Error`]s that wrap a [`NarError`].
#[derive(Debug)]
pub struct Contents<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R: BufRead> Contents<'_, R> {
    /// Number of bytes that have not been read yet.
    pub fn remaining(&self) -> u64 {
        // Pending bytes belong to an event that was returned, so they count as read.
        self.reader.parser.contents_remaining()
    }
}

impl<R: BufRead> Read for Contents<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let remaining = self.remaining();
        if remaining == 0 || buf.is_empty() {
            return Ok(0);
        }
        let reader = &mut *self.reader;
        reader.inner.consume(std::mem::take(&mut reader.pending));
        let limit = usize::try_from(remaining).unwrap_or(usize::MAX);
        let limit = limit.min(buf.len());
        // Read directly into the caller's buffer, without a second copy.
        let read = reader.inner.read(&mut buf[..limit])?;
        if read == 0 {
            reader.parser.finish()?;
        }
        reader.parser.advance(&buf[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.directory_start().unwrap();
        writer.entry(b"a").unwrap();
        writer.regular(false, b"hello").unwrap();
        writer.entry(b"b").unwrap();
        writer.directory_start().unwrap();
        writer.entry(b"c").unwrap();
        writer.symlink(b"../a").unwrap();
        writer.directory_end().unwrap();
        writer.entry(b"d").unwrap();
        writer.regular(true, b"").unwrap();
        writer.directory_end().unwrap();
        writer.finish().unwrap()
    }

    fn up_to(reader: &mut Reader<&[u8]>, name: &str) {
        loop {
            match reader.next_event().unwrap().unwrap() {
                Event::Entry { name: found } if found == name => return,
                _ => {}
            }
        }
    }

    #[test]
    fn skips_a_node_after_its_entry() {
        for (skipped, next) in [("a", "b"), ("b", "d")] {
            let nar = sample();
            let mut reader = Reader::new(&nar[..]);
            up_to(&mut reader, skipped);
            reader.skip().unwrap();
            let name = next.into();
            assert_eq!(reader.next_event().unwrap(), Some(Event::Entry { name }));
        }
    }

    #[test]
    fn skips_the_rest_of_a_directory() {
        let nar = sample();
        let mut reader = Reader::new(&nar[..]);
        up_to(&mut reader, "b");
        assert_eq!(reader.next_event().unwrap(), Some(Event::DirectoryStart));
        reader.skip().unwrap();
        let name = "d".into();
        assert_eq!(reader.next_event().unwrap(), Some(Event::Entry { name }));
        reader.skip().unwrap();
        assert_eq!(reader.next_event().unwrap(), Some(Event::DirectoryEnd));
        reader.skip().unwrap();
        assert_eq!(reader.next_event().unwrap(), None);
    }

    #[test]
    fn skips_the_rest_of_a_file() {
        let nar = sample();
        let mut reader = Reader::new(&nar[..]);
        up_to(&mut reader, "a");
        reader.next_event().unwrap();
        let mut two = [0; 2];
        reader.contents().read_exact(&mut two).unwrap();
        assert_eq!(&two, b"he");
        assert_eq!(reader.contents().remaining(), 3);
        assert_eq!(reader.next_event().unwrap(), Some(Event::Contents(b"llo")));
        reader.skip().unwrap();
        let name = "b".into();
        assert_eq!(reader.next_event().unwrap(), Some(Event::Entry { name }));
    }

    #[test]
    fn leaves_what_follows_in_the_stream() {
        let mut nar = sample();
        nar.extend_from_slice(b"rest");
        let mut reader = Reader::new(&nar[..]);
        reader.skip().unwrap();
        assert_eq!(reader.into_inner(), b"rest");
        let error = Reader::new(&nar[..]).finish().unwrap_err();
        assert_eq!(
            error.violation(),
            Some(&super::super::Violation::TrailingBytes)
        );
    }

    #[test]
    fn contents_view_reports_truncation() {
        let nar = sample();
        let cut = nar.windows(5).position(|w| w == b"hello").unwrap() + 2;
        let mut reader = Reader::new(&nar[..cut]);
        up_to(&mut reader, "a");
        reader.next_event().unwrap();
        let mut all = Vec::new();
        let error = reader.contents().read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(all, b"he");
    }
}
