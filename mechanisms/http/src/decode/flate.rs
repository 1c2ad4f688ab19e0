//! gzip and deflate, by flate2.

use std::io::Read;

use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::input::Input;
use super::{Coding, DecodeError};

/// The fixed part of a member's header.
const HEADER: usize = 10;

pub(super) struct Gzip<R> {
    /// Empty after the last member.
    member: Option<GzDecoder<Input<R>>>,
}

impl<R: Read> Gzip<R> {
    pub fn new(input: Input<R>) -> Self {
        Self {
            member: Some(GzDecoder::new(input)),
        }
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        while let Some(mut member) = self.member.take() {
            match member.read(buffer) {
                Ok(0) => {
                    let mut input = member.into_inner();
                    self.member = begins(&mut input)?.then(|| GzDecoder::new(input));
                }
                Ok(count) => {
                    self.member = Some(member);
                    return Ok(count);
                }
                Err(error) => return Err(member.get_mut().classify(Coding::Gzip, &error)),
            }
        }
        Ok(0)
    }
}

/// Whether another member begins here.
fn begins<R: Read>(input: &mut Input<R>) -> Result<bool, DecodeError> {
    let header = input.peek(HEADER)?;
    let flags = header.get(3).copied().unwrap_or_default();
    Ok(header.len() == HEADER && header.starts_with(&[0x1f, 0x8b, 8]) && flags & 0xe0 == 0)
}

/// Deflate with zlib's header or, as some servers send it, without.
pub(super) struct Deflate<R> {
    input: Input<R>,
    inflater: Decompress,
    ended: bool,
}

impl<R: Read> Deflate<R> {
    pub fn new(mut input: Input<R>) -> Result<Self, DecodeError> {
        let zlib = match *input.peek(2)? {
            [method, flags] => {
                method & 0x0f == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31)
            }
            _ => true,
        };
        Ok(Self {
            input,
            inflater: Decompress::new(zlib),
            ended: false,
        })
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        let coding = Coding::Deflate;
        while !self.ended {
            let chunk = self.input.chunk()?;
            let last = chunk.is_empty();
            let before = (self.inflater.total_in(), self.inflater.total_out());
            let status = self
                .inflater
                .decompress(chunk, buffer, FlushDecompress::None)
                .map_err(|error| DecodeError::corrupt(coding, error))?;
            let taken = (self.inflater.total_in() - before.0) as usize;
            let made = (self.inflater.total_out() - before.1) as usize;
            self.input.advance(taken);
            self.ended = status == Status::StreamEnd;
            if made > 0 {
                return Ok(made);
            }
            if last && !self.ended {
                return Err(DecodeError::Truncated { coding });
            }
            if taken == 0 && !self.ended {
                return Err(DecodeError::corrupt(coding, "no progress"));
            }
        }
        Ok(0)
    }
}
