//! Additions of single paths.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nar;
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{PathReferences, StorePath, StorePathName, content_addressed_path};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tvix_store_api::{MemoryStore, NarStream, Store, StoreError, VerifiedObject};
use tvix_worker_protocol::{
    AddBuildLog, AddTextToStore, AddToStore, AddToStoreNar, Operation, Version,
};

use super::spool::Spool;
use super::{DONE, Operations, Reply};
use crate::builds::NewDrv;
use crate::failure::Failure;
use crate::input::Frames;

/// Pieces of a NAR between the connection and the store.
const PIECES: usize = 8;

/// The largest path that is repaired, in bytes of its NAR: it is held in memory.
const LARGEST_REPAIR: u64 = 1 << 30;

impl Operations {
    /// Checks that a path may be added with this info.
    pub(super) fn check_import(&self, info: &PathInfo, unchecked: bool) -> Result<(), Failure> {
        let (dir, options) = (self.context.store_dir(), &self.daemon.options);
        let vouched = (unchecked && self.client.is_trusted())
            || !options.require_signatures
            || info.is_content_addressed(dir)
            || info.signed_by(dir, &options.trusted_keys).next().is_some();
        match vouched {
            true => Ok(()),
            false => {
                let lacks = match self.context.version() < Version::new(1, 38) {
                    true => "a valid signature",
                    false => "a signature by a trusted key",
                };
                let path = dir.display(&info.path);
                let message = format!("cannot add path '{path}' because it lacks {lacks}");
                Err(Failure::refused(message))
            }
        }
    }

    /// Checks that the client may replace valid paths.
    pub(super) fn check_repair(&self, repair: bool) -> Result<(), Failure> {
        match repair {
            true => self
                .require_trust("repairing is not allowed because you are not in 'trusted-users'"),
            false => Ok(()),
        }
    }

    /// The info as it is registered: only trusted clients say that they have built a path themselves.
    pub(super) fn received(&self, mut info: PathInfo) -> PathInfo {
        info.ultimate &= self.client.is_trusted();
        info
    }

    pub(super) async fn add_nar(
        &mut self,
        request: AddToStoreNar,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
    ) -> Result<Reply, Failure> {
        self.check_repair(request.repair)?;
        let info = self.received(request.info);
        self.check_import(&info, request.dont_check_signatures)?;
        let store = self.store().await?;
        let repairs = request.repair && self.info(&info.path).await?.is_some();
        let path = info.path.clone();
        let (target, info): (Arc<dyn Store>, _) = match repairs {
            true if info.nar_size > LARGEST_REPAIR => {
                return Err(Failure::refused(
                    "the path is too large to be repaired by a client",
                ));
            }
            true => {
                let memory = MemoryStore::new(self.context.store_dir().clone());
                (Arc::new(memory), without_references(info))
            }
            false => (store, info),
        };
        if path.is_derivation() && !repairs {
            let object = self.received_drv(info, frames).await?;
            self.add_object(object).await?;
            return self.encoded(&());
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let cut_off = cut_off(&path);
        let feed = async move {
            loop {
                match frames.next().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(piece)) => {
                        if sender.send(Ok(piece)).await.is_err() {
                            // The store has ended; the caller reads the rest.
                            return Ok(());
                        }
                    }
                    Err(error) => {
                        // Not the end of the NAR.
                        let _ = sender.send(Err(cut_off)).await;
                        return Err(error);
                    }
                }
            }
        };
        let add = target.add(info, from_channel(receiver));
        let (added, fed) = futures::join!(add, feed);
        fed?;
        added.map_err(|error| self.failed(&error))?;
        if repairs {
            self.repair_from(&path, &*target).await?;
        }
        self.encoded(&())
    }

    /// Receives the NAR of a derivation, which is read before it is added.
    async fn received_drv(
        &self,
        info: PathInfo,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
    ) -> Result<VerifiedObject, Failure> {
        self.check_size(&info.path, info.nar_size)?;
        let size = info.nar_size;
        let mut nar = Vec::new();
        while let Some(piece) = frames.next().await? {
            // One byte more than announced is enough to refuse it.
            if nar.len() as u64 <= size {
                nar.extend_from_slice(&piece);
            }
        }
        let dir = self.context.store_dir();
        VerifiedObject::verify(dir, info, nar.into()).map_err(|error| self.failed(&error))
    }

    async fn repair_from(&mut self, path: &StorePath, from: &dyn Store) -> Result<(), Failure> {
        let maintenance = self.maintenance(Operation::AddToStoreNar).await?;
        let repaired = maintenance.repair(path, from).await;
        repaired.map_err(|error| self.failed(&error))
    }

    pub(super) async fn add(
        &mut self,
        request: AddToStore,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
    ) -> Result<Reply, Failure> {
        self.check_repair(request.repair)?;
        let (method, algo) = (request.addressing.method, request.addressing.algo);
        let mut spool = Spool::new();
        let mut hasher = NixHasher::new(algo);
        let mut written = Ok(());
        while let Some(piece) = frames.next().await? {
            hasher.update(&piece);
            if written.is_ok() {
                written = spool.write(&piece).await;
            }
        }
        written
            .map_err(|error| Failure::refused(format!("cannot write a temporary file: {error}")))?;
        let address = ContentAddress {
            method,
            hash: hasher.finish(),
        };
        let info = self
            .add_addressed(
                request.name,
                address,
                request.references,
                spool,
                request.repair,
            )
            .await?;
        self.encoded(&PathInfo::clone(&info))
    }

    pub(super) async fn add_text(&mut self, request: AddTextToStore) -> Result<Reply, Failure> {
        let AddTextToStore {
            name,
            text,
            references,
        } = request;
        let dir = self.context.store_dir();
        let object = VerifiedObject::text(dir, name, &text, references);
        let path = object.path().clone();
        self.add_object(object).await?;
        self.encoded(&path)
    }

    /// Adds an object. If it is a derivation, its outputs are checked.
    async fn add_object(&mut self, object: VerifiedObject) -> Result<(), Failure> {
        if object.path().is_derivation() {
            let new = NewDrv::of_object(&object)?;
            self.drvs().await?.check_new(&[new]).await?;
        }
        let added = self.store().await?.add_many(vec![object]).await;
        for added in added {
            added.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Adds contents under the path that follows from their hash: a NAR, or those of a file.
    async fn add_addressed(
        &mut self,
        name: StorePathName,
        address: ContentAddress,
        references: SortedSet<StorePath>,
        mut spool: Spool,
        repair: bool,
    ) -> Result<Arc<PathInfo>, Failure> {
        let dir = self.context.store_dir().clone();
        let others = PathReferences::others(references.clone());
        let path = content_addressed_path(&dir, name, &address, &others);
        let path = path.ok_or_else(|| {
            Failure::refused(format!(
                "paths with the content address '{address}' cannot have references"
            ))
        })?;
        if !repair && let Some(info) = self.held_info(&path).await? {
            return Ok(info);
        }
        let temporary =
            |error: io::Error| Failure::refused(format!("cannot read a temporary file: {error}"));
        let is_nar = address.method == ContentAddressMethod::NixArchive;
        if path.is_derivation() {
            self.check_size(&path, spool.len())?;
        }
        let framing = match is_nar {
            true => (Vec::new(), Vec::new()),
            false => framing(spool.len())?,
        };
        let mut hasher = NixHasher::new(HashAlgo::Sha256);
        let mut size = 0;
        let mut hashed = framed(&framing, spool.read().await.map_err(temporary)?);
        while let Some(chunk) = hashed.next().await {
            let chunk = chunk.map_err(temporary)?;
            size += chunk.len() as u64;
            hasher.update(&chunk);
        }
        let NixHash::Sha256(nar_hash) = hasher.finish() else {
            return Err(Failure::refused("a hash of another kind than asked for"));
        };
        let mut info = PathInfo::new(path.clone(), nar_hash, size);
        info.references = references;
        info.ca = Some(address);
        let chunks = framed(&framing, spool.read().await.map_err(temporary)?);
        if repair && self.info(&path).await?.is_some() {
            let memory = MemoryStore::new(dir);
            let nar = stored(chunks, &path);
            let added = memory.add(without_references(info), nar).await;
            added.map_err(|error| self.failed(&error))?;
            self.repair_from(&path, &memory).await?;
        } else if matches!(spool, Spool::Memory(_)) || path.is_derivation() {
            let nar: Vec<Bytes> = chunks.try_collect().await.map_err(temporary)?;
            let object = VerifiedObject::verify(&dir, info, nar.concat().into());
            let object = object.map_err(|error| self.failed(&error))?;
            self.add_object(object).await?;
        } else {
            let added = self.store().await?.add(info, stored(chunks, &path)).await;
            added.map_err(|error| self.failed(&error))?;
        }
        self.valid_info(&path).await
    }

    /// The info of a path, which is a temporary root from now on.
    async fn held_info(&mut self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, Failure> {
        if let Some(maintenance) = self.backend().await?.maintenance.clone() {
            let held = maintenance.hold(path).await;
            held.map_err(|error| self.failed(&error))?;
        }
        self.info(path).await
    }

    pub(super) async fn add_build_log(
        &mut self,
        request: AddBuildLog,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
    ) -> Result<Reply, Failure> {
        self.require_trust("you are not privileged to add logs")?;
        let maintenance = self.maintenance(Operation::AddBuildLog).await?;
        let place = maintenance.new_log(&request.drv.0).await;
        let Some(place) = place.map_err(|error| self.failed(&error))? else {
            return self.encoded(&DONE);
        };
        let failed = |error: io::Error| {
            Failure::refused(format!("cannot write '{}': {error}", place.display()))
        };
        let directory = place.parent().unwrap_or(&place).to_owned();
        let created =
            tokio::task::spawn_blocking(move || tempfile::NamedTempFile::new_in(directory));
        let created = created
            .await
            .map_err(|error| Failure::refused(error.to_string()))?;
        let (file, temporary) = created.map_err(failed)?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        while let Some(piece) = frames.next().await? {
            file.write_all(&piece).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        readable(&file).await.map_err(failed)?;
        let target = place.clone();
        let persisted = tokio::task::spawn_blocking(move || temporary.persist(target));
        let persisted = persisted
            .await
            .map_err(|error| Failure::refused(error.to_string()))?;
        persisted.map_err(|error| failed(error.error))?;
        self.encoded(&DONE)
    }
}

fn cut_off(path: &StorePath) -> StoreError {
    let error = io::Error::new(ErrorKind::UnexpectedEof, "the client is gone");
    StoreError::Source {
        file: "the connection".into(),
        path: path.clone(),
        source: error.into(),
    }
}

/// Logs are for everybody; temporary files are not.
async fn readable(file: &tokio::fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
        .await
}

/// References that the contents of a valid path have are valid already, but not in the store that they pass through.
fn without_references(mut info: PathInfo) -> PathInfo {
    info.references = SortedSet::new();
    info.ca = None;
    info
}

type Chunks = stream::BoxStream<'static, io::Result<Bytes>>;

/// What comes before and after the contents of a file of `len` bytes in a NAR.
fn framing(len: u64) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut encoder = nar::Encoder::new();
    let encoded = encoder
        .regular_start(false, len, &mut before)
        .and_then(|()| encoder.contents(len))
        .and_then(|()| encoder.regular_end(&mut after));
    encoded.map_err(|error| Failure::refused(error.to_string()))?;
    Ok((before, after))
}

fn framed((before, after): &(Vec<u8>, Vec<u8>), contents: Chunks) -> Chunks {
    let some = |bytes: &Vec<u8>| {
        let bytes = Some(Bytes::from(bytes.clone())).filter(|bytes| !bytes.is_empty());
        stream::iter(bytes.map(Ok))
    };
    some(before).chain(contents).chain(some(after)).boxed()
}

fn stored(chunks: Chunks, path: &StorePath) -> NarStream {
    let path = path.clone();
    let failed = move |error: io::Error| StoreError::Source {
        file: "a temporary file".into(),
        path: path.clone(),
        source: error.into(),
    };
    chunks.map_err(failed).boxed()
}

/// A NAR that arrives over a channel.
pub(super) fn from_channel(receiver: mpsc::Receiver<Result<Bytes, StoreError>>) -> NarStream {
    stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    })
    .boxed()
}
