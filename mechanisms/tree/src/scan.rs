//! Hashing a tree and scanning it for references in one pass.

use std::io::{self, Write};
use std::path::Path;

use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;

use crate::{TreeError, dump_path};

/// The result of a pass over a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeScan {
    /// SHA-256 of its NAR.
    pub nar_hash: [u8; 32],
    /// Size of its NAR in bytes.
    pub nar_size: u64,
    /// The candidates that it refers to.
    pub references: SortedSet<StorePath>,
}

impl TreeScan {
    /// A tree with this hash (SHA-256) and size of its NAR, and these references.
    pub fn new(nar_hash: [u8; 32], nar_size: u64, references: SortedSet<StorePath>) -> Self {
        Self {
            nar_hash,
            nar_size,
            references,
        }
    }
}

/// Hashes the tree at `path` as NAR and finds the `candidates` that it refers to, without changing
/// anything. It blocks.
///
/// # Errors
///
/// Those of [`dump_path`].
pub fn scan<'a>(
    path: &Path,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<TreeScan, TreeError> {
    let mut sink = ScanSink::new(candidates);
    dump_path(path, &mut sink)?;
    Ok(sink.finish())
}

/// A writer that hashes and scans.
pub(crate) struct ScanSink {
    hasher: NixHasher,
    size: u64,
    scanner: ReferenceScanner,
}

impl ScanSink {
    pub(crate) fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        Self {
            hasher: NixHasher::new(HashAlgo::Sha256),
            size: 0,
            scanner: ReferenceScanner::new(candidates),
        }
    }

    pub(crate) fn finish(self) -> TreeScan {
        TreeScan {
            nar_hash: match self.hasher.finish() {
                NixHash::Sha256(hash) => hash,
                _ => unreachable!("made for SHA-256"),
            },
            nar_size: self.size,
            references: self.scanner.finish(),
        }
    }
}

impl Write for ScanSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.scanner.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
