//! The compressed bytes, buffered.

use std::io::{self, BufRead, Read};

use super::{Coding, DecodeError};

const CAPACITY: usize = 64 * 1024;

/// A buffered source that can be looked into, and that keeps its own errors apart from those of
/// the decoders that read from it.
pub(super) struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// The source has said that it ends.
    ended: bool,
    /// The source's error, on its way around a decoder.
    failure: Option<io::Error>,
}

impl<R: Read> Input<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            buffer: vec![0; CAPACITY].into(),
            start: 0,
            end: 0,
            ended: false,
            failure: None,
        }
    }

    /// Reads once into free space, which there must be.
    fn fill(&mut self) -> Result<(), DecodeError> {
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.end += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(DecodeError::Read(error)),
            }
            return Ok(());
        }
    }

    /// The next bytes without taking them: `count`, or fewer where the source ends.
    pub fn peek(&mut self, count: usize) -> Result<&[u8], DecodeError> {
        debug_assert!(count <= CAPACITY);
        if self.start + count > CAPACITY {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < count && !self.ended {
            self.fill()?;
        }
        let end = self.end.min(self.start + count);
        Ok(&self.buffer[self.start..end])
    }

    /// The buffered bytes, at least one unless the source has ended.
    pub fn chunk(&mut self) -> Result<&[u8], DecodeError> {
        if self.start == self.end && !self.ended {
            (self.start, self.end) = (0, 0);
            self.fill()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Takes bytes that [`chunk`](Self::chunk) or [`peek`](Self::peek) has shown.
    pub fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Reads without decoding.
    pub fn read_through(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        let chunk = self.chunk()?;
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        self.advance(count);
        Ok(count)
    }

    /// The error of a decoder that reads from here: the source's own one if that has failed.
    pub fn classify(&mut self, coding: Coding, error: &io::Error) -> DecodeError {
        match self.failure.take() {
            Some(failure) => DecodeError::Read(failure),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                DecodeError::Truncated { coding }
            }
            None => DecodeError::corrupt(coding, error),
        }
    }

    fn keep(&mut self, error: DecodeError) -> io::Error {
        let error = match error {
            DecodeError::Read(error) => error,
            other => other.into(),
        };
        let kind = error.kind();
        self.failure = Some(error);
        kind.into()
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_through(buffer).map_err(|error| self.keep(error))
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if let Err(error) = self.chunk() {
            return Err(self.keep(error));
        }
        Ok(&self.buffer[self.start..self.end])
    }

    fn consume(&mut self, count: usize) {
        self.advance(count);
    }
}
