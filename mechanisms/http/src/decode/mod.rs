//! Decoders for compressed contents, with limits on memory and output.
//!
//! A [`Decoder`] reads a compressed stream from any [`Read`] and yields the decoded bytes. The
//! codings are those that C++ Nix reads from binary caches and archives, and those that HTTP
//! servers use as content codings:
//!
//! | coding | several streams in a row | trailing bytes that start no stream |
//! |---|---|---|
//! | `xz` | joined | zero padding in multiples of four; anything else is an error |
//! | `lzip` | joined | ignored |
//! | `lzma` (the format before xz) | first one only | ignored |
//! | `zstd` | joined, skippable frames skipped | error |
//! | `gzip`, `bzip2` | joined | ignored |
//! | `lz4` (frames, legacy frames) | joined, skippable frames skipped | ignored |
//! | `br`, `deflate` | first one only | ignored |
//!
//! This is what libarchive and libbrotli do in C++ Nix 2.34. A stream that is cut off is an error
//! in every coding, and so is an empty source.
//!
//! ```
//! use std::io::Read as _;
//! use tvix_http::decode::{Coding, Decoder, Limits};
//!
//! let compressed = zstd::encode_all(&b"contents"[..], 3)?;
//! let coding = Coding::from_compression("zstd")?;
//! let mut decoder = Decoder::new(coding, &compressed[..], &Limits::default())?;
//! let mut contents = Vec::new();
//! decoder.read_to_end(&mut contents)?;
//! assert_eq!(contents, b"contents");
//! # Ok::<(), std::io::Error>(())
//! ```

mod brotli;
mod bzip2;
mod coding;
mod error;
mod flate;
mod input;
mod lz4;
mod lzma;
mod zstd;

use std::io::{self, Read};

pub use self::coding::{Coding, UnknownCoding};
pub use self::error::DecodeError;

use self::input::Input;

/// Limits of a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Memory that a stream may ask for, in bytes. For xz, lzip and lzma this is the memory use
    /// that liblzma computes, for zstd the size of the window; the other codings need less than
    /// 32 MiB and are not limited. Default: 2 GiB, enough for the largest dictionary that `xz`
    /// writes. Memory is touched only as contents are decoded.
    pub memory: u64,
    /// Decoded bytes that are allowed. No limit by default.
    pub output: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 2 << 30,
            output: None,
        }
    }
}

impl Limits {
    /// Sets [`memory`](Self::memory).
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets [`output`](Self::output).
    #[must_use]
    pub fn with_output(mut self, bytes: u64) -> Self {
        self.output = Some(bytes);
        self
    }
}

/// Decodes a stream while it is read.
///
/// Errors of [`Read::read`] hold a [`DecodeError`] ([`DecodeError::of`] finds it), or are those of
/// the source. After an error nothing more is decoded. Read to the end to learn whether the stream
/// is whole.
#[derive(Debug)]
pub struct Decoder<R: Read> {
    engine: Engine<R>,
    coding: Option<Coding>,
    limit: Option<u64>,
    produced: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Ended,
    Failed,
}

enum Engine<R: Read> {
    Identity(Input<R>),
    Lzma(Box<lzma::Lzma<R>>),
    Zstd(Box<zstd::Zstd<R>>),
    Gzip(Box<flate::Gzip<R>>),
    Deflate(Box<flate::Deflate<R>>),
    Bzip2(Box<bzip2::Bzip2<R>>),
    Brotli(Box<brotli::Brotli<R>>),
    Lz4(Box<lz4::Lz4<R>>),
}

impl<R: Read> std::fmt::Debug for Engine<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Engine")
    }
}

impl<R: Read> Decoder<R> {
    /// A decoder of `coding`; `None` is no coding.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Memory`] if the decoder cannot be allocated.
    pub fn new(coding: Option<Coding>, source: R, limits: &Limits) -> Result<Self, DecodeError> {
        Self::over(coding, Input::new(source), limits)
    }

    /// A decoder of the coding that the stream's first bytes show, as [`Coding::sniff`] tells it.
    /// A stream of no known coding is passed through.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Read`], and as [`new`](Self::new).
    pub fn sniffing(source: R, limits: &Limits) -> Result<Self, DecodeError> {
        let mut input = Input::new(source);
        let coding = Coding::sniff(input.peek(coding::SNIFFED)?);
        Self::over(coding, input, limits)
    }

    fn over(coding: Option<Coding>, input: Input<R>, limits: &Limits) -> Result<Self, DecodeError> {
        let engine = match coding {
            None => Engine::Identity(input),
            Some(coding @ (Coding::Xz | Coding::Lzma | Coding::Lzip)) => {
                Engine::Lzma(Box::new(lzma::Lzma::new(coding, input, limits.memory)?))
            }
            Some(Coding::Zstd) => Engine::Zstd(Box::new(zstd::Zstd::new(input, limits.memory)?)),
            Some(Coding::Gzip) => Engine::Gzip(Box::new(flate::Gzip::new(input))),
            Some(Coding::Deflate) => Engine::Deflate(Box::new(flate::Deflate::new(input)?)),
            Some(Coding::Bzip2) => Engine::Bzip2(Box::new(bzip2::Bzip2::new(input))),
            Some(Coding::Brotli) => Engine::Brotli(Box::new(brotli::Brotli::new(input))),
            Some(Coding::Lz4) => Engine::Lz4(Box::new(lz4::Lz4::new(input))),
        };
        Ok(Self {
            engine,
            coding,
            limit: limits.output,
            produced: 0,
            state: State::Active,
        })
    }

    /// The coding that is decoded.
    pub fn coding(&self) -> Option<Coding> {
        self.coding
    }

    /// The number of bytes decoded so far.
    pub fn produced(&self) -> u64 {
        self.produced
    }

    fn decode(&mut self, buffer: &mut [u8]) -> Result<usize, DecodeError> {
        // One byte more than is allowed shows that there is more.
        let left = self.limit.map(|limit| limit.saturating_sub(self.produced));
        let room = left.map_or(buffer.len() as u64, |left| left.saturating_add(1));
        let room = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let buffer = &mut buffer[..room];
        let count = match &mut self.engine {
            Engine::Identity(input) => input.read_through(buffer)?,
            Engine::Lzma(engine) => engine.decode(buffer)?,
            Engine::Zstd(engine) => engine.decode(buffer)?,
            Engine::Gzip(engine) => engine.decode(buffer)?,
            Engine::Deflate(engine) => engine.decode(buffer)?,
            Engine::Bzip2(engine) => engine.decode(buffer)?,
            Engine::Brotli(engine) => engine.decode(buffer)?,
            Engine::Lz4(engine) => engine.decode(buffer)?,
        };
        self.produced += count as u64;
        match self.limit {
            Some(limit) if self.produced > limit => Err(DecodeError::OutputLimit { limit }),
            _ => Ok(count),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        match self.state {
            State::Active => {}
            State::Ended => return Ok(0),
            State::Failed => return Err(io::Error::other("the decoder has failed before")),
        }
        match self.decode(buffer) {
            Ok(0) => {
                self.state = State::Ended;
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(error) => {
                self.state = State::Failed;
                Err(error.into())
            }
        }
    }
}

/// A reader of contents to which `codings` were applied in this order, as a `Content-Encoding`
/// header lists them. Each decoder has the limits by itself.
///
/// # Errors
///
/// As [`Decoder::new`].
pub fn decode_all<'a>(
    codings: &[Coding],
    source: impl Read + Send + 'a,
    limits: &Limits,
) -> Result<Box<dyn Read + Send + 'a>, DecodeError> {
    let mut reader: Box<dyn Read + Send + 'a> = Box::new(source);
    for coding in codings.iter().rev() {
        reader = Box::new(Decoder::new(Some(*coding), reader, limits)?);
    }
    Ok(reader)
}

#[cfg(test)]
mod tests;
