//! Lines of builders' logs as messages for clients.

use std::collections::HashMap;

use bstr::{BString, ByteSlice as _};
use serde::Deserialize;
use tvix_worker_protocol::{
    Activity, ActivityResult, ActivityType, Field, LogMessage, ResultType, Verbosity,
};

use super::texts::is_keeping;

/// Longest line that is put together from parts, in bytes.
const MAX_LINE: usize = 1 << 20;
/// Most activities that a builder may have at once.
const MAX_ACTIVITIES: usize = 256;

/// A message for a client.
#[derive(Debug)]
pub(super) enum Part {
    /// A message of an importance.
    Message(Verbosity, BString),
    Send(LogMessage),
}

/// The state of a build's log: the line so far, and the activities that the builder has reported.
#[derive(Debug, Default)]
pub(super) struct LineParts {
    /// Whether texts are those of Nix 2.8.
    old: bool,
    line: Vec<u8>,
    activities: HashMap<u64, u64>,
}

/// A structured line: `@nix { … }`.
#[derive(Debug, Deserialize)]
struct Structured {
    action: String,
    #[serde(default)]
    id: u64,
    #[serde(rename = "type", default)]
    kind: u64,
    #[serde(default)]
    level: u64,
    #[serde(default)]
    text: String,
    #[serde(default)]
    fields: Vec<JsonField>,
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    msg: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum JsonField {
    Number(u64),
    Text(String),
}

impl JsonField {
    fn into_field(self) -> Field {
        match self {
            Self::Number(number) => Field::Number(number),
            Self::Text(text) => Field::Text(text.into()),
        }
    }
}

impl LineParts {
    pub fn new(old: bool) -> Self {
        Self {
            old,
            ..Self::default()
        }
    }

    /// The messages for a line of the build with the activity `id`, without the newline.
    pub fn line(&mut self, line: &[u8], partial: bool, id: u64, next_id: fn() -> u64) -> Vec<Part> {
        if partial && self.line.len() + line.len() <= MAX_LINE {
            self.line.extend_from_slice(line);
            return Vec::new();
        }
        let joined;
        let line = match self.line.is_empty() {
            true => line,
            false => {
                self.line.extend_from_slice(line);
                joined = std::mem::take(&mut self.line);
                &joined[..]
            }
        };
        if is_keeping(line) {
            let mut text = [line, b"\n"].concat();
            if !self.old {
                text.iter_mut()
                    .filter(|byte| **byte == b'\'')
                    .for_each(|byte| *byte = b'"');
            }
            return vec![Part::Message(Verbosity::Error, text.into())];
        }
        let json = line.strip_prefix(b"@nix ");
        let structured = json.and_then(|json| serde_json::from_slice(json.trim()).ok());
        match structured.and_then(|it| self.structured(it, id, next_id)) {
            Some(parts) => parts,
            None => vec![Part::Send(log_line(id, line))],
        }
    }

    /// The messages at the end of the log.
    pub fn end(&mut self, id: u64) -> Vec<LogMessage> {
        let mut messages = Vec::new();
        if !self.line.is_empty() {
            messages.push(log_line(id, &std::mem::take(&mut self.line)));
        }
        let activities = std::mem::take(&mut self.activities);
        messages.extend(activities.into_values().map(LogMessage::StopActivity));
        messages
    }

    /// `None` for a line that is shown as it is.
    fn structured(
        &mut self,
        line: Structured,
        parent: u64,
        next_id: fn() -> u64,
    ) -> Option<Vec<Part>> {
        let message = match line.action.as_str() {
            "setPhase" => LogMessage::Result(ActivityResult {
                id: parent,
                kind: ResultType::SetPhase,
                fields: vec![Field::Text(line.phase?.into())],
            }),
            "msg" => {
                let mut text = line.msg?;
                text.push('\n');
                return Some(vec![Part::Message(verbosity(line.level), text.into())]);
            }
            // A builder is not trusted with other kinds of activities.
            "start" => {
                if line.kind != FILE_TRANSFER || self.activities.len() == MAX_ACTIVITIES {
                    return Some(Vec::new());
                }
                let id = next_id();
                self.activities.insert(line.id, id);
                LogMessage::StartActivity(Activity {
                    id,
                    level: verbosity(line.level),
                    kind: ActivityType::FileTransfer,
                    text: line.text.into(),
                    fields: fields(line.fields),
                    parent,
                })
            }
            "stop" => match self.activities.remove(&line.id) {
                Some(id) => LogMessage::StopActivity(id),
                None => return Some(Vec::new()),
            },
            "result" => match (self.activities.get(&line.id), line.kind) {
                (Some(id), PROGRESS) => LogMessage::Result(ActivityResult {
                    id: *id,
                    kind: ResultType::Progress,
                    fields: fields(line.fields),
                }),
                (Some(id), SET_EXPECTED) => LogMessage::Result(ActivityResult {
                    id: *id,
                    kind: ResultType::SetExpected,
                    fields: fields(line.fields),
                }),
                _ => return Some(Vec::new()),
            },
            _ => return None,
        };
        Some(vec![Part::Send(message)])
    }
}

const FILE_TRANSFER: u64 = 101;
const PROGRESS: u64 = 105;
const SET_EXPECTED: u64 = 106;

fn fields(fields: Vec<JsonField>) -> Vec<Field> {
    fields.into_iter().map(JsonField::into_field).collect()
}

fn verbosity(level: u64) -> Verbosity {
    match level {
        0 => Verbosity::Error,
        1 => Verbosity::Warn,
        2 => Verbosity::Notice,
        3 => Verbosity::Info,
        4 => Verbosity::Talkative,
        5 => Verbosity::Chatty,
        6 => Verbosity::Debug,
        _ => Verbosity::Vomit,
    }
}

fn log_line(id: u64, line: &[u8]) -> LogMessage {
    LogMessage::Result(ActivityResult {
        id,
        kind: ResultType::BuildLogLine,
        fields: vec![Field::Text(overwritten(line).into())],
    })
}

/// A line after its carriage returns: what follows one replaces the beginning of the line.
fn overwritten(line: &[u8]) -> Vec<u8> {
    if !line.contains(&b'\r') {
        return line.to_vec();
    }
    let mut shown: Vec<u8> = Vec::with_capacity(line.len());
    for part in line.split(|byte| *byte == b'\r') {
        let kept = part.len().min(shown.len());
        shown[..kept].copy_from_slice(&part[..kept]);
        shown.extend_from_slice(&part[kept..]);
    }
    shown
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(parts: Vec<Part>) -> String {
        parts.into_iter().map(|part| format!("{part:?} ")).collect()
    }

    #[test]
    fn lines_as_messages() {
        let mut state = LineParts::default();
        let mut line = |text: &str, partial| shown(state.line(text.as_bytes(), partial, 7, || 8));
        assert_eq!(line("be", true), "");
        assert!(line("gin", false).contains("\"begin\""));
        assert!(line("abc\rx", false).contains("\"xbc\""));
        let phase = line(r#"@nix {"action":"setPhase","phase":"buildPhase"}"#, false);
        assert!(
            phase.contains("SetPhase") && phase.contains("buildPhase"),
            "{phase}"
        );
        let message = line(r#"@nix {"action":"msg","level":1,"msg":"careful"}"#, false);
        assert!(
            message.contains("Warn") && message.contains("careful\\n"),
            "{message}"
        );
        let other = line(r#"@nix {"action":"dance"}"#, false);
        assert!(other.contains("BuildLogLine"), "{other}");
        let untrusted = r#"@nix {"action":"start","id":1,"type":105,"level":3,"text":"x"}"#;
        assert_eq!(line(untrusted, false), "");
        let transfer =
            r#"@nix {"action":"start","id":1,"type":101,"level":3,"text":"x","fields":["u"]}"#;
        assert!(line(transfer, false).contains("StartActivity"));
        assert!(line(r#"@nix {"action":"stop","id":1}"#, false).contains("StopActivity(8)"));
        assert_eq!(line(r#"@nix {"action":"stop","id":1}"#, false), "");
        assert!(line("note: keeping build directory '/x'", false).contains("Message(Error"));
        assert_eq!(line("rest", true), "");
        assert_eq!(state.end(7).len(), 1);
    }
}
