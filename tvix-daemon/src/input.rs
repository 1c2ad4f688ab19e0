//! What a client sends, in pieces.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tvix_worker_protocol::{Context, Decoder, FrameDecoder, Framed, ProtocolError, Request};

use crate::failure::Failure;

/// Size of a read while a client is idle, and while it sends streams.
const FIRST_READ: usize = 4 * 1024;
const LARGE_READ: usize = 64 * 1024;

/// Bytes that are read ahead while an operation runs. More are left to the kernel.
const AHEAD: usize = 64 * 1024;

/// How often a connection whose input has ended is looked at.
const PROBE: Duration = Duration::from_millis(200);

/// Whether the other end is gone for good, although only the end of its input is known: a client may have closed its
/// sending half, and still read.
pub(crate) type Probe = Arc<dyn Fn() -> bool + Send + Sync>;

/// The bytes of a client. Any future of it may be dropped; nothing is lost.
pub(crate) struct Input<R> {
    reader: R,
    buffer: BytesMut,
    ended: bool,
    probe: Option<Probe>,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub fn new(reader: R, probe: Option<Probe>) -> Self {
        Self {
            reader,
            buffer: BytesMut::new(),
            ended: false,
            probe,
        }
    }

    /// Reads more bytes; false at the end of the input.
    async fn more(&mut self, size: usize) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.buffer.reserve(size);
        let read = self.reader.read_buf(&mut self.buffer).await;
        match read {
            Ok(0) => self.ended = true,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => self.ended = true,
            read => drop(read?),
        }
        Ok(!self.ended)
    }

    /// The bytes so far, after waiting for at least one; `None` at the end of the input.
    pub async fn available(&mut self) -> io::Result<Option<&[u8]>> {
        if self.buffer.is_empty() {
            if self.buffer.capacity() > LARGE_READ {
                self.buffer = BytesMut::new();
            }
            if !self.more(FIRST_READ).await? {
                return Ok(None);
            }
        }
        Ok(Some(&self.buffer))
    }

    pub fn take(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
    }

    /// The next request; `None` if the client has closed the connection in between.
    pub async fn request(
        &mut self,
        decoder: &mut Decoder<Request>,
        context: &Context,
    ) -> Result<Option<Request>, Failure> {
        loop {
            let Some(bytes) = self.available().await? else {
                return match decoder.is_within_message() {
                    true => Err(ProtocolError::Truncated.into()),
                    false => Ok(None),
                };
            };
            let (taken, request) = decoder.feed(bytes, context)?;
            self.take(taken);
            if let Some(request) = request {
                return Ok(Some(request));
            }
        }
    }

    /// Waits until the client is gone. Requests that it sends meanwhile are kept for later.
    pub async fn gone(&mut self) {
        while self.buffer.len() < AHEAD {
            match self.more(FIRST_READ).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => return,
            }
        }
        match &self.probe {
            // With requests in the buffer it is not known; the next answer will show it.
            _ if !self.ended => std::future::pending().await,
            None => {}
            Some(probe) => {
                while !probe() {
                    tokio::time::sleep(PROBE).await;
                }
            }
        }
    }
}

/// The framed stream after a request.
pub(crate) struct Frames<'a, R> {
    input: &'a mut Input<R>,
    decoder: FrameDecoder,
}

impl<'a, R: AsyncRead + Unpin> Frames<'a, R> {
    pub fn new(input: &'a mut Input<R>) -> Self {
        let decoder = FrameDecoder::new();
        Self { input, decoder }
    }

    /// The next piece; `None` at the end of the stream.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.decoder.is_ended() {
                return Ok(None);
            }
            if self.input.buffer.is_empty() && !self.input.more(LARGE_READ).await? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let buffer = &mut self.input.buffer;
            let (taken, framed) = self.decoder.feed(buffer);
            let piece = match framed {
                Framed::Piece(piece) => piece.len(),
                Framed::NeedMore | Framed::End => 0,
            };
            // The piece is at the end of what was taken.
            buffer.advance(taken - piece);
            if piece > 0 {
                return Ok(Some(buffer.split_to(piece).freeze()));
            }
        }
    }

    /// Reads up to the end of the stream.
    pub async fn drain(&mut self) -> io::Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}
