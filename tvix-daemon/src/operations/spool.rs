//! Contents that arrive before their hash is known: in memory while they are small, then in a temporary file.

use std::io::{self, SeekFrom};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

/// Contents up to this size, in bytes, stay in memory.
pub(super) const SMALL: usize = 1 << 20;

const READ: usize = 64 * 1024;

/// Contents of any size.
pub(super) enum Spool {
    Memory(Vec<u8>),
    File { file: File, len: u64 },
}

impl Spool {
    pub fn new() -> Self {
        Self::Memory(Vec::new())
    }

    pub fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    pub async fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) if bytes.len() + chunk.len() <= SMALL => {
                bytes.extend_from_slice(chunk);
            }
            Self::Memory(bytes) => {
                let file = tokio::task::spawn_blocking(tempfile::tempfile).await;
                let mut file = File::from_std(file.map_err(io::Error::other)??);
                file.write_all(bytes).await?;
                file.write_all(chunk).await?;
                let len = (bytes.len() + chunk.len()) as u64;
                *self = Self::File { file, len };
            }
            Self::File { file, len } => {
                file.write_all(chunk).await?;
                *len += chunk.len() as u64;
            }
        }
        Ok(())
    }

    /// The contents from their beginning.
    pub async fn read(&mut self) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        match self {
            Self::Memory(bytes) => {
                let bytes = Bytes::from(bytes.clone());
                Ok(stream::iter([Ok(bytes)]).boxed())
            }
            Self::File { file, .. } => {
                file.flush().await?;
                let mut file = file.try_clone().await?;
                file.seek(SeekFrom::Start(0)).await?;
                let chunks = stream::try_unfold(file, |mut file| async move {
                    let mut chunk = Vec::with_capacity(READ);
                    let read = file.read_buf(&mut chunk).await?;
                    Ok((read > 0).then(|| (chunk.into(), file)))
                });
                Ok(chunks.boxed())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn small_and_large_contents() {
        for chunks in [0, 3, 40] {
            let mut spool = Spool::new();
            let chunk = vec![7; 50_000];
            for _ in 0..chunks {
                spool.write(&chunk).await.unwrap();
            }
            assert_eq!(spool.len(), chunks * 50_000);
            for _ in 0..2 {
                let read: Vec<Bytes> = spool.read().await.unwrap().try_collect().await.unwrap();
                assert_eq!(read.concat().len() as u64, spool.len());
            }
        }
    }
}
