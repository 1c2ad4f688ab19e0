//! The beginning of a connection: greeting, version, features, trust.

use bstr::BString;
use nix_compat::store_path::StoreDir;

use crate::log::LogMessage;
use crate::scan::Shape;
use crate::wire::{Codec, Reader, Writer};
use crate::{Context, Decoder, Features, Limits, ProtocolError, Version};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;

/// Limits of a peer that is not known yet.
const LIMITS: Limits = Limits {
    text: 64 * 1024,
    message: 64 * 1024,
};

/// Whether a daemon trusts its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It does.
    Trusted,
    /// It does not: the client may not import unsigned paths, repair, or set much.
    NotTrusted,
}

impl Codec for Option<Trust> {
    const SHAPE: Shape = Shape::Number;

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.number()? {
            0 => Ok(None),
            1 => Ok(Some(Trust::Trusted)),
            2 => Ok(Some(Trust::NotTrusted)),
            tag => Err(ProtocolError::Tag { what: "trust", tag }),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.number(match self {
            None => 0,
            Some(Trust::Trusted) => 1,
            Some(Trust::NotTrusted) => 2,
        });
    }
}

/// The result of a handshake for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Session {
    /// The negotiated version and features.
    pub context: Context,
    /// The version of the daemon's program, such as `2.34.8`.
    pub daemon_version: BString,
    /// Whether the daemon trusts the client; `None` if it does not say. Known since version 1.35.
    pub trust: Option<Trust>,
}

/// The offer to the peer.
#[derive(Debug, Clone)]
struct Offer {
    version: Version,
    features: Features,
    limits: Limits,
    dir: StoreDir,
}

impl Offer {
    fn new(dir: StoreDir) -> Self {
        Self {
            version: Version::MAX,
            features: Features::default(),
            limits: Limits::default(),
            dir,
        }
    }

    /// The version of both; an error if it is not supported.
    fn agree(&self, number: u64) -> Result<Version, ProtocolError> {
        let peer = Version::from_wire(number).ok_or(ProtocolError::Number {
            what: "version of the worker protocol",
            value: number,
        })?;
        if peer.major != Version::MAX.major || peer < Version::MIN {
            return Err(ProtocolError::Version(peer));
        }
        Ok(peer.min(self.version))
    }

    fn context(&self, version: Version, features: Features) -> Context {
        let features = features.intersection(self.features);
        Context::new(self.dir.clone(), version, features).with_limits(self.limits)
    }
}

fn write_features(features: Features, out: &mut Vec<u8>, context: &Context) {
    let mut writer = Writer::new(out, context);
    let names: Vec<_> = features.iter().collect();
    writer.list(&names, |writer, feature| writer.text(feature.name()));
}

fn known(names: &[BString]) -> Features {
    Features::of_names(names.iter().map(|name| &name[..]))
}

/// The client's side of the handshake, as a state machine without I/O.
///
/// ```
/// use tvix_worker_protocol::{ClientHandshake, ServerHandshake};
///
/// let mut client = ClientHandshake::new(Default::default());
/// let mut server = ServerHandshake::new(Default::default(), "2.34.8");
/// let session = loop {
///     let sent = client.take_output();
///     server.feed(&sent)?;
///     let answer = server.take_output();
///     if let (_, Some(session)) = client.feed(&answer)? {
///         break session;
///     }
/// };
/// assert_eq!(session.daemon_version, "2.34.8");
/// # Ok::<(), tvix_worker_protocol::HandshakeError>(())
/// ```
#[derive(Debug)]
pub struct ClientHandshake {
    offer: Offer,
    context: Context,
    state: ClientState,
    numbers: Decoder<(u64, u64)>,
    names: Decoder<Vec<BString>>,
    greeting: Decoder<BString>,
    trust: Decoder<Option<Trust>>,
    log: Decoder<LogMessage>,
    out: Vec<u8>,
    daemon_version: BString,
    trusted: Option<Trust>,
    messages: Vec<LogMessage>,
}

#[derive(Debug, Clone, Copy)]
enum ClientState {
    Version,
    Features,
    DaemonVersion,
    Trust,
    Log,
    Done,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer sent something else.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The daemon refuses the connection.
    #[error("the daemon refuses the connection")]
    Refused(#[source] crate::log::RemoteError),
    /// The daemon sent too many messages before it was ready.
    #[error("the daemon sends messages without end before it is ready")]
    Chatty,
}

/// Messages that a daemon may send before it is ready.
const MAX_MESSAGES: usize = 1024;

impl ClientHandshake {
    /// A handshake that offers [`Version::MAX`] and no feature.
    pub fn new(dir: StoreDir) -> Self {
        let offer = Offer::new(dir);
        let context = offer.context(Version::MAX, Features::default());
        let mut handshake = Self {
            offer,
            context: context.with_limits(LIMITS),
            state: ClientState::Version,
            numbers: Decoder::new(),
            names: Decoder::new(),
            greeting: Decoder::new(),
            trust: Decoder::new(),
            log: Decoder::new(),
            out: Vec::new(),
            daemon_version: BString::default(),
            trusted: None,
            messages: Vec::new(),
        };
        handshake.greet();
        handshake
    }

    /// Sets the version that is offered, at most [`Version::MAX`].
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.offer.version = version.clamp(Version::MIN, Version::MAX);
        self.greet();
        self
    }

    /// Sets the features that are offered.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Self {
        self.offer.features = features;
        self
    }

    /// Sets the limits of the messages of the daemon afterwards.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.offer.limits = limits;
        self
    }

    fn greet(&mut self) {
        self.out.clear();
        self.out.extend_from_slice(&CLIENT_MAGIC.to_le_bytes());
        let version = self.offer.version.to_wire();
        self.out.extend_from_slice(&version.to_le_bytes());
    }

    /// The bytes to send now. Call it at the start and after [`feed`](Self::feed).
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes bytes from the beginning of `input`. Returns their number, and the session once the
    /// daemon is ready.
    ///
    /// # Errors
    ///
    /// [`HandshakeError`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Session>), HandshakeError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let taken = match self.state {
                ClientState::Version => {
                    // Anything else than the greeting may be shorter than both numbers.
                    if let (false, Some(magic)) = (
                        self.numbers.is_within_message(),
                        crate::scan::read_number(rest),
                    ) && magic != SERVER_MAGIC
                    {
                        return Err(ProtocolError::Magic { found: magic }.into());
                    }
                    let (taken, numbers) = self.numbers.feed(rest, &self.context)?;
                    if let Some((magic, version)) = numbers {
                        if magic != SERVER_MAGIC {
                            return Err(ProtocolError::Magic { found: magic }.into());
                        }
                        let version = self.offer.agree(version)?;
                        self.context.version = version;
                        self.state = ClientState::DaemonVersion;
                        if version.has_features() {
                            write_features(self.offer.features, &mut self.out, &self.context);
                            self.state = ClientState::Features;
                        }
                        // No processor affinity, no space to reserve: both are obsolete.
                        self.out.extend_from_slice(&[0; 16]);
                    }
                    taken
                }
                ClientState::Features => {
                    let (taken, names) = self.names.feed(rest, &self.context)?;
                    if let Some(names) = names {
                        self.context.features = known(&names);
                        self.state = ClientState::DaemonVersion;
                    }
                    taken
                }
                ClientState::DaemonVersion => {
                    let (taken, version) = self.greeting.feed(rest, &self.context)?;
                    if let Some(version) = version {
                        self.daemon_version = version;
                        self.state = match self.context.version >= Version::new(1, 35) {
                            true => ClientState::Trust,
                            false => ClientState::Log,
                        };
                    }
                    taken
                }
                ClientState::Trust => {
                    let (taken, trust) = self.trust.feed(rest, &self.context)?;
                    if let Some(trust) = trust {
                        self.trusted = trust;
                        self.state = ClientState::Log;
                    }
                    taken
                }
                ClientState::Log => {
                    let (taken, message) = self.log.feed(rest, &self.context)?;
                    match message {
                        None => {}
                        Some(LogMessage::Error(error)) => {
                            return Err(HandshakeError::Refused(error));
                        }
                        Some(LogMessage::Last) => {
                            self.state = ClientState::Done;
                            let context = &self.context;
                            return Ok((
                                used + taken,
                                Some(Session {
                                    context: self.offer.context(context.version, context.features),
                                    daemon_version: std::mem::take(&mut self.daemon_version),
                                    trust: self.trusted,
                                }),
                            ));
                        }
                        Some(message) => {
                            if self.messages.len() == MAX_MESSAGES {
                                return Err(HandshakeError::Chatty);
                            }
                            self.messages.push(message);
                        }
                    }
                    taken
                }
                ClientState::Done => return Ok((used, None)),
            };
            used += taken;
            if taken == 0 {
                return Ok((used, None));
            }
        }
    }

    /// The messages that the daemon sent before it was ready.
    pub fn take_messages(&mut self) -> Vec<LogMessage> {
        std::mem::take(&mut self.messages)
    }
}

/// The daemon's side of the handshake, as a state machine without I/O.
#[derive(Debug)]
pub struct ServerHandshake {
    offer: Offer,
    context: Context,
    state: ServerState,
    number: Decoder<u64>,
    names: Decoder<Vec<BString>>,
    out: Vec<u8>,
    daemon_version: BString,
    trust: Option<Trust>,
}

#[derive(Debug, Clone, Copy)]
enum ServerState {
    Magic,
    Version,
    Features,
    Affinity,
    AffinityValue,
    ReserveSpace,
    Done,
}

impl ServerHandshake {
    /// A handshake that offers [`Version::MAX`] and no feature, and does not say whether the client
    /// is trusted. `daemon_version` is that of the program; clients display it.
    pub fn new(dir: StoreDir, daemon_version: impl Into<BString>) -> Self {
        let offer = Offer::new(dir);
        let context = offer.context(Version::MAX, Features::default());
        Self {
            offer,
            context: context.with_limits(LIMITS),
            state: ServerState::Magic,
            number: Decoder::new(),
            names: Decoder::new(),
            out: Vec::new(),
            daemon_version: daemon_version.into(),
            trust: None,
        }
    }

    /// Sets the version that is offered, at most [`Version::MAX`].
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.offer.version = version.clamp(Version::MIN, Version::MAX);
        self
    }

    /// Sets the features that are offered.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Self {
        self.offer.features = features;
        self
    }

    /// Sets whether the client is trusted.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Sets the limits of the messages of the client afterwards.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.offer.limits = limits;
        self
    }

    /// The bytes to send now. Call it after [`feed`](Self::feed).
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Takes bytes from the beginning of `input`. Returns their number, and the context once the
    /// client may send requests; they may follow in the same input.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`].
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Context>), ProtocolError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let taken = match self.state {
                ServerState::Done => return Ok((used, None)),
                ServerState::Features => {
                    let (taken, names) = self.names.feed(rest, &self.context)?;
                    if let Some(names) = names {
                        self.context.features = known(&names);
                        write_features(self.offer.features, &mut self.out, &self.context);
                        self.state = ServerState::Affinity;
                    }
                    taken
                }
                state => {
                    let (taken, number) = self.number.feed(rest, &self.context)?;
                    if let Some(number) = number {
                        self.number(state, number)?;
                    }
                    taken
                }
            };
            used += taken;
            if matches!(self.state, ServerState::Done) {
                let context = &self.context;
                let context = self.offer.context(context.version, context.features);
                return Ok((used, Some(context)));
            }
            if taken == 0 {
                return Ok((used, None));
            }
        }
    }

    fn number(&mut self, state: ServerState, number: u64) -> Result<(), ProtocolError> {
        self.state = match state {
            ServerState::Magic if number != CLIENT_MAGIC => {
                return Err(ProtocolError::Magic { found: number });
            }
            ServerState::Magic => {
                self.out.extend_from_slice(&SERVER_MAGIC.to_le_bytes());
                let version = self.offer.version.to_wire();
                self.out.extend_from_slice(&version.to_le_bytes());
                ServerState::Version
            }
            ServerState::Version => {
                self.context.version = self.offer.agree(number)?;
                match self.context.version.has_features() {
                    true => ServerState::Features,
                    false => ServerState::Affinity,
                }
            }
            ServerState::Affinity if number != 0 => ServerState::AffinityValue,
            ServerState::Affinity | ServerState::AffinityValue => ServerState::ReserveSpace,
            _ => {
                let daemon_version = self.daemon_version.clone();
                let out = &mut self.out;
                self.context.encode(&daemon_version, out)?;
                if self.context.version >= Version::new(1, 35) {
                    self.context.encode(&self.trust, out)?;
                }
                self.context.encode(&LogMessage::Last, out)?;
                ServerState::Done
            }
        };
        Ok(())
    }
}
