//! Compression of uploads: into temporary files, or in memory for objects that are in memory.

use std::io::{self, Write};

use nix_compat::nar::{Event, Listing, Parser};
use nix_compat::narinfo::Compression;
use nix_compat::nixhash::{HashAlgo, NixHasher};
use nix_compat::path_info::PathInfo;

use super::transport::Upload;
use super::{BinaryCache, codec};
use crate::blocking::{Abandoned, blocking, consume};
use crate::verify::{NarVerifier, sha256};
use crate::{NarStream, StoreError, StoreUri, VerifiedObject};

/// A compressed NAR, ready for upload.
pub(super) struct Compressed {
    pub contents: Upload,
    /// The SHA-256 of the compressed file.
    pub hash: [u8; 32],
    /// The size of the compressed file, in bytes.
    pub size: u64,
    /// The listing of the NAR, if listings are enabled.
    pub listing: Option<Upload>,
}

/// The inputs of a compression, for use on any thread.
struct Compressing {
    store: StoreUri,
    info: PathInfo,
    compression: Compression,
    level: Option<u32>,
}

impl BinaryCache {
    /// Compresses a NAR stream into a temporary file and verifies it.
    pub(super) async fn compress(
        &self,
        info: &PathInfo,
        nar: NarStream,
    ) -> Result<Compressed, StoreError> {
        let listings = self.0.options.listings;
        let staging = self.0.requests.transport().staging();
        let compressing = self.compressing(info);
        consume(&self.0.uri, nar, move |mut chunks| {
            let failed = |source| compressing.failed(source);
            let new_file = || {
                let mut builder = tempfile::Builder::new();
                let builder = builder.prefix(".tvix-upload-");
                match &staging {
                    Some(folder) => builder.tempfile_in(folder),
                    None => builder.tempfile(),
                }
            };
            let file = new_file().map_err(failed)?;
            let listing = listings.then(&new_file).transpose().map_err(failed)?;
            let mut listing = Lister::new(listing.map(io::BufWriter::new));
            let mut verifier = NarVerifier::new(&compressing.info);
            let (hash, size) = compressing.compress(io::BufWriter::new(file.as_file()), |out| {
                loop {
                    match chunks.next() {
                        Ok(None) => return verifier.finish(),
                        Ok(Some(chunk)) => {
                            verifier.update(&chunk, |event| {
                                listing.event(event);
                                Ok(())
                            })?;
                            out.write_all(&chunk).map_err(failed)?;
                        }
                        Err(Abandoned) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                    }
                }
            })?;
            let listing = listing.finish().map_err(failed)?;
            let listing = listing.map(io::BufWriter::into_inner).transpose();
            Ok(Compressed {
                contents: Upload::File(file),
                hash,
                size,
                listing: listing
                    .map_err(|error| failed(error.into()))?
                    .map(Upload::File),
            })
        })
        .await
    }

    /// Compresses a verified object in memory.
    pub(super) async fn compress_object(
        &self,
        object: VerifiedObject,
    ) -> Result<Compressed, StoreError> {
        let listings = self.0.options.listings;
        let compressing = self.compressing(object.info());
        let permit = self.0.compressions.clone().acquire_owned().await;
        blocking(&self.0.uri, move || {
            let _held = permit;
            let failed = |source| compressing.failed(source);
            let nar = object.nar();
            let mut contents = Vec::with_capacity(nar.len() / 2 + 128);
            let (hash, size) =
                compressing.compress(&mut contents, |out| out.write_all(nar).map_err(failed))?;
            let listing = listings.then(|| list(nar)).transpose();
            let listing = listing.map_err(failed)?;
            Ok(Compressed {
                contents: Upload::Bytes(contents.into()),
                hash,
                size,
                listing: listing.map(|listing| Upload::Bytes(listing.into())),
            })
        })
        .await
    }

    fn compressing(&self, info: &PathInfo) -> Compressing {
        Compressing {
            store: self.0.uri.clone(),
            info: info.clone(),
            compression: self.0.options.compression.clone(),
            level: self.0.options.level,
        }
    }
}

impl Compressing {
    /// Compresses the bytes that `write` writes into `target`. Returns their hash and size.
    fn compress(
        &self,
        target: impl Write + Send,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StoreError>,
    ) -> Result<([u8; 32], u64), StoreError> {
        let mut hasher = NixHasher::new(HashAlgo::Sha256);
        let mut size = 0;
        let counting = Counting {
            target,
            hasher: &mut hasher,
            size: &mut size,
        };
        let encoder = codec::encoder(
            &self.compression,
            self.level,
            Some(self.info.nar_size),
            counting,
        );
        let mut encoder = encoder.map_err(|error| self.failed(error))?;
        write(&mut *encoder)?;
        encoder.finish().map_err(|error| self.failed(error))?;
        Ok((sha256(hasher), size))
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::Backend {
            store: self.store.clone(),
            action: format!("compress '{}'", self.info.path),
            retryable: false,
            source: source.into(),
        }
    }
}

/// Writes the listing of a NAR, if listings are enabled, up to the first error.
struct Lister<W: Write> {
    listing: Option<Listing<W>>,
    failure: Option<io::Error>,
}

impl<W: Write> Lister<W> {
    fn new(out: Option<W>) -> Self {
        Self {
            listing: out.map(Listing::new),
            failure: None,
        }
    }

    fn event(&mut self, event: Event<'_>) {
        if let (Some(listing), None) = (&mut self.listing, &self.failure) {
            self.failure = listing.event(event).err();
        }
    }

    fn finish(self) -> io::Result<Option<W>> {
        match self.failure {
            Some(error) => Err(error),
            None => Ok(self.listing.map(Listing::into_inner)),
        }
    }
}

/// The listing of a NAR.
fn list(nar: &[u8]) -> io::Result<Vec<u8>> {
    let mut listing = Listing::new(Vec::new());
    let (mut parser, mut rest) = (Parser::new(), nar);
    loop {
        let step = parser.feed(rest).map_err(io::Error::other)?;
        rest = &rest[step.consumed..];
        match step.event {
            Some(event) => listing.event(event)?,
            None => return Ok(listing.into_inner()),
        }
    }
}

/// Counts and hashes the bytes that are written through it.
struct Counting<'a, W> {
    target: W,
    hasher: &'a mut NixHasher,
    size: &'a mut u64,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.target.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        *self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}
