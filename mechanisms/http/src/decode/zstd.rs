//! Zstandard, by libzstd.

use std::io::Read;

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::input::Input;
use super::{Coding, DecodeError};

/// What libzstd can be told: 1 KiB and 2 GiB.
const WINDOW_LOGS: std::ops::RangeInclusive<u32> = 10..=31;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

fn is_skippable(start: &[u8]) -> bool {
    matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

pub(super) struct Zstd<R> {
    input: Input<R>,
    context: DCtx<'static>,
    limit: u64,
    /// Bytes of a frame were taken, and its end was not seen.
    in_frame: bool,
    /// Any frame was begun.
    begun: bool,
}

impl<R: Read> Zstd<R> {
    pub fn new(input: Input<R>, limit: u64) -> Result<Self, DecodeError> {
        let coding = Coding::Zstd;
        let mut context = DCtx::try_create().ok_or(DecodeError::Memory { coding })?;
        let log = limit.checked_ilog2().unwrap_or(0);
        let log = log.clamp(*WINDOW_LOGS.start(), *WINDOW_LOGS.end());
        let set = context.set_parameter(DParameter::WindowLogMax(log));
        set.map_err(|error| failed(error, limit))?;
        Ok(Self {
            input,
            context,
            limit,
            in_frame: false,
            begun: false,
        })
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        let coding = Coding::Zstd;
        loop {
            if !self.in_frame {
                // libzstd may know frames of its early versions, which nobody means.
                match self.input.peek(MAGIC.len())? {
                    [] if self.begun => return Ok(0),
                    start if start == MAGIC || is_skippable(start) => {}
                    start if start.len() < MAGIC.len() => {
                        return Err(DecodeError::Truncated { coding });
                    }
                    _ => return Err(DecodeError::corrupt(coding, "unknown frame descriptor")),
                }
            }
            let chunk = self.input.chunk()?;
            let last = chunk.is_empty();
            let mut source = InBuffer::around(chunk);
            let mut target = OutBuffer::around(&mut *buffer);
            let result = self.context.decompress_stream(&mut target, &mut source);
            let (taken, made) = (source.pos(), target.pos());
            self.input.advance(taken);
            let hint = result.map_err(|error| failed(error, self.limit))?;
            self.begun = true;
            // Where nothing was taken, what is still in the decoder's buffers has come out.
            self.in_frame = hint != 0;
            if made > 0 {
                return Ok(made);
            }
            if last && self.in_frame {
                return Err(DecodeError::Truncated { coding });
            }
            if taken == 0 && !last {
                return Err(DecodeError::corrupt(coding, "no progress"));
            }
        }
    }
}

fn failed(error: usize, limit: u64) -> DecodeError {
    let coding = Coding::Zstd;
    let name = zstd_safe::get_error_name(error);
    match name {
        "Frame requires too much memory for decoding" => DecodeError::MemoryLimit { coding, limit },
        name if name.starts_with("Allocation error") => DecodeError::Memory { coding },
        name => DecodeError::corrupt(coding, name),
    }
}
