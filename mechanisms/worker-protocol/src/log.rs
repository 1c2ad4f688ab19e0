//! Messages of a daemon before the answer to an operation: log lines, activities, errors.

use std::fmt;

use bstr::BString;

use crate::ProtocolError;
use crate::scan::Shape;
use crate::wire::{Codec, Reader, Writer, message, numbered};

const NEXT: u64 = 0x6f6c_6d67;
const READ: u64 = 0x6461_7461;
const WRITE: u64 = 0x6461_7416;
const LAST: u64 = 0x616c_7473;
const ERROR: u64 = 0x6378_7470;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

const WHAT: &str = "message of the log";

numbered! {
    /// How important a message is.
    Verbosity: "verbosity" {
        /// Errors.
        Error = 0,
        /// Warnings.
        Warn = 1,
        /// Notices.
        Notice = 2,
        /// Information, the default.
        Info = 3,
        /// Talkative: `-v`.
        Talkative = 4,
        /// Chatty: `-vv`.
        Chatty = 5,
        /// For debugging: `-vvv`.
        Debug = 6,
        /// Everything: `-vvvv`.
        Vomit = 7,
    }
}

/// Numbers with names, and others, which later versions add without announcing it.
macro_rules! open_enum {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)*
            /// Another one, by its number.
            Other(u64),
        }

        impl Codec for $name {
            const SHAPE: Shape = Shape::Number;

            fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
                Ok(match reader.number()? {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                })
            }

            fn write(&self, writer: &mut Writer<'_>) {
                writer.number(match self {
                    $(Self::$variant => $number,)*
                    Self::Other(other) => *other,
                });
            }
        }
    )*};
}

open_enum! {
    /// The kind of an activity.
    ActivityType {
        /// No particular one.
        Unknown = 0,
        /// A path is copied: path, source, destination.
        CopyPath = 100,
        /// A file is transferred: URL.
        FileTransfer = 101,
        /// Paths are built or substituted.
        Realise = 102,
        /// Paths are copied.
        CopyPaths = 103,
        /// Derivations are built.
        Builds = 104,
        /// A derivation is built: path, machine, round, rounds.
        Build = 105,
        /// Files are replaced by hard links.
        OptimiseStore = 106,
        /// Paths are verified.
        VerifyPaths = 107,
        /// A path is substituted: path, substituter.
        Substitute = 108,
        /// A path is looked up: path, store.
        QueryPathInfo = 109,
        /// The post-build hook runs: path.
        PostBuildHook = 110,
        /// A build waits for a lock.
        BuildWaiting = 111,
        /// A tree is fetched.
        FetchTree = 112,
        /// A source is added: path, whether it is only hashed.
        FetchToStore = 113,
    }

    /// The kind of a result of an activity.
    ResultType {
        /// A file was replaced by a link: sizes.
        FileLinked = 100,
        /// A line of a build's log: line.
        BuildLogLine = 101,
        /// A path is not trusted: path.
        UntrustedPath = 102,
        /// A path is corrupt: path.
        CorruptedPath = 103,
        /// A phase of a build began: phase.
        SetPhase = 104,
        /// Progress: done, expected, running, failed.
        Progress = 105,
        /// Expected amount: activity type, amount.
        SetExpected = 106,
        /// A line of the post-build hook's log: line.
        PostBuildLogLine = 107,
        /// The state of a fetch: text.
        FetchStatus = 108,
        /// The path of a source: path.
        FetchToStore = 109,
    }
}

/// A detail of an activity or result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A number.
    Number(u64),
    /// A text.
    Text(BString),
}

impl Codec for Field {
    const SHAPE: Shape = Shape::Choice("type of a field", &[(0, Shape::Number), (1, Shape::Text)]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.number()? {
            0 => Ok(Self::Number(reader.number()?)),
            1 => Ok(Self::Text(BString::read(reader)?)),
            tag => Err(ProtocolError::Tag {
                what: "type of a field",
                tag,
            }),
        }
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Number(number) => {
                writer.number(0);
                writer.number(*number);
            }
            Self::Text(text) => {
                writer.number(1);
                writer.text(text);
            }
        }
    }
}

message! {
    /// An activity begins.
    Activity {
        /// Its number, unique on the connection while it runs.
        id: u64,
        /// How important it is.
        level: Verbosity,
        /// Its kind.
        kind: ActivityType,
        /// Its description.
        text: BString,
        /// Its details.
        fields: Vec<Field>,
        /// The activity that it is a part of; 0 if there is none.
        parent: u64,
    }

    /// An activity has a result.
    ActivityResult {
        /// The activity.
        id: u64,
        /// The kind of the result.
        kind: ResultType,
        /// The details.
        fields: Vec<Field>,
    }
}

/// An error of the daemon: the operation failed. The connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteError {
    /// How important it is.
    pub level: Verbosity,
    /// The message, with escape sequences for colours. The error displays without them.
    pub message: BString,
    /// The actions of the daemon, the innermost first.
    pub traces: Vec<BString>,
}

impl RemoteError {
    /// An error without traces.
    pub fn new(message: impl Into<BString>) -> Self {
        Self {
            level: Verbosity::Error,
            message: message.into(),
            traces: Vec::new(),
        }
    }

    /// Sets the traces.
    #[must_use]
    pub fn with_traces(mut self, traces: impl IntoIterator<Item = BString>) -> Self {
        self.traces = traces.into_iter().collect();
        self
    }
}

/// The traces, outermost first, and the message, without the colours that Nix puts in.
impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for trace in self.traces.iter().rev() {
            write!(f, "{}: ", plain(trace))?;
        }
        f.write_str(&plain(&self.message))
    }
}

/// A text without escape sequences of the form `ESC [ … letter`, and without other control
/// characters than line breaks and tabs.
fn plain(text: &BString) -> String {
    let text = text.to_string();
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' if chars.as_str().starts_with('[') => {
                chars.next();
                // Parameters, and the letter that ends the sequence.
                for c in chars.by_ref() {
                    if matches!(c, '@'..='~') {
                        break;
                    }
                }
            }
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => {}
            c => plain.push(c),
        }
    }
    plain
}

impl std::error::Error for RemoteError {}

const TYPE: &str = "Error";

impl Codec for RemoteError {
    const SHAPE: Shape = Shape::Sequence(&[
        Shape::Text,
        Shape::Number,
        Shape::Text,
        Shape::Text,
        Shape::Number,
        Shape::List(&Shape::Sequence(&[Shape::Number, Shape::Text])),
    ]);

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let kind = reader.text()?;
        if kind != TYPE.as_bytes() {
            return Err(ProtocolError::invalid(
                "type of an error",
                kind,
                "only 'Error' is known",
            ));
        }
        let level = Verbosity::read(reader)?;
        // A name, which has no meaning.
        reader.text()?;
        let message = BString::read(reader)?;
        no_position(reader)?;
        let traces = reader.list(|reader| {
            no_position(reader)?;
            BString::read(reader)
        })?;
        Ok(Self {
            level,
            message,
            traces,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.text(TYPE);
        self.level.write(writer);
        writer.text(TYPE);
        self.message.write(writer);
        writer.number(0);
        writer.list(&self.traces, |writer, trace| {
            writer.number(0);
            trace.write(writer);
        });
    }
}

/// Positions have never had a form.
fn no_position(reader: &mut Reader<'_>) -> Result<(), ProtocolError> {
    match reader.number()? {
        0 => Ok(()),
        value => Err(ProtocolError::Number {
            what: "position of an error",
            value,
        }),
    }
}

/// A message of a daemon before the answer to an operation, up to [`Last`](Self::Last) or
/// [`Error`](Self::Error). The answer follows the former.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogMessage {
    /// A line of text.
    Next(BString),
    /// The daemon asks for at most so many bytes. Not used since version 1.23.
    Read(u64),
    /// Bytes for the client. Not used since Nix 2.0.
    Write(BString),
    /// The operation is done.
    Last,
    /// The operation failed.
    Error(RemoteError),
    /// An activity begins.
    StartActivity(Activity),
    /// An activity ends.
    StopActivity(u64),
    /// An activity has a result.
    Result(ActivityResult),
}

impl Codec for LogMessage {
    const SHAPE: Shape = Shape::Choice(
        WHAT,
        &[
            (NEXT, Shape::Text),
            (READ, Shape::Number),
            (WRITE, Shape::Text),
            (LAST, Shape::EMPTY),
            (ERROR, RemoteError::SHAPE),
            (START_ACTIVITY, Activity::SHAPE),
            (STOP_ACTIVITY, Shape::Number),
            (RESULT, ActivityResult::SHAPE),
        ],
    );

    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        Ok(match reader.number()? {
            NEXT => Self::Next(BString::read(reader)?),
            READ => Self::Read(reader.number()?),
            WRITE => Self::Write(BString::read(reader)?),
            LAST => Self::Last,
            ERROR => Self::Error(RemoteError::read(reader)?),
            START_ACTIVITY => Self::StartActivity(Activity::read(reader)?),
            STOP_ACTIVITY => Self::StopActivity(reader.number()?),
            RESULT => Self::Result(ActivityResult::read(reader)?),
            tag => return Err(ProtocolError::Tag { what: WHAT, tag }),
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::Next(text) => {
                writer.number(NEXT);
                text.write(writer);
            }
            Self::Read(length) => {
                writer.number(READ);
                writer.number(*length);
            }
            Self::Write(bytes) => {
                writer.number(WRITE);
                bytes.write(writer);
            }
            Self::Last => writer.number(LAST),
            Self::Error(error) => {
                writer.number(ERROR);
                error.write(writer);
            }
            Self::StartActivity(activity) => {
                writer.number(START_ACTIVITY);
                activity.write(writer);
            }
            Self::StopActivity(id) => {
                writer.number(STOP_ACTIVITY);
                writer.number(*id);
            }
            Self::Result(result) => {
                writer.number(RESULT);
                result.write(writer);
            }
        }
    }
}

/// Whether `bytes`, at the place of a NAR, are an error message instead.
///
/// A daemon that fails to read a path after it has said [`LogMessage::Last`] sends
/// [`LogMessage::Error`] and closes the connection. A NAR never begins with these bytes. `None` if
/// fewer than eight bytes are given.
pub fn is_error_instead_of_nar(bytes: &[u8]) -> Option<bool> {
    Some(crate::scan::read_number(bytes)? == ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_displayed_without_control_characters() {
        let error = RemoteError::new(
            "path '\x1b[35;1m/nix/store/x\x1b[0m' \x1b]0;title\x07is\r\nnot valid\x1b[",
        );
        let error = error.with_traces(["while \x1b[1mbuilding".into()]);
        let shown = error.to_string();
        assert_eq!(
            shown,
            "while building: path '/nix/store/x' ]0;titleis\nnot valid"
        );
    }
}
