//! bzip2.

use std::io::Read;

use bzip2::bufread::BzDecoder;

use super::input::Input;
use super::{Coding, DecodeError};

/// A stream's header, and the mark and check sum with which its first block begins or that ends it.
const HEADER: usize = 14;
const BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];
const END: [u8; 6] = [0x17, 0x72, 0x45, 0x38, 0x50, 0x90];

pub(super) struct Bzip2<R> {
    /// Empty after the last stream.
    stream: Option<BzDecoder<Input<R>>>,
}

impl<R: Read> Bzip2<R> {
    pub fn new(input: Input<R>) -> Self {
        Self {
            stream: Some(BzDecoder::new(input)),
        }
    }

    pub fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        while let Some(mut stream) = self.stream.take() {
            match stream.read(buffer) {
                Ok(0) => {
                    let mut input = stream.into_inner();
                    self.stream = begins(&mut input)?.then(|| BzDecoder::new(input));
                }
                Ok(count) => {
                    self.stream = Some(stream);
                    return Ok(count);
                }
                Err(error) => return Err(stream.get_mut().classify(Coding::Bzip2, &error)),
            }
        }
        Ok(0)
    }
}

/// Whether another stream begins here.
fn begins<R: Read>(input: &mut Input<R>) -> Result<bool, DecodeError> {
    Ok(match input.peek(HEADER)? {
        [b'B', b'Z', b'h', b'1'..=b'9', rest @ ..] if rest.len() == HEADER - 4 => {
            rest.starts_with(&BLOCK) || rest.starts_with(&END)
        }
        _ => false,
    })
}
