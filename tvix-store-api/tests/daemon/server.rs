//! A daemon with a store in memory, as far as `DaemonStore` needs one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::realisation::Realisation;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tvix_store_api::daemon::DaemonOptions;
use tvix_store_api::{MemoryStore, PathInfo, Store as _};
use tvix_worker_protocol::{
    AddToStoreNar, Answer, Context, Decoder, Features, FoundRealisation, FrameDecoder, Framed,
    LogMessage, RemoteError, Request, ServerHandshake, Tagged, Trust, Version,
};

/// How a connection fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is closed in place of an answer.
    Close,
    /// It is closed within an answer.
    CloseWithin,
    /// The answer is none.
    Nonsense,
}

pub struct Server {
    directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    store: MemoryStore,
    version: Version,
    features: Features,
    /// The fault of one answer, after so many others.
    fault: Mutex<Option<(Fault, usize)>>,
    /// Connections that end before the handshake.
    refused: AtomicUsize,
    generation: watch::Sender<u64>,
    connections: AtomicUsize,
    most: AtomicUsize,
}

impl Server {
    pub fn new(version: Version, features: Features) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            store: MemoryStore::new(StoreDir::default()),
            version,
            features,
            fault: Mutex::default(),
            refused: AtomicUsize::new(0),
            generation: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let less = |left: usize| left.checked_sub(1);
                let order = Ordering::Relaxed;
                if serving.refused.fetch_update(order, order, less).is_ok() {
                    continue;
                }
                let (shared, mut generation) = (serving.clone(), serving.generation.subscribe());
                tokio::spawn(async move {
                    let now = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                    shared.most.fetch_max(now, Ordering::Relaxed);
                    tokio::select! {
                        _ = shared.serve(stream) => {}
                        _ = generation.changed() => {}
                    }
                    shared.connections.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { directory, shared }
    }

    pub fn options(&self) -> DaemonOptions {
        let socket = self.directory.path().join("socket");
        let uri = format!("unix://{}?root=/nowhere/at/all", socket.display());
        DaemonOptions::new(uri.parse().unwrap()).unwrap()
    }

    /// Lets one answer fail, after `after` others.
    pub fn fail(&self, fault: Fault, after: usize) {
        *self.shared.fault.lock().unwrap() = Some((fault, after));
    }

    /// Ends the next connections at once.
    pub fn refuse(&self, count: usize) {
        self.shared.refused.store(count, Ordering::Relaxed);
    }

    pub fn heal(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    pub fn close_all(&self) {
        self.shared.generation.send_modify(|it| *it += 1);
    }

    pub fn most_connections(&self) -> usize {
        self.shared.most.load(Ordering::Relaxed)
    }
}

/// A connection's input.
struct Input {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Input {
    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.ok()?;
        (read > 0).then_some(())
    }

    async fn request(&mut self, context: &Context) -> Option<Request> {
        let mut decoder = Decoder::new();
        loop {
            let (taken, request) = decoder.feed(&self.buffer, context).ok()?;
            self.buffer.drain(..taken);
            match request {
                Some(request) => return Some(request),
                None => self.more().await?,
            }
        }
    }

    /// The contents of a framed stream.
    async fn frames(&mut self) -> Option<Bytes> {
        let (mut frames, mut contents) = (FrameDecoder::new(), Vec::new());
        loop {
            let (taken, event) = frames.feed(&self.buffer);
            let needs_more = matches!(event, Framed::NeedMore);
            if let Framed::Piece(piece) = event {
                contents.extend_from_slice(piece);
            }
            self.buffer.drain(..taken);
            if frames.is_ended() {
                return Some(contents.into());
            }
            if needs_more {
                self.more().await?;
            }
        }
    }
}

impl Shared {
    async fn serve(&self, stream: UnixStream) -> Option<()> {
        let mut input = Input {
            stream,
            buffer: Vec::new(),
        };
        let mut handshake = ServerHandshake::new(StoreDir::default(), "1.2")
            .with_version(self.version)
            .with_features(self.features)
            .with_trust(Trust::Trusted);
        let context = loop {
            input.more().await?;
            let (taken, context) = handshake.feed(&input.buffer).ok()?;
            input.buffer.drain(..taken);
            input
                .stream
                .write_all(&handshake.take_output())
                .await
                .ok()?;
            if let Some(context) = context {
                break context;
            }
        };
        loop {
            let request = input.request(&context).await?;
            let mut nar = Bytes::new();
            if request.operation().has_stream() {
                nar = input.frames().await?;
            }
            let mut out = Vec::new();
            context
                .encode(&LogMessage::Next("a line".into()), &mut out)
                .unwrap();
            let valid = match &request {
                Request::NarFromPath(it) => self.store.path_info(&it.path).await.unwrap().is_some(),
                _ => true,
            };
            match self.answer(request, nar).await {
                Ok((answer, nar)) => {
                    context.encode(&LogMessage::Last, &mut out).unwrap();
                    answer.encode(&context, &mut out).unwrap();
                    out.extend_from_slice(&nar);
                }
                Err(message) => {
                    if !valid {
                        // As Nix does: after the log, and with the end of the connection.
                        context.encode(&LogMessage::Last, &mut out).unwrap();
                    }
                    let error = LogMessage::Error(RemoteError::new(message));
                    context.encode(&error, &mut out).unwrap();
                }
            }
            match self.fault() {
                None => input.stream.write_all(&out).await.ok()?,
                Some(Fault::Close) => return None,
                Some(Fault::CloseWithin) => {
                    input.stream.write_all(&out[..out.len() - 1]).await.ok()?;
                    return None;
                }
                Some(Fault::Nonsense) => input.stream.write_all(&[7; 16]).await.ok()?,
            }
            if !valid {
                return None;
            }
        }
    }

    fn fault(&self) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        match &mut *fault {
            Some((fault_now, 0)) => {
                let now = *fault_now;
                *fault = None;
                Some(now)
            }
            Some((_, after)) => {
                *after -= 1;
                None
            }
            None => None,
        }
    }

    async fn answer(&self, request: Request, nar: Bytes) -> Result<(Answer, Bytes), String> {
        let store = &self.store;
        let shown = |error: tvix_store_api::StoreError| error.to_string();
        let answer = match request {
            Request::QueryPathInfo(it) => {
                let info = store.path_info(&it.path).await.map_err(shown)?;
                let info = info.map(|info| PathInfo::clone(&info).into());
                Answer::QueryPathInfo(Tagged(info))
            }
            Request::QueryValidPaths(it) => {
                let valid = store.valid_paths(&it.paths).await.map_err(shown)?;
                Answer::QueryValidPaths(valid.into_iter().collect::<SortedSet<_>>())
            }
            Request::QueryPathFromHashPart(it) => {
                let info = store.find(&it.digest).await.map_err(shown)?;
                Answer::QueryPathFromHashPart(info.map(|info| info.path.clone()))
            }
            Request::AddTempRoot(_) => Answer::AddTempRoot(Default::default()),
            Request::NarFromPath(it) => {
                let nar = store.nar(&it.path).await.map_err(shown)?;
                let nar: Vec<Bytes> = nar.try_collect().await.map_err(shown)?;
                return Ok((Answer::NarFromPath(()), nar.concat().into()));
            }
            Request::AddToStoreNar(AddToStoreNar { info, .. }) => {
                let nar = stream::iter([Ok(nar)]).boxed();
                store.add(info, nar).await.map_err(shown)?;
                Answer::AddToStoreNar(())
            }
            Request::RegisterDrvOutput(it) => {
                store
                    .add_realisation(&it.realisation)
                    .await
                    .map_err(shown)?;
                Answer::RegisterDrvOutput(())
            }
            Request::QueryRealisation(it) => {
                let found: Option<Realisation> = store.realisation(&it.id).await.map_err(shown)?;
                Answer::QueryRealisation(FoundRealisation(found.map(Into::into)))
            }
            other => return Err(format!("{} is not served", other.operation())),
        };
        Ok((answer, Bytes::new()))
    }
}
