//! Why an evaluation failed, and on the way to what.

use std::borrow::Cow;

use tvix_eval_api::{EvalErrorKind, RealiseError};

use crate::source::Pos;

/// The result of evaluating something.
pub type Result<T> = std::result::Result<T, Box<Error>>;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `throw`, or a search path without the entry. `tryEval` catches it.
    Thrown,
    /// An assertion that does not hold. `tryEval` catches it.
    Assertion,
    /// `abort`.
    Abort,
    /// A value of the wrong type.
    Type,
    /// A variable or attribute that is not there.
    Missing,
    /// A value that needs itself.
    InfiniteRecursion,
    /// Too many calls within calls, or too deep a structure.
    Depth,
    /// Text that is not Nix.
    Syntax,
    /// A file that cannot be read, or is not what it should be.
    Io,
    /// Something that restricted or pure evaluation forbids.
    Forbidden,
    /// Something that could not be built or fetched.
    Build,
    /// Something that this evaluator does not do.
    Unsupported,
    /// A limit that the embedder set.
    Limit,
    /// The embedder wants no result any more.
    Cancelled,
    /// Anything else that is wrong with the program.
    Other,
}

/// Why an evaluation failed.
#[derive(Debug, Clone)]
pub struct Error {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What is wrong; may hold bytes that are not UTF-8, replaced.
    pub message: String,
    /// Where.
    pub pos: Pos,
    /// On the way to what, innermost first.
    pub trace: Vec<Frame>,
    /// Names that were perhaps meant.
    pub suggestions: Vec<String>,
    /// Why something could not be built, if that is it.
    pub import: Option<Box<RealiseError>>,
}

impl From<ErrorKind> for EvalErrorKind {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Thrown => Self::Thrown,
            ErrorKind::Assertion => Self::Assertion,
            ErrorKind::Abort => Self::Abort,
            ErrorKind::Type => Self::Type,
            ErrorKind::Missing => Self::Missing,
            ErrorKind::InfiniteRecursion => Self::InfiniteRecursion,
            ErrorKind::Depth => Self::Depth,
            ErrorKind::Syntax => Self::Syntax,
            ErrorKind::Io => Self::Io,
            ErrorKind::Forbidden => Self::Forbidden,
            ErrorKind::Build => Self::Build,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Limit => Self::Limit,
            ErrorKind::Cancelled => Self::Cancelled,
            ErrorKind::Other => Self::Other,
        }
    }
}

/// What was being evaluated when it failed.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where.
    pub pos: Pos,
    /// What, as in "while calling the 'throw' builtin".
    pub text: Cow<'static, str>,
    /// Whether it is shown however long the trace is.
    pub always: bool,
}

/// Traces keep this many frames, half of them at each end: many cells may remember one error.
const FRAMES_KEPT: usize = 200;

/// No cell remembers that calls were nested too deeply: such a trace is kept whole.
const DEEP_FRAMES_KEPT: usize = 100_000;

impl Error {
    /// An error without a place.
    #[cold]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            kind,
            message: message.into(),
            pos: Pos::NONE,
            trace: Vec::new(),
            suggestions: Vec::new(),
            import: None,
        })
    }

    /// With a place, unless it has one.
    #[cold]
    pub fn at(mut self: Box<Self>, pos: Pos) -> Box<Self> {
        if !self.pos.is_some() && self.trace.is_empty() {
            self.pos = pos;
        }
        self
    }

    /// With a place, if what was found there is of the wrong type.
    #[cold]
    pub(crate) fn of_type_at(mut self: Box<Self>, pos: Pos) -> Box<Self> {
        let of_type = self.message.starts_with("expected ");
        if of_type && !self.pos.is_some() && self.trace.len() == 1 {
            self.pos = pos;
        }
        self
    }

    /// With names that were perhaps meant.
    #[cold]
    pub fn suggesting(mut self: Box<Self>, names: Vec<String>) -> Box<Self> {
        self.suggestions = names;
        self
    }

    /// With what was being evaluated; nothing is added if that is empty.
    #[cold]
    pub fn within(mut self: Box<Self>, pos: Pos, text: impl Into<Cow<'static, str>>) -> Box<Self> {
        let text = text.into();
        if text.is_empty() {
            return self;
        }
        let kept = match self.kind {
            ErrorKind::Depth => DEEP_FRAMES_KEPT,
            _ => FRAMES_KEPT,
        };
        if self.trace.len() >= kept {
            self.trace.remove(FRAMES_KEPT / 2);
        }
        self.trace.push(Frame {
            pos,
            text,
            always: false,
        });
        self
    }

    /// With what was being evaluated, which is shown however long the trace is.
    #[cold]
    pub fn within_always(
        self: Box<Self>,
        pos: Pos,
        text: impl Into<Cow<'static, str>>,
    ) -> Box<Self> {
        let mut error = self.within(pos, text);
        if let Some(frame) = error.trace.last_mut() {
            frame.always = true;
        }
        error
    }

    /// Whether `tryEval` makes a value of it.
    pub fn is_catchable(&self) -> bool {
        matches!(self.kind, ErrorKind::Thrown | ErrorKind::Assertion)
    }
}

/// Says on the way to what it failed.
pub trait ResultExt<T> {
    /// Adds a frame to the trace.
    fn within(self, pos: Pos, text: &'static str) -> Result<T>;
    /// Adds a frame to the trace, whose text is computed only on failure.
    fn within_with(self, pos: Pos, text: impl FnOnce() -> String) -> Result<T>;
    /// Gives the error a place.
    fn at(self, pos: Pos) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    #[inline]
    fn within(self, pos: Pos, text: &'static str) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(error.within(pos, text)),
        }
    }

    #[inline]
    fn within_with(self, pos: Pos, text: impl FnOnce() -> String) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(error.within(pos, text())),
        }
    }

    #[inline]
    fn at(self, pos: Pos) -> Result<T> {
        match self {
            Ok(value) => Ok(value),
            Err(error) => Err(error.at(pos)),
        }
    }
}
