//! Build logs (`log/<name>.drv`), from Nix's log directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use nix_compat::store_path::StorePath;
use tokio::sync::mpsc;
use tvix_http::decode::{Coding, Decoder, Limits};

/// Size of a read, in bytes.
const CHUNK: usize = 1 << 16;
/// Number of chunks that are queued for a slow client.
const WAITING: usize = 4;
/// Size limit of a served log after decompression, in bytes.
const MOST_LOG: u64 = 1 << 30;

/// An open log.
pub(crate) struct Log(Decoder<File>);

/// Opens the log of a derivation, decompressing it if Nix has compressed it. Blocks.
///
/// # Errors
///
/// [`io::ErrorKind::NotFound`] if there is none.
pub(crate) fn open(directory: &Path, drv_path: &StorePath) -> io::Result<Log> {
    let name = drv_path.to_string();
    let (first, rest) = name.split_at(2);
    let plain = directory.join(first).join(rest);
    let (file, coding) = match open_file(plain.clone()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut compressed = plain.into_os_string();
            compressed.push(".bz2");
            (open_file(compressed.into())?, Some(Coding::Bzip2))
        }
        plain => (plain?, None),
    };
    let limits = Limits::default().with_output(MOST_LOG);
    Ok(Log(Decoder::new(coding, file, &limits)?))
}

fn open_file(path: PathBuf) -> io::Result<File> {
    // Rejects symlinks, and does not wait for pipes.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::NotFound.into()),
    }
}

impl Log {
    /// The contents, read on a blocking thread, which ends when the stream is dropped.
    pub(crate) fn stream(mut self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let item = match self.0.read(&mut chunk) {
                    Ok(0) => return,
                    Ok(count) => {
                        chunk.truncate(count);
                        Ok(Bytes::from(chunk))
                    }
                    Err(error) => Err(error),
                };
                let failed = item.is_err();
                if sender.blocking_send(item).is_err() || failed {
                    return;
                }
            }
        });
        futures::stream::unfold(receiver, |mut receiver| async move {
            let item = receiver.recv().await?;
            Some((item, receiver))
        })
    }
}
