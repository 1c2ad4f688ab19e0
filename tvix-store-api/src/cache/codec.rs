//! Compression and decompression, on threads that may block.

use std::io::{self, Read as _, Write};

use bytes::Bytes;
use liblzma::stream::{LzmaOptions, Stream};
use nix_compat::narinfo::Compression;
use tvix_http::decode::{Coding, DecodeError, Limits, UnknownCoding, decode_all};

const BUFFER: usize = 64 * 1024;

/// Memory limit for decoding small files, in bytes; they need no large dictionary.
const SMALL_MEMORY: u64 = 64 * 1024 * 1024;

/// The decoder of a compression; `None` if there is no compression.
pub(super) fn coding(compression: &Compression) -> Result<Option<Coding>, UnknownCoding> {
    match compression {
        Compression::None => Ok(None),
        other => Coding::from_compression(other.as_str()),
    }
}

/// Whether this compression is supported for writing.
pub(super) fn can_encode(compression: &Compression) -> bool {
    match coding(compression) {
        Ok(coding) => coding != Some(Coding::Lzip),
        Err(_) => false,
    }
}

/// Compresses the bytes that are written to it.
pub(super) trait Encoder: Write + Send {
    /// Writes the remaining bytes and releases the target.
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

/// An encoder that writes to `target`. `size` is the size of the input in bytes, if it is known.
pub(super) fn encoder<'a, W: Write + Send + 'a>(
    compression: &Compression,
    level: Option<u32>,
    size: Option<u64>,
    target: W,
) -> io::Result<Box<dyn Encoder + 'a>> {
    let unsupported = || {
        let message = format!("compression '{compression}' is not supported");
        io::Error::new(io::ErrorKind::Unsupported, message)
    };
    let Some(coding) = coding(compression).map_err(|_| unsupported())? else {
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
            // Small inputs use small tables.
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
        _ => return Err(unsupported()),
    })
}

/// Decodes a small file to which `codings` were applied; more than `limit` decoded bytes are an
/// error.
pub(super) fn decode_small(
    codings: &[Coding],
    bytes: Bytes,
    limit: usize,
) -> Result<Bytes, DecodeError> {
    // An empty body has no coding.
    if codings.is_empty() || bytes.is_empty() {
        return Ok(bytes);
    }
    let limits = Limits::default().memory(SMALL_MEMORY).output(limit as u64);
    let mut decoded = Vec::new();
    let mut decoder = decode_all(codings, &bytes[..], &limits)?;
    let read = decoder.read_to_end(&mut decoded);
    read.map_err(DecodeError::from_io)?;
    Ok(decoded.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 8] = ["none", "xz", "bzip2", "gzip", "zstd", "br", "lz4", "lzma"];

    fn compressed(compression: &str, contents: &[u8]) -> Vec<u8> {
        let mut target = Vec::new();
        let size = Some(contents.len() as u64);
        let mut encoder = encoder(&compression.into(), None, size, &mut target).unwrap();
        encoder.write_all(contents).unwrap();
        encoder.finish().unwrap();
        target
    }

    #[test]
    fn round_trips() {
        let contents: Vec<u8> = (0..300_000u32)
            .flat_map(|it| (it / 7).to_le_bytes())
            .collect();
        for name in ALL {
            let compression = Compression::from(name);
            assert!(can_encode(&compression));
            let codings = Vec::from_iter(coding(&compression).unwrap());
            let bytes = compressed(name, &contents);
            let mut decoded = Vec::new();
            let mut decoder = decode_all(&codings, &bytes[..], &Limits::default()).unwrap();
            decoder.read_to_end(&mut decoded).unwrap();
            assert!(decoded == contents, "{name}");
        }
    }

    #[test]
    fn small_files_stay_small() {
        let names = ["br", "gzip", "zstd", "xz", "bzip2", "lz4"];
        let contents = vec![0; 1_000_000];
        for name in names {
            let codings = Coding::from_header(name).unwrap();
            let encoded = Bytes::from(compressed(name, &contents));
            let decoded = decode_small(&codings, encoded.clone(), contents.len()).unwrap();
            assert!(decoded == contents, "{name}");
            let error = decode_small(&codings, encoded, contents.len() - 1).unwrap_err();
            assert!(
                matches!(error, DecodeError::OutputLimit { .. }),
                "{name}: {error}"
            );
            assert!(decode_small(&codings, Bytes::new(), 1).unwrap().is_empty());
        }
    }

    #[test]
    fn unsupported_ones() {
        for name in ["rot13", "compress", "deflate"] {
            let compression = Compression::from(name);
            assert!(!can_encode(&compression));
            assert!(coding(&compression).is_err());
            assert!(encoder(&compression, None, None, Vec::new()).is_err());
        }
        let lzip = Compression::from("lzip");
        assert_eq!(coding(&lzip), Ok(Some(Coding::Lzip)));
        assert!(!can_encode(&lzip) && encoder(&lzip, None, None, Vec::new()).is_err());
        for name in ["none", "identity"] {
            assert_eq!(coding(&name.into()), Ok(None), "{name}");
        }
        // An empty name stands for the compression of caches from before there was a choice.
        assert_eq!(coding(&"".into()), Ok(Some(Coding::Bzip2)));
    }
}
