//! Outputs as streams.

use std::path::PathBuf;
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use tvix_store_api::{NarStream, StoreError, writer_stream};

use tvix_sandbox::Scratch;

/// The tree at `file`, with the store path `path`, as a NAR. It is packed on a thread that may
/// block, once the stream is polled. `scratch` contains the tree and lives as long as the stream.
pub(super) fn stream_tree(file: PathBuf, path: StorePath, scratch: Arc<Scratch>) -> NarStream {
    let pack = move |writer: &mut dyn std::io::Write| {
        let result = tvix_tree::dump_path(&file, writer);
        drop(scratch);
        result.map_err(|error| StoreError::Source {
            file,
            path,
            source: error.into(),
        })
    };
    writer_stream(pack, |lost| {
        std::panic::resume_unwind(Box::new(lost.to_string()))
    })
}
