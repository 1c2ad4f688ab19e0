//! Replacing hash parts in archives.
//!
//! A hash part is replaced by another of the same length, so that the archive stays one.

use memchr::memmem::Finder;
use nix_compat::store_path::{HASH_PART_LEN, StorePath};

/// One path's hash part to be replaced by another's.
#[derive(Debug, Clone)]
pub struct HashRewrite {
    finder: Finder<'static>,
    to: [u8; HASH_PART_LEN],
}

impl HashRewrite {
    /// References to `from` become references to `to`.
    pub fn new(from: &StorePath, to: &StorePath) -> Self {
        let mut bytes = [0; HASH_PART_LEN];
        bytes.copy_from_slice(to.hash_part().as_bytes());
        Self {
            finder: Finder::new(from.hash_part().as_bytes()).into_owned(),
            to: bytes,
        }
    }
}

/// Replaces every occurrence in `bytes`.
pub fn rewrite_in_place(bytes: &mut [u8], rewrites: &[HashRewrite]) {
    for rewrite in rewrites {
        let mut start = 0;
        while let Some(at) = rewrite.finder.find(&bytes[start..]) {
            start += at;
            bytes[start..start + HASH_PART_LEN].copy_from_slice(&rewrite.to);
            start += HASH_PART_LEN;
        }
    }
}
