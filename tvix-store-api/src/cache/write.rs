//! Adding paths to a cache: compress, upload, then write the narinfo.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};
use nix_compat::narinfo::{Compression, NarInfo};
use nix_compat::nixhash::NixHash;
use nix_compat::path_info::PathInfo;
use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;

use super::compress::Compressed;
use super::transport::{SmallFile, Upload};
use super::{BinaryCache, backend, key};
use crate::verify::check_address;
use crate::{NarStream, Store as _, StoreError, VerifiedObject};

const NARINFO_TYPE: &str = "text/x-nix-narinfo";
const NAR_TYPE: &str = "application/x-nix-nar";
const LISTING_TYPE: &str = "application/json";
pub(super) const CACHE_INFO_TYPE: &str = "text/x-nix-cache-info";

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
        if self.is_known(&info.path).await? {
            return Ok(());
        }
        check_address(self.store_dir(), &info)?;
        self.check_references(&info).await?;
        let compressed = self.compress(&info, nar).await?;
        self.upload(info, compressed).await
    }

    /// Adds signatures to the narinfo of a path. They are not verified; signatures that it has
    /// already are ignored. A concurrent write by another process may be lost.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] if the cache does not have the path, trusted or not.
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
        let failed = |error| backend(self.uri(), format!("write the narinfo of '{path}'"), error);
        put.await.map_err(failed)?;
        self.0.memo.learn(path, Some(Arc::new(narinfo)));
        Ok(())
    }

    /// Adds objects concurrently, each after its references earlier in the list, and before its
    /// references later in the list: such a forward reference must be refused, not found valid by
    /// chance.
    pub(super) async fn add_objects(
        &self,
        objects: Vec<VerifiedObject>,
    ) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(objects.len());
        let mut rest = objects.into_iter().peekable();
        while rest.peek().is_some() {
            let mut wave = Vec::new();
            let (mut paths, mut named) = (HashSet::new(), HashSet::new());
            while let Some(object) = rest.next_if(|object| {
                let mut references = object.info().references.iter().chain([object.path()]);
                !references.any(|path| paths.contains(path)) && !named.contains(object.path())
            }) {
                paths.insert(object.path().clone());
                named.extend(object.info().references.iter().cloned());
                wave.push(object);
            }
            let added: Vec<_> = stream::iter(wave)
                .map(|object| self.add_object(object))
                .buffered(self.0.options.tuning.requests.max(1))
                .collect()
                .await;
            results.extend(added);
        }
        results
    }

    async fn add_object(&self, object: VerifiedObject) -> Result<(), StoreError> {
        if object.store_dir() != self.store_dir() {
            return Err(StoreError::OtherStoreDir {
                store: self.uri().clone(),
                actual: self.store_dir().clone(),
                expected: object.store_dir().clone(),
            });
        }
        let info = object.info().clone();
        if self.is_known(&info.path).await? {
            return Ok(());
        }
        self.check_references(&info).await?;
        let compressed = self.compress_object(object).await?;
        self.upload(info, compressed).await
    }

    /// Whether the path is known to exist. A path that another process has added since the look-up
    /// is written again, as in Nix.
    async fn is_known(&self, path: &StorePath) -> Result<bool, StoreError> {
        match self.0.memo.get(path) {
            Some(None) => Ok(false),
            _ => self.is_there(path).await,
        }
    }

    /// Another process may have added the path since the look-up.
    async fn is_there(&self, path: &StorePath) -> Result<bool, StoreError> {
        let known = match self.0.memo.get(path) {
            Some(Some(known)) => Ok(Some(known)),
            _ => self.0.ask(path).await,
        };
        match known {
            Ok(known) => Ok(known.is_some_and(|known| self.0.is_trusted(&known.info))),
            // A valid narinfo replaces it.
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

    async fn upload(&self, mut info: PathInfo, compressed: Compressed) -> Result<(), StoreError> {
        let Compressed {
            contents,
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
        let failed = |error| backend(self.uri(), format!("upload '{path}'"), error);
        let requests = &self.0.requests;
        // Small files are uploaded one by one, the narinfo last.
        let mut in_turn = Vec::new();
        match contents {
            Upload::Bytes(contents) => in_turn.push(SmallFile {
                key: url.clone(),
                contents,
                content_type: NAR_TYPE,
            }),
            file if !requests.exists(&url).await.map_err(failed)? => {
                // Not retried here, because the file may be gone. The caller can retry the whole
                // addition.
                let put = requests.transport().put(&url, file, NAR_TYPE);
                put.await.map_err(failed)?;
            }
            _ => {}
        }
        let key = key::listing(path.digest());
        match listing {
            None => {}
            Some(Upload::Bytes(contents)) => in_turn.push(SmallFile {
                key,
                contents,
                content_type: LISTING_TYPE,
            }),
            Some(file) => {
                let put = requests.transport().put(&key, file, LISTING_TYPE);
                put.await.map_err(failed)?;
            }
        }
        // Fields that are meaningful only in one store.
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
        in_turn.push(SmallFile {
            key: key::narinfo(path.digest()),
            contents: text.into(),
            content_type: NARINFO_TYPE,
        });
        requests.put_in_turn(in_turn).await.map_err(failed)?;
        self.0.memo.learn(&path, Some(Arc::new(narinfo)));
        Ok(())
    }
}
