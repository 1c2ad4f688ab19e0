//! NAR, Nix's archive of one file system node: a directory, a file or a symlink.
//!
//! The format is the one of the Nix manual ("Nix Archive (NAR) format") and of Dolstra's
//! thesis, section 5.2: a tree has exactly one serialisation, so that hashing the archive
//! hashes the tree. A string is its length as 64-bit little endian, its bytes, and zero bytes
//! up to a multiple of eight; a node is a parenthesised sequence of strings. What is kept of a
//! file is its contents and whether its owner may execute it: no times, no owners, no modes.
//!
//! | to | use |
//! |---|---|
//! | read | [`Reader`], `async::Reader`, or [`Parser`] for chunks |
//! | write | [`Writer`], `async::Writer`, or [`Encoder`] for chunks |
//!
//! The crate `tvix-tree` packs and unpacks trees of the file system.
//!
//! No part of it holds a file in memory. Readers are strict: what they accept, a writer gives
//! back byte for byte.
//!
//! ```
//! use nix_compat::nar::{Event, Reader, Writer};
//!
//! let mut writer = Writer::new(Vec::new());
//! writer.directory_start()?;
//! writer.entry(b"greeting")?;
//! writer.regular(false, b"hello")?;
//! writer.directory_end()?;
//! let nar = writer.finish()?;
//!
//! let mut reader = Reader::new(&nar[..]);
//! while let Some(event) = reader.next_event()? {
//!     if let Event::Entry { name } = event {
//!         assert_eq!(name, "greeting");
//!     }
//! }
//! reader.finish()?; // nothing may follow
//! # Ok::<(), nix_compat::nar::NarError>(())
//! ```

#[cfg(feature = "async")]
pub mod r#async;
mod encoder;
mod error;
mod listing;
mod parser;
mod reader;
mod rules;
mod writer;

pub use encoder::Encoder;
pub use error::{NarError, Problem};
pub use listing::Listing;
pub use parser::{Event, Parser, Step};
pub use reader::{Contents, Reader};
pub use rules::{MAX_DEPTH, MAX_FILE_SIZE, MAX_NAME_LEN, MAX_TARGET_LEN};
pub use writer::Writer;

/// How many bytes readers and writers of this module buffer, where they do.
///
/// Large enough that a system call costs little for each byte, small enough that what was
/// just read is still in the processor's cache when it is hashed.
pub const BUFFER_SIZE: usize = 128 * 1024;
