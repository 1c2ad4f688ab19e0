//! `AddMultipleToStore`: many paths in one stream.

use bytes::Bytes;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tvix_store_api::{StoreError, VerifiedObject};
use tvix_worker_protocol::{AddMultipleToStore, PathsDecoder, PathsEvent};

use super::add::from_channel;
use super::{Operations, Reply};
use crate::builds::NewDrv;
use crate::failure::Failure;
use crate::input::Frames;

/// A NAR up to this size, in bytes, is added with others.
const SMALL: u64 = 256 * 1024;

/// Limits of a group of paths, which are in memory at once.
const GROUP: usize = 128;
const GROUP_BYTES: u64 = 2 << 20;

/// Pieces of a NAR between the connection and the store.
const PIECES: usize = 8;

type Added = AbortOnDropHandle<Result<(), Failure>>;

/// Where the NAR that arrives goes.
enum Target {
    /// To a group.
    Memory(Box<PathInfo>, Vec<u8>),
    /// To the store directly.
    Store(mpsc::Sender<Result<Bytes, StoreError>>, Added),
}

/// Small paths that are added together, in order.
#[derive(Default)]
struct Group {
    objects: Vec<(PathInfo, Bytes)>,
    bytes: u64,
    /// The previous group, while this one arrives.
    previous: Option<Added>,
}

impl Operations {
    pub(super) async fn add_multiple(
        &mut self,
        request: AddMultipleToStore,
        frames: &mut Frames<'_, impl AsyncRead + Unpin + Send>,
    ) -> Result<Reply, Failure> {
        self.check_repair(request.repair)?;
        let mut decoder = PathsDecoder::new();
        let mut group = Group::default();
        let mut target = None;
        while let Some(piece) = frames.next().await? {
            let mut rest = &piece[..];
            loop {
                let (taken, event) = decoder.feed(rest, &self.context)?;
                rest = &rest[taken..];
                match event {
                    None => break,
                    Some(PathsEvent::Count(_) | PathsEvent::End) => {}
                    Some(PathsEvent::Path(info)) => {
                        let info = self.received(*info);
                        self.check_import(&info, request.dont_check_signatures)?;
                        target = Some(self.begin(info, &mut group).await?);
                    }
                    Some(PathsEvent::Nar(bytes)) => match &mut target {
                        Some(Target::Memory(_, nar)) => nar.extend_from_slice(bytes),
                        Some(Target::Store(sender, _)) => {
                            // A store that has ended says why when its result is taken.
                            let _ = sender.send(Ok(piece.slice_ref(bytes))).await;
                        }
                        None => {}
                    },
                    Some(PathsEvent::NarEnd) => match target.take() {
                        Some(Target::Memory(info, nar)) => {
                            group.bytes += info.nar_size;
                            group.objects.push((*info, nar.into()));
                            if group.objects.len() >= GROUP || group.bytes >= GROUP_BYTES {
                                self.flush(&mut group).await?;
                            }
                        }
                        Some(Target::Store(sender, added)) => {
                            drop(sender);
                            self.ended(added).await?;
                        }
                        None => {}
                    },
                }
                if decoder.is_done() {
                    break;
                }
            }
        }
        if !decoder.is_done() {
            // An empty list ends only with a further look.
            let (_, event) = decoder.feed(&[], &self.context)?;
            if !matches!(event, Some(PathsEvent::End)) {
                return Err(Failure::refused(
                    "the stream of paths ends before the last path",
                ));
            }
        }
        self.flush(&mut group).await?;
        if let Some(previous) = group.previous.take() {
            self.ended(previous).await?;
        }
        self.encoded(&())
    }

    async fn begin(&mut self, info: PathInfo, group: &mut Group) -> Result<Target, Failure> {
        let is_derivation = info.path.is_derivation();
        if is_derivation {
            self.check_size(&info.path, info.nar_size)?;
        }
        // The outputs of derivations are checked first.
        if info.nar_size <= SMALL || is_derivation {
            let capacity = usize::try_from(info.nar_size).unwrap_or(0);
            return Ok(Target::Memory(Box::new(info), Vec::with_capacity(capacity)));
        }
        // It may refer to earlier ones.
        self.flush(group).await?;
        if let Some(previous) = group.previous.take() {
            self.ended(previous).await?;
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let (store, dir) = (self.store().await?, self.context.store_dir().clone());
        // The task is aborted before its sender is dropped if the stream ends early, and the NAR has another size then.
        let added = async move {
            let added = store.add(info, from_channel(receiver)).await;
            added.map_err(|error| Failure::store(&error, &dir))
        };
        Ok(Target::Store(
            sender,
            AbortOnDropHandle::new(tokio::spawn(added)),
        ))
    }

    /// Adds the group beside what arrives next.
    async fn flush(&mut self, group: &mut Group) -> Result<(), Failure> {
        if let Some(previous) = group.previous.take() {
            self.ended(previous).await?;
        }
        group.bytes = 0;
        let objects = std::mem::take(&mut group.objects);
        if objects.is_empty() {
            return Ok(());
        }
        let (store, drvs) = (self.store().await?, self.drvs().await?);
        let dir = self.context.store_dir().clone();
        let added = async move {
            let of_store = |error: &StoreError| Failure::store(error, &dir);
            let verified = tokio::task::spawn_blocking({
                let dir = dir.clone();
                move || verify(&dir, objects)
            });
            let verified = verified.await;
            let (verified, new) =
                verified.map_err(|error| Failure::refused(error.to_string()))??;
            // Their inputs may be in the group before this one, which is added by now.
            drvs.check_new(&new).await?;
            let added = store.add_many(verified).await.into_iter();
            added.collect::<Result<(), _>>().map_err(|it| of_store(&it))
        };
        group.previous = Some(AbortOnDropHandle::new(tokio::spawn(added)));
        Ok(())
    }

    async fn ended(&self, added: Added) -> Result<(), Failure> {
        match added.await {
            Ok(added) => added,
            Err(error) => Err(Failure::refused(error.to_string())),
        }
    }
}

/// Compares NARs with their infos, and parses derivations.
fn verify(
    dir: &StoreDir,
    objects: Vec<(PathInfo, Bytes)>,
) -> Result<(Vec<VerifiedObject>, Vec<NewDrv>), Failure> {
    let (mut verified, mut new) = (Vec::with_capacity(objects.len()), Vec::new());
    for (info, nar) in objects {
        let object = VerifiedObject::verify(dir, info, nar);
        let object = object.map_err(|error| Failure::store(&error, dir))?;
        if object.path().is_derivation() {
            new.push(NewDrv::of_object(&object)?);
        }
        verified.push(object);
    }
    Ok((verified, new))
}
