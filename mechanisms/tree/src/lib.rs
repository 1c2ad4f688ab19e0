//! Trees of files: packed as NAR, unpacked, hashed, scanned for references, made canonical.
//!
//! The archive format itself is [`nix_compat::nar`]; this crate connects it with the file system.
//!
//! | to | use |
//! |---|---|
//! | pack a tree | [`dump_path`] |
//! | unpack an archive | [`restore`], or [`Unpacker`] for single events |
//! | hash a tree as NAR | [`hash_path`] |
//! | hash a tree as a content address does | [`hash`] |
//! | hash it and find its references | [`scan`] |
//! | give it the metadata of a store object at the same time | [`canonicalise`] |
//! | give a file the modification time of store objects | [`set_canonical_times`] |
//! | know its size before reading it | [`measure`] |
//!
//! All functions block, and follow no symlinks. None of them holds a large file in memory. Packing,
//! hashing and unpacking large trees uses a few threads, which end before the function returns.
//!
//! ```
//! use nix_compat::nixhash::HashAlgo;
//! use tvix_tree::{RestoreOptions, dump_path, hash_path, restore};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let tree = directory.join("tree");
//! std::fs::create_dir(&tree)?;
//! std::fs::write(tree.join("greeting"), "hello")?;
//!
//! // Pack it, and unpack the archive elsewhere.
//! let mut nar = Vec::new();
//! dump_path(&tree, &mut nar)?;
//! let copy = directory.join("copy");
//! restore(&nar[..], &copy, RestoreOptions::default())?;
//! assert_eq!(std::fs::read(copy.join("greeting"))?, b"hello");
//!
//! // Equal trees have equal archives, and so equal hashes.
//! let (hash, size) = hash_path(&tree, HashAlgo::Sha256)?;
//! assert_eq!(hash_path(&copy, HashAlgo::Sha256)?, (hash, size));
//! assert_eq!(size, nar.len() as u64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A builder calls [`canonicalise`] on each output when no other process can reach it any more, checks
//! the result (the hash of a fixed output, the allowed references), and then registers the tree in
//! place or streams it to another store.
//!
//! The crate is empty on systems other than Unix.

#![forbid(unsafe_code)]
#![cfg(unix)]

mod address;
mod attributes;
mod bounds;
mod canonical;
mod copy;
mod dump;
mod error;
mod hash;
mod measure;
mod restore;
mod scan;
mod times;

pub use address::{hash, hash_until};
pub use bounds::{Bounds, Interruptible};
pub use canonical::{canonicalise, canonicalise_within};
pub use dump::dump_path;
pub use error::TreeError;
pub use hash::hash_path;
pub(crate) use hash::hash_path_while;
pub use measure::measure;
pub use restore::{RestoreOptions, Unpacker, restore};
pub use scan::{TreeScan, scan};
pub use times::set_canonical_times;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use nix_compat;

/// Approximate size of a node in a NAR without its name and its contents, in bytes.
const NODE: u64 = 128;
