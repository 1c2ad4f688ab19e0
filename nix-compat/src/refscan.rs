//! Reference scanning: finds the store paths with a hash part that occurs in contents.
//!
//! This is how Nix determines run-time dependencies (Dolstra's thesis, section 5.4.1): a hash part
//! is too long to occur by chance.

use crate::nixbase32;
use crate::sorted::SortedSet;
use crate::store_path::{HASH_PART_LEN, StorePath};

/// Number of index bits of the filter that precedes the look-up.
const FILTER_BITS: u32 = 15;

/// Finds the references of a byte stream to a set of candidate paths.
///
/// Fast enough to run beside a hash function. A window as long as a hash part is examined from its
/// end, and a byte that is not a base-32 digit excludes every window that contains it.
///
/// ```
/// use nix_compat::refscan::ReferenceScanner;
/// use nix_compat::store_path::StorePath;
///
/// let bash: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-bash".parse()?;
/// let gcc: StorePath = "1b1brqwphyv3bxqhfz0dkwzic55ifbx7-gcc".parse()?;
/// let mut scanner = ReferenceScanner::new([&bash, &gcc]);
/// scanner.update(b"#!/nix/store/00bgd045z0d4i"); // in chunks of any size
/// scanner.update(b"cpbc2yyz4gx48ak44la-bash/bin/sh");
/// assert_eq!(scanner.found().collect::<Vec<_>>(), [&bash]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ReferenceScanner {
    /// Sorted by the text of the hash part.
    candidates: Vec<Candidate>,
    filter: Box<[u64]>,
    /// The last bytes of the stream, in which a hash part may begin.
    tail: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Candidate {
    hash_part: [u8; HASH_PART_LEN],
    path: StorePath,
    found: bool,
}

impl ReferenceScanner {
    /// A scanner for `candidates`, without input.
    pub fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let mut candidates: Vec<Candidate> = candidates
            .into_iter()
            .map(|path| {
                let mut hash_part = [0; HASH_PART_LEN];
                hash_part.copy_from_slice(path.hash_part().as_bytes());
                Candidate {
                    hash_part,
                    path: path.clone(),
                    found: false,
                }
            })
            .collect();
        candidates.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        candidates.dedup_by(|a, b| a.path == b.path);
        let mut filter = vec![0u64; 1 << (FILTER_BITS - 6)].into_boxed_slice();
        for candidate in &candidates {
            let (word, bit) = filter_slot(&candidate.hash_part);
            filter[word] |= bit;
        }
        Self {
            candidates,
            filter,
            tail: Vec::with_capacity(2 * HASH_PART_LEN),
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.candidates.is_empty() {
            return;
        }
        const KEPT: usize = HASH_PART_LEN - 1;
        if !self.tail.is_empty() {
            let mut border = std::mem::take(&mut self.tail);
            border.extend_from_slice(&bytes[..bytes.len().min(KEPT)]);
            self.scan(&border);
            self.tail = border;
        }
        if bytes.len() < KEPT {
            if self.tail.is_empty() {
                self.tail.extend_from_slice(bytes);
            }
            let surplus = self.tail.len().saturating_sub(KEPT);
            self.tail.drain(..surplus);
            return;
        }
        self.scan(bytes);
        self.tail.clear();
        self.tail.extend_from_slice(&bytes[bytes.len() - KEPT..]);
    }

    /// The candidates found so far, in order.
    pub fn found(&self) -> impl Iterator<Item = &StorePath> {
        let found = self.candidates.iter().filter(|candidate| candidate.found);
        found.map(|candidate| &candidate.path)
    }

    /// The candidates found.
    pub fn finish(self) -> SortedSet<StorePath> {
        let found = self.candidates.into_iter().filter(|c| c.found);
        found.map(|candidate| candidate.path).collect()
    }

    fn scan(&mut self, bytes: &[u8]) {
        let mut start = 0;
        'window: while let Some(window) = bytes.get(start..start + HASH_PART_LEN) {
            for (index, byte) in window.iter().enumerate().rev() {
                if !nixbase32::is_digit(*byte) {
                    start += index + 1;
                    continue 'window;
                }
            }
            self.look_up(window);
            start += 1;
            // Each digit that follows completes one more window.
            while let Some(byte) = bytes.get(start + HASH_PART_LEN - 1) {
                if !nixbase32::is_digit(*byte) {
                    start += HASH_PART_LEN;
                    continue 'window;
                }
                self.look_up(&bytes[start..start + HASH_PART_LEN]);
                start += 1;
            }
        }
    }

    #[inline]
    fn look_up(&mut self, window: &[u8]) {
        let (word, bit) = filter_slot(window);
        if self.filter[word] & bit == 0 {
            return;
        }
        let first = self
            .candidates
            .partition_point(|candidate| candidate.hash_part[..] < *window);
        for candidate in &mut self.candidates[first..] {
            if candidate.hash_part[..] != *window {
                break;
            }
            candidate.found = true;
        }
    }
}

impl std::io::Write for ReferenceScanner {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The word and the bit of the filter that represent a hash part.
#[inline]
fn filter_slot(window: &[u8]) -> (usize, u64) {
    let mut head = [0; 8];
    head.copy_from_slice(&window[..8]);
    let mixed = u64::from_le_bytes(head).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let slot = mixed >> (64 - FILTER_BITS);
    ((slot >> 6) as usize, 1 << (slot & 63))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(seed: u8) -> StorePath {
        StorePath::new([seed; 20], "x".parse().unwrap())
    }

    fn scan(candidates: &[StorePath], bytes: &[u8], chunk: usize) -> Vec<StorePath> {
        let mut scanner = ReferenceScanner::new(candidates);
        for chunk in bytes.chunks(chunk) {
            scanner.update(chunk);
        }
        scanner.finish().into_iter().collect()
    }

    #[test]
    fn two_paths_with_one_hash_part_and_none_at_all() {
        let twin = StorePath::new([3; 20], "y".parse().unwrap());
        let text = path(3).hash_part();
        assert_eq!(
            scan(&[path(3), twin.clone(), path(4)], text.as_bytes(), 5),
            [path(3), twin]
        );
        assert!(scan(&[], text.as_bytes(), 5).is_empty());
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_search_finds(
            parts in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[0-9a-df-np-sv-z]{0,70}".prop_map(String::into_bytes),
                (0..6u8).prop_map(|seed| path(seed * 37).hash_part().into_bytes()),
                (0..6u8, 0..32usize).prop_map(|(seed, len)| {
                    path(seed * 37).hash_part().as_bytes()[..len].to_vec()
                }),
            ], 0..10),
            chunk in 1..80usize,
        ) {
            let bytes = parts.concat();
            let candidates: Vec<_> = (0..6).map(|seed| path(seed * 37)).collect();
            let mut expected: Vec<_> = candidates
                .iter()
                .filter(|path| memchr::memmem::find(&bytes, path.hash_part().as_bytes()).is_some())
                .cloned()
                .collect();
            expected.sort();
            prop_assert_eq!(scan(&candidates, &bytes, chunk), expected);
        }
    }
}
