//! Compression and decompression, on threads that may block.

use std::io::{self, Read as _, Write};

use bytes::Bytes;
use nix_compat::narinfo::Compression;
use tvix_http::decode::{Coding, DecodeError, Limits, UnknownCoding, decode_all};
use tvix_http::encode;

pub(super) use tvix_http::encode::Encoder;

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
        Ok(coding) => coding.is_none_or(encode::is_supported),
        Err(_) => false,
    }
}

/// An encoder that writes to `target`. `size` is the size of the input in bytes, if it is known.
pub(super) fn encoder<'a, W: Write + Send + 'a>(
    compression: &Compression,
    level: Option<u32>,
    size: Option<u64>,
    target: W,
) -> io::Result<Box<dyn Encoder + 'a>> {
    match coding(compression) {
        Ok(coding) => encode::encoder(coding, level, size, target),
        Err(error) => Err(error.into()),
    }
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
    let limits = Limits::default()
        .with_memory(SMALL_MEMORY)
        .with_output(limit as u64);
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
