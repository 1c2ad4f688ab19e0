//! Adding paths at a daemon.

use std::collections::HashSet;
use std::sync::OnceLock;

use bytes::Bytes;
use futures::stream::StreamExt as _;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{
    AddMultipleToStore, AddToStoreNar, Call, RemoteError, Version, encode_path_count,
};

use super::DaemonStore;
use super::connection::{CallError, Connection, Sender};
use super::pool::Purpose;
use crate::verify::{NarVerifier, check_address};
use crate::{NarStream, Store as _, StoreError, VerifiedObject};

/// Objects that are sent on one connection without a pause.
const OBJECTS: usize = 256;

/// Bytes that are sent in one frame.
const FRAME: usize = 64 * 1024;

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
        let valid = self.valid(&paths).await.map_err(failed)?;
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

    /// Adds objects in order, without waiting for one before the next is sent. Each has its own
    /// result.
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
        let own: HashSet<&StorePath> = objects.iter().map(VerifiedObject::path).collect();
        let mut mentioned: HashSet<StorePath> = HashSet::new();
        for object in &objects {
            let references = object.info().references.iter();
            mentioned.extend(references.filter(|path| !own.contains(path)).cloned());
        }
        // A daemon that trusts us takes valid paths again. Others say that they lack signatures.
        if self.0.daemon.trusted != Some(true) {
            mentioned.extend(own.into_iter().cloned());
        }
        let asked = self.0.roots.without_held(mentioned);
        let mut valid = match self.valid_paths(&asked).await {
            Ok(valid) => valid,
            Err(error) => return self.all_failed(&objects, error),
        };
        let mut results: Vec<Option<Result<(), StoreError>>> = Vec::with_capacity(objects.len());
        let mut sent = Vec::new();
        for (index, object) in objects.iter().enumerate() {
            let info = object.info();
            let is_valid = |path: &StorePath| valid.contains(path) || self.0.roots.holds(path);
            let mut references = info.references.iter();
            let missing = references.find(|path| **path != info.path && !is_valid(path));
            results.push(if object.store_dir() != self.store_dir() {
                Some(Err(StoreError::OtherStoreDir {
                    store: self.uri().clone(),
                    actual: self.store_dir().clone(),
                    expected: object.store_dir().clone(),
                }))
            } else if is_valid(object.path()) {
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
        results
            .into_iter()
            .map(|result| result.unwrap_or(Ok(())))
            .collect()
    }

    /// Sends objects on one connection. One result for each. What was added stays a root of that
    /// connection.
    async fn send_objects(
        &self,
        objects: &[(usize, &VerifiedObject)],
    ) -> Vec<Result<(), CallError>> {
        if objects.is_empty() {
            return Vec::new();
        }
        let options = self.0.pool.options();
        if options.temporary_roots {
            let mut lease = match self.0.roots.lease(options).await {
                Ok(lease) => lease,
                Err(error) => return for_all(error, objects.len()),
            };
            let results = self.send_on(&mut lease, objects).await;
            let added = objects.iter().zip(&results);
            let added = added.filter(|(_, result)| result.is_ok());
            lease.holds(added.map(|((_, object), _)| object.path().clone()));
            return results;
        }
        match self.acquire().await {
            Ok(mut connection) => self.send_on(&mut connection, objects).await,
            Err(error) => for_all(error, objects.len()),
        }
    }

    async fn send_on(
        &self,
        connection: &mut Connection,
        objects: &[(usize, &VerifiedObject)],
    ) -> Vec<Result<(), CallError>> {
        // Nix 2.8 takes the NAR of a path that has become valid for the next path.
        if objects.len() > 1 && self.0.daemon.protocol >= Version::new(1, 35) {
            match send_together(connection, objects).await {
                Ok(()) => return objects.iter().map(|_| Ok(())).collect(),
                // Which one it is about is found out one by one.
                Err(CallError::Remote(_)) if connection.is_idle() => {}
                Err(error) => return for_all(error, objects.len()),
            }
        }
        let mut results = Vec::with_capacity(objects.len());
        if let Err(error) = send_each(connection, objects, &mut results).await {
            // The others may have been added: adding them again changes nothing.
            results.extend(for_all(error, objects.len() - results.len()));
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

/// The error of a connection, for each of so many objects.
fn for_all(error: CallError, count: usize) -> Vec<Result<(), CallError>> {
    let message = error.to_string();
    let mut first = Some(error);
    let each = std::iter::repeat_with(|| {
        let again = || std::io::Error::other(message.clone()).into();
        Err(first.take().unwrap_or_else(again))
    });
    each.take(count).collect()
}

/// Adds objects with one request: the daemon adds all of them, or stops at one.
async fn send_together(
    connection: &mut Connection,
    objects: &[(usize, &VerifiedObject)],
) -> Result<(), CallError> {
    let context = connection.session.context.clone();
    let Connection {
        sender, receiver, ..
    } = connection;
    let send = async {
        sender.request(&AddMultipleToStore {
            repair: false,
            dont_check_signatures: true,
        })?;
        let mut contents = Vec::with_capacity(FRAME);
        encode_path_count(objects.len() as u64, &mut contents);
        for (_, object) in objects {
            context.encode(object.info(), &mut contents)?;
            match object.nar().len() < FRAME {
                true => contents.extend_from_slice(object.nar()),
                false => {
                    sender.frames(&contents).await?;
                    contents.clear();
                    sender.frames(object.nar()).await?;
                }
            }
            if contents.len() >= FRAME {
                sender.frames(&contents).await?;
                contents.clear();
            }
        }
        sender.frames(&contents).await?;
        sender.end();
        sender.flush().await
    };
    let receive = async {
        match receiver.answer::<AddMultipleToStore>().await {
            // The daemon reads to the end nevertheless.
            Err(CallError::Remote(error)) => Ok(Err(error)),
            answer => answer.map(Ok),
        }
    };
    let ((), answer) = futures::try_join!(send, receive)?;
    Ok(answer?)
}

/// Adds objects with a request for each, without waiting for the answers to earlier ones. Appends
/// the results; an error of the connection leaves some out.
async fn send_each(
    connection: &mut Connection,
    objects: &[(usize, &VerifiedObject)],
    results: &mut Vec<Result<(), CallError>>,
) -> Result<(), CallError> {
    let Connection {
        sender, receiver, ..
    } = connection;
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
    assert!(AddToStoreNar::OPERATION.has_stream() && AddMultipleToStore::OPERATION.has_stream());
};
