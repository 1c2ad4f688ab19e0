//! SHA-256 for store paths: by `ring` with the feature `hash`, else by a portable library.

#[cfg(not(feature = "hash"))]
use hmac_sha256::Hash as Context;
#[cfg(feature = "hash")]
use ring::digest::Context;

/// The SHA-256 of the concatenation of `pieces`.
pub(crate) fn sha256_of(pieces: &[&[u8]]) -> [u8; 32] {
    let mut context = new();
    for piece in pieces {
        context.update(piece);
    }
    finish(context)
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    sha256_of(&[bytes])
}

/// A hash in base 16. There is one for each store path, and for each input of each derivation.
pub(crate) fn hex(hash: &[u8; 32]) -> [[u8; 2]; 32] {
    hash.map(|byte| DIGITS[usize::from(byte)])
}

/// The two digits of each byte.
static DIGITS: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < pairs.len() {
        pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    pairs
};

#[cfg(feature = "hash")]
fn new() -> Context {
    Context::new(&ring::digest::SHA256)
}

#[cfg(feature = "hash")]
fn finish(context: Context) -> [u8; 32] {
    let digest = context.finish();
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(not(feature = "hash"))]
fn new() -> Context {
    Context::new()
}

#[cfg(not(feature = "hash"))]
fn finish(context: Context) -> [u8; 32] {
    context.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both libraries agree on the lengths at which blocks and padding change.
    #[test]
    fn the_portable_library_gives_the_same() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 1000] {
            let (start, end) = bytes[..length].split_at(length / 3);
            let expected = hmac_sha256::Hash::hash(&bytes[..length]);
            assert_eq!(sha256(&bytes[..length]), expected, "{length}");
            assert_eq!(sha256_of(&[start, end]), expected, "{length}");
        }
    }

    #[test]
    fn hashes_in_base_16() {
        for first in (0..=255_u8).step_by(32) {
            let hash = std::array::from_fn(|index| first + index as u8);
            let text = data_encoding::HEXLOWER.encode(&hash);
            assert_eq!(hex(&hash).as_flattened(), text.as_bytes());
        }
    }
}
