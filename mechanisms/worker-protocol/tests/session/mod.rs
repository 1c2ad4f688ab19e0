//! Decodes and encodes both directions of a whole session.

use tvix_worker_protocol::nix_compat::nar::Parser;
use tvix_worker_protocol::{
    Answer, AnswerDecoder, ClientHandshake, Context, Decoder, FrameDecoder, Framed, LogMessage,
    Operation, PathsDecoder, PathsEvent, Request, ServerHandshake, encode_end, encode_frame,
};

/// The error of bytes that are missing.
pub const MORE: &str = "more bytes are needed";

/// A part of a session, in the order of requests.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    Request(Request),
    /// The frames of a stream, each as long as it was sent.
    Frames(Vec<Vec<u8>>),
    Log(LogMessage),
    Answer(Answer),
    Nar(Vec<u8>),
}

#[derive(Debug)]
pub struct Session {
    pub context: Context,
    pub daemon_version: String,
    /// The bytes of the handshake, as sent.
    handshake: [Vec<u8>; 2],
    pub items: Vec<Item>,
}

/// Bytes that arrive in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    size: usize,
}

impl<'a> Pieces<'a> {
    fn next(&self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        &rest[..self.size.min(rest.len())]
    }

    /// Feeds pieces until there is a value.
    fn until<T>(
        &mut self,
        mut feed: impl FnMut(&'a [u8]) -> Result<(usize, Option<T>), String>,
    ) -> Result<T, String> {
        loop {
            let piece = self.next();
            let (taken, value) = feed(piece)?;
            self.at += taken;
            if let Some(value) = value {
                return Ok(value);
            }
            if taken == 0 && piece.is_empty() {
                return Err(MORE.to_owned());
            }
        }
    }

    fn frames(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let mut decoder = FrameDecoder::new();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        // The length of frames has no meaning, but is needed to encode the same bytes.
        let mut lengths = Lengths { missing: 0 };
        while !decoder.is_ended() {
            let at = self.at;
            let piece = self.until(|piece| {
                let (taken, event) = decoder.feed(piece);
                Ok((
                    taken,
                    match event {
                        Framed::NeedMore => None,
                        Framed::Piece(piece) => Some(piece),
                        Framed::End => Some(&[][..]),
                    },
                ))
            })?;
            if piece.is_empty() {
                break;
            }
            if lengths.missing == 0 {
                // The head is what was taken before the piece, perhaps in earlier calls.
                let start = self.at - piece.len();
                assert!(start >= at);
                lengths.missing =
                    u64::from_le_bytes(self.bytes[start - 8..start].try_into().unwrap());
                frames.push(Vec::new());
            }
            lengths.missing -= piece.len() as u64;
            frames.last_mut().unwrap().extend_from_slice(piece);
        }
        Ok(frames)
    }
}

struct Lengths {
    missing: u64,
}

impl Session {
    /// Decodes the messages of both sides, in pieces of at most `size` bytes.
    pub fn decode(client: &[u8], daemon: &[u8], size: usize) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut requests = Pieces {
            bytes: client,
            at: 0,
            size,
        };
        let mut answers = Pieces {
            bytes: daemon,
            at: 0,
            size,
        };
        let mut server = ServerHandshake::new(Default::default(), "");
        let context = requests.until(|piece| server.feed(piece).map_err(|it| text(&it)))?;
        let mut handshake = ClientHandshake::new(Default::default());
        let session = answers.until(|piece| handshake.feed(piece).map_err(|it| text(&it)))?;
        // Each side has offered its own version; the lower one is that of the session.
        let version = context.version().min(session.context.version());
        let context = Context::new(Default::default(), version, session.context.features());
        let mut items = Vec::new();
        let starts = [
            client[..requests.at].to_vec(),
            daemon[..answers.at].to_vec(),
        ];
        let mut decoder = Decoder::<Request>::new();
        while requests.at < client.len() {
            let request =
                requests.until(|piece| decoder.feed(piece, &context).map_err(|it| text(&it)))?;
            let operation = request.operation();
            let many = matches!(request, Request::AddMultipleToStore(_));
            items.push(Item::Request(request));
            if operation.has_stream() {
                let frames = requests.frames()?;
                if many {
                    check_paths(&frames, &context, size)?;
                }
                items.push(Item::Frames(frames));
            }
            let mut log = Decoder::<LogMessage>::new();
            let failed = loop {
                let message =
                    answers.until(|piece| log.feed(piece, &context).map_err(|it| text(&it)))?;
                items.push(Item::Log(message.clone()));
                match message {
                    LogMessage::Last => break false,
                    LogMessage::Error(_) => break true,
                    _ => {}
                }
            };
            if failed {
                continue;
            }
            let mut decoder = AnswerDecoder::new(operation);
            let answer =
                answers.until(|piece| decoder.feed(piece, &context).map_err(|it| text(&it)))?;
            items.push(Item::Answer(answer));
            if operation == Operation::NarFromPath {
                let (mut nar, mut parser) = (Vec::new(), Parser::new());
                answers.until(|piece| {
                    let step = parser.feed(piece).map_err(|it| text(&it))?;
                    nar.extend_from_slice(&piece[..step.consumed]);
                    let consumed = step.consumed;
                    Ok((consumed, parser.is_finished().then_some(())))
                })?;
                items.push(Item::Nar(nar));
            }
        }
        match answers.at == daemon.len() {
            true => Ok(Self {
                context,
                daemon_version: session.daemon_version.to_string(),
                handshake: starts,
                items,
            }),
            false => Err(format!("{} bytes are left", daemon.len() - answers.at)),
        }
    }

    /// The messages of both sides.
    pub fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let [mut sent, mut answered] = self.handshake.clone();
        let context = &self.context;
        for item in &self.items {
            match item {
                Item::Request(request) => context.encode(request, &mut sent).unwrap(),
                Item::Frames(frames) => {
                    for frame in frames {
                        encode_frame(frame.len(), &mut sent);
                        sent.extend_from_slice(frame);
                    }
                    encode_end(&mut sent);
                }
                Item::Log(message) => context.encode(message, &mut answered).unwrap(),
                Item::Answer(answer) => answer.encode(context, &mut answered).unwrap(),
                Item::Nar(nar) => answered.extend_from_slice(nar),
            }
        }
        (sent, answered)
    }
}

/// Decodes the contents of `AddMultipleToStore`; each NAR must be one.
fn check_paths(frames: &[Vec<u8>], context: &Context, size: usize) -> Result<(), String> {
    let contents = frames.concat();
    let mut pieces = Pieces {
        bytes: &contents,
        at: 0,
        size,
    };
    let mut decoder = PathsDecoder::new();
    let mut parser = Parser::new();
    let (mut expected, mut found) = (0, 0);
    loop {
        let event =
            pieces.until(|piece| decoder.feed(piece, context).map_err(|it| it.to_string()))?;
        match event {
            PathsEvent::Count(count) => expected = count,
            PathsEvent::Path(_) => parser = Parser::new(),
            PathsEvent::Nar(piece) => {
                let mut rest = piece;
                while !rest.is_empty() {
                    rest = &rest[parser.feed(rest).map_err(|it| it.to_string())?.consumed..];
                }
            }
            PathsEvent::NarEnd => {
                parser.finish().map_err(|it| it.to_string())?;
                found += 1;
            }
            PathsEvent::End => break,
        }
    }
    assert_eq!(found, expected);
    assert_eq!(pieces.at, contents.len());
    Ok(())
}
