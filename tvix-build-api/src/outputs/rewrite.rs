//! Replacing hash parts in archives.
//!
//! The replacement has the same length, so the archive stays well-formed.

use memchr::memmem::Finder;
use nix_compat::store_path::{HASH_PART_LEN, StorePath};

/// The replacement of one path's hash part by another's.
#[derive(Debug, Clone)]
pub(crate) struct HashRewrite {
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
pub(crate) fn rewrite_in_place(bytes: &mut [u8], rewrites: &[HashRewrite]) {
    for rewrite in rewrites {
        let mut start = 0;
        while let Some(at) = rewrite.finder.find(&bytes[start..]) {
            start += at;
            bytes[start..start + HASH_PART_LEN].copy_from_slice(&rewrite.to);
            start += HASH_PART_LEN;
        }
    }
}
