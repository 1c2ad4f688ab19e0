//! Adding to a cache: compressed into a temporary file, uploaded, described last.

use std::io::{self, Write};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::nar::Listing;
use nix_compat::narinfo::{Compression, NarInfo};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;
use tempfile::NamedTempFile;

use super::transport::Upload;
use super::{BinaryCache, backend, codec, key};
use crate::blocking::{Abandoned, consume};
use crate::verify::{NarVerifier, check_address, sha256};
use crate::{NarStream, Store as _, StoreError, VerifiedObject};

const NARINFO_TYPE: &str = "text/x-nix-narinfo";
const NAR_TYPE: &str = "application/x-nix-nar";
const LISTING_TYPE: &str = "application/json";
pub(super) const CACHE_INFO_TYPE: &str = "text/x-nix-cache-info";

/// A compressed NAR in a temporary file.
struct Compressed {
    file: NamedTempFile,
    hash: [u8; 32],
    size: u64,
    /// What is in it, if that is wanted.
    listing: Option<NamedTempFile>,
}

/// Counts and hashes what goes through.
struct Counting<'a> {
    target: io::BufWriter<&'a std::fs::File>,
    hasher: &'a mut NixHasher,
    size: &'a mut u64,
}

impl Write for Counting<'_> {
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

fn extension(compression: &Compression) -> &'static str {
    match compression {
        Compression::Xz => ".xz",
        Compression::Bzip2 => ".bz2",
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
        Compression::Brotli => ".br",
        _ => "",
    }
}

impl BinaryCache {
    pub(super) async fn add_nar(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        if self.is_there(&info.path).await? {
            return Ok(());
        }
        check_address(self.store_dir(), &info)?;
        self.check_references(&info).await?;
        let compressed = self.compress(&info, nar).await?;
        self.upload(info, compressed).await
    }

    /// Adds signatures to what the cache says of a path, unless they are there. They are not
    /// verified. What others write at the same moment may be lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if it does not have the path, trusted or not.
    pub async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError> {
        let known = self.0.ask(path).await?;
        let mut narinfo = Arc::unwrap_or_clone(known.ok_or_else(|| self.not_found(path))?);
        for signature in signatures {
            if !narinfo.info.signatures.contains(&signature) {
                narinfo.info.signatures.push(signature);
            }
        }
        let text = narinfo.display(self.store_dir()).to_string();
        let key = key::narinfo(path.digest());
        let put = self.0.requests.put_small(&key, text.into(), NARINFO_TYPE);
        let failed = |error| backend(self.uri(), format!("describing '{path}'"), error);
        put.await.map_err(failed)?;
        self.0.memo.learn(path, Some(Arc::new(narinfo)));
        Ok(())
    }

    /// One after the other, as one may refer to those before it.
    pub(super) async fn add_objects(
        &self,
        objects: Vec<VerifiedObject>,
    ) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(objects.len());
        for object in objects {
            results.push(match object.store_dir() == self.store_dir() {
                true => {
                    let (info, nar) = object.into_parts();
                    self.add_nar(info, stream::iter([Ok(nar)]).boxed()).await
                }
                false => Err(StoreError::OtherStoreDir {
                    store: self.uri().clone(),
                    actual: self.store_dir().clone(),
                    expected: object.store_dir().clone(),
                }),
            });
        }
        results
    }

    /// Somebody else may have added it since it was looked for.
    async fn is_there(&self, path: &StorePath) -> Result<bool, StoreError> {
        let known = match self.0.memo.get(path) {
            Some(Some(known)) => Ok(Some(known)),
            _ => self.0.ask(path).await,
        };
        match known {
            Ok(known) => Ok(known.is_some_and(|known| self.0.is_trusted(&known.info))),
            // A good description takes its place.
            Err(StoreError::BadInfo { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn check_references(&self, info: &PathInfo) -> Result<(), StoreError> {
        let references = info.references.iter().filter(|path| **path != info.path);
        let references: Vec<StorePath> = references.cloned().collect();
        for reference in references {
            if !self.is_there(&reference).await? {
                return Err(StoreError::InvalidReference {
                    store: self.uri().clone(),
                    path: info.path.clone(),
                    reference,
                });
            }
        }
        Ok(())
    }

    async fn compress(&self, info: &PathInfo, nar: NarStream) -> Result<Compressed, StoreError> {
        let options = &self.0.options;
        let (compression, level) = (options.compression.clone(), options.level);
        let listings = options.listings;
        let staging = self.0.requests.transport().staging();
        let (uri, info) = (self.uri().clone(), info.clone());
        consume(self.uri(), nar, move |mut chunks| {
            let failed = |source: io::Error| StoreError::Backend {
                store: uri.clone(),
                action: format!("compressing '{}' into a temporary file", info.path),
                retryable: false,
                source: source.into(),
            };
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
            let mut listing = listing.map(|file| Listing::new(io::BufWriter::new(file)));
            let mut unlisted = None;
            let mut hasher = NixHasher::new(HashAlgo::Sha256);
            let mut size = 0;
            let target = Counting {
                target: io::BufWriter::new(file.as_file()),
                hasher: &mut hasher,
                size: &mut size,
            };
            let mut encoder = codec::encoder(&compression, level, target).map_err(failed)?;
            let mut verifier = NarVerifier::new(&info);
            loop {
                match chunks.next() {
                    Ok(None) => break,
                    Ok(Some(chunk)) => {
                        verifier.update(&chunk, |event| {
                            if let (Some(listing), None) = (&mut listing, &unlisted) {
                                unlisted = listing.event(event).err();
                            }
                            Ok(())
                        })?;
                        encoder.write_all(&chunk).map_err(failed)?;
                    }
                    Err(Abandoned) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                }
            }
            verifier.finish()?;
            encoder.finish().map_err(failed)?;
            if let Some(error) = unlisted {
                return Err(failed(error));
            }
            let listing = listing.map(|listing| listing.into_inner().into_inner());
            let listing = listing.transpose().map_err(|error| failed(error.into()))?;
            Ok(Compressed {
                file,
                hash: sha256(hasher),
                size,
                listing,
            })
        })
        .await
    }

    async fn upload(&self, mut info: PathInfo, compressed: Compressed) -> Result<(), StoreError> {
        let Compressed {
            file,
            hash,
            size,
            listing,
        } = compressed;
        let hash = NixHash::Sha256(hash);
        let compression = self.0.options.compression.clone();
        let digest = hash.base32().to_string();
        let digest = digest.rsplit(':').next().unwrap_or(&digest);
        let url = format!("nar/{digest}.nar{}", extension(&compression));
        let path = info.path.clone();
        let failed = |error| backend(self.uri(), format!("uploading '{path}'"), error);
        let requests = &self.0.requests;
        if !requests.exists(&url).await.map_err(failed)? {
            // Not tried again here: the file may be gone. Whoever adds can try again as a whole.
            let put = requests.transport().put(&url, Upload::File(file), NAR_TYPE);
            put.await.map_err(failed)?;
        }
        if let Some(listing) = listing {
            let key = key::listing(path.digest());
            let put = requests
                .transport()
                .put(&key, Upload::File(listing), LISTING_TYPE);
            put.await.map_err(failed)?;
        }
        // What is not for others.
        info.registration_time = None;
        info.ultimate = false;
        for key in &self.0.options.signing_keys {
            info.sign(self.store_dir(), key);
        }
        let narinfo = NarInfo {
            info,
            url,
            compression,
            file_hash: Some(hash),
            file_size: Some(size),
            system: None,
        };
        let text = narinfo.display(self.store_dir()).to_string();
        let key = key::narinfo(path.digest());
        let put = requests.put_small(&key, text.into(), NARINFO_TYPE);
        put.await.map_err(failed)?;
        self.0.memo.learn(&path, Some(Arc::new(narinfo)));
        Ok(())
    }
}
