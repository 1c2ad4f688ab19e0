//! Which part of a line of a log is displayed.

use std::borrow::Cow;

use tvix_build_api::StructuredLog;
use tvix_build_api::terminal::after_carriage_return;

pub enum Shown<'l> {
    /// A line, or the text of a structured line.
    Log(Cow<'l, str>),
    /// The activity of a build, for displays with one line per build.
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
    /// The lines to print: of each what follows its last carriage return.
    pub fn log_lines(&self) -> impl Iterator<Item = &str> {
        let text = match self {
            Self::Log(text) => Some(&**text),
            Self::Phase(_) | Self::Nothing => None,
        };
        let lines = text.into_iter().flat_map(|text| text.split('\n'));
        lines.map(after_carriage_return)
    }

    /// The text that a display with one line per build shows.
    pub fn status(&self) -> Option<&str> {
        let text = match self {
            Self::Log(text) => text,
            Self::Phase(phase) => phase.as_str(),
            Self::Nothing => return None,
        };
        let mut lines = text.split('\n').rev().map(after_carriage_return);
        lines.find(|line| !line.trim().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_logs_and_messages() {
        let cases: [(&str, &[&str], Option<&str>); 6] = [
            ("plain", &["plain"], Some("plain")),
            ("", &[""], None),
            ("10%\r20%\r", &["20%"], Some("20%")),
            (
                r#"@nix {"action":"msg","level":0,"msg":"one\ntwo\rthree\n"}"#,
                &["one", "three", ""],
                Some("three"),
            ),
            (
                r#"@nix {"action":"setPhase","phase":"a\nb\rc"}"#,
                &[],
                Some("c"),
            ),
            (r#"@nix {"action":"stop","id":1}"#, &[], None),
        ];
        for (line, lines, status) in cases {
            let shown = shown(line);
            assert_eq!(shown.log_lines().collect::<Vec<_>>(), lines, "{line}");
            assert_eq!(shown.status(), status, "{line}");
        }
    }
}
