//! Brotli.

use std::io::Read;

use brotli::enc::StandardAlloc;
use brotli::{BrotliDecompressStream, BrotliResult, BrotliState};

use super::input::Input;
use super::{Coding, DecodeError};

pub(super) struct Brotli<R> {
    input: Input<R>,
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    total: usize,
    ended: bool,
}

impl<R: Read> Brotli<R> {
    pub fn new(input: Input<R>) -> Self {
        let alloc = StandardAlloc::default;
        Self {
            input,
            // Without the extension for windows of more than 16 MiB, which browsers and Nix refuse.
            state: BrotliState::new_strict(alloc(), alloc(), alloc()),
            total: 0,
            ended: false,
        }
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        let coding = Coding::Brotli;
        while !self.ended {
            let chunk = self.input.chunk()?;
            let (mut left, mut taken) = (chunk.len(), 0);
            let (mut room, mut made) = (buffer.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut taken,
                chunk,
                &mut room,
                &mut made,
                buffer,
                &mut self.total,
                &mut self.state,
            );
            let last = chunk.is_empty();
            self.input.advance(taken);
            match result {
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::NeedsMoreInput if last && made == 0 => {
                    return Err(DecodeError::Truncated { coding });
                }
                BrotliResult::NeedsMoreOutput if made == 0 => {
                    return Err(DecodeError::corrupt(coding, "no progress"));
                }
                BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => {
                    return Err(DecodeError::corrupt(coding, "malformed data"));
                }
            }
            if made > 0 {
                return Ok(made);
            }
        }
        Ok(0)
    }
}
