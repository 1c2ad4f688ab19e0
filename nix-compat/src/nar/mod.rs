//! NAR, the archive format of Nix for a file system node: a directory, a file or a symlink.
//!
//! The format is defined in the Nix manual ("Nix Archive (NAR) format") and in Dolstra's thesis,
//! section 5.2. A tree has exactly one serialisation, so hashing the archive hashes the tree. A
//! string is encoded as its length (64-bit little endian), its bytes, and zero bytes up to a
//! multiple of eight; a node is a parenthesised sequence of strings. Of a file, the archive holds
//! the contents and whether the owner may execute it, but no times, owners or modes.
//!
//! | task | use |
//! |---|---|
//! | read | [`Reader`], `async::Reader`, or [`Parser`] for chunks |
//! | write | [`Writer`], `async::Writer`, or [`Encoder`] for chunks |
//!
//! The crate `tvix-tree` packs and unpacks trees of the file system.
//!
//! No part of this module holds a complete file in memory. Readers are strict: a writer reproduces
//! every accepted archive byte for byte.
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
//! reader.finish()?; // fails if bytes follow the archive
//! # Ok::<(), nix_compat::nar::NarError>(())
//! ```

#[cfg(feature = "async")]
pub mod r#async;
mod encoder;
mod error;
mod limits;
#[cfg(feature = "json")]
mod listing;
mod parser;
mod reader;
mod rules;
mod writer;

pub use encoder::Encoder;
pub use error::{NarError, Violation};
pub use limits::{MAX_DEPTH, MAX_FILE_SIZE, MAX_NAME_LEN, MAX_TARGET_LEN};
#[cfg(feature = "json")]
pub use listing::Listing;
pub use parser::{Event, Parser, Step};
pub use reader::{Contents, Reader};
pub use writer::Writer;

/// Buffer size of readers and writers, in bytes.
///
/// Large enough to amortise system calls, and small enough that data is still in the processor's
/// cache when it is hashed.
pub const BUFFER_SIZE: usize = 128 * 1024;
