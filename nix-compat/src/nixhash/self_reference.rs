//! Hashes of contents that refer to themselves.

use memchr::memmem::Finder;

use super::{HashAlgo, NixHash, NixHasher};
use crate::store_path::{HASH_PART_LEN, StorePath};

/// Hashes a stream of bytes with every occurrence of a path's hash part replaced by zeroes. This
/// makes the content address of a NAR with self-references independent of the path that it
/// determines.
///
/// After the bytes, the offset of each occurrence is hashed as `|<offset>`, so that contents with
/// zeroes in these places have another hash. Nix 2.17 to 2.34 omit the offsets (NixOS/nix issue
/// 15837); [`finish_both`](Self::finish_both) returns that form as well.
#[derive(Debug, Clone)]
pub struct SelfReferenceHasher {
    hasher: NixHasher,
    finder: Finder<'static>,
    /// The last bytes added, too few to tell whether a hash part begins in them.
    pending: Vec<u8>,
    /// Offset of `pending`.
    offset: u64,
    matches: Vec<u64>,
}

/// The two hashes of contents with self-references. They are equal if there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelfReferenceHashes {
    /// With the offsets of self-references: Nix up to 2.16 and since 2.35. This hash determines the
    /// contents.
    pub with_offsets: NixHash,
    /// Without the offsets: Nix 2.17 to 2.34. Contents with some self-references replaced by zeroes
    /// have the same hash, so this hash alone does not determine the contents.
    pub without_offsets: NixHash,
}

impl SelfReferenceHashes {
    /// Whether `hash` is one of the two.
    pub fn contains(&self, hash: &NixHash) -> bool {
        self.with_offsets == *hash || self.without_offsets == *hash
    }
}

const ZEROES: [u8; HASH_PART_LEN] = [0; HASH_PART_LEN];

impl SelfReferenceHasher {
    /// A hasher without input, for the contents of `path`.
    pub fn new(algo: HashAlgo, path: &StorePath) -> Self {
        Self {
            hasher: NixHasher::new(algo),
            finder: Finder::new(path.hash_part().as_bytes()).into_owned(),
            pending: Vec::new(),
            offset: 0,
            matches: Vec::new(),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        // An occurrence across the border of two chunks lies within 31 bytes on either side of it.
        let mut rest = bytes;
        if !self.pending.is_empty() {
            let taken = bytes.len().min(HASH_PART_LEN - 1);
            let mut border = std::mem::take(&mut self.pending);
            border.extend_from_slice(&bytes[..taken]);
            let kept = self.replace(&border, false);
            if taken == bytes.len() {
                self.pending = kept.to_vec();
                return;
            }
            // Here `kept` is a part of `bytes`.
            rest = &bytes[taken - kept.len()..];
        }
        self.pending = self.replace(rest, false).to_vec();
    }

    /// The hash of all bytes added, with the offsets of self-references.
    pub fn finish(self) -> NixHash {
        self.finish_both().with_offsets
    }

    /// The hash of all bytes added, in both forms.
    pub fn finish_both(mut self) -> SelfReferenceHashes {
        let pending = std::mem::take(&mut self.pending);
        self.replace(&pending, true);
        let without_offsets = self.hasher.clone().finish();
        for offset in &self.matches {
            self.hasher.update(format!("|{offset}").as_bytes());
        }
        SelfReferenceHashes {
            with_offsets: self.hasher.finish(),
            without_offsets,
        }
    }

    /// Hashes `bytes`, which begin at offset `self.offset`. Returns the bytes at the end, if any,
    /// in which a hash part may begin; these are not hashed.
    fn replace<'b>(&mut self, bytes: &'b [u8], all: bool) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(at) = self.finder.find(rest) {
            self.matches.push(self.offset + at as u64);
            self.hasher.update(&rest[..at]);
            self.hasher.update(&ZEROES);
            rest = &rest[at + HASH_PART_LEN..];
            self.offset += (at + HASH_PART_LEN) as u64;
        }
        let kept = if all {
            0
        } else {
            rest.len().min(HASH_PART_LEN - 1)
        };
        let (done, kept) = rest.split_at(rest.len() - kept);
        self.hasher.update(done);
        self.offset += done.len() as u64;
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path() -> StorePath {
        "00bgd045z0d4icpbc2yyz4gx48ak44la-x".parse().unwrap()
    }

    fn whole(bytes: &[u8]) -> NixHash {
        let mut text = bytes.to_vec();
        let mut suffix = String::new();
        let part = path().hash_part();
        while let Some(at) = memchr::memmem::find(&text, part.as_bytes()) {
            text[at..at + HASH_PART_LEN].fill(0);
            suffix.push_str(&format!("|{at}"));
        }
        text.extend_from_slice(suffix.as_bytes());
        NixHash::digest(HashAlgo::Sha256, text)
    }

    #[test]
    fn without_references_it_is_the_plain_hash() {
        let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path());
        hasher.update(b"nothing of the kind");
        assert_eq!(
            hasher.finish(),
            NixHash::digest(HashAlgo::Sha256, b"nothing of the kind")
        );
    }

    #[test]
    fn zeroed_self_references_collide_only_without_offsets() {
        let part = path().hash_part();
        let [one, other] = [
            format!("{part} {part}"),
            format!("{part} {}", "\0".repeat(32)),
        ];
        let both = |contents: &str| {
            let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path());
            hasher.update(contents.as_bytes());
            hasher.finish_both()
        };
        let (one, other) = (both(&one), both(&other));
        assert_eq!(one.without_offsets, other.without_offsets);
        assert_ne!(one.with_offsets, other.with_offsets);
        assert!(one.contains(&other.without_offsets) && !one.contains(&other.with_offsets));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..50),
                Just(path().hash_part().into_bytes()),
                (0..32usize).prop_map(|len| path().hash_part().as_bytes()[..len].to_vec()),
            ], 0..8),
            chunk in 1..70usize,
        ) {
            let bytes = parts.concat();
            let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path());
            for chunk in bytes.chunks(chunk) {
                hasher.update(chunk);
            }
            prop_assert_eq!(hasher.finish(), whole(&bytes));
        }
    }
}
