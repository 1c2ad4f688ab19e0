//! Listings of store paths (`<hash>.ls`), generated from their NARs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use nix_compat::nar::Listing;
use nix_compat::nar::r#async::Reader;
use tokio_util::io::StreamReader;
use tvix_store_api::NarStream;

/// Size of the chunks that are sent, in bytes.
const CHUNK: usize = 1 << 16;

/// The bytes of the listing that are not sent yet.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Pending {
    fn take(&self, at_least: usize) -> Option<Bytes> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = bytes.len() >= at_least && !bytes.is_empty();
        enough.then(|| std::mem::take(&mut *bytes).into())
    }
}

impl Write for Pending {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The listing of a NAR as JSON, in chunks. A NAR that is malformed or incomplete is an error.
pub(crate) fn of_nar(nar: NarStream) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let pending = Pending::default();
    let listing = Listing::new(pending.clone());
    let nar = nar.map_err(io::Error::other).boxed();
    let reader = Reader::new(StreamReader::new(nar));
    stream::unfold(Some((reader, listing, pending)), |state| async move {
        let (mut reader, mut listing, pending) = state?;
        loop {
            let written = match reader.next_event().await {
                Ok(Some(event)) => listing.event(event),
                Ok(None) => return pending.take(1).map(|rest| (Ok(rest), None)),
                Err(error) => Err(io::Error::other(error)),
            };
            if let Err(error) = written {
                return Some((Err(error), None));
            }
            if let Some(chunk) = pending.take(CHUNK) {
                return Some((Ok(chunk), Some((reader, listing, pending))));
            }
        }
    })
}
