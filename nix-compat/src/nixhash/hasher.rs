//! Incremental hashing.

use std::io;

use md5::Digest;
use ring::digest;

use super::{HashAlgo, NixHash};

/// Hashes a stream of bytes with any of the algorithms. Implements [`io::Write`].
#[derive(Clone)]
pub struct NixHasher(State);

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    /// SHA-256 or SHA-512.
    Sha2(HashAlgo, digest::Context),
}

impl NixHasher {
    /// A hasher without input.
    pub fn new(algo: HashAlgo) -> Self {
        Self(match algo {
            HashAlgo::Md5 => State::Md5(md5::Md5::new()),
            HashAlgo::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashAlgo::Sha256 => State::Sha2(algo, digest::Context::new(&digest::SHA256)),
            HashAlgo::Sha512 => State::Sha2(algo, digest::Context::new(&digest::SHA512)),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha2(_, state) => state.update(bytes),
        }
    }

    /// The hash of all bytes added.
    pub fn finish(self) -> NixHash {
        match self.0 {
            State::Md5(state) => NixHash::Md5(state.finalize().into()),
            State::Sha1(state) => NixHash::Sha1(state.finalize().into()),
            State::Sha2(algo, state) => NixHash::from_digest(algo, state.finish().as_ref())
                .expect("a digest has the length of its algorithm"),
        }
    }
}

impl std::fmt::Debug for NixHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NixHasher(..)")
    }
}

impl io::Write for NixHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The SHA-256 of the concatenation of `pieces`.
pub(crate) fn sha256_of(pieces: &[&[u8]]) -> [u8; 32] {
    let mut hasher = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        hasher.update(piece);
    }
    bytes_of(hasher.finish())
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    bytes_of(digest::digest(&digest::SHA256, bytes))
}

fn bytes_of(digest: digest::Digest) -> [u8; 32] {
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
