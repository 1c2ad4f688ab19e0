//! Messages from bytes that arrive in pieces, and to bytes.

use std::marker::PhantomData;

use crate::scan::Scan;
use crate::wire::{Codec, Reader, Writer};
use crate::{Context, ProtocolError};

/// A value that can be sent and received: requests, answers, log messages and their parts.
///
/// Implemented by the types of this crate and by those of `nix-compat` that occur in messages.
pub trait Message: Codec {}

impl<T: Codec> Message for T {}

/// Decodes one message after the other.
///
/// Takes bytes in pieces of any size. A message that is complete in one piece is decoded from it
/// directly; otherwise its bytes are kept until it is complete. Each byte is looked at once to find
/// the end, and once to decode the message, however small the pieces are. Memory is taken for bytes
/// that have arrived, never for a length that was announced; [`Limits`](crate::Limits) are checked
/// when a length arrives.
///
/// ```
/// use tvix_worker_protocol::{Context, Decoder, Features, LogMessage, Version};
///
/// let context = Context::new(Default::default(), Version::MAX, Features::default());
/// let mut bytes = Vec::new();
/// context.encode(&LogMessage::Next("building".into()), &mut bytes)?;
///
/// let mut decoder = Decoder::<LogMessage>::new();
/// let (first, second) = bytes.split_at(11);
/// assert_eq!(decoder.feed(first, &context)?, (11, None));
/// let (taken, message) = decoder.feed(second, &context)?;
/// assert_eq!(taken, second.len());
/// assert_eq!(message, Some(LogMessage::Next("building".into())));
/// # Ok::<(), tvix_worker_protocol::ProtocolError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Decoder<T> {
    scan: Scan,
    /// The message so far.
    buffer: Vec<u8>,
    message: PhantomData<fn() -> T>,
}

/// A buffer of a message that is larger is not kept for the next one.
const KEPT: usize = 64 * 1024;

impl<T: Message> Default for Decoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Message> Decoder<T> {
    /// At the start of a message.
    pub fn new() -> Self {
        Self {
            scan: Scan::new(T::SHAPE),
            buffer: Vec::new(),
            message: PhantomData,
        }
    }

    /// Takes bytes from the beginning of `input`, up to the end of the message at most. Returns the
    /// number of bytes taken, and the message if it is complete. The context must stay the same
    /// within a message.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`]; the decoder must not be used afterwards.
    pub fn feed(
        &mut self,
        input: &[u8],
        context: &Context,
    ) -> Result<(usize, Option<T>), ProtocolError> {
        let before = self.buffer.len();
        if before == 0 {
            let Some(length) = self.scan.advance(input, context)? else {
                self.buffer.extend_from_slice(input);
                return Ok((input.len(), None));
            };
            let message = decode(&input[..length], context)?;
            self.scan = Scan::new(T::SHAPE);
            return Ok((length, Some(message)));
        }
        self.buffer.extend_from_slice(input);
        let Some(length) = self.scan.advance(&self.buffer, context)? else {
            return Ok((input.len(), None));
        };
        let message = decode(&self.buffer[..length], context)?;
        self.scan = Scan::new(T::SHAPE);
        self.buffer.clear();
        self.buffer.shrink_to(KEPT);
        // The message was not complete before.
        Ok((length - before, Some(message)))
    }

    /// Whether a part of a message has been taken: the end of the input would truncate it.
    pub fn is_within_message(&self) -> bool {
        !self.buffer.is_empty()
    }
}

/// Decodes a complete message.
fn decode<T: Codec>(message: &[u8], context: &Context) -> Result<T, ProtocolError> {
    let mut reader = Reader::new(message, context);
    let value = T::read(&mut reader)?;
    debug_assert!(reader.is_empty(), "its shape has another length");
    Ok(value)
}

impl Context {
    /// Appends a message.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::Unsupported`] if the message cannot be expressed in the negotiated version.
    /// Nothing is appended then.
    pub fn encode<T: Message>(&self, message: &T, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        let before = out.len();
        let mut writer = Writer::new(out, self);
        message.write(&mut writer);
        let written = writer.finish();
        if written.is_err() {
            out.truncate(before);
        }
        written
    }
}
