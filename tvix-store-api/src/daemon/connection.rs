//! A connection to a daemon: the codec over tokio's I/O.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tvix_worker_protocol::{
    Call, ClientHandshake, Context, Decoder, Feature, Features, HandshakeError, LogMessage,
    Message, ProtocolError, RemoteError, Session, encode_end, encode_frame,
};

use super::options::{Address, DaemonOptions};

/// Bytes that are received at once, and size of frames.
const CHUNK: usize = 64 * 1024;

/// Why a call to a daemon failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The daemon says so; the connection can be used again.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The connection was not made.
    #[error(transparent)]
    Connect(io::Error),
    /// The connection failed: another one may work.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The daemon sent something else.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The daemon refuses connections.
    #[error(transparent)]
    Handshake(HandshakeError),
}

impl From<HandshakeError> for CallError {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Protocol(error) => error.into(),
            other => Self::Handshake(other),
        }
    }
}

type Result<T> = std::result::Result<T, CallError>;

/// A connection. After an error other than [`CallError::Remote`], and when a future of it was
/// dropped, it must not be used again: see [`is_idle`](Self::is_idle).
#[derive(Debug)]
pub(super) struct Connection {
    pub sender: Sender,
    pub receiver: Receiver,
    pub session: Session,
    /// Dropped last, after its pipes.
    _child: Option<Program>,
}

/// How long a program may take to end after its pipes are closed. The daemon that it connects to ends
/// builds meanwhile; if both were killed, nothing would.
const GRACE: Duration = Duration::from_secs(5);

/// The program of a connection. Dropped, it gets time to end by itself, as long as there is a runtime.
#[derive(Debug)]
struct Program(Option<Child>);

impl Drop for Program {
    fn drop(&mut self) {
        if let (Some(mut child), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        {
            // A child that is dropped is killed.
            runtime.spawn(async move {
                let _ = tokio::time::timeout(GRACE, child.wait()).await;
            });
        }
    }
}

/// The half that sends requests.
pub(super) struct Sender {
    inner: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    out: Vec<u8>,
    context: Context,
    /// Requests sent whose answers have not been received.
    asked: u64,
    /// Whether a request is sent in part.
    within: bool,
}

/// The half that receives answers.
pub(super) struct Receiver {
    inner: Box<dyn AsyncRead + Send + Sync + Unpin>,
    buffer: BytesMut,
    context: Context,
    answered: u64,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}

/// Connects to a socket. A daemon that has more clients waiting than it listens for takes more in a
/// moment: Nix 2.8 listens for five.
async fn connect(socket: &std::path::Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(2);
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            connected => return connected,
        }
    }
}

/// Whether the peer has ended a connection.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}

impl Connection {
    /// Connects and shakes hands. If a daemon ends the connection meanwhile, this is tried again:
    /// processes of Nix 2.8 for two first connections create the database at the same time, and one
    /// fails. Whatever `ssh` connects to is asked once, as it may ask the user.
    pub async fn open(options: &DaemonOptions) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::open_once(options).await {
                Err(CallError::Connect(error))
                    if is_end(&error)
                        && matches!(options.address, Address::Socket(_))
                        && attempt < options.attempts =>
                {
                    tokio::time::sleep(options.first_pause * attempt).await;
                    attempt += 1;
                }
                opened => return opened,
            }
        }
    }

    async fn open_once(options: &DaemonOptions) -> Result<Self> {
        let opening = Self::open_without_limit(options);
        match tokio::time::timeout(options.connect_timeout, opening).await {
            Ok(Err(CallError::Io(error))) => Err(CallError::Connect(error)),
            Ok(opened) => opened,
            Err(_) => Err(CallError::Connect(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn open_without_limit(options: &DaemonOptions) -> Result<Self> {
        type Halves = (
            Box<dyn AsyncRead + Send + Sync + Unpin>,
            Box<dyn AsyncWrite + Send + Sync + Unpin>,
        );
        let (halves, child): (Halves, _) = match &options.address {
            Address::Socket(socket) => {
                let (read, write) = connect(socket).await?.into_split();
                ((Box::new(read), Box::new(write)), None)
            }
            Address::Program { program, arguments } => {
                let mut child = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .kill_on_drop(true)
                    .spawn()?;
                let (Some(write), Some(read)) = (child.stdin.take(), child.stdout.take()) else {
                    return Err(io::Error::other("the program has no pipes").into());
                };
                (
                    (Box::new(read), Box::new(write)),
                    Some(Program(Some(child))),
                )
            }
        };
        let (mut read, mut write) = halves;
        let features = Features::default()
            .with(Feature::RealisationWithPath)
            .with(Feature::DisableSetOptions);
        let mut handshake = ClientHandshake::new(options.store_dir.clone())
            .with_features(features)
            .with_limits(options.limits);
        let mut buffer = BytesMut::new();
        let session = loop {
            write.write_all(&handshake.take_output()).await?;
            write.flush().await?;
            receive(&mut read, &mut buffer).await?;
            let (taken, session) = handshake.feed(&buffer)?;
            buffer.advance(taken);
            if let Some(session) = session {
                break session;
            }
        };
        let context = &session.context;
        Ok(Self {
            sender: Sender {
                inner: write,
                out: Vec::new(),
                context: context.clone(),
                asked: 0,
                within: false,
            },
            receiver: Receiver {
                inner: read,
                buffer,
                context: context.clone(),
                answered: 0,
            },
            session,
            _child: child,
        })
    }

    /// Whether all requests are answered, so that the connection can be used for others.
    pub fn is_idle(&self) -> bool {
        self.sender.asked == self.receiver.answered
            && !self.sender.within
            && self.receiver.buffer.is_empty()
    }

    /// Whether the daemon has closed an idle connection, or has said something unasked.
    pub fn is_stale(&mut self) -> bool {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        let mut task = TaskContext::from_waker(std::task::Waker::noop());
        let polled = Pin::new(&mut self.receiver.inner).poll_read(&mut task, &mut read);
        !matches!(polled, Poll::Pending)
    }

    /// Makes a request and waits for the answer.
    pub async fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer> {
        self.sender.request(call)?;
        self.sender.flush().await?;
        self.receiver.answer::<C>().await
    }

    /// Makes requests without waiting for the answers to earlier ones. The answers are in order.
    pub async fn call_all<C: Call>(
        &mut self,
        calls: &[C],
    ) -> Result<Vec<std::result::Result<C::Answer, RemoteError>>> {
        let (sender, receiver) = (&mut self.sender, &mut self.receiver);
        let send = async {
            for call in calls {
                sender.request(call)?;
                if sender.out.len() >= CHUNK {
                    sender.flush().await?;
                }
            }
            sender.flush().await
        };
        let receive = async {
            let mut answers = Vec::with_capacity(calls.len());
            for _ in calls {
                answers.push(match receiver.answer::<C>().await {
                    Ok(answer) => Ok(answer),
                    Err(CallError::Remote(error)) => Err(error),
                    Err(error) => return Err(error),
                });
            }
            Ok(answers)
        };
        let ((), answers) = futures::try_join!(send, receive)?;
        Ok(answers)
    }
}

impl Sender {
    /// Appends a request to what is sent next. Its stream, if it has one, comes next.
    pub fn request<C: Call>(&mut self, call: &C) -> Result<()> {
        self.context.encode_call(call, &mut self.out)?;
        self.asked += 1;
        self.within = C::OPERATION.has_stream();
        Ok(())
    }

    /// Sends what has been appended.
    pub async fn flush(&mut self) -> Result<()> {
        self.inner.write_all(&self.out).await?;
        self.out.clear();
        self.inner.flush().await?;
        Ok(())
    }

    /// Sends contents as frames.
    pub async fn frames(&mut self, contents: &[u8]) -> Result<()> {
        for frame in contents.chunks(CHUNK) {
            encode_frame(frame.len(), &mut self.out);
            self.out.extend_from_slice(frame);
            if self.out.len() >= CHUNK {
                self.inner.write_all(&self.out).await?;
                self.out.clear();
            }
        }
        Ok(())
    }

    /// Appends the end of a stream.
    pub fn end(&mut self) {
        encode_end(&mut self.out);
        self.within = false;
    }

    /// Whether nothing is left to be sent.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether much has been appended.
    pub fn is_full(&self) -> bool {
        self.out.len() >= CHUNK
    }
}

impl Receiver {
    /// A message.
    async fn message<T: Message>(&mut self) -> Result<T> {
        let mut decoder = Decoder::new();
        loop {
            let (taken, message) = decoder.feed(&self.buffer, &self.context)?;
            self.buffer.advance(taken);
            if let Some(message) = message {
                return Ok(message);
            }
            receive(&mut self.inner, &mut self.buffer).await?;
        }
    }

    /// The log of an operation, to its end. An error of the daemon is the answer.
    pub async fn log(&mut self) -> Result<()> {
        let mut decoder = Decoder::new();
        while self.log_message(&mut decoder).await?.is_some() {}
        Ok(())
    }

    /// The next message of the log of an operation; `None` at its end. An error of the daemon is the
    /// answer. Nothing is lost if the future is dropped, as long as the decoder is kept.
    pub async fn log_message(
        &mut self,
        decoder: &mut Decoder<LogMessage>,
    ) -> Result<Option<LogMessage>> {
        loop {
            let (taken, message) = decoder.feed(&self.buffer, &self.context)?;
            self.buffer.advance(taken);
            match message {
                Some(LogMessage::Last) => return Ok(None),
                Some(LogMessage::Error(error)) => {
                    self.answered += 1;
                    return Err(error.into());
                }
                Some(message) => return Ok(Some(message)),
                None => receive(&mut self.inner, &mut self.buffer).await?,
            }
        }
    }

    /// The answer of a call after its log.
    pub async fn answer_after_log<C: Call>(&mut self) -> Result<C::Answer> {
        let answer = self.message().await?;
        self.answered += 1;
        Ok(answer)
    }

    /// The log of a call and its answer.
    pub async fn answer<C: Call>(&mut self) -> Result<C::Answer> {
        self.log().await?;
        self.answer_after_log::<C>().await
    }

    /// The next bytes; waits for some.
    pub async fn bytes(&mut self) -> Result<&[u8]> {
        if self.buffer.is_empty() {
            receive(&mut self.inner, &mut self.buffer).await?;
        }
        Ok(&self.buffer)
    }

    /// At least eight bytes, of which none is taken.
    pub async fn head(&mut self) -> Result<&[u8]> {
        while self.buffer.len() < 8 {
            receive(&mut self.inner, &mut self.buffer).await?;
        }
        Ok(&self.buffer)
    }

    /// Takes bytes that have been received.
    pub fn take(&mut self, length: usize) -> Bytes {
        self.buffer.split_to(length).freeze()
    }

    /// What follows an answer has been received to its end.
    pub fn answered(&mut self) {
        self.answered += 1;
    }
}

/// Receives some bytes. The end of the connection is an error.
async fn receive(
    inner: &mut (dyn AsyncRead + Send + Sync + Unpin),
    buffer: &mut BytesMut,
) -> Result<()> {
    buffer.reserve(CHUNK);
    match inner.read_buf(buffer).await? {
        0 => {
            let message = "the daemon closed the connection";
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, message).into())
        }
        _ => Ok(()),
    }
}
