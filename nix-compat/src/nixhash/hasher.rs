//! Hashing bytes as they come.

use std::io;

use sha2::Digest;

use super::{HashAlgo, NixHash};

/// Hashes bytes as they come, by whichever algorithm. Also a sink for [`io::Write`].
#[derive(Clone)]
pub struct NixHasher(State);

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl NixHasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algo: HashAlgo) -> Self {
        Self(match algo {
            HashAlgo::Md5 => State::Md5(md5::Md5::new()),
            HashAlgo::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashAlgo::Sha256 => State::Sha256(sha2::Sha256::new()),
            HashAlgo::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Md5(state) => state.update(bytes),
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The hash of all that came.
    pub fn finish(self) -> NixHash {
        match self.0 {
            State::Md5(state) => NixHash::Md5(state.finalize().into()),
            State::Sha1(state) => NixHash::Sha1(state.finalize().into()),
            State::Sha256(state) => NixHash::Sha256(state.finalize().into()),
            State::Sha512(state) => NixHash::Sha512(Box::new(state.finalize().into())),
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
