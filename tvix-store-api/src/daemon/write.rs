//! Adding paths at a daemon.

use std::collections::HashSet;
use std::sync::OnceLock;

use bytes::Bytes;
use futures::stream::StreamExt as _;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{AddToStoreNar, Call, RemoteError};

use super::connection::{CallError, Connection, Sender};
use super::pool::Purpose;
use super::{BATCH, DaemonStore};
use crate::verify::{NarVerifier, check_address};
use crate::{NarStream, Store as _, StoreError, VerifiedObject};

/// Objects that are sent on one connection without a pause.
const OBJECTS: usize = 256;

/// Bytes that are verified before the task yields.
const TURN: usize = 256 * 1024;

/// Why a NAR was not sent completely.
enum SendError {
    /// It is refused, or its stream failed.
    Refused(StoreError),
    Call(CallError),
}

impl From<CallError> for SendError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl DaemonStore {
    pub(super) async fn add_nar(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        let path = info.path.clone();
        let failed = |error| self.failed(format!("add '{path}'"), error);
        let mut paths = vec![path.clone()];
        let others = info
            .references
            .iter()
            .filter(|reference| **reference != path);
        paths.extend(others.cloned());
        let valid = self.valid(paths.clone()).await.map_err(failed)?;
        // What was looked at must stay until it is needed.
        let found = paths.iter().filter(|path| valid.contains(path)).cloned();
        let gone = self.keep(found.collect()).await.map_err(failed)?;
        let is_there = |path: &StorePath| valid.contains(path) && !gone.contains(path);
        if is_there(&path) {
            return Ok(());
        }
        check_address(self.store_dir(), &info)?;
        if let Some(reference) = paths[1..].iter().find(|path| !is_there(path)) {
            return Err(self.invalid_reference(&path, reference));
        }
        let connection = self.0.pool.acquire(Purpose::Addition).await;
        let mut connection = connection.map_err(failed)?;
        let Connection {
            sender, receiver, ..
        } = &mut *connection;
        let send = async {
            sender.request(&addition(info.clone()))?;
            let sent = match send_nar(sender, &info, nar).await {
                Ok(()) => None,
                Err(SendError::Refused(error)) => Some(error),
                Err(SendError::Call(error)) => return Err(error),
            };
            // A NAR that is not complete is an error for the daemon, which then takes other requests.
            sender.end();
            sender.flush().await?;
            Ok(sent)
        };
        let remote = OnceLock::new();
        let receive = async {
            match receiver.answer::<AddToStoreNar>().await {
                Err(CallError::Remote(error)) => {
                    // The daemon may end the connection afterwards.
                    let _ = remote.set(error);
                    Ok(())
                }
                answer => answer,
            }
        };
        // If this is dropped, the connection is closed, and the daemon forgets the path.
        let sent = futures::try_join!(send, receive);
        match (sent, remote.into_inner()) {
            (Ok((Some(refused), ())), _) => return Err(refused),
            (_, Some(error)) => return Err(self.addition_failed(&path, error)),
            (Err(error), None) => return Err(failed(error)),
            (Ok((None, ())), None) => {}
        }
        drop(connection);
        match self
            .keep(vec![path.clone()])
            .await
            .map_err(failed)?
            .is_empty()
        {
            true => Ok(()),
            false => Err(StoreError::Bug {
                store: self.uri().clone(),
                message: format!("'{path}' was added and is not valid"),
            }),
        }
    }

    fn invalid_reference(&self, path: &StorePath, reference: &StorePath) -> StoreError {
        StoreError::InvalidReference {
            store: self.uri().clone(),
            path: path.clone(),
            reference: reference.clone(),
        }
    }

    fn addition_failed(&self, path: &StorePath, error: RemoteError) -> StoreError {
        let message = error.message.to_string();
        let unsigned = message.contains("lacks a valid signature")
            || message.contains("lacks a signature by a trusted key");
        match unsigned {
            true => StoreError::Untrusted {
                store: self.uri().clone(),
                path: path.clone(),
            },
            false => self.failed(format!("add '{path}'"), error.into()),
        }
    }

    /// Adds objects in order, without waiting for one before the next is sent. As each is an
    /// operation of its own, each has its own result.
    pub(super) async fn add_objects(
        &self,
        objects: Vec<VerifiedObject>,
    ) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(objects.len());
        let mut rest = objects.into_iter();
        loop {
            let batch: Vec<_> = rest.by_ref().take(OBJECTS).collect();
            if batch.is_empty() {
                return results;
            }
            results.extend(self.add_batch(batch).await);
        }
    }

    async fn add_batch(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        let mut mentioned: HashSet<StorePath> = HashSet::new();
        for object in &objects {
            mentioned.insert(object.path().clone());
            mentioned.extend(object.info().references.iter().cloned());
        }
        let mut valid = HashSet::new();
        for batch in mentioned.into_iter().collect::<Vec<_>>().chunks(BATCH) {
            match self.valid_paths(batch).await {
                Ok(found) => valid.extend(found),
                Err(error) => return self.all_failed(&objects, error),
            }
        }
        let mut results: Vec<Option<Result<(), StoreError>>> = Vec::with_capacity(objects.len());
        let mut sent = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            let info = object.info();
            let mut references = info.references.iter();
            let missing = references.find(|path| **path != info.path && !valid.contains(*path));
            results.push(if object.store_dir() != self.store_dir() {
                Some(Err(StoreError::OtherStoreDir {
                    store: self.uri().clone(),
                    actual: self.store_dir().clone(),
                    expected: object.store_dir().clone(),
                }))
            } else if valid.contains(object.path()) {
                Some(Ok(()))
            } else if let Some(reference) = missing {
                Some(Err(self.invalid_reference(&info.path, reference)))
            } else {
                sent.push((index, object));
                None
            });
            if results[index].is_none() {
                // If it is refused, so are those that refer to it.
                valid.insert(object.path().clone());
            }
        }
        let answers = self.send_objects(&sent).await;
        let mut refused: HashSet<&StorePath> = HashSet::new();
        for ((index, object), answer) in sent.iter().zip(answers) {
            let path = object.path();
            let mut references = object.info().references.iter();
            results[*index] = Some(match answer {
                Ok(()) => Ok(()),
                Err(error) => {
                    let cause = references.find(|path| refused.contains(*path)).cloned();
                    refused.insert(path);
                    match (cause, error) {
                        (Some(reference), _) => Err(self.invalid_reference(path, &reference)),
                        (None, CallError::Remote(error)) => Err(self.addition_failed(path, error)),
                        (None, error) => Err(self.failed(format!("add '{path}'"), error)),
                    }
                }
            });
        }
        // One that comes twice is refused twice.
        for (object, result) in objects.iter().zip(&mut results) {
            if refused.contains(object.path()) && matches!(result, Some(Ok(()))) {
                *result = Some(Err(StoreError::Backend {
                    store: self.uri().clone(),
                    action: format!("add '{}'", object.path()),
                    retryable: false,
                    source: "it was refused before".into(),
                }));
            }
        }
        let added = sent.iter().map(|(_, object)| object.path());
        let added: Vec<_> = added
            .filter(|path| !refused.contains(path))
            .cloned()
            .collect();
        if let Err(error) = self.keep(added).await {
            let error = self.failed("keep what was added", error);
            return self.all_failed(&objects, error);
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or(Ok(())))
            .collect()
    }

    /// Sends objects on one connection. One result for each.
    async fn send_objects(
        &self,
        objects: &[(usize, &VerifiedObject)],
    ) -> Vec<Result<(), CallError>> {
        let mut results = Vec::with_capacity(objects.len());
        if objects.is_empty() {
            return results;
        }
        let sent = match self.acquire().await {
            Ok(mut connection) => {
                let Connection {
                    sender, receiver, ..
                } = &mut *connection;
                let send = async {
                    for (_, object) in objects {
                        sender.request(&addition(object.info().clone()))?;
                        sender.frames(object.nar()).await?;
                        sender.end();
                        if sender.is_full() {
                            sender.flush().await?;
                        }
                    }
                    sender.flush().await
                };
                let receive = async {
                    for _ in objects {
                        match receiver.answer::<AddToStoreNar>().await {
                            Ok(()) => results.push(Ok(())),
                            Err(error @ CallError::Remote(_)) => results.push(Err(error)),
                            Err(error) => return Err(error),
                        }
                    }
                    Ok::<_, CallError>(())
                };
                futures::try_join!(send, receive).map(|_| ())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            // The others may have been added: adding them again changes nothing.
            let message = error.to_string();
            results.push(Err(error));
            while results.len() < objects.len() {
                let error = std::io::Error::other(message.clone());
                results.push(Err(error.into()));
            }
            results.truncate(objects.len());
        }
        results
    }

    fn all_failed(
        &self,
        objects: &[VerifiedObject],
        error: StoreError,
    ) -> Vec<Result<(), StoreError>> {
        let retryable = error.is_retryable();
        let message = error.to_string();
        let mut first = Some(error);
        let results = objects.iter().map(|object| {
            Err(first.take().unwrap_or_else(|| StoreError::Backend {
                store: self.uri().clone(),
                action: format!("add '{}'", object.path()),
                retryable,
                source: message.clone().into(),
            }))
        });
        results.collect()
    }
}

/// The request that adds a path. Only a daemon that trusts us lets it pass without signatures.
fn addition(info: PathInfo) -> AddToStoreNar {
    AddToStoreNar {
        info,
        repair: false,
        dont_check_signatures: true,
    }
}

/// Sends a NAR. Its last byte is not sent before everything is verified: a daemon could take the
/// path for complete.
async fn send_nar(
    sender: &mut Sender,
    info: &PathInfo,
    mut nar: NarStream,
) -> Result<(), SendError> {
    let mut verifier = NarVerifier::new(info);
    // What follows it would exceed the announced size if it had the last byte.
    let mut held = Bytes::new();
    while let Some(chunk) = nar.next().await {
        let chunk = chunk.map_err(SendError::Refused)?;
        if chunk.is_empty() {
            continue;
        }
        for piece in chunk.chunks(TURN) {
            let verified = verifier.update(piece, |_| Ok(()));
            verified.map_err(SendError::Refused)?;
            if piece.len() == TURN {
                tokio::task::yield_now().await;
            }
        }
        let before = std::mem::replace(&mut held, chunk);
        sender.frames(&before).await?;
    }
    verifier.finish().map_err(SendError::Refused)?;
    sender.frames(&held).await?;
    Ok(())
}

const _: () = {
    // The contents of the request follow it as frames.
    assert!(AddToStoreNar::OPERATION.has_stream());
};
