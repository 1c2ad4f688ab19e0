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
}
