//! Framed streams: contents of unknown length, as frames with a length each, up to an empty one.

use crate::scan::read_number;

/// The largest frame that [`encode_frame`] callers should make, in bytes. Peers read a frame as a
/// whole.
pub const FRAME_SIZE: usize = 64 * 1024;

/// Appends the head of a frame of `length` bytes, which the caller sends next. No padding follows.
/// An empty frame ends the stream: [`encode_end`].
pub fn encode_frame(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(length as u64).to_le_bytes());
}

/// Appends the end of the stream.
pub fn encode_end(out: &mut Vec<u8>) {
    encode_frame(0, out);
}

/// The beginning of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framed<'a> {
    /// More bytes are needed.
    NeedMore,
    /// The next piece of the contents, never empty.
    Piece(&'a [u8]),
    /// The stream has ended.
    End,
}

/// Decodes a framed stream, in pieces of any size. Frames may have any length, as nothing of them is
/// kept.
#[derive(Debug, Clone, Default)]
pub struct FrameDecoder {
    head: [u8; 8],
    head_len: usize,
    /// Bytes that are missing in the current frame.
    missing: u64,
    ended: bool,
}

impl FrameDecoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the beginning of `input`, at most one piece. Returns the number of bytes
    /// taken. Nothing is taken after the end.
    pub fn feed<'a>(&mut self, input: &'a [u8]) -> (usize, Framed<'a>) {
        if self.ended {
            return (0, Framed::End);
        }
        let mut taken = 0;
        if self.missing == 0 {
            let head = &mut self.head[self.head_len..];
            taken = head.len().min(input.len());
            head[..taken].copy_from_slice(&input[..taken]);
            self.head_len += taken;
            if self.head_len < 8 {
                return (taken, Framed::NeedMore);
            }
            self.head_len = 0;
            self.missing = read_number(&self.head).unwrap_or(0);
            if self.missing == 0 {
                self.ended = true;
                return (taken, Framed::End);
            }
        }
        let rest = &input[taken..];
        let most = usize::try_from(self.missing).unwrap_or(usize::MAX);
        let piece = &rest[..most.min(rest.len())];
        if piece.is_empty() {
            return (taken, Framed::NeedMore);
        }
        self.missing -= piece.len() as u64;
        (taken + piece.len(), Framed::Piece(piece))
    }

    /// Whether the stream has ended.
    pub fn is_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_in_pieces_of_any_size() {
        let contents = [&b"hello"[..], b"x", b"worlds"];
        let mut bytes = Vec::new();
        for frame in contents {
            encode_frame(frame.len(), &mut bytes);
            bytes.extend_from_slice(frame);
        }
        encode_end(&mut bytes);
        bytes.extend_from_slice(b"after");
        for size in 1..bytes.len() {
            let mut decoder = FrameDecoder::new();
            let (mut found, mut used) = (Vec::new(), 0);
            'pieces: for piece in bytes.chunks(size) {
                let mut piece = piece;
                loop {
                    let (taken, event) = decoder.feed(piece);
                    used += taken;
                    piece = &piece[taken..];
                    match event {
                        Framed::Piece(bytes) => found.extend_from_slice(bytes),
                        Framed::NeedMore if piece.is_empty() => break,
                        Framed::NeedMore => {}
                        Framed::End => break 'pieces,
                    }
                }
            }
            assert!(decoder.is_ended());
            assert_eq!(found, contents.concat(), "{size}");
            assert_eq!(&bytes[used..], b"after");
        }
    }
}
