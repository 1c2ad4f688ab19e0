//! Lines of a log that are for programs.

use bstr::ByteSlice as _;
use serde::Deserialize;

/// A line of the form `@nix { … }`, which builder programs write to the descriptor that `NIX_LOG_FD` names:
/// the standard environment of nixpkgs says so which phase begins. Builders hand such lines on like any
/// other, and leave them out of a failure's last lines; who shows logs to people shows what is meant.
///
/// ```
/// use tvix_build_api::StructuredLog;
///
/// let line = br#"@nix { "action": "setPhase", "phase": "unpackPhase" }"#;
/// assert_eq!(
///     StructuredLog::parse(line),
///     Some(StructuredLog::Phase("unpackPhase".into()))
/// );
/// assert_eq!(StructuredLog::parse(b"unpacking"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StructuredLog {
    /// A phase of the build begins.
    Phase(String),
    /// A message for people.
    Message {
        /// How important it is: 0 for errors, 1 for warnings, more for less.
        level: u64,
        /// What it says.
        text: String,
    },
    /// Something that a program does within the build begins, has got on, or is over.
    Activity,
}

#[derive(Deserialize)]
struct Line {
    action: String,
    #[serde(default)]
    phase: Option<String>,
    #[serde(default)]
    msg: Option<String>,
    #[serde(default)]
    level: u64,
}

impl StructuredLog {
    /// Reads a line. `None` for those that are for people, and for what is not understood: that is shown
    /// as it is, as by Nix.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let json = line.strip_prefix(b"@nix ")?;
        let line: Line = serde_json::from_slice(json.trim()).ok()?;
        match (line.action.as_str(), line.phase, line.msg) {
            ("setPhase", Some(phase), _) => Some(Self::Phase(phase)),
            ("msg", _, Some(text)) => Some(Self::Message {
                level: line.level,
                text,
            }),
            ("start" | "stop" | "result", ..) => Some(Self::Activity),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_and_what_is_not() {
        let parse = |text: &str| StructuredLog::parse(text.as_bytes());
        let message = |level, text: &str| {
            Some(StructuredLog::Message {
                level,
                text: text.to_owned(),
            })
        };
        assert_eq!(
            parse(r#"@nix {"action":"msg","level":1,"msg":"careful"}"#),
            message(1, "careful")
        );
        let start = r#"@nix {"action":"start","id":1,"type":100,"text":"x","fields":[],"parent":0,"level":3}"#;
        assert_eq!(parse(start), Some(StructuredLog::Activity));
        for odd in [
            "@nix {",
            "@nix",
            "@nix []",
            r#"@nix {"action":"setPhase"}"#,
            r#"@nix {"action":"dance"}"#,
            r#" @nix {"action":"stop","id":1}"#,
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }
}
