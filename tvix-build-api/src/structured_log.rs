//! Structured log lines.

use bstr::ByteSlice as _;
use serde::Deserialize;

/// A log line of the form `@nix { … }`. Builder programs write such lines to the file descriptor in
/// `NIX_LOG_FD`; the standard environment of nixpkgs announces its phases that way. Builders
/// forward them like other lines, but leave them out of the log tail of a failure. A front end
/// shows their meaning rather than their text.
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
    /// The start of a build phase.
    Phase(String),
    /// A message for display.
    Message {
        /// The level: 0 for errors, 1 for warnings, higher for less important messages.
        level: u64,
        /// The text.
        text: String,
    },
    /// The start, progress or end of an activity within the build.
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
    /// Parses a line. `None` for ordinary lines, and for lines that are not understood, which Nix
    /// also shows unchanged.
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
