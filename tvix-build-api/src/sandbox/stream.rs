//! Outputs as streams.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::store_path::StorePath;
use tokio::sync::mpsc;
use tvix_store_api::{NarStream, StoreError};

use tvix_sandbox::Scratch;

/// Capacity of the channel between the packing thread and the stream, in chunks.
const CHUNKS_IN_FLIGHT: usize = 8;

/// The tree at `file`, with the store path `path`, as a NAR. It is packed on a thread that may
/// block, once the stream is polled. `scratch` contains the tree and lives as long as the stream.
pub(super) fn stream_tree(file: PathBuf, path: StorePath, scratch: Arc<Scratch>) -> NarStream {
    let started = async move {
        let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let packing = tokio::task::spawn_blocking(move || {
            let result = tvix_tree::dump_path(&file, ChunkWriter(sender));
            drop(scratch);
            result.map_err(|error| StoreError::Source {
                file,
                path,
                source: error.into(),
            })
        });
        let chunks = stream::unfold(receiver, |mut receiver| async move {
            let chunk = receiver.recv().await?;
            Some((Ok(chunk), receiver))
        });
        // The chunks, then the result of packing.
        let end = stream::once(packing).filter_map(|ended| async move {
            match ended {
                Ok(result) => result.err().map(Err),
                Err(lost) => std::panic::resume_unwind(Box::new(lost.to_string())),
            }
        });
        chunks.chain(end)
    };
    stream::once(started).flatten().boxed()
}

/// Sends the bytes that are written to it as chunks. Writing fails once the receiver is dropped.
struct ChunkWriter(mpsc::Sender<Bytes>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
