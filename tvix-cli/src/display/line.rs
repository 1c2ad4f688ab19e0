//! What of a line of a log people get to see.

use std::borrow::Cow;

use tvix_build_api::StructuredLog;

pub enum Shown<'l> {
    /// A line, or what a line for programs has to say to people.
    Log(Cow<'l, str>),
    /// What a build is doing, for where there is one place for that.
    Phase(String),
    Nothing,
}

pub fn shown(line: &str) -> Shown<'_> {
    match StructuredLog::parse(line.as_bytes()) {
        None => Shown::Log(line.into()),
        Some(StructuredLog::Message { text, .. }) => Shown::Log(text.into()),
        Some(StructuredLog::Phase(phase)) => Shown::Phase(phase),
        Some(_) => Shown::Nothing,
    }
}

impl Shown<'_> {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Log(text) => Some(text),
            Self::Phase(phase) => Some(phase),
            Self::Nothing => None,
        }
    }

    pub fn is_log(&self) -> bool {
        matches!(self, Self::Log(_))
    }
}
