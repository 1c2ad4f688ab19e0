//! The decoders on arbitrary input; the first byte selects the decoder. They do not panic, they
//! keep their limits, and the sizes of pieces that are read and written do not matter.

use std::io::{self, Read};

use tvix_http::decode::{Coding, Decoder, Limits};

const OUTPUT: u64 = 1 << 20;

fn limits() -> Limits {
    Limits::default().with_memory(16 << 20).with_output(OUTPUT)
}

/// Reads at most this many bytes at once.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = buffer.len().min(self.1);
        self.0.read(&mut buffer[..size])
    }
}

fn decode(
    coding: Option<Coding>,
    stream: &[u8],
    pieces: usize,
    room: usize,
) -> (Vec<u8>, Result<(), io::ErrorKind>) {
    let mut decoded = Vec::new();
    let source = Pieces(stream, pieces);
    let decoder = match coding {
        Some(coding) => Decoder::new(Some(coding), source, &limits()),
        None => Decoder::sniffing(source, &limits()),
    };
    let mut decoder = decoder.expect("a decoder, which fails when it is read only");
    let mut buffer = vec![0; room];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => decoded.extend_from_slice(&buffer[..count]),
            Err(error) => return (decoded, Err(error.kind())),
        }
    }
    assert_eq!(decoder.read(&mut buffer).expect("the end stays"), 0);
    (decoded, Ok(()))
}

pub fn check(input: &[u8]) {
    let Some((&first, stream)) = input.split_first() else {
        return;
    };
    let coding = Coding::ALL.get(usize::from(first) % (Coding::ALL.len() + 1));
    let coding = coding.copied();
    let (decoded, result) = decode(coding, stream, 1 << 16, 1 << 16);
    assert!(decoded.len() as u64 <= OUTPUT, "more than is allowed");
    // Small pieces of large contents take too long for a fuzzer.
    let room = if decoded.len() > 1 << 14 { 4096 } else { 7 };
    let pieces = usize::from(first) % 13 + 1;
    let (again, other) = decode(coding, stream, pieces, room);
    // liblzma accepts a stream that has both its size and an end mark only as a whole, and fails if
    // a piece ends inside the mark.
    let found = coding.or_else(|| Coding::sniff(stream));
    let sized = stream.get(5..13).is_some_and(|size| size != [0xff; 8]);
    if found == Some(Coding::Lzma) && sized && other.is_ok() != result.is_ok() {
        return;
    }
    assert_eq!(
        other.is_ok(),
        result.is_ok(),
        "{result:?}, in pieces {other:?}"
    );
    // A decoder that fails may return more or less of its output before the error.
    let common = again.len().min(decoded.len());
    assert!(
        again[..common] == decoded[..common],
        "pieces change the contents"
    );
    if result.is_ok() {
        assert_eq!(again.len(), decoded.len(), "pieces change the length");
        if coding.is_none() {
            let found = Coding::sniff(stream);
            let named = decode(found, stream, 1 << 16, 1 << 16);
            assert!(named.0 == decoded && named.1.is_ok(), "sniffing");
        }
    }
}
