//! Reader and writer over [`tokio::io`]. They need no runtime.
//!
//! They follow the same rules as the blocking ones, because they drive the same [`Parser`] and
//! [`Encoder`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf,
};

use super::error::NarError;
use super::parser::{Event, Parser, RawEvent};
use super::{BUFFER_SIZE, Encoder};

/// Reads an archive from an asynchronous stream, event by event.
///
/// This is the counterpart of [`nar::Reader`](super::Reader), which documents the details.
///
/// # Cancellation
///
/// Every method except [`finish`](Self::finish) is safe to cancel (to drop its future) and to call
/// again: bytes that were read are kept in the reader, and an event is removed only when it is
/// returned. `finish` takes the reader by value.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    parser: Parser,
    /// As in the blocking reader.
    pending: usize,
}

impl<R: AsyncRead + Unpin> Reader<BufReader<R>> {
    /// Reads from an unbuffered stream through a buffer of [`BUFFER_SIZE`] bytes. It reads ahead,
    /// so bytes after the archive may be lost.
    pub fn buffered(inner: R) -> Self {
        Self::new(BufReader::with_capacity(BUFFER_SIZE, inner))
    }
}

impl<R: AsyncBufRead + Unpin> Reader<R> {
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
    /// fails.
    pub async fn next_event(&mut self) -> Result<Option<Event<'_>>, NarError> {
        let Some(raw) = self.next_raw().await? else {
            return Ok(None);
        };
        let input = match raw {
            // Not cancelled here: the buffer is not empty, so this future is ready at once.
            RawEvent::Contents(_) => self.inner.fill_buf().await.map_err(NarError::Io)?,
            _ => &[],
        };
        Ok(Some(self.parser.resolve(raw, input)))
    }

    /// Reads and checks the remainder of the innermost open node or directory, like
    /// [`nar::Reader::skip`](super::Reader::skip).
    ///
    /// After a cancelled call, continue with [`next_event`](Self::next_event): another call of
    /// `skip` may skip a different remainder.
    pub async fn skip(&mut self) -> Result<(), NarError> {
        let skip = self.parser.skip();
        while let Some(raw) = self.next_raw().await? {
            if skip.is_over(&raw, &self.parser) {
                break;
            }
        }
        Ok(())
    }

    /// The contents of the file of the latest [`Event::RegularStart`], like
    /// [`nar::Reader::contents`](super::Reader::contents).
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
    pub async fn finish(mut self) -> Result<R, NarError> {
        while self.next_raw().await?.is_some() {}
        if self
            .inner
            .fill_buf()
            .await
            .map_err(NarError::Io)?
            .is_empty()
        {
            return Ok(self.inner);
        }
        Err(self.parser.trailing())
    }

    /// Returns the stream. After [`Event::End`] its position is the first byte after the archive.
    pub fn into_inner(mut self) -> R {
        Pin::new(&mut self.inner).consume(self.pending);
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

    async fn next_raw(&mut self) -> Result<Option<RawEvent>, NarError> {
        poll_fn(|cx| self.poll_raw(cx)).await
    }

    /// Reads the next event. Between two calls all state is in `self`, which makes every method
    /// safe to cancel.
    fn poll_raw(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<RawEvent>, NarError>> {
        Pin::new(&mut self.inner).consume(std::mem::take(&mut self.pending));
        if let (_, Some(raw)) = self.parser.advance(&[])? {
            return Poll::Ready(Ok(Some(raw)));
        }
        if self.parser.is_finished() {
            return Poll::Ready(Ok(None));
        }
        loop {
            let input =
                ready!(Pin::new(&mut self.inner).poll_fill_buf(cx)).map_err(NarError::Io)?;
            if input.is_empty() {
                self.parser.finish()?;
            }
            let (consumed, raw) = self.parser.advance(input)?;
            if let Some(RawEvent::Contents(_)) = raw {
                self.pending = consumed;
                return Poll::Ready(Ok(raw));
            }
            Pin::new(&mut self.inner).consume(consumed);
            if raw.is_some() {
                return Poll::Ready(Ok(raw));
            }
        }
    }
}

/// The contents of a file as a stream; see [`Reader::contents`].
#[derive(Debug)]
pub struct Contents<'a, R> {
    reader: &'a mut Reader<R>,
}

impl<R> Contents<'_, R> {
    /// Number of bytes that have not been read yet.
    pub fn remaining(&self) -> u64 {
        self.reader.parser.contents_remaining()
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Contents<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let reader = &mut *self.get_mut().reader;
        let remaining = reader.parser.contents_remaining();
        if remaining == 0 || buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut inner = Pin::new(&mut reader.inner);
        inner.as_mut().consume(std::mem::take(&mut reader.pending));
        let input = ready!(inner.as_mut().poll_fill_buf(cx))?;
        if input.is_empty() {
            reader.parser.finish()?;
        }
        let limit = usize::try_from(remaining).unwrap_or(usize::MAX);
        let len = limit.min(buf.remaining()).min(input.len());
        reader.parser.advance(&input[..len])?;
        buf.put_slice(&input[..len]);
        inner.consume(len);
        Poll::Ready(Ok(()))
    }
}

/// Writes an archive to an asynchronous stream.
///
/// This is the counterpart of [`nar::Writer`](super::Writer), which documents the details.
///
/// # Cancellation
///
/// A cancelled call (its future dropped) has no effect on the archive and may be repeated. The
/// exceptions are [`contents`](Self::contents), [`regular`](Self::regular), and
/// [`event`](Self::event) with contents: these may have written a part of their bytes, after which
/// the archive is unusable.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    encoder: Encoder,
    buffer: Vec<u8>,
    /// Number of bytes of `buffer` that have been written.
    written: usize,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes an archive from the stream's current position.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            encoder: Encoder::new(),
            buffer: Vec::new(),
            written: 0,
        }
    }

    /// Starts a directory.
    pub async fn directory_start(&mut self) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder.directory_start(&mut self.buffer)
    }

    /// Starts an entry of the innermost directory. Its node must follow. Names must be in strictly
    /// ascending order of their bytes.
    pub async fn entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder.entry(name, &mut self.buffer)
    }

    /// Ends the innermost directory.
    pub async fn directory_end(&mut self) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder.directory_end(&mut self.buffer)
    }

    /// Writes a symlink.
    pub async fn symlink(&mut self, target: &[u8]) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder.symlink(target, &mut self.buffer)
    }

    /// Writes a file with these contents.
    pub async fn regular(&mut self, executable: bool, contents: &[u8]) -> Result<(), NarError> {
        self.regular_start(executable, contents.len() as u64)
            .await?;
        self.contents(contents).await?;
        self.regular_end().await
    }

    /// Starts a file of `size` bytes.
    pub async fn regular_start(&mut self, executable: bool, size: u64) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder
            .regular_start(executable, size, &mut self.buffer)
    }

    /// Writes a piece, of any length, of the file's contents. Not safe to cancel.
    pub async fn contents(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        if bytes.len() < BUFFER_SIZE / 8 {
            self.make_room().await?;
            self.encoder.contents(bytes.len() as u64)?;
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.encoder.contents(bytes.len() as u64)?;
        self.flush_buffer().await?;
        self.inner.write_all(bytes).await.map_err(NarError::Io)
    }

    /// Ends a file, after all of its bytes have been written.
    pub async fn regular_end(&mut self) -> Result<(), NarError> {
        self.make_room().await?;
        self.encoder.regular_end(&mut self.buffer)
    }

    /// Writes an event.
    pub async fn event(&mut self, event: Event<'_>) -> Result<(), NarError> {
        if let Event::Contents(bytes) = event {
            return self.contents(bytes).await;
        }
        self.make_room().await?;
        self.encoder.event(event, &mut self.buffer)
    }

    /// Checks that the archive is complete, flushes the stream and returns it. The stream is not
    /// shut down.
    ///
    /// # Errors
    ///
    /// [`Violation::UnexpectedCall`](super::Violation::UnexpectedCall) if the archive is not complete.
    pub async fn finish(mut self) -> Result<W, NarError> {
        self.encoder.finish()?;
        self.flush_buffer().await?;
        self.inner.flush().await.map_err(NarError::Io)?;
        Ok(self.inner)
    }

    /// Makes room in the buffer. Called before the buffer grows, never afterwards, so that a
    /// cancelled call has no effect.
    async fn make_room(&mut self) -> Result<(), NarError> {
        if self.buffer.len() < BUFFER_SIZE / 2 {
            return Ok(());
        }
        self.flush_buffer().await
    }

    async fn flush_buffer(&mut self) -> Result<(), NarError> {
        while self.written < self.buffer.len() {
            // Not `write_all`, which loses the number of bytes written when it is cancelled.
            let rest = &self.buffer[self.written..];
            match self.inner.write(rest).await.map_err(NarError::Io)? {
                0 => return Err(NarError::Io(io::ErrorKind::WriteZero.into())),
                len => self.written += len,
            }
        }
        self.buffer.clear();
        self.written = 0;
        Ok(())
    }
}
