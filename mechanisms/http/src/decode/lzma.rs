//! xz, lzip and lzma, by liblzma.

use std::io::Read;

use liblzma::stream::{Action, CONCATENATED, Error, Status, Stream};

use super::input::Input;
use super::{Coding, DecodeError};

pub(super) struct Lzma<R> {
    input: Input<R>,
    stream: Stream,
    coding: Coding,
    limit: u64,
    ended: bool,
}

impl<R: Read> Lzma<R> {
    pub fn new(coding: Coding, input: Input<R>, limit: u64) -> Result<Self, DecodeError> {
        // liblzma takes 0 for no limit.
        let memory = limit.max(1);
        let stream = match coding {
            Coding::Lzma => Stream::new_lzma_decoder(memory),
            Coding::Lzip => Stream::new_lzip_decoder(memory, CONCATENATED),
            _ => Stream::new_stream_decoder(memory, CONCATENATED),
        };
        Ok(Self {
            input,
            stream: stream.map_err(|_| DecodeError::Memory { coding })?,
            coding,
            limit,
            ended: false,
        })
    }

    fn failed(&self, error: Error) -> DecodeError {
        let coding = self.coding;
        let limit = self.limit;
        match error {
            Error::MemLimit => DecodeError::MemoryLimit { coding, limit },
            Error::Mem => DecodeError::Memory { coding },
            error => DecodeError::corrupt(coding, error),
        }
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        while !self.ended {
            let chunk = self.input.chunk()?;
            let last = chunk.is_empty();
            let action = if last { Action::Finish } else { Action::Run };
            let before = (self.stream.total_in(), self.stream.total_out());
            let result = self.stream.process(chunk, buffer, action);
            let taken = (self.stream.total_in() - before.0) as usize;
            let made = (self.stream.total_out() - before.1) as usize;
            self.input.advance(taken);
            let coding = self.coding;
            match result {
                Ok(Status::StreamEnd) => self.ended = true,
                // Neither takes nor makes anything, though there is room.
                Ok(_) if made == 0 && last => return Err(DecodeError::Truncated { coding }),
                Ok(_) if made == 0 && taken == 0 => {
                    return Err(DecodeError::corrupt(coding, "no progress"));
                }
                Ok(_) => {}
                Err(error) => return Err(self.failed(error)),
            }
            if made > 0 {
                return Ok(made);
            }
        }
        Ok(0)
    }
}
