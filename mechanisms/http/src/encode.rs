//! Encoders of the codings that [`decode`](crate::decode) reads, except lzip.

use std::io::{self, Write};

use liblzma::stream::{LzmaOptions, Stream};

use crate::decode::Coding;

const BUFFER: usize = 64 * 1024;

/// Compresses what is written to it.
pub trait Encoder: Write + Send {
    /// Writes the rest of the compressed stream and flushes the target.
    ///
    /// # Errors
    ///
    /// Those of the target.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

struct Finish<W, F>(W, F);

impl<W: Write, F> Write for Finish<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send, F: FnOnce(W) -> io::Result<()> + Send> Encoder for Finish<W, F> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self(writer, finish) = *self;
        finish(writer)
    }
}

/// Whether [`encoder`] can write `coding`.
pub fn is_supported(coding: Coding) -> bool {
    !matches!(coding, Coding::Lzip | Coding::Deflate)
}

/// An encoder that writes to `target`; no coding writes the contents as they are. Each coding has
/// its own scale of levels. `size` is the number of bytes that will be written, if it is known.
///
/// # Errors
///
/// `Unsupported` for a coding that cannot be written, and those of the target.
pub fn encoder<'a, W: Write + Send + 'a>(
    coding: Option<Coding>,
    level: Option<u32>,
    size: Option<u64>,
    target: W,
) -> io::Result<Box<dyn Encoder + 'a>> {
    let Some(coding) = coding else {
        return Ok(Box::new(Finish(target, |mut it: W| it.flush())));
    };
    Ok(match coding {
        Coding::Xz => {
            let encoder = liblzma::write::XzEncoder::new(target, level.unwrap_or(6).min(9));
            Box::new(Finish(encoder, |it: liblzma::write::XzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Coding::Bzip2 => {
            let level = bzip2::Compression::new(level.unwrap_or(9).clamp(1, 9));
            let encoder = bzip2::write::BzEncoder::new(target, level);
            Box::new(Finish(encoder, |it: bzip2::write::BzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Coding::Gzip => {
            let level = flate2::Compression::new(level.unwrap_or(6).min(9));
            let encoder = flate2::write::GzEncoder::new(target, level);
            Box::new(Finish(encoder, |it: flate2::write::GzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Coding::Zstd => {
            let level = i32::try_from(level.unwrap_or(3)).unwrap_or(i32::MAX);
            let mut encoder = zstd::stream::write::Encoder::new(target, level)?;
            // What is small takes small tables.
            encoder.set_pledged_src_size(size)?;
            Box::new(Finish(
                encoder,
                |it: zstd::stream::write::Encoder<'static, W>| it.finish()?.flush(),
            ))
        }
        Coding::Brotli => {
            let level = level.unwrap_or(5).min(11);
            let encoder = brotli::CompressorWriter::new(target, BUFFER, level, 22);
            Box::new(Finish(encoder, |it: brotli::CompressorWriter<W>| {
                it.into_inner().flush()
            }))
        }
        Coding::Lzma => {
            let options = LzmaOptions::new_preset(level.unwrap_or(6).min(9))?;
            let stream = Stream::new_lzma_encoder(&options)?;
            let encoder = liblzma::write::XzEncoder::new_stream(target, stream);
            Box::new(Finish(encoder, |it: liblzma::write::XzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Coding::Lz4 => {
            let encoder = lz4_flex::frame::FrameEncoder::new(target);
            Box::new(Finish(encoder, |it: lz4_flex::frame::FrameEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Coding::Lzip | Coding::Deflate => {
            let message = format!("compression '{coding}' is not supported");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::decode::{Decoder, Limits};

    #[test]
    fn round_trips() {
        let contents = b"contents ".repeat(10_000);
        let codings = Coding::ALL.into_iter().map(Some).chain([None]);
        for coding in codings {
            for level in [None, Some(1), Some(u32::MAX)] {
                let mut target = Vec::new();
                let size = Some(contents.len() as u64);
                if !coding.is_none_or(is_supported) {
                    assert!(encoder(coding, level, size, &mut target).is_err());
                    continue;
                }
                let mut made = encoder(coding, level, size, &mut target).unwrap();
                made.write_all(&contents).unwrap();
                made.finish().unwrap();
                let mut decoded = Vec::new();
                let mut decoder = Decoder::new(coding, &target[..], &Limits::default()).unwrap();
                decoder.read_to_end(&mut decoded).unwrap();
                assert!(decoded == contents, "{coding:?}");
            }
        }
    }
}
