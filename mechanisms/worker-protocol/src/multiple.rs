//! The stream of `AddMultipleToStore`.

use nix_compat::path_info::PathInfo;

use crate::{Context, Decoder, ProtocolError};

/// Appends the beginning of the contents of `AddMultipleToStore`: the number of paths.
pub fn encode_path_count(count: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&count.to_le_bytes());
}

/// An element of the contents of `AddMultipleToStore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathsEvent<'a> {
    /// The number of paths.
    Count(u64),
    /// A path. Its NAR follows.
    Path(Box<PathInfo>),
    /// The next piece of the NAR, never empty.
    Nar(&'a [u8]),
    /// The end of the NAR.
    NarEnd,
    /// The last path is complete.
    End,
}

/// Decodes the contents of `AddMultipleToStore`, the payload of its frames, in pieces of any size.
///
/// A NAR is taken to have the length that its info announces. It is not verified.
#[derive(Debug)]
pub struct PathsDecoder {
    state: State,
    count: Decoder<u64>,
    info: Decoder<PathInfo>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Count,
    Path { left: u64 },
    Nar { missing: u64, left: u64 },
    Done,
}

impl Default for PathsDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl PathsDecoder {
    /// At the start of the contents.
    pub fn new() -> Self {
        Self {
            state: State::Count,
            count: Decoder::new(),
            info: Decoder::new(),
        }
    }

    /// Takes bytes from the beginning of `input` up to the next element. Returns the number of
    /// bytes taken, and the element; `None` if more bytes are needed, or nothing is left.
    ///
    /// # Errors
    ///
    /// [`ProtocolError`].
    pub fn feed<'a>(
        &mut self,
        input: &'a [u8],
        context: &Context,
    ) -> Result<(usize, Option<PathsEvent<'a>>), ProtocolError> {
        match self.state {
            State::Count => {
                let (taken, count) = self.count.feed(input, context)?;
                let Some(left) = count else {
                    return Ok((taken, None));
                };
                self.state = State::Path { left };
                Ok((taken, Some(PathsEvent::Count(left))))
            }
            State::Path { left: 0 } => {
                self.state = State::Done;
                Ok((0, Some(PathsEvent::End)))
            }
            State::Path { left } => {
                let (taken, info) = self.info.feed(input, context)?;
                let Some(info) = info else {
                    return Ok((taken, None));
                };
                self.state = State::Nar {
                    missing: info.nar_size,
                    left: left - 1,
                };
                Ok((taken, Some(PathsEvent::Path(Box::new(info)))))
            }
            State::Nar { missing: 0, left } => {
                self.state = State::Path { left };
                Ok((0, Some(PathsEvent::NarEnd)))
            }
            State::Nar { missing, left } => {
                let most = usize::try_from(missing).unwrap_or(usize::MAX);
                let piece = &input[..most.min(input.len())];
                let missing = missing - piece.len() as u64;
                self.state = State::Nar { missing, left };
                let event = (!piece.is_empty()).then_some(PathsEvent::Nar(piece));
                Ok((piece.len(), event))
            }
            State::Done => Ok((0, None)),
        }
    }

    /// Whether all paths are complete, and [`PathsEvent::End`] has been returned.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }
}
