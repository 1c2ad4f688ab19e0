//! Compression and decompression, on threads that may block.

use std::io::{self, BufReader, Read, Write};

use bytes::Bytes;
use nix_compat::narinfo::Compression;

/// Enough for what `xz -9` makes, and for any dictionary up to 256 MiB. What wants more is meant
/// to take the reader's memory.
const XZ_MEMORY: u64 = 320 * 1024 * 1024;
const BUFFER: usize = 64 * 1024;

fn unsupported(compression: &Compression) -> io::Error {
    let message = format!("compression '{compression}' is not supported");
    io::Error::new(io::ErrorKind::Unsupported, message)
}

/// Whether it can be read and written here.
pub(super) fn is_supported(compression: &Compression) -> bool {
    matches!(
        compression,
        Compression::None
            | Compression::Xz
            | Compression::Bzip2
            | Compression::Gzip
            | Compression::Zstd
            | Compression::Brotli
    )
}

/// What `source` holds, decompressed. Several streams one after the other are one, as the
/// programs of these names have it.
pub(super) fn decoder<'a>(
    compression: &Compression,
    source: impl Read + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let source = BufReader::with_capacity(BUFFER, source);
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Xz => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(source, stream))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        // The decoder's own limit of its window is 128 MiB.
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        // Its window is 16 MiB at most.
        Compression::Brotli => Box::new(brotli::Decompressor::new(source, BUFFER)),
        other => return Err(unsupported(other)),
    })
}

/// Compresses what is written to it.
pub(super) trait Encoder: Write + Send {
    /// Writes what is left, and gives back where it went.
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

/// An encoder into `target`, of `size` bytes if that is known.
pub(super) fn encoder<'a, W: Write + Send + 'a>(
    compression: &Compression,
    level: Option<u32>,
    size: Option<u64>,
    target: W,
) -> io::Result<Box<dyn Encoder + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(Finish(target, |mut it: W| it.flush())),
        Compression::Xz => {
            let encoder = liblzma::write::XzEncoder::new(target, level.unwrap_or(6).min(9));
            Box::new(Finish(encoder, |it: liblzma::write::XzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Compression::Bzip2 => {
            let level = bzip2::Compression::new(level.unwrap_or(9).clamp(1, 9));
            let encoder = bzip2::write::BzEncoder::new(target, level);
            Box::new(Finish(encoder, |it: bzip2::write::BzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Compression::Gzip => {
            let level = flate2::Compression::new(level.unwrap_or(6).min(9));
            let encoder = flate2::write::GzEncoder::new(target, level);
            Box::new(Finish(encoder, |it: flate2::write::GzEncoder<W>| {
                it.finish()?.flush()
            }))
        }
        Compression::Zstd => {
            let level = i32::try_from(level.unwrap_or(3)).unwrap_or(i32::MAX);
            let mut encoder = zstd::stream::write::Encoder::new(target, level)?;
            // What is small takes small tables.
            encoder.set_pledged_src_size(size)?;
            Box::new(Finish(
                encoder,
                |it: zstd::stream::write::Encoder<'static, W>| it.finish()?.flush(),
            ))
        }
        Compression::Brotli => {
            let level = level.unwrap_or(5).min(11);
            let encoder = brotli::CompressorWriter::new(target, BUFFER, level, 22);
            Box::new(Finish(encoder, |it: brotli::CompressorWriter<W>| {
                it.into_inner().flush()
            }))
        }
        other => return Err(unsupported(other)),
    })
}

/// Reads all of a small file that may be encoded; what has more than `limit` bytes is an error.
pub(super) fn decode_small(encoding: &str, bytes: Bytes, limit: usize) -> io::Result<Bytes> {
    let compression = match encoding {
        "br" => Compression::Brotli,
        "gzip" | "x-gzip" => Compression::Gzip,
        "zstd" => Compression::Zstd,
        "xz" => Compression::Xz,
        "bzip2" => Compression::Bzip2,
        other => Compression::Other(other.to_owned()),
    };
    let decoder = decoder(&compression, &bytes[..])?;
    let mut decoded = Vec::new();
    decoder.take(limit as u64 + 1).read_to_end(&mut decoded)?;
    match decoded.len() > limit {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(decoded.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 6] = [
        Compression::None,
        Compression::Xz,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Brotli,
    ];

    fn compressed(compression: &Compression, contents: &[u8]) -> Vec<u8> {
        let mut target = Vec::new();
        let mut encoder =
            encoder(compression, None, Some(contents.len() as u64), &mut target).unwrap();
        encoder.write_all(contents).unwrap();
        encoder.finish().unwrap();
        target
    }

    #[test]
    fn round_trips_and_truncation() {
        let contents: Vec<u8> = (0..300_000u32)
            .flat_map(|it| (it / 7).to_le_bytes())
            .collect();
        for compression in ALL {
            let whole = compressed(&compression, &contents);
            let mut read = Vec::new();
            let mut from = decoder(&compression, &whole[..]).unwrap();
            from.read_to_end(&mut read).unwrap();
            assert!(read == contents, "{compression}");
            if compression == Compression::None {
                continue;
            }
            for cut in [0, 1, 10, whole.len() / 2, whole.len() - 1] {
                let mut read = Vec::new();
                let from = decoder(&compression, &whole[..cut]);
                let result = from.and_then(|mut from| from.read_to_end(&mut read));
                assert!(
                    result.is_err() || read != contents,
                    "{compression} cut at {cut} reads as a whole"
                );
            }
        }
    }

    #[test]
    fn small_files_stay_small() {
        let names = ["br", "gzip", "x-gzip", "zstd", "xz", "bzip2"];
        let contents = vec![0; 1_000_000];
        for name in names {
            let encoding = match name {
                "x-gzip" => Compression::Gzip,
                name => Compression::from(name),
            };
            let encoded = Bytes::from(compressed(&encoding, &contents));
            let decoded = decode_small(name, encoded.clone(), contents.len()).unwrap();
            assert!(decoded == contents, "{name}");
            let error = decode_small(name, encoded, contents.len() - 1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge, "{name}");
        }
        assert!(decode_small("rot13", Bytes::new(), 1).is_err());
    }

    #[test]
    fn what_is_not_supported() {
        for name in ["lz4", "rot13"] {
            let compression = Compression::from(name);
            assert!(!is_supported(&compression));
            assert!(decoder(&compression, &b""[..]).is_err());
            assert!(encoder(&compression, None, None, Vec::new()).is_err());
        }
    }
}
