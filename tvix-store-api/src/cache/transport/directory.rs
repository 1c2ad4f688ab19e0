//! A cache in a directory (`file://`).
//!
//! Names are resolved below the directory by the kernel (`openat2`), so that a symlink that
//! somebody put there leads nowhere else. The directory itself may be reached through symlinks.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;

use super::{Body, Fetch, Object, SmallFile, Transport, TransportError, Upload};
use crate::BoxError;

const CHUNK: usize = 128 * 1024;

/// Each takes a thread, and more would only wait for the same disk.
const CALLS_IN_FLIGHT: usize = 8;

#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    permits: Arc<Semaphore>,
}

impl Directory {
    pub fn new(location: &str) -> Result<Self, BoxError> {
        if !location.starts_with('/') {
            return Err("the directory is not an absolute path".into());
        }
        Ok(Self {
            root: location.into(),
            permits: Arc::new(Semaphore::new(CALLS_IN_FLIGHT)),
        })
    }
}

/// Opens what is below `root`; `None` if there is nothing.
fn open_below(root: &Path, key: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match open_beneath(root, key, flags) {
        Ok(file) => {
            let file = File::from(file);
            match file.metadata()?.is_file() {
                true => Ok(Some(file)),
                false => Err(io::Error::other("it is not a regular file")),
            }
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(target_os = "linux")]
fn open_beneath(root: &Path, key: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::{ResolveFlags, open, openat2};
    let root = open(
        root,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, key, flags, Mode::empty(), resolve)
}

#[cfg(not(target_os = "linux"))]
fn open_beneath(root: &Path, key: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(root.join(key), flags | OFlags::NOFOLLOW, Mode::empty())
}

async fn blocking<T: Send + 'static>(
    permits: Arc<Semaphore>,
    action: &'static str,
    key: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, TransportError> {
    let name = key.to_owned();
    let work = move || work().map_err(|error| TransportError::io(action, &name, error));
    permitted(permits, action, key, work).await
}

async fn permitted<T: Send + 'static>(
    permits: Arc<Semaphore>,
    action: &'static str,
    key: &str,
    work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, TransportError> {
    let permit = permits.acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let _held = permit;
        work()
    });
    let lost = |error| TransportError::io(action, key, io::Error::other(error));
    done.await.map_err(lost)?
}

fn read_chunk(file: File) -> io::Result<(Option<Bytes>, File)> {
    let mut chunk = Vec::with_capacity(CHUNK);
    let read = (&file).take(CHUNK as u64).read_to_end(&mut chunk)?;
    Ok(((read > 0).then(|| chunk.into()), file))
}

fn rest_of(permits: Arc<Semaphore>, file: File, key: String) -> Body {
    stream::unfold(Some((file, key)), move |state| {
        let permits = permits.clone();
        async move {
            let (file, key) = state?;
            match blocking(permits, "read", &key, move || read_chunk(file)).await {
                Ok((Some(chunk), file)) => Some((Ok(chunk), Some((file, key)))),
                Ok((None, _)) => None,
                Err(error) => Some((Err(error), None)),
            }
        }
    })
    .boxed()
}

/// Makes `key` be the file: renamed, so that it is seen as a whole.
fn write(root: &Path, key: &str, upload: Upload) -> io::Result<()> {
    let target = root.join(key);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut file = match upload {
        Upload::File(file) => file,
        Upload::Bytes(bytes) => {
            let mut file = staged(root)?;
            file.write_all(&bytes)?;
            file
        }
    };
    file.flush()?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.persist(&target)?;
    Ok(())
}

/// A file that goes away unless it is renamed, on the cache's file system.
fn staged(root: &Path) -> io::Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".tvix-upload-")
        .tempfile_in(root)
}

#[async_trait]
impl Transport for Directory {
    async fn get(&self, key: &str, fetch: Fetch) -> Result<Option<Object>, TransportError> {
        let (root, name) = (self.root.clone(), key.to_owned());
        let offset = fetch.offset;
        let opened = blocking(self.permits.clone(), "read", key, move || {
            let Some(mut file) = open_below(&root, &name)? else {
                return Ok(None);
            };
            file.seek(SeekFrom::Start(offset))?;
            // The first chunk at once: mostly it is all.
            read_chunk(file).map(Some)
        });
        Ok(opened.await?.map(|(first, file)| Object {
            body: match first {
                Some(chunk) if chunk.len() < CHUNK => stream::iter([Ok(chunk)]).boxed(),
                Some(chunk) => stream::iter([Ok(chunk)])
                    .chain(rest_of(self.permits.clone(), file, key.to_owned()))
                    .boxed(),
                None => stream::empty().boxed(),
            },
            starts_at: offset,
            codings: Vec::new(),
            delimited: true,
        }))
    }

    async fn exists(&self, key: &str) -> Result<bool, TransportError> {
        let (root, name) = (self.root.clone(), key.to_owned());
        let opened = blocking(self.permits.clone(), "look for", key, move || {
            open_below(&root, &name)
        });
        Ok(opened.await?.is_some())
    }

    async fn put(
        &self,
        key: &str,
        upload: Upload,
        _content_type: &'static str,
    ) -> Result<(), TransportError> {
        let (root, name) = (self.root.clone(), key.to_owned());
        blocking(self.permits.clone(), "write", key, move || {
            write(&root, &name, upload)
        })
        .await
    }

    async fn put_in_turn(&self, files: Vec<SmallFile>) -> Result<(), TransportError> {
        let root = self.root.clone();
        permitted(self.permits.clone(), "write", "files", move || {
            files.into_iter().try_for_each(|file| {
                let written = write(&root, &file.key, Upload::Bytes(file.contents));
                written.map_err(|error| TransportError::io("write", &file.key, error))
            })
        })
        .await
    }

    fn staging(&self) -> Option<PathBuf> {
        Some(self.root.clone())
    }
}
