//! NAR listings, which Nix keeps next to the NARs in binary caches (`<hash>.ls`).

use std::io::{self, Write};

use super::parser::Event;

/// Writes the listing of an archive from a stream of [`Event`]s: its files, and the offset of each
/// file's contents. Memory use depends only on the number of open directories.
///
/// The output equals that of C++ Nix 2.34, byte for byte. Names and targets that are not UTF-8, for
/// which Nix writes no listing, have replacement characters.
///
/// ```
/// use nix_compat::nar::{Event, Listing};
///
/// let mut listing = Listing::new(Vec::new());
/// listing.event(Event::RegularStart { executable: false, size: 5 })?;
/// listing.event(Event::RegularEnd)?;
/// listing.event(Event::End)?;
/// let text = String::from_utf8(listing.into_inner()).unwrap();
/// assert_eq!(text, r#"{"root":{"narOffset":96,"size":5,"type":"regular"},"version":1}"#);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Listing<W> {
    out: W,
    /// Offset of the next event in the archive, in bytes.
    position: u64,
    /// For each open directory, whether it has entries.
    open: Vec<bool>,
}

/// Size of a string of `len` bytes in an archive.
const fn string(len: u64) -> u64 {
    8 + len.next_multiple_of(8)
}

/// Size of the framing at the start of a node: parenthesis, and `type` with the type.
const fn begun(kind: &str) -> u64 {
    string(1) + string(4) + string(kind.len() as u64)
}

const CLOSED: u64 = string(1);

impl<W: Write> Listing<W> {
    /// A listing written to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            position: string(13),
            open: Vec::new(),
        }
    }

    /// Returns the underlying writer.
    pub fn into_inner(self) -> W {
        self.out
    }

    /// Adds the next event of an archive. Invalid sequences of events are not detected.
    ///
    /// # Errors
    ///
    /// Those of the underlying writer.
    pub fn event(&mut self, event: Event<'_>) -> io::Result<()> {
        let top = self.position == string(13);
        if top {
            self.out.write_all(b"{\"root\":")?;
        }
        match event {
            Event::DirectoryStart => {
                self.position += begun("directory");
                self.open.push(false);
                self.out.write_all(b"{\"entries\":{")
            }
            Event::Entry { name } => {
                self.position += string(5) + string(1) + string(4) + string(4);
                self.position += string(name.len() as u64);
                if self
                    .open
                    .last_mut()
                    .is_some_and(|any| std::mem::replace(any, true))
                {
                    self.out.write_all(b",")?;
                }
                self.text(name)?;
                self.out.write_all(b":")
            }
            Event::DirectoryEnd => {
                self.open.pop();
                self.out.write_all(b"},\"type\":\"directory\"}")?;
                self.closed();
                Ok(())
            }
            Event::RegularStart { executable, size } => {
                self.position += begun("regular") + string(8) + 8;
                let mut flag = "";
                if executable {
                    self.position += string(10) + string(0);
                    flag = "\"executable\":true,";
                }
                let offset = self.position;
                write!(
                    self.out,
                    "{{{flag}\"narOffset\":{offset},\"size\":{size},\"type\":\"regular\"}}"
                )?;
                self.position += size.next_multiple_of(8);
                Ok(())
            }
            Event::Contents(_) => Ok(()),
            Event::RegularEnd => {
                self.closed();
                Ok(())
            }
            Event::Symlink { target } => {
                self.position += begun("symlink") + string(6) + string(target.len() as u64);
                self.out.write_all(b"{\"target\":")?;
                self.text(target)?;
                self.out.write_all(b",\"type\":\"symlink\"}")?;
                self.closed();
                Ok(())
            }
            Event::End => self.out.write_all(b",\"version\":1}"),
        }
    }

    /// Completes a node, and with it the entry that it belongs to.
    fn closed(&mut self) {
        self.position += CLOSED;
        if !self.open.is_empty() {
            self.position += CLOSED;
        }
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(serde_json::to_writer(
            &mut self.out,
            &String::from_utf8_lossy(bytes),
        )?)
    }
}
