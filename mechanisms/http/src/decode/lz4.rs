//! LZ4 frames, by lz4_flex.

use std::io::{self, Read};

use lz4_flex::frame::FrameDecoder;

use super::coding::{is_lz4, skippable};
use super::input::Input;
use super::{Coding, DecodeError};

const LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The size of a decoded block of a legacy frame.
const LEGACY_BLOCK: usize = 8 << 20;

pub(super) struct Lz4<R: Read> {
    decoder: FrameDecoder<Source<R>>,
    frame: Frame,
    /// Any frame was begun.
    begun: bool,
    legacy: Legacy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// Between frames.
    Between,
    Current,
    Legacy,
    /// After the last one.
    End,
}

/// Notes whether the frame decoder met the end of the source, of which it does not tell.
struct Source<R> {
    input: Input<R>,
    met_end: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.met_end |= count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

#[derive(Default)]
struct Legacy {
    compressed: Vec<u8>,
    block: Vec<u8>,
    start: usize,
}

fn truncated() -> DecodeError {
    let coding = Coding::Lz4;
    DecodeError::Truncated { coding }
}

fn corrupt(reason: impl ToString) -> DecodeError {
    DecodeError::corrupt(Coding::Lz4, reason)
}

impl<R: Read> Lz4<R> {
    pub fn new(input: Input<R>) -> Self {
        let met_end = false;
        Self {
            decoder: FrameDecoder::new(Source { input, met_end }),
            frame: Frame::Between,
            begun: false,
            legacy: Legacy::default(),
        }
    }

    fn input(&mut self) -> &mut Input<R> {
        &mut self.decoder.get_mut().input
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        loop {
            match self.frame {
                Frame::Between => self.frame = self.next_frame()?,
                Frame::Current => match self.decoder.read(buffer) {
                    Ok(0) if self.decoder.get_ref().met_end => return Err(truncated()),
                    Ok(0) => self.frame = Frame::Between,
                    Ok(count) => return Ok(count),
                    Err(error) => return Err(self.input().classify(Coding::Lz4, &error)),
                },
                Frame::Legacy => {
                    let left = &self.legacy.block[self.legacy.start..];
                    if !left.is_empty() {
                        let count = left.len().min(buffer.len());
                        buffer[..count].copy_from_slice(&left[..count]);
                        self.legacy.start += count;
                        return Ok(count);
                    }
                    if !self.next_block()? {
                        self.frame = Frame::Between;
                    }
                }
                Frame::End => return Ok(0),
            }
        }
    }

    fn next_frame(&mut self) -> Result<Frame, DecodeError> {
        loop {
            let begun = self.begun;
            let start = self.input().peek(8)?;
            if start.starts_with(&LEGACY) {
                self.input().advance(LEGACY.len());
                self.begun = true;
                return Ok(Frame::Legacy);
            }
            if is_lz4(start) {
                self.begun = true;
                return Ok(Frame::Current);
            }
            if let Some(length) = skippable(start) {
                self.input().advance(8);
                self.begun = true;
                self.skip(length.into())?;
                continue;
            }
            return match start {
                _ if begun => Ok(Frame::End),
                start if start.len() < 4 => Err(truncated()),
                _ => Err(corrupt("it does not begin with a frame")),
            };
        }
    }

    fn skip(&mut self, mut length: u64) -> Result<(), DecodeError> {
        while length > 0 {
            let chunk = self.input().chunk()?;
            if chunk.is_empty() {
                return Err(truncated());
            }
            let count = (chunk.len() as u64).min(length);
            self.input().advance(count as usize);
            length -= count;
        }
        Ok(())
    }

    /// Decodes the next block of a legacy frame, which ends with the source or where another frame
    /// begins.
    fn next_block(&mut self) -> Result<bool, DecodeError> {
        let start = self.input().peek(8)?;
        let size = match *start {
            [] => return Ok(false),
            _ if is_lz4(start) || skippable(start).is_some() => return Ok(false),
            [a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => return Err(truncated()),
        };
        if size > lz4_flex::block::get_maximum_output_size(LEGACY_BLOCK) {
            return Err(corrupt("a block is too large"));
        }
        self.input().advance(4);
        let Self {
            decoder, legacy, ..
        } = self;
        let input = &mut decoder.get_mut().input;
        legacy.compressed.clear();
        while legacy.compressed.len() < size {
            let chunk = input.chunk()?;
            if chunk.is_empty() {
                return Err(truncated());
            }
            let count = chunk.len().min(size - legacy.compressed.len());
            legacy.compressed.extend_from_slice(&chunk[..count]);
            input.advance(count);
        }
        legacy.block.resize(LEGACY_BLOCK, 0);
        let made = lz4_flex::block::decompress_into(&legacy.compressed, &mut legacy.block);
        let made = made.map_err(corrupt)?;
        legacy.block.truncate(made);
        legacy.start = 0;
        Ok(true)
    }
}
