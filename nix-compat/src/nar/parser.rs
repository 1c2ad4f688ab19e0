//! The reading side, as a state machine without I/O.
//!
//! Every reader of this crate, blocking or not, is a loop around [`Parser::feed`], so each rule of
//! the format is implemented once. The parser also suits callers that receive chunks, from a
//! network stream or a decompressor.

use std::ops::Range;

use bstr::{BStr, BString};

use super::error::{NarError, Violation};
use super::limits::{MAX_NAME_LEN, MAX_TARGET_LEN};
use super::rules::{self, MAX_TAG_LEN, Trail};

/// An element of an archive. Events are in the order of the archive's bytes.
///
/// A complete archive is `node End`, where `node` is one of
///
/// - `DirectoryStart (Entry node)* DirectoryEnd`
/// - `RegularStart Contents* RegularEnd`
/// - `Symlink`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Start of a directory.
    DirectoryStart,
    /// An entry of the directory. Its node follows. Names are in strictly ascending order within a
    /// directory.
    Entry {
        /// Name of the entry: a valid file name of at most 255 bytes.
        name: &'a BStr,
    },
    /// End of the innermost directory.
    DirectoryEnd,
    /// Start of a regular file.
    RegularStart {
        /// Whether the owner may execute it.
        executable: bool,
        /// Size in bytes: the total length of the [`Event::Contents`] that follow.
        size: u64,
    },
    /// The next piece of the file's contents, never empty. The boundaries between pieces have no
    /// meaning.
    Contents(&'a [u8]),
    /// End of a regular file: contents and padding have been read.
    RegularEnd,
    /// A symbolic link.
    Symlink {
        /// Target of the link: 1 to 4095 bytes without NUL. Any target is allowed, including
        /// absolute paths and `..`.
        target: &'a BStr,
    },
    /// End of the archive.
    End,
}

/// The result of [`Parser::feed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step<'a> {
    /// Number of bytes of the input that were read. Pass the remainder to the next call.
    pub consumed: usize,
    /// The event, if there is one. `None` if the complete input was read without reaching an event,
    /// or if the archive has ended.
    pub event: Option<Event<'a>>,
}

/// An [`Event`] without borrows: contents are a range of the input, a name or target is the
/// parser's token. Readers that own both parser and input need this form.
#[derive(Debug, Clone)]
pub(super) enum RawEvent {
    DirectoryStart,
    Entry,
    DirectoryEnd,
    RegularStart { executable: bool, size: u64 },
    Contents(Range<usize>),
    RegularEnd,
    Symlink,
    End,
}

/// A push parser, which takes input in chunks of any size and yields [`Event`]s.
///
/// It holds at most one name or symlink target, never a file; contents are slices of the input.
/// After an error every call returns the same error.
///
/// ```
/// use nix_compat::nar::{Event, Parser};
///
/// # let mut writer = nix_compat::nar::Writer::new(Vec::new());
/// # writer.symlink(b"target")?;
/// # let nar = writer.finish()?;
/// let mut parser = Parser::new();
/// let mut input = &nar[..];
/// let mut events = 0;
/// while !parser.is_finished() {
///     let step = parser.feed(input)?;
///     match step.event {
///         Some(Event::Symlink { target }) => assert_eq!(target, "target"),
///         Some(_) => {}
///         None => break, // the input is used up
///     }
///     events += 1;
///     input = &input[step.consumed..];
/// }
/// parser.finish()?; // fails if the archive is not complete
/// assert_eq!(events, 2);
/// # Ok::<(), nix_compat::nar::NarError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Parser {
    state: State,
    trail: Trail,
    token: Token,
    /// Number of bytes read.
    offset: u64,
    executable: bool,
    failure: Option<Box<(u64, BString, Violation)>>,
}

/// The end condition of a skip, as documented at [`Reader::skip`](super::Reader::skip).
#[derive(Debug, Clone, Copy)]
pub(super) struct Skip {
    /// Number of directories that were open at the start.
    depth: usize,
    /// Whether to skip one node, or the remainder of one; otherwise the remainder of the innermost
    /// directory.
    one_node: bool,
}

impl Skip {
    /// Whether `event`, the latest event of `parser`, is the last one to skip.
    pub(super) fn is_over(&self, event: &RawEvent, parser: &Parser) -> bool {
        let depth = parser.depth();
        match event {
            RawEvent::RegularEnd | RawEvent::Symlink => self.one_node && depth == self.depth,
            RawEvent::DirectoryEnd if self.one_node => depth == self.depth,
            RawEvent::DirectoryEnd => depth + 1 == self.depth,
            RawEvent::End => true,
            _ => false,
        }
    }
}

/// The next element of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A string of this kind.
    Token(Expect),
    /// The length that precedes a file's contents.
    Size,
    /// The remainder of a file's contents, followed by this number of bytes of padding.
    Contents { remaining: u64, padding: usize },
    /// The padding after a file's contents.
    Padding(usize),
    /// None: the archive is complete, but [`Event::End`] has not been yielded.
    AtEnd,
    /// None: the archive is complete.
    Done,
}

/// The expected string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Magic,
    NodeOpen,
    NodeType,
    NodeKind,
    ExecutableOrContents,
    ExecutableValue,
    ContentsTag,
    TargetTag,
    Target,
    EntryOrClose,
    EntryOpen,
    NameTag,
    Name,
    NodeTag,
    /// The `)` after a file or symlink.
    NodeClose,
    /// The `)` after an entry's node.
    EntryClose,
}

impl Expect {
    /// The expected string, for messages.
    fn describe(self) -> &'static str {
        match self {
            Self::Magic => "`nix-archive-1`",
            Self::NodeOpen | Self::EntryOpen => "`(`",
            Self::NodeType => "`type`",
            Self::NodeKind => "`regular`, `directory` or `symlink`",
            Self::ExecutableOrContents => "`executable` or `contents`",
            Self::ExecutableValue => "an empty string",
            Self::ContentsTag => "`contents`",
            Self::TargetTag => "`target`",
            Self::Target => "symlink target",
            Self::EntryOrClose => "`entry` or `)`",
            Self::NameTag => "`name`",
            Self::Name => "name",
            Self::NodeTag => "`node`",
            Self::NodeClose | Self::EntryClose => "`)`",
        }
    }

    /// The kind of string, for messages, and its maximum length in bytes.
    fn limit(self) -> (&'static str, usize) {
        match self {
            Self::Name => ("name", MAX_NAME_LEN),
            Self::Target => ("symlink target", MAX_TARGET_LEN),
            _ => ("keyword", MAX_TAG_LEN),
        }
    }
}

/// The current string: its length, bytes and padding.
#[derive(Debug, Clone, Default)]
struct Token {
    /// Number of bytes of the length, of eight, that have been read.
    header_len: usize,
    header: [u8; 8],
    /// The bytes read so far, including padding; at most the limit of the expected string.
    bytes: Vec<u8>,
    /// Offset of the string.
    start: u64,
}

impl Token {
    fn clear(&mut self) {
        self.header_len = 0;
        self.bytes.clear();
    }

    /// Reads missing bytes of the length from `input`. Returns the length once it is complete.
    fn length(&mut self, input: &[u8]) -> (usize, Option<u64>) {
        let missing = 8 - self.header_len;
        let taken = missing.min(input.len());
        self.header[self.header_len..self.header_len + taken].copy_from_slice(&input[..taken]);
        self.header_len += taken;
        let complete = self.header_len == 8;
        (taken, complete.then(|| u64::from_le_bytes(self.header)))
    }
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser at the start of an archive.
    pub fn new() -> Self {
        Self {
            state: State::Token(Expect::Magic),
            trail: Trail::default(),
            token: Token::default(),
            offset: 0,
            executable: false,
            failure: None,
        }
    }

    /// Reads from `input` up to the next event or to the end of the input.
    ///
    /// Bytes after the end of the archive are never consumed. After [`Event::End`] a call consumes
    /// and yields nothing.
    ///
    /// # Errors
    ///
    /// [`NarError::Malformed`], which every later call repeats.
    pub fn feed<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<'a>, NarError> {
        let (consumed, raw) = self.advance(input)?;
        Ok(Step {
            consumed,
            event: raw.map(|raw| self.resolve(raw, input)),
        })
    }

    /// Declares the end of the input.
    ///
    /// # Errors
    ///
    /// [`NarError::Malformed`]: with [`Violation::Truncated`] if the archive is incomplete, or the earlier error of the parser.
    pub fn finish(&mut self) -> Result<(), NarError> {
        self.check_failure()?;
        if matches!(self.state, State::AtEnd | State::Done) {
            return Ok(());
        }
        let offset = self.offset;
        Err(self.fail(offset, Violation::Truncated))
    }

    /// Whether the archive is complete and [`Event::End`] has been yielded.
    pub fn is_finished(&self) -> bool {
        self.state == State::Done
    }

    /// Number of bytes of the archive that have been read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Number of open directories; at most [`MAX_DEPTH`](super::MAX_DEPTH).
    pub fn depth(&self) -> usize {
        self.trail.depth()
    }

    /// Path of the current node, relative to the root and `/`-separated; empty for the root itself.
    pub fn path(&self) -> BString {
        self.trail.path()
    }

    /// Number of bytes of the current file's contents that have not been read; 0 outside a file.
    pub(super) fn contents_remaining(&self) -> u64 {
        match self.state {
            State::Contents { remaining, .. } => remaining,
            _ => 0,
        }
    }

    /// Starts to skip the innermost open node or directory.
    pub(super) fn skip(&self) -> Skip {
        let in_file = matches!(self.state, State::Contents { .. } | State::Padding(_));
        let at_node = self.state == State::Token(Expect::NodeTag);
        Skip {
            depth: self.depth(),
            one_node: in_file || at_node,
        }
    }

    /// The error for input after the end of the archive.
    pub(super) fn trailing(&mut self) -> NarError {
        let offset = self.offset;
        self.fail(offset, Violation::TrailingBytes)
    }

    /// Converts a raw event into an [`Event`] that borrows from the parser and from `input`, the
    /// input of [`advance`](Self::advance).
    pub(super) fn resolve<'a>(&'a self, raw: RawEvent, input: &'a [u8]) -> Event<'a> {
        match raw {
            RawEvent::DirectoryStart => Event::DirectoryStart,
            RawEvent::Entry => Event::Entry {
                name: BStr::new(self.trail.name()),
            },
            RawEvent::DirectoryEnd => Event::DirectoryEnd,
            RawEvent::RegularStart { executable, size } => Event::RegularStart { executable, size },
            RawEvent::Contents(range) => Event::Contents(&input[range]),
            RawEvent::RegularEnd => Event::RegularEnd,
            RawEvent::Symlink => Event::Symlink {
                // The token stays valid until the next call.
                target: BStr::new(&self.token.bytes),
            },
            RawEvent::End => Event::End,
        }
    }

    /// [`feed`](Self::feed), without borrows in the result.
    pub(super) fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<RawEvent>), NarError> {
        self.check_failure()?;
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::AtEnd => {
                    self.state = State::Done;
                    return Ok((used, Some(RawEvent::End)));
                }
                State::Done => return Ok((used, None)),
                // These states need no input.
                State::Contents {
                    remaining: 0,
                    padding,
                } => self.state = State::Padding(padding),
                State::Padding(0) => {
                    self.expect(Expect::NodeClose);
                    return Ok((used, Some(RawEvent::RegularEnd)));
                }
                _ if rest.is_empty() => return Ok((used, None)),
                State::Token(expect) => {
                    let (taken, event) = self.token(expect, rest)?;
                    used += taken;
                    if event.is_some() {
                        return Ok((used, event));
                    }
                }
                State::Size => {
                    let (taken, event) = self.size(rest)?;
                    used += taken;
                    if event.is_some() {
                        return Ok((used, event));
                    }
                }
                State::Contents { remaining, padding } => {
                    let taken = usize::try_from(remaining)
                        .unwrap_or(usize::MAX)
                        .min(rest.len());
                    self.offset += taken as u64;
                    self.state = State::Contents {
                        remaining: remaining - taken as u64,
                        padding,
                    };
                    let range = used..used + taken;
                    return Ok((used + taken, Some(RawEvent::Contents(range))));
                }
                State::Padding(missing) => {
                    let taken = missing.min(rest.len());
                    if let Some(at) = rest[..taken].iter().position(|&byte| byte != 0) {
                        return Err(self.fail(self.offset + at as u64, Violation::Padding));
                    }
                    used += taken;
                    self.offset += taken as u64;
                    self.state = State::Padding(missing - taken);
                }
            }
        }
    }

    fn expect(&mut self, next: Expect) {
        self.state = State::Token(next);
    }

    fn check_failure(&self) -> Result<(), NarError> {
        match &self.failure {
            None => Ok(()),
            Some(failure) => {
                let (offset, path, violation) = (**failure).clone();
                Err(NarError::Malformed {
                    offset,
                    path,
                    violation,
                })
            }
        }
    }

    fn fail(&mut self, offset: u64, violation: Violation) -> NarError {
        let path = self.trail.path();
        self.failure = Some(Box::new((offset, path.clone(), violation.clone())));
        NarError::Malformed {
            offset,
            path,
            violation,
        }
    }

    /// Reads a string, or a part of it, and processes it once it is complete.
    fn token(
        &mut self,
        expect: Expect,
        input: &[u8],
    ) -> Result<(usize, Option<RawEvent>), NarError> {
        let mut used = 0;
        if self.token.header_len < 8 {
            if self.token.header_len == 0 {
                self.token.clear();
                self.token.start = self.offset;
            }
            let (taken, len) = self.token.length(input);
            used = taken;
            self.offset += taken as u64;
            let Some(len) = len else {
                return Ok((used, None));
            };
            // Checked before any byte is stored, so that a declared length never allocates memory.
            let (what, limit) = expect.limit();
            if len > limit as u64 {
                let violation = Violation::TooLong {
                    kind: what,
                    len,
                    limit,
                };
                return Err(self.fail(self.token.start, violation));
            }
        }
        // At most the limit, so it fits.
        let len = u64::from_le_bytes(self.token.header) as usize;
        let padded = len + rules::padding(len as u64);
        let missing = padded - self.token.bytes.len();
        let taken = missing.min(input.len() - used);
        self.token
            .bytes
            .extend_from_slice(&input[used..used + taken]);
        used += taken;
        self.offset += taken as u64;
        if taken < missing {
            return Ok((used, None));
        }
        if let Some(at) = self.token.bytes[len..].iter().position(|&byte| byte != 0) {
            let offset = self.token.start + 8 + (len + at) as u64;
            return Err(self.fail(offset, Violation::Padding));
        }
        self.token.bytes.truncate(len);
        self.token.header_len = 0;
        let event = match self.accept(expect) {
            Ok(event) => event,
            Err(violation) => return Err(self.fail(self.token.start, violation)),
        };
        Ok((used, event))
    }

    /// Processes a complete string.
    fn accept(&mut self, expect: Expect) -> Result<Option<RawEvent>, Violation> {
        let token = &self.token.bytes[..];
        let next = match (expect, token) {
            (Expect::Magic, b"nix-archive-1") => Expect::NodeOpen,
            (Expect::NodeOpen, b"(") => Expect::NodeType,
            (Expect::NodeType, b"type") => Expect::NodeKind,
            (Expect::NodeKind, b"regular") => {
                self.executable = false;
                Expect::ExecutableOrContents
            }
            (Expect::NodeKind, b"symlink") => Expect::TargetTag,
            (Expect::NodeKind, b"directory") => {
                self.trail.open_directory()?;
                self.expect(Expect::EntryOrClose);
                return Ok(Some(RawEvent::DirectoryStart));
            }
            (Expect::ExecutableOrContents, b"executable") => Expect::ExecutableValue,
            (Expect::ExecutableValue, b"") => {
                self.executable = true;
                Expect::ContentsTag
            }
            (Expect::ExecutableOrContents | Expect::ContentsTag, b"contents") => {
                self.state = State::Size;
                return Ok(None);
            }
            (Expect::TargetTag, b"target") => Expect::Target,
            (Expect::Target, target) => {
                rules::check_target(target)?;
                self.expect(Expect::NodeClose);
                return Ok(Some(RawEvent::Symlink));
            }
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                self.trail.close_directory();
                self.after_node();
                return Ok(Some(RawEvent::DirectoryEnd));
            }
            (Expect::EntryOpen, b"(") => Expect::NameTag,
            (Expect::NameTag, b"name") => Expect::Name,
            (Expect::Name, name) => {
                self.trail.open_entry(name)?;
                self.expect(Expect::NodeTag);
                return Ok(Some(RawEvent::Entry));
            }
            (Expect::NodeTag, b"node") => Expect::NodeOpen,
            (Expect::NodeClose, b")") => {
                self.after_node();
                return Ok(None);
            }
            (Expect::EntryClose, b")") => {
                self.trail.close_entry();
                Expect::EntryOrClose
            }
            _ => {
                return Err(Violation::UnexpectedTag {
                    expected: expect.describe(),
                    found: token.into(),
                });
            }
        };
        self.expect(next);
        Ok(None)
    }

    /// Enters the state that follows a node's closing parenthesis.
    fn after_node(&mut self) {
        if self.trail.depth() == 0 {
            self.state = State::AtEnd;
        } else {
            self.expect(Expect::EntryClose);
        }
    }

    /// Reads the length of a file's contents, or a part of it.
    fn size(&mut self, input: &[u8]) -> Result<(usize, Option<RawEvent>), NarError> {
        if self.token.header_len == 0 {
            self.token.start = self.offset;
        }
        let (taken, size) = self.token.length(input);
        self.offset += taken as u64;
        let Some(size) = size else {
            return Ok((taken, None));
        };
        self.token.header_len = 0;
        if let Err(violation) = rules::check_size(size) {
            return Err(self.fail(self.token.start, violation));
        }
        self.state = State::Contents {
            remaining: size,
            padding: rules::padding(size),
        };
        let executable = self.executable;
        Ok((taken, Some(RawEvent::RegularStart { executable, size })))
    }
}
