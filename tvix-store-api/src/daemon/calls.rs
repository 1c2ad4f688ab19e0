//! Calls to a daemon with the messages that it sends meanwhile.

use bytes::{Bytes, BytesMut};
use nix_compat::nar::Parser;
use nix_compat::path_info::PathInfo;
use tvix_worker_protocol::{Call, Decoder, Features, LogMessage, NarFromPath, ProtocolError};

use super::DaemonInfo;
use super::connection::{CallError, Connection};
use super::options::DaemonOptions;
use crate::StoreError;
use crate::verify::NarVerifier;

/// A connection to a daemon, for calls whose messages matter, such as builds. A
/// [`DaemonStore`](super::DaemonStore) has its own connections.
///
/// A call is [requested](Self::request), its messages are received one after the other
/// ([`message`](Self::message)), and then its [answer](Self::answer). Further calls may be requested
/// before the answers to earlier ones. Requests are sent when something is received.
///
/// An error other than [`CallError::Remote`] ends the connection: it is to be dropped. So is one on
/// which a future other than that of `message` was dropped. Dropping it closes it, by which a daemon
/// ends the build that it has been asked for.
#[derive(Debug)]
pub struct DaemonConnection {
    inner: Connection,
    daemon: DaemonInfo,
    log: Decoder<LogMessage>,
    /// Whether the log of the current answer has ended.
    logged: bool,
    /// Whether a future was dropped that must not be.
    broken: bool,
}

/// A result of [`DaemonConnection::read_small`].
pub type ReadNar = Result<Bytes, StoreError>;

impl DaemonConnection {
    /// Connects to a daemon.
    ///
    /// # Errors
    ///
    /// [`CallError::Connect`] if there is none, [`CallError::Handshake`] if it refuses the connection,
    /// [`CallError::Protocol`] if it is something else.
    pub async fn open(options: &DaemonOptions) -> Result<Self, CallError> {
        let inner = Connection::open(options).await?;
        Ok(Self {
            daemon: DaemonInfo::of(&inner.session),
            inner,
            log: Decoder::new(),
            logged: false,
            broken: false,
        })
    }

    /// What the daemon has said about itself.
    pub fn daemon(&self) -> &DaemonInfo {
        &self.daemon
    }

    /// The features of the connection.
    pub fn features(&self) -> Features {
        self.inner.session.context.features()
    }

    /// Whether everything is answered, and the daemon has not closed the connection.
    pub fn is_reusable(&mut self) -> bool {
        !self.broken
            && self.inner.is_idle()
            && !self.log.is_within_message()
            && !self.inner.is_stale()
    }

    /// Requests a call. Calls with a stream are not supported.
    ///
    /// # Errors
    ///
    /// [`CallError::Protocol`] if the call cannot be expressed in the negotiated version.
    pub fn request<C: Call>(&mut self, call: &C) -> Result<(), CallError> {
        debug_assert!(!C::OPERATION.has_stream());
        self.inner.sender.request(call)
    }

    async fn flush(&mut self) -> Result<(), CallError> {
        if !self.inner.sender.is_flushed() {
            self.broken = true;
            self.inner.sender.flush().await?;
            self.broken = false;
        }
        Ok(())
    }

    /// The next message of the earliest call that is not answered; `None` once the answer follows.
    /// After the requests were sent, which the first call of this does, dropping the future loses
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`CallError::Remote`] if the daemon could not perform the call; this is its answer. Other
    /// errors end the connection.
    pub async fn message(&mut self) -> Result<Option<LogMessage>, CallError> {
        self.flush().await?;
        if self.logged {
            return Ok(None);
        }
        let message = self.inner.receiver.log_message(&mut self.log).await?;
        self.logged = message.is_none();
        Ok(message)
    }

    /// The answer of the earliest call that is not answered. Messages before it are dropped.
    ///
    /// # Errors
    ///
    /// As [`message`](Self::message).
    pub async fn answer<C: Call>(&mut self) -> Result<C::Answer, CallError> {
        while self.message().await?.is_some() {}
        self.broken = true;
        let answer = self.inner.receiver.answer_after_log::<C>().await?;
        (self.logged, self.broken) = (false, false);
        Ok(answer)
    }

    /// Makes a call. Its messages are dropped.
    ///
    /// # Errors
    ///
    /// As [`message`](Self::message).
    pub async fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer, CallError> {
        self.request(call)?;
        self.answer::<C>().await
    }

    /// Reads the NARs of valid paths into memory, and verifies them. All calls must be answered. Holds
    /// at most as many bytes as the infos say.
    ///
    /// # Errors
    ///
    /// An outer error ends the connection. It is also the result if a path is not valid any more, or a
    /// NAR is larger than its info says; an inner one says that contents are not those of an info.
    pub async fn read_small(&mut self, infos: &[PathInfo]) -> Result<Vec<ReadNar>, CallError> {
        for info in infos {
            let path = info.path.clone();
            self.request(&NarFromPath { path })?;
        }
        let mut read = Vec::with_capacity(infos.len());
        for info in infos {
            while self.message().await?.is_some() {}
            self.broken = true;
            read.push(self.receive_nar(info).await?);
            self.inner.receiver.answered();
            (self.logged, self.broken) = (false, false);
        }
        Ok(read)
    }

    /// Receives the NAR that comes next.
    async fn receive_nar(&mut self, info: &PathInfo) -> Result<ReadNar, CallError> {
        let receiver = &mut self.inner.receiver;
        if tvix_worker_protocol::is_error_instead_of_nar(receiver.head().await?) == Some(true) {
            return match receiver.log_message(&mut Decoder::new()).await {
                Err(CallError::Remote(error)) => {
                    // The daemon closes the connection.
                    Err(std::io::Error::other(error).into())
                }
                Err(error) => Err(error),
                Ok(_) => Err(ProtocolError::Truncated.into()),
            };
        }
        let mut parser = Parser::new();
        let mut verifier = NarVerifier::new(info);
        let (mut nar, mut first) = (BytesMut::new(), Bytes::new());
        let mut refused = None;
        while !parser.is_finished() {
            let bytes = receiver.bytes().await?;
            let mut used = 0;
            while !parser.is_finished() {
                let step = parser.feed(&bytes[used..]).map_err(std::io::Error::other)?;
                used += step.consumed;
                if step.event.is_none() {
                    break;
                }
            }
            let chunk = receiver.take(used);
            if (nar.len() + first.len() + chunk.len()) as u64 > info.nar_size {
                let message = format!("'{}' is larger than its info says", info.path);
                return Err(std::io::Error::other(message).into());
            }
            if refused.is_none() {
                refused = verifier.update(&chunk, |_| Ok(())).err();
            }
            // A NAR in a single chunk is not copied.
            if first.is_empty() && nar.is_empty() {
                first = chunk;
            } else {
                nar.extend_from_slice(&std::mem::take(&mut first));
                nar.extend_from_slice(&chunk);
            }
        }
        Ok(match refused {
            Some(error) => Err(error),
            None => verifier.finish().map(|()| match nar.is_empty() {
                true => first,
                false => nar.freeze(),
            }),
        })
    }
}
