//! What a client is sent.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tvix_worker_protocol::{Context, LogMessage};

/// Bytes that are gathered before they are sent.
const GATHERED: usize = 32 * 1024;

pub(crate) struct Output<W> {
    writer: W,
    out: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Output<W> {
    pub fn new(writer: W) -> Self {
        let out = Vec::new();
        Self { writer, out }
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn message(&mut self, context: &Context, message: &LogMessage) -> io::Result<()> {
        let encoded = context.encode(message, &mut self.out);
        encoded.map_err(io::Error::other)
    }

    /// Whether more may be gathered.
    pub fn has_room(&self) -> bool {
        self.out.len() < GATHERED
    }

    /// Sends a piece of a stream.
    pub async fn stream(&mut self, chunk: Bytes) -> io::Result<()> {
        if self.out.len() + chunk.len() <= GATHERED {
            self.bytes(&chunk);
            return Ok(());
        }
        self.send().await?;
        self.writer.write_all(&chunk).await
    }

    async fn send(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.writer.write_all(&self.out).await?;
            self.out.clear();
            self.out.shrink_to(GATHERED);
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        self.send().await?;
        self.writer.flush().await
    }
}
