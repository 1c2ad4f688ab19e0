//! Every coding: whole, joined, cut off anywhere, with trailing bytes, beyond limits.

#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Write as _};

use super::*;

fn contents() -> Vec<u8> {
    let mut number = 1u32;
    let noise = std::iter::repeat_with(|| {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (number >> 24) as u8
    });
    let mut contents: Vec<u8> = noise.take(3000).collect();
    contents.extend(b"abc".repeat(30_000));
    contents
}

fn encode(coding: Coding, plain: &[u8]) -> Vec<u8> {
    use liblzma::stream::{LzmaOptions, Stream};
    use liblzma::write::XzEncoder;
    let mut to = Vec::new();
    match coding {
        Coding::Xz => {
            let mut encoder = XzEncoder::new(&mut to, 1);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        Coding::Lzma => {
            let options = LzmaOptions::new_preset(1).unwrap();
            let stream = Stream::new_lzma_encoder(&options).unwrap();
            let mut encoder = XzEncoder::new_stream(&mut to, stream);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        Coding::Lzip => to = lzip(plain),
        Coding::Zstd => to = ::zstd::encode_all(plain, 3).unwrap(),
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(&mut to, Default::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        Coding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(&mut to, Default::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        Coding::Bzip2 => {
            let mut encoder = ::bzip2::write::BzEncoder::new(&mut to, ::bzip2::Compression::best());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        Coding::Brotli => {
            let mut encoder = ::brotli::CompressorWriter::new(&mut to, 4096, 5, 22);
            encoder.write_all(plain).unwrap();
            drop(encoder);
        }
        Coding::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut to);
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
    }
    to
}

/// liblzma has no encoder of lzip: a member is made of an lzma stream.
fn lzip(plain: &[u8]) -> Vec<u8> {
    let lzma = encode(Coding::Lzma, plain);
    let mut crc = flate2::Crc::new();
    crc.update(plain);
    // Version 1, a dictionary of 1 MiB.
    let mut member = b"LZIP\x01\x14".to_vec();
    member.extend(&lzma[13..]);
    member.extend(crc.sum().to_le_bytes());
    member.extend((plain.len() as u64).to_le_bytes());
    let size = member.len() as u64 + 8;
    member.extend(size.to_le_bytes());
    member
}

fn decode_with(coding: Coding, bytes: &[u8], limits: &Limits) -> Result<Vec<u8>, io::Error> {
    let mut decoded = Vec::new();
    let mut decoder = Decoder::new(Some(coding), bytes, limits)?;
    decoder.read_to_end(&mut decoded)?;
    Ok(decoded)
}

fn decode(coding: Coding, bytes: &[u8]) -> Result<Vec<u8>, io::Error> {
    decode_with(coding, bytes, &Limits::default())
}

fn error(coding: Coding, bytes: &[u8]) -> DecodeError {
    let error = decode(coding, bytes).expect_err("an error");
    assert!(DecodeError::of(&error).is_some(), "{error:?}");
    *error.into_inner().unwrap().downcast().unwrap()
}

/// Hands out one byte at a time, and is interrupted in between.
struct Slow<'a>(&'a [u8], bool);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn whole_streams() {
    let plain = contents();
    for coding in Coding::ALL {
        for plain in [&plain[..], b"x", b""] {
            let encoded = encode(coding, plain);
            assert!(decode(coding, &encoded).unwrap() == plain, "{coding}");
            let slow = Slow(&encoded, false);
            let mut decoder = Decoder::new(Some(coding), slow, &Limits::default()).unwrap();
            let mut decoded = Vec::<u8>::new();
            let mut one = [0; 7];
            loop {
                match decoder.read(&mut one).unwrap() {
                    0 => break,
                    count => decoded.extend(&one[..count]),
                }
            }
            assert!(decoded == plain, "{coding} in small pieces");
            assert_eq!(decoder.produced(), plain.len() as u64);
        }
    }
    let mut through = Decoder::new(None, &plain[..], &Limits::default()).unwrap();
    let mut decoded = Vec::new();
    through.read_to_end(&mut decoded).unwrap();
    assert!(decoded == plain);
}

#[test]
fn a_stream_that_is_cut_off_anywhere_is_an_error() {
    let plain = &contents()[2500..3500];
    for coding in Coding::ALL {
        let whole = encode(coding, plain);
        for cut in 0..whole.len() {
            let error = error(coding, &whole[..cut]);
            assert!(
                matches!(error, DecodeError::Truncated { .. }),
                "{coding} after {cut} of {}: {error}",
                whole.len()
            );
        }
    }
}

#[test]
fn a_second_stream_that_is_cut_off_is_an_error() {
    let plain = &contents()[2500..3500];
    for coding in [
        Coding::Xz,
        Coding::Zstd,
        Coding::Gzip,
        Coding::Bzip2,
        Coding::Lz4,
    ] {
        let one = encode(coding, plain);
        // The shorter ones are trailing bytes.
        for cut in 20..one.len() {
            let bytes = [&one[..], &one[..cut]].concat();
            let error = error(coding, &bytes);
            assert!(
                matches!(error, DecodeError::Truncated { .. }),
                "{coding}: {error}"
            );
        }
    }
}

#[test]
fn streams_in_a_row() {
    let plain = contents();
    let (one, two) = plain.split_at(40_000);
    for coding in Coding::ALL {
        let bytes = [encode(coding, one), encode(coding, two)].concat();
        let decoded = decode(coding, &bytes).unwrap();
        let joined = !matches!(coding, Coding::Lzma | Coding::Brotli | Coding::Deflate);
        assert!(
            decoded == *if joined { &plain[..] } else { one },
            "{coding}"
        );
        let bytes = [encode(coding, b""), encode(coding, two)].concat();
        let decoded = decode(coding, &bytes).unwrap();
        assert!(
            decoded == if joined { two } else { b"" },
            "{coding}, an empty one first"
        );
    }
}

/// As libarchive and libbrotli take them, recorded from Nix 2.34.8 (`nix copy` of a NAR followed by
/// these bytes).
#[test]
fn trailing_bytes() {
    let plain = contents();
    let trailing: [&[u8]; 5] = [b"garbage at the end", b"g", &[0; 3], &[0; 4], &[0; 512]];
    for coding in Coding::ALL {
        for (index, bytes) in trailing.iter().enumerate() {
            let fine = match coding {
                Coding::Xz => index >= 3,
                Coding::Zstd => false,
                _ => true,
            };
            let bytes = [&encode(coding, &plain)[..], bytes].concat();
            match fine {
                true => assert!(decode(coding, &bytes).unwrap() == plain, "{coding} {index}"),
                false => drop(error(coding, &bytes)),
            }
        }
    }
}

#[test]
fn skippable_frames() {
    let plain = contents();
    let skippable = b"\x53\x2a\x4d\x18\x05\0\0\0hello";
    for coding in [Coding::Zstd, Coding::Lz4] {
        let stream = encode(coding, &plain);
        let bytes = [
            &skippable[..],
            &stream,
            skippable,
            skippable,
            &stream,
            skippable,
        ]
        .concat();
        assert!(
            decode(coding, &bytes).unwrap() == plain.repeat(2),
            "{coding}"
        );
        let error = error(coding, &bytes[..bytes.len() - 1]);
        assert!(matches!(error, DecodeError::Truncated { .. }), "{error}");
        assert!(decode(coding, skippable).unwrap().is_empty());
        assert_eq!(Coding::sniff(&bytes), Some(coding));
    }
}

#[test]
fn lz4_as_the_program_writes_it() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let plain = contents();
    for mode in [BlockMode::Linked, BlockMode::Independent] {
        for size in [BlockSize::Max64KB, BlockSize::Max4MB] {
            let info = FrameInfo::new()
                .block_mode(mode)
                .block_size(size)
                .block_checksums(true)
                .content_checksum(true)
                .content_size(Some(plain.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&plain).unwrap();
            let mut bytes = encoder.finish().unwrap();
            assert!(decode(Coding::Lz4, &bytes).unwrap() == plain);
            *bytes.last_mut().unwrap() ^= 1;
            assert!(matches!(
                error(Coding::Lz4, &bytes),
                DecodeError::Corrupt { .. }
            ));
        }
    }
}

#[test]
fn legacy_frames_of_lz4() {
    let plain = contents()[2950..3200].to_vec();
    let block = lz4_flex::block::compress(&plain);
    let mut legacy = b"\x02\x21\x4c\x18".to_vec();
    legacy.extend((block.len() as u32).to_le_bytes());
    legacy.extend(&block);
    assert_eq!(Coding::sniff(&legacy), Some(Coding::Lz4));
    assert!(decode(Coding::Lz4, &legacy).unwrap() == plain);
    // A frame of the other kind and one more of this.
    let three = [&legacy[..], &encode(Coding::Lz4, &plain), &legacy].concat();
    assert!(decode(Coding::Lz4, &three).unwrap() == plain.repeat(3));
    // After its four bytes of signature a frame may end.
    let cuts = (0..legacy.len()).filter(|cut| *cut != 4 && cut % 7 < 5);
    for cut in cuts {
        let error = error(Coding::Lz4, &legacy[..cut]);
        assert!(
            matches!(error, DecodeError::Truncated { .. }),
            "{cut}: {error}"
        );
    }
    legacy[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        error(Coding::Lz4, &legacy),
        DecodeError::Corrupt { .. }
    ));
}

#[test]
fn limits_of_output() {
    let plain = contents();
    let size = plain.len() as u64;
    for coding in Coding::ALL {
        let encoded = encode(coding, &plain);
        let exact = Limits::default().with_output(size);
        assert!(decode_with(coding, &encoded, &exact).unwrap() == plain);
        let short = Limits::default().with_output(size - 1);
        let error = decode_with(coding, &encoded, &short).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        let limit = size - 1;
        assert!(
            matches!(DecodeError::of(&error), Some(DecodeError::OutputLimit { limit: it }) if *it == limit)
        );
    }
}

/// A frame that says that its window has two to the power of `log` bytes.
fn zstd_window(log: u8, plain: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
    frame.extend(&((plain.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend(plain);
    frame
}

/// A stream whose block header says that its dictionary has the size number `size`.
fn xz_dictionary(size: u8, plain: &[u8]) -> Vec<u8> {
    let mut stream = encode(Coding::Xz, plain);
    let length = (usize::from(stream[12]) + 1) * 4;
    let header = &mut stream[12..12 + length];
    let filter = header.iter().position(|byte| *byte == 0x21).unwrap();
    header[filter + 2] = size;
    let mut crc = flate2::Crc::new();
    crc.update(&header[..length - 4]);
    header[length - 4..].copy_from_slice(&crc.sum().to_le_bytes());
    stream
}

#[test]
fn limits_of_memory() {
    let plain = &contents()[..4000];
    let mut lzma = encode(Coding::Lzma, plain);
    lzma[1..5].copy_from_slice(&(256u32 << 20).to_le_bytes());
    let mut lzip = encode(Coding::Lzip, plain);
    lzip[5] = 28;
    let streams = [
        (Coding::Zstd, zstd_window(28, plain)),
        // 256 MiB.
        (Coding::Xz, xz_dictionary(32, plain)),
        (Coding::Lzma, lzma),
        (Coding::Lzip, lzip),
    ];
    for (coding, stream) in &streams {
        let error =
            decode_with(*coding, stream, &Limits::default().with_memory(100 << 20)).unwrap_err();
        let kind = DecodeError::of(&error);
        assert!(
            matches!(kind, Some(DecodeError::MemoryLimit { limit, .. }) if *limit == 100 << 20)
        );
        let text = error.to_string();
        assert!(
            text.contains(coding.name()) && text.contains("104857600"),
            "{text}"
        );
        let enough = Limits::default().with_memory(300 << 20);
        assert!(
            decode_with(*coding, stream, &enough).unwrap() == plain,
            "{coding}"
        );
    }
    // The largest that `xz` and `zstd` write are within the default limits, larger ones are not.
    assert!(decode(Coding::Xz, &xz_dictionary(37, plain)).unwrap() == plain);
    assert!(decode(Coding::Zstd, &zstd_window(31, plain)).unwrap() == plain);
    for (coding, stream) in [
        (Coding::Xz, xz_dictionary(40, plain)),
        (Coding::Zstd, zstd_window(41, plain)),
    ] {
        assert!(
            matches!(error(coding, &stream), DecodeError::MemoryLimit { .. }),
            "{coding}"
        );
    }
    let none = Limits::default().with_memory(0);
    assert!(decode_with(Coding::Xz, &xz_dictionary(0, plain), &none).is_err());
    assert!(decode_with(Coding::Gzip, &encode(Coding::Gzip, plain), &none).is_ok());
}

#[test]
fn sniffing() {
    let plain = contents();
    for coding in Coding::ALL {
        let bytes = encode(coding, &plain);
        let known = !matches!(coding, Coding::Brotli | Coding::Deflate);
        let expected = known.then_some(coding);
        assert_eq!(Coding::sniff(&bytes), expected, "{coding}");
        let mut decoder = Decoder::sniffing(&bytes[..], &Limits::default()).unwrap();
        assert_eq!(decoder.coding(), expected);
        let mut decoded = Vec::new();
        decoder.read_to_end(&mut decoded).unwrap();
        assert!(decoded == *if known { &plain } else { &bytes }, "{coding}");
    }
    // The beginnings of things that are not compressed.
    for plain in [
        "",
        "B",
        "BZh",
        "BZhx",
        "text",
        "LZI",
        "\u{1f}",
        "./\0",
        "PK\u{3}\u{4}",
        "]\0\0",
    ] {
        assert_eq!(Coding::sniff(plain.as_bytes()), None, "{plain:?}");
    }
}

#[test]
fn not_of_the_coding() {
    let plain = contents();
    for coding in Coding::ALL {
        let found = error(coding, &plain);
        assert!(
            matches!(found, DecodeError::Corrupt { .. }),
            "{coding}: {found}"
        );
        let other = if coding == Coding::Gzip {
            Coding::Xz
        } else {
            Coding::Gzip
        };
        drop(error(coding, &encode(other, &plain)));
    }
    for start in [b"\x25\xb5\x2f\xfd", b"\x27\xb5\x2f\xfd"] {
        let found = error(Coding::Zstd, start);
        assert!(
            matches!(found, DecodeError::Corrupt { .. }),
            "an early version: {found}"
        );
    }
}

/// A copy that is longer than what is left of its block, which libbrotli refuses too. Found by the
/// fuzzer: an earlier version of the brotli crate noticed it only if the input was read in pieces.
#[test]
fn a_brotli_copy_that_exceeds_its_block_is_an_error() {
    let streams: [&[u8]; 2] = [
        b"\x09\x37\x00\x00\x24\x15\x93\x58\x5a\x90\x41\x27\x69\x81\x8c\x43\x0b\x2b\x4c\x00\
          \x08\xe6\x60\x00\x08\x20\xc8\xff\xff\x24\x15\x8c\x79\xe1\x0b\x2b\x4c\xe6\x60\x00\
          \x08\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\x51\xc9\xc9\xc9\xc9\xc9\
          \xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\xc9\x8c\x82\x21\xdb\xdb\
          \xdb\xdb\xdb\xdb\xdb\xdb\xdb\xdb\x00",
        b"\x09\x37\x00\x00\x24\x15\x93\x58\x5a\x90\x41\x27\x69\x81\x8c\x43\x0b\x2b\x4c\xe6\
          \x60\x00\x08\xda\x4a\x19\x48\xeb\x81\x07\x8c\x79\x19\x43\x15\x93\x58\x5a\x90\x41\
          \x27\x69\x81\x8c\x43\x0b\x2b\x4c\xe6\x60\x00\x00\x00\x44\x0b",
    ];
    for stream in streams {
        for (pieces, room) in [
            (usize::MAX, 1 << 16),
            (usize::MAX, 7),
            (1, 1 << 16),
            (1, 1),
            (5, 7),
        ] {
            let source = Pieces(stream, pieces);
            let mut decoder =
                Decoder::new(Some(Coding::Brotli), source, &Limits::default()).unwrap();
            let mut buffer = vec![0; room];
            let error = loop {
                match decoder.read(&mut buffer) {
                    Ok(count) => assert_ne!(count, 0, "accepted in pieces of {pieces} into {room}"),
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(DecodeError::of(&error), Some(DecodeError::Corrupt { .. })),
                "{error}"
            );
        }
    }
}

/// Hands out at most so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(self.1);
        self.0.read(&mut buffer[..count])
    }
}

#[test]
fn raw_deflate() {
    let plain = contents();
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), Default::default());
    encoder.write_all(&plain).unwrap();
    let raw = encoder.finish().unwrap();
    assert!(decode(Coding::Deflate, &raw).unwrap() == plain);
    assert!(matches!(
        error(Coding::Deflate, &raw[..raw.len() - 1]),
        DecodeError::Truncated { .. }
    ));
}

#[test]
fn names() {
    for coding in Coding::ALL {
        let named = Coding::from_compression(coding.name());
        match coding {
            Coding::Deflate => assert!(named.is_err()),
            _ => assert_eq!(named, Ok(Some(coding))),
        }
        assert_eq!(Coding::from_header(coding.name()), Ok(vec![coding]));
    }
    for none in ["", "none", "identity"] {
        assert_eq!(Coding::from_compression(none), Ok(None));
    }
    for (header, codings) in [
        ("", vec![]),
        ("identity", vec![]),
        ("Identity, none,, ", vec![]),
        ("GZip", vec![Coding::Gzip]),
        ("x-gzip", vec![Coding::Gzip]),
        ("br , gzip", vec![Coding::Brotli, Coding::Gzip]),
        ("zstd,identity,deflate", vec![Coding::Zstd, Coding::Deflate]),
    ] {
        assert_eq!(Coding::from_header(header), Ok(codings), "{header}");
    }
    let error = Coding::from_header("gzip, Rot13").unwrap_err();
    assert_eq!(error.to_string(), "unknown coding 'Rot13'");
    assert!(Coding::from_compression("compress").is_err());
}

#[test]
fn several_codings() {
    let plain = contents();
    let codings = [Coding::Gzip, Coding::Brotli, Coding::Zstd];
    let encoded = codings
        .iter()
        .fold(plain.clone(), |bytes, coding| encode(*coding, &bytes));
    let mut decoded = Vec::new();
    let mut decoder = decode_all(&codings, Cursor::new(&encoded), &Limits::default()).unwrap();
    decoder.read_to_end(&mut decoded).unwrap();
    assert!(decoded == plain);
    // A cut in the outermost coding is told of it.
    let cut = &encoded[..encoded.len() - 1];
    let mut decoder = decode_all(&codings, cut, &Limits::default()).unwrap();
    let error = decoder.read_to_end(&mut Vec::new()).unwrap_err();
    let coding = Coding::Zstd;
    assert!(
        matches!(DecodeError::of(&error), Some(DecodeError::Truncated { coding: it }) if *it == coding)
    );
}

/// Fails after its bytes.
struct Failing<'a>(&'a [u8]);

impl Read for Failing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the source")),
            count => Ok(count),
        }
    }
}

#[test]
fn an_error_of_the_source_is_its_own() {
    let plain = &contents()[..4000];
    for coding in Coding::ALL {
        let whole = encode(coding, plain);
        for cut in [0, 3, whole.len() / 2, whole.len() - 1] {
            let decode = || -> io::Result<()> {
                let source = Failing(&whole[..cut]);
                let mut decoder = Decoder::new(Some(coding), source, &Limits::default())?;
                decoder.read_to_end(&mut Vec::new())?;
                Ok(())
            };
            let error = decode().unwrap_err();
            assert_eq!(error.to_string(), "the source", "{coding} {cut}");
            assert!(DecodeError::of(&error).is_none());
        }
    }
}

#[test]
fn nothing_comes_after_an_error() {
    let whole = encode(Coding::Gzip, &contents());
    let mut decoder = Decoder::new(Some(Coding::Gzip), &whole[..50], &Limits::default()).unwrap();
    assert!(decoder.read_to_end(&mut Vec::new()).is_err());
    assert!(decoder.read(&mut [0]).is_err());
}
