//! Evaluation errors and their traces.

use std::borrow::Cow;

use tvix_eval_api::{EvalErrorKind, RealiseError};

use crate::source::Pos;

/// The result of an evaluation.
pub type Result<T> = std::result::Result<T, Box<Error>>;

/// The kind of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `throw`, or a missing search path entry. `tryEval` catches it.
    Thrown,
    /// A failed assertion. `tryEval` catches it.
    Assertion,
    /// `abort`.
    Abort,
    /// A value of the wrong type.
    Type,
    /// An undefined variable or a missing attribute.
    Missing,
    /// A value that depends on itself.
    InfiniteRecursion,
    /// Calls or data structures that are nested too deeply.
    Depth,
    /// A syntax error.
    Syntax,
    /// A file that cannot be read or has unexpected contents.
    Io,
    /// An access that restricted or pure evaluation forbids.
    Forbidden,
    /// A failed build or fetch.
    Build,
    /// A feature that this evaluator does not support.
    Unsupported,
    /// A limit set by the embedder was exceeded.
    Limit,
    /// The embedder cancelled the evaluation.
    Cancelled,
    /// Any other error in the program.
    Other,
}

/// An evaluation error.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Error {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The message. Bytes that are not UTF-8 are replaced.
    pub message: String,
    /// Position of the error.
    pub pos: Pos,
    /// The trace, innermost frame first.
    pub trace: Vec<Frame>,
    /// Similar names that exist.
    pub suggestions: Vec<String>,
    /// The cause of a failed import from derivation.
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

/// A frame of a trace: an operation that was under way when the error occurred.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Frame {
    /// Position of the operation.
    pub pos: Pos,
    /// The operation, such as "while calling the 'throw' builtin".
    pub text: Cow<'static, str>,
    /// Whether the frame is shown regardless of the length of the trace.
    pub always: bool,
}

/// Maximum number of frames in a trace, half of them at each end. Many cells may cache the same
/// error.
const FRAMES_KEPT: usize = 200;

/// The same limit for errors of nesting depth. Cells do not cache these errors, so the trace is
/// kept in full.
const DEEP_FRAMES_KEPT: usize = 100_000;

impl Error {
    /// An error without a position.
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

    /// Sets the position, unless there is one.
    #[cold]
    pub fn at(mut self: Box<Self>, pos: Pos) -> Box<Self> {
        if !self.pos.is_some() && self.trace.is_empty() {
            self.pos = pos;
        }
        self
    }

    /// Sets the position, if the error is a value of the wrong type.
    #[cold]
    pub(crate) fn of_type_at(mut self: Box<Self>, pos: Pos) -> Box<Self> {
        let of_type = self.message.starts_with("expected ");
        if of_type && !self.pos.is_some() && self.trace.len() == 1 {
            self.pos = pos;
        }
        self
    }

    /// Sets the suggested names.
    #[cold]
    pub fn suggesting(mut self: Box<Self>, names: Vec<String>) -> Box<Self> {
        self.suggestions = names;
        self
    }

    /// Adds a frame to the trace, unless its text is empty.
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

    /// Adds a frame that is shown regardless of the length of the trace.
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

    /// Whether `tryEval` catches it.
    pub fn is_catchable(&self) -> bool {
        matches!(self.kind, ErrorKind::Thrown | ErrorKind::Assertion)
    }
}

/// Adds context to errors.
pub trait ResultExt<T> {
    /// Adds a frame to the trace.
    fn within(self, pos: Pos, text: &'static str) -> Result<T>;
    /// Adds a frame to the trace. Its text is computed only on failure.
    fn within_with(self, pos: Pos, text: impl FnOnce() -> String) -> Result<T>;
    /// Sets the position of the error.
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

/// The error of an evaluation that was cancelled.
#[cold]
pub(crate) fn cancelled() -> Box<Error> {
    Error::new(ErrorKind::Cancelled, "the evaluation was cancelled")
}
