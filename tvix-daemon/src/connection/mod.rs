//! A connection: handshake, requests and answers, one after the other.

mod output;

use std::io::{self, ErrorKind};
use std::pin::pin;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tvix_worker_protocol::{
    Context, Decoder, LogMessage, RemoteError, Request, ServerHandshake, Trust,
};

use self::output::Output;
use crate::client::Client;
use crate::failure::{Failure, describe, of_protocol};
use crate::input::{Frames, Input, Probe};
use crate::log::Log;
use crate::operations::{Operations, Reply};
use crate::options::Shared;

/// Messages of an operation that wait for the client.
const LOG_MESSAGES: usize = 64;

/// Serves a connection to its end.
pub(crate) async fn serve(
    daemon: Arc<Shared>,
    reader: impl AsyncRead + Unpin + Send,
    writer: impl AsyncWrite + Unpin + Send,
    trust: Trust,
    probe: Option<Probe>,
) -> io::Result<()> {
    let mut input = Input::new(reader, probe);
    let mut output = Output::new(writer);
    let shaking = handshake(&daemon, &mut input, &mut output, trust);
    let context = match tokio::time::timeout(daemon.options.handshake_timeout, shaking).await {
        Ok(context) => context?,
        Err(_) => return Err(ErrorKind::TimedOut.into()),
    };
    let client = Client::new(trust).with_version(context.version());
    let mut connection = Connection {
        operations: Operations::new(daemon, context.clone(), client),
        context,
        output,
        request: Decoder::new(),
    };
    loop {
        match connection.step(&mut input).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Failure::Gone(error)) => return Err(error),
            Err(Failure::Refused(error)) => {
                connection
                    .output
                    .message(&connection.context, &LogMessage::Error(error))?;
                connection.output.flush().await?;
            }
            Err(Failure::Protocol(error)) => {
                // Nothing is known of what follows.
                let dir = connection.context.store_dir();
                let error = RemoteError::new(of_protocol(&error, dir));
                connection
                    .output
                    .message(&connection.context, &LogMessage::Error(error))?;
                return connection.output.flush().await;
            }
        }
    }
}

async fn handshake(
    daemon: &Shared,
    input: &mut Input<impl AsyncRead + Unpin>,
    output: &mut Output<impl AsyncWrite + Unpin>,
    trust: Trust,
) -> io::Result<Context> {
    let dir = daemon.stores.store_dir().clone();
    let mut handshake = ServerHandshake::new(dir, daemon.options.version.as_str())
        .with_version(daemon.options.protocol)
        .with_limits(daemon.options.limits)
        .with_trust(trust);
    loop {
        let Some(bytes) = input.available().await? else {
            return Err(ErrorKind::UnexpectedEof.into());
        };
        let fed = handshake.feed(bytes);
        let (taken, context) =
            fed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        input.take(taken);
        output.bytes(&handshake.take_output());
        output.flush().await?;
        if let Some(context) = context {
            return Ok(context);
        }
    }
}

struct Connection<W> {
    operations: Operations,
    context: Context,
    output: Output<W>,
    request: Decoder<Request>,
}

impl<W: AsyncWrite + Unpin + Send> Connection<W> {
    /// Serves the next request; false if there is none.
    async fn step(
        &mut self,
        input: &mut Input<impl AsyncRead + Unpin + Send>,
    ) -> Result<bool, Failure> {
        let Some(request) = input.request(&mut self.request, &self.context).await? else {
            return Ok(false);
        };
        let (sender, mut messages) = mpsc::channel(LOG_MESSAGES);
        let log = Log::new(sender, self.operations.client.settings.verbosity)
            .with_version(self.context.version());
        let reply = if request.operation().has_stream() {
            let mut frames = Frames::new(input);
            let work = self.operations.with_stream(request, &mut frames, log);
            let reply = logged(work, &mut messages, &mut self.output, &self.context).await?;
            if !matches!(reply, Err(Failure::Gone(_) | Failure::Protocol(_))) {
                // As in Nix, all of the stream is read before the answer, also after a failure.
                frames.drain().await?;
            }
            reply?
        } else {
            let work = self.operations.perform(request, log);
            let logged = logged(work, &mut messages, &mut self.output, &self.context);
            tokio::select! {
                biased;
                reply = logged => reply??,
                () = input.gone() => return Err(Failure::Gone(ErrorKind::BrokenPipe.into())),
            }
        };
        self.answer(reply).await?;
        Ok(true)
    }

    async fn answer(&mut self, reply: Reply) -> Result<(), Failure> {
        self.output.message(&self.context, &LogMessage::Last)?;
        match reply {
            Reply::Message(bytes) => self.output.bytes(&bytes),
            Reply::Nar(mut nar) => {
                while let Some(chunk) = nar.next().await {
                    match chunk {
                        Ok(chunk) => self.output.stream(chunk).await?,
                        Err(error) => {
                            // The client takes the rest for the NAR: all that is left is to end the connection.
                            let error = io::Error::other(describe(&error));
                            return Err(Failure::Gone(error));
                        }
                    }
                }
            }
        }
        Ok(self.output.flush().await?)
    }
}

/// Runs an operation, and sends its messages meanwhile. Each is sent before the operation goes on, so a slow client
/// slows down its own operations only.
async fn logged<T>(
    work: impl Future<Output = Result<T, Failure>>,
    messages: &mut mpsc::Receiver<LogMessage>,
    output: &mut Output<impl AsyncWrite + Unpin>,
    context: &Context,
) -> Result<Result<T, Failure>, Failure> {
    let mut work = pin!(work);
    let reply = loop {
        tokio::select! {
            biased;
            Some(message) = messages.recv() => {
                output.message(context, &message)?;
                // Those that are there already share a packet.
                while output.has_room() && let Some(Some(message)) = messages.recv().now_or_never() {
                    output.message(context, &message)?;
                }
                output.flush().await?;
            }
            reply = &mut work => break reply,
        }
    };
    while let Ok(message) = messages.try_recv() {
        output.message(context, &message)?;
        if !output.has_room() {
            output.flush().await?;
        }
    }
    Ok(reply)
}
