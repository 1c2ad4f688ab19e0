//! Reading NARs from a daemon.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use nix_compat::nar::Parser;
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StorePath;
use tvix_worker_protocol::{Decoder, LogMessage, NarFromPath, is_error_instead_of_nar};

use super::connection::{CallError, Connection};
use super::pool::{Pooled, Purpose};
use super::{BATCH, DaemonStore};
use crate::ext::many;
use crate::verify::{NarVerifier, check_address, malformed};
use crate::{NarStream, Store as _, StoreError, VerifiedObject};

/// Paths that are read on one connection without a pause.
const READS: usize = 64;

/// A NAR that is being received.
struct Reading {
    store: DaemonStore,
    path: StorePath,
    connection: Pooled,
    parser: Parser,
}

impl DaemonStore {
    pub(super) async fn read(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        // A daemon closes the connection if the path is not valid.
        if !self.0.roots.holds(path) && self.path_info(path).await?.is_none() {
            return Err(self.not_found(path));
        }
        let mut attempt = 1;
        let connection = loop {
            match self.start_reading(path).await {
                Err(error) if self.again(&error, &mut attempt).await => {}
                Err(error) => return Err(self.read_failed(path, error).await),
                Ok(connection) => break connection,
            }
        };
        let reading = Reading {
            store: self.clone(),
            path: path.clone(),
            connection,
            parser: Parser::new(),
        };
        Ok(stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }

    async fn start_reading(&self, path: &StorePath) -> Result<Pooled, CallError> {
        let mut connection = self.0.pool.acquire(Purpose::Read).await?;
        connection
            .sender
            .request(&NarFromPath { path: path.clone() })?;
        connection.sender.flush().await?;
        await_nar(&mut connection).await?;
        Ok(connection)
    }

    /// The error of a read. The path may have been deleted meanwhile.
    async fn read_failed(&self, path: &StorePath, error: CallError) -> StoreError {
        if let CallError::Remote(_) = error
            && let Ok(valid) = self.valid(std::slice::from_ref(path)).await
            && valid.is_empty()
        {
            return self.not_found(path);
        }
        self.failed(format!("read '{path}'"), error)
    }

    /// Reads small objects, many on one connection.
    pub(super) async fn read_objects(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        let batches: Vec<_> = infos.chunks(READS).map(<[_]>::to_vec).collect();
        let read = stream::iter(batches)
            .map(|batch| self.read_batch(batch))
            .buffered(self.0.pool.options().connections);
        read.flat_map(stream::iter).collect().await
    }

    async fn read_batch(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        debug_assert!(infos.len() <= BATCH);
        // A path that is not valid would end the connection. A root is valid.
        let paths = infos.iter().map(|info| info.path.clone());
        let asked = self.0.roots.without_held(paths);
        let valid = match self.valid_paths(&asked).await {
            Ok(valid) => valid,
            // Each fails in its own way.
            Err(_) => return many::read_many(self, infos).await,
        };
        let (there, missing): (Vec<_>, Vec<_>) =
            infos.iter().cloned().enumerate().partition(|(_, info)| {
                valid.contains(&info.path) || self.0.roots.holds(&info.path)
            });
        let mut results: Vec<_> = infos.iter().map(|_| None).collect();
        for (index, info) in missing {
            results[index] = Some(Err(self.not_found(&info.path)));
        }
        let read = self.read_valid(&there).await;
        let unread: Vec<_> = there.iter().skip(read.len()).cloned().collect();
        for ((index, _), object) in there.iter().zip(read) {
            results[*index] = Some(object);
        }
        // The connection failed: the others are read one by one, each with attempts of its own.
        let others = unread.iter().map(|(_, info)| info.clone()).collect();
        for ((index, _), object) in unread.iter().zip(many::read_many(self, others).await) {
            results[*index] = Some(object);
        }
        results.into_iter().flatten().collect()
    }

    /// Reads valid paths on one connection, as far as it lasts.
    async fn read_valid(
        &self,
        infos: &[(usize, Arc<PathInfo>)],
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        let mut read = Vec::with_capacity(infos.len());
        if infos.is_empty() {
            return read;
        }
        let Ok(mut connection) = self.0.pool.acquire(Purpose::Request).await else {
            return read;
        };
        let Connection {
            sender, receiver, ..
        } = &mut *connection;
        let send = async {
            for (_, info) in infos {
                let path = info.path.clone();
                sender.request(&NarFromPath { path })?;
            }
            sender.flush().await
        };
        let receive = async {
            for (_, info) in infos {
                receiver.log().await?;
                let object = receive_object(self, receiver, info).await?;
                receiver.answered();
                read.push(object);
            }
            Ok::<_, CallError>(())
        };
        // What failed is read again by another way, which reports the error.
        let _ = futures::try_join!(send, receive);
        read
    }
}

/// Waits until a NAR begins.
async fn await_nar(connection: &mut Connection) -> Result<(), CallError> {
    connection.receiver.log().await?;
    let context = connection.session.context.clone();
    let receiver = &mut connection.receiver;
    let head = receiver.head().await?;
    if is_error_instead_of_nar(head) != Some(true) {
        return Ok(());
    }
    let mut decoder = Decoder::<LogMessage>::new();
    loop {
        let bytes = receiver.bytes().await?;
        let (taken, message) = decoder.feed(bytes, &context)?;
        receiver.take(taken);
        match message {
            // The connection counts as one in the middle of an answer: the daemon closes it.
            Some(LogMessage::Error(error)) => return Err(error.into()),
            Some(_) => return Err(std::io::Error::other("another message than an error").into()),
            None => {}
        }
    }
}

/// Receives a NAR of at most the announced size, and verifies it. The outer error is one of the
/// connection, which cannot be used again: the NAR is not received to its end.
async fn receive_object(
    store: &DaemonStore,
    receiver: &mut super::connection::Receiver,
    info: &Arc<PathInfo>,
) -> Result<Result<VerifiedObject, StoreError>, CallError> {
    let broken = |error: &dyn std::error::Error| std::io::Error::other(error.to_string());
    let mut parser = Parser::new();
    let mut verifier = NarVerifier::new(info);
    let (mut nar, mut first) = (BytesMut::new(), Bytes::new());
    while !parser.is_finished() {
        let bytes = receiver.bytes().await?;
        let consumed = consume(&mut parser, bytes).map_err(|error| broken(&error))?;
        let chunk = receiver.take(consumed);
        let verified = verifier.update(&chunk, |_| Ok(()));
        verified.map_err(|error| broken(&error))?;
        // A NAR in a single chunk is not copied.
        if first.is_empty() && nar.is_empty() {
            first = chunk;
        } else {
            nar.extend_from_slice(&std::mem::take(&mut first));
            nar.extend_from_slice(&chunk);
        }
    }
    let verified = check_address(store.store_dir(), info).and_then(|()| verifier.finish());
    let nar = if nar.is_empty() { first } else { nar.freeze() };
    Ok(verified.map(|()| VerifiedObject::checked(store.store_dir(), PathInfo::clone(info), nar)))
}

/// The number of bytes that belong to the NAR.
fn consume(parser: &mut Parser, bytes: &[u8]) -> Result<usize, nix_compat::nar::NarError> {
    let mut used = 0;
    while !parser.is_finished() {
        let step = parser.feed(&bytes[used..])?;
        used += step.consumed;
        if step.event.is_none() {
            break;
        }
    }
    Ok(used)
}

impl Reading {
    /// The next bytes of the NAR; `None` at its end.
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.parser.is_finished() {
            return Ok(None);
        }
        let (store, path) = (&self.store, &self.path);
        let receiver = &mut self.connection.receiver;
        let bytes = match receiver.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return Err(store.failed(format!("read '{path}'"), error)),
        };
        let consumed = consume(&mut self.parser, bytes);
        let consumed = consumed.map_err(|error| malformed(path, error).blame(store.uri()))?;
        let chunk = receiver.take(consumed);
        if self.parser.is_finished() {
            receiver.answered();
        }
        Ok(Some(chunk))
    }
}
