//! The writing side, as a state machine without I/O.

use bstr::BString;

use super::error::{NarError, Violation};
use super::parser::Event;
use super::rules::{self, Trail};

/// Produces the framing around the contents of files, and rejects calls that do not form an
/// archive.
///
/// Every writer of this crate drives an encoder. A call appends framing to `out`, which the caller
/// writes. Contents do not pass through the encoder, which only counts them, so that they are never
/// copied:
///
/// ```
/// use nix_compat::nar::Encoder;
///
/// let mut nar = Vec::new();
/// let mut encoder = Encoder::new();
/// encoder.regular_start(false, 5, &mut nar)?;
/// encoder.contents(5)?;
/// nar.extend_from_slice(b"hello");
/// encoder.regular_end(&mut nar)?;
/// encoder.finish()?;
/// assert_eq!(nar.len(), 120);
/// # Ok::<(), nix_compat::nar::NarError>(())
/// ```
///
/// Calls fail with [`NarError::InvalidWrite`] if they do not follow the grammar of [`Event`]. A
/// failed call appends nothing and changes nothing: the caller may continue with a valid call.
#[derive(Debug, Clone)]
pub struct Encoder {
    trail: Trail,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The root node is next, after the magic string.
    Root,
    /// An entry or the end of a directory is next.
    Directory,
    /// The node of an entry is next.
    Node,
    /// The contents of a file are next: the declared size and the number of missing bytes.
    Contents { size: u64, remaining: u64 },
    /// The archive is complete.
    Done,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder at the start of an archive.
    pub fn new() -> Self {
        Self {
            trail: Trail::default(),
            state: State::Root,
        }
    }

    /// Starts a directory.
    pub fn directory_start(&mut self, out: &mut Vec<u8>) -> Result<(), NarError> {
        self.check_node("a directory")?;
        if let Err(violation) = self.trail.open_directory() {
            return Err(self.refuse(violation));
        }
        // The magic string precedes the root directory only.
        self.node_start(b"directory", out);
        self.state = State::Directory;
        Ok(())
    }

    /// Starts an entry of the innermost directory. Its node must follow.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the name is not a file name, or if it does not follow the
    /// previous entry's name in the order of their bytes.
    pub fn entry(&mut self, name: &[u8], out: &mut Vec<u8>) -> Result<(), NarError> {
        if self.state != State::Directory {
            return Err(self.refuse(Violation::UnexpectedCall("an entry")));
        }
        if let Err(violation) = self.trail.open_entry(name) {
            return Err(self.refuse(violation));
        }
        string(b"entry", out);
        string(b"(", out);
        string(b"name", out);
        string(name, out);
        string(b"node", out);
        self.state = State::Node;
        Ok(())
    }

    /// Ends the innermost directory.
    pub fn directory_end(&mut self, out: &mut Vec<u8>) -> Result<(), NarError> {
        if self.state != State::Directory {
            return Err(self.refuse(Violation::UnexpectedCall("a directory's end")));
        }
        self.trail.close_directory();
        self.node_end(out);
        Ok(())
    }

    /// Writes a symlink.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the target is empty, contains NUL or is too long.
    pub fn symlink(&mut self, target: &[u8], out: &mut Vec<u8>) -> Result<(), NarError> {
        self.check_node("a symlink")?;
        if let Err(violation) = rules::check_target(target) {
            return Err(self.refuse(violation));
        }
        self.node_start(b"symlink", out);
        string(b"target", out);
        string(target, out);
        self.node_end(out);
        Ok(())
    }

    /// Starts a file of `size` bytes.
    pub fn regular_start(
        &mut self,
        executable: bool,
        size: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), NarError> {
        self.check_node("a file")?;
        if let Err(violation) = rules::check_size(size) {
            return Err(self.refuse(violation));
        }
        self.node_start(b"regular", out);
        if executable {
            string(b"executable", out);
            string(b"", out);
        }
        string(b"contents", out);
        out.extend_from_slice(&size.to_le_bytes());
        self.state = State::Contents {
            size,
            remaining: size,
        };
        Ok(())
    }

    /// Declares that `len` bytes of contents follow the bytes appended so far. The caller writes
    /// them.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the file would exceed its declared size. The caller must not
    /// write the bytes then.
    pub fn contents(&mut self, len: u64) -> Result<(), NarError> {
        let State::Contents { size, remaining } = self.state else {
            return Err(self.refuse(Violation::UnexpectedCall("contents")));
        };
        let Some(remaining) = remaining.checked_sub(len) else {
            return Err(self.refuse(Violation::WrongSize {
                declared: size,
                given: (size - remaining).saturating_add(len),
            }));
        };
        self.state = State::Contents { size, remaining };
        Ok(())
    }

    /// Ends a file.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the file has fewer bytes than declared.
    pub fn regular_end(&mut self, out: &mut Vec<u8>) -> Result<(), NarError> {
        let State::Contents { size, remaining } = self.state else {
            return Err(self.refuse(Violation::UnexpectedCall("a file's end")));
        };
        if remaining > 0 {
            return Err(self.refuse(Violation::WrongSize {
                declared: size,
                given: size - remaining,
            }));
        }
        out.extend_from_slice(&[0; 8][..rules::padding(size)]);
        self.node_end(out);
        Ok(())
    }

    /// Encodes an event, including contents, which are appended to `out`.
    pub fn event(&mut self, event: Event<'_>, out: &mut Vec<u8>) -> Result<(), NarError> {
        match event {
            Event::DirectoryStart => self.directory_start(out),
            Event::Entry { name } => self.entry(name, out),
            Event::DirectoryEnd => self.directory_end(out),
            Event::RegularStart { executable, size } => self.regular_start(executable, size, out),
            Event::Contents(bytes) => {
                self.contents(bytes.len() as u64)?;
                out.extend_from_slice(bytes);
                Ok(())
            }
            Event::RegularEnd => self.regular_end(out),
            Event::Symlink { target } => self.symlink(target, out),
            Event::End => self.finish(),
        }
    }

    /// Checks that the archive is complete.
    pub fn finish(&self) -> Result<(), NarError> {
        if self.is_finished() {
            return Ok(());
        }
        Err(self.refuse(Violation::UnexpectedCall("the archive's end")))
    }

    /// Whether the archive is complete.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done
    }

    /// Number of open directories; at most [`MAX_DEPTH`](super::MAX_DEPTH).
    pub fn depth(&self) -> usize {
        self.trail.depth()
    }

    /// Path of the current node, relative to the root and `/`-separated; empty for the root itself.
    pub fn path(&self) -> BString {
        self.trail.path()
    }

    fn check_node(&self, what: &'static str) -> Result<(), NarError> {
        if matches!(self.state, State::Root | State::Node) {
            return Ok(());
        }
        Err(self.refuse(Violation::UnexpectedCall(what)))
    }

    fn refuse(&self, violation: Violation) -> NarError {
        NarError::InvalidWrite {
            path: self.trail.path(),
            violation,
        }
    }

    fn node_start(&mut self, kind: &[u8], out: &mut Vec<u8>) {
        if self.state == State::Root {
            string(b"nix-archive-1", out);
        }
        string(b"(", out);
        string(b"type", out);
        string(kind, out);
    }

    fn node_end(&mut self, out: &mut Vec<u8>) {
        string(b")", out);
        if self.trail.depth() == 0 {
            self.state = State::Done;
            return;
        }
        string(b")", out);
        self.trail.close_entry();
        self.state = State::Directory;
    }
}

/// Appends a string: length, bytes, padding.
fn string(bytes: &[u8], out: &mut Vec<u8>) {
    let len = bytes.len() as u64;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(&[0; 8][..rules::padding(len)]);
}

#[cfg(test)]
mod tests {
    use super::super::MAX_DEPTH;
    use super::*;

    fn violation(result: Result<(), NarError>) -> Violation {
        match result {
            Err(NarError::InvalidWrite { violation, .. }) => violation,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_failed_call_leaves_no_trace() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new();
        assert!(matches!(
            violation(encoder.symlink(b"", &mut out)),
            Violation::BadTarget(_)
        ));
        assert!(matches!(
            violation(encoder.entry(b"x", &mut out)),
            Violation::UnexpectedCall(_)
        ));
        assert!(out.is_empty());
        encoder.directory_start(&mut out).unwrap();
        encoder.entry(b"b", &mut out).unwrap();
        encoder.symlink(b"t", &mut out).unwrap();
        let before = out.clone();
        assert!(matches!(
            violation(encoder.entry(b"a", &mut out)),
            Violation::Unordered { .. }
        ));
        assert_eq!(
            violation(encoder.entry(b"b", &mut out)),
            Violation::DuplicateName("b".into())
        );
        assert_eq!(
            violation(encoder.symlink(b"t", &mut out)),
            Violation::UnexpectedCall("a symlink")
        );
        assert_eq!(out, before);
        encoder.directory_end(&mut out).unwrap();
        encoder.finish().unwrap();
        assert!(matches!(
            violation(encoder.directory_start(&mut out)),
            Violation::UnexpectedCall(_)
        ));
    }

    #[test]
    fn sizes_are_kept() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new();
        encoder.regular_start(false, 3, &mut out).unwrap();
        encoder.contents(2).unwrap();
        let short = Violation::WrongSize {
            declared: 3,
            given: 2,
        };
        assert_eq!(violation(encoder.regular_end(&mut out)), short);
        let long = Violation::WrongSize {
            declared: 3,
            given: 4,
        };
        assert_eq!(violation(encoder.contents(2)), long);
        encoder.contents(1).unwrap();
        encoder.regular_end(&mut out).unwrap();
        let size = u64::MAX;
        assert_eq!(
            violation(Encoder::new().regular_start(false, size, &mut out)),
            Violation::FileTooLarge(size)
        );
    }

    #[test]
    fn depth_is_limited() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new();
        for _ in 0..MAX_DEPTH {
            encoder.directory_start(&mut out).unwrap();
            encoder.entry(b"d", &mut out).unwrap();
        }
        assert_eq!(
            violation(encoder.directory_start(&mut out)),
            Violation::TooDeep
        );
        // A leaf is still allowed at this depth.
        encoder.symlink(b"t", &mut out).unwrap();
    }
}
