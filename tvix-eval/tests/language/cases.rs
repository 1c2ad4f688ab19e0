//! The files of cases and of expected results.
//!
//! A case is a line of a `.cases` file, with continuation lines that start with `|`. The prefixes
//! `:json`, `:xml` and `:lazy` set the format of the value; the default is to print it evaluated
//! deeply. `:pure` and `:restricted` are modes of evaluation; with `:store` the evaluation may
//! write to a store, which is empty at the start. Lines that start with `#` are comments.

use std::path::{Path, PathBuf};

/// The format of the value, and the mode of evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the syntax of the language, evaluated deeply.
    Strict,
    /// In the syntax of the language, as far as it is evaluated.
    Lazy,
    Json,
    Xml,
    /// Like [`Mode::Strict`], in pure evaluation.
    Pure,
    /// Like [`Mode::Strict`], in restricted evaluation: `links/real` and `prefixed` may be read.
    Restricted,
    /// Like [`Mode::Strict`], with a writable store that is empty at the start.
    Store,
}

impl Mode {
    pub const ALL: [(Self, &str); 7] = [
        (Self::Strict, "strict"),
        (Self::Lazy, "lazy"),
        (Self::Json, "json"),
        (Self::Xml, "xml"),
        (Self::Pure, "pure"),
        (Self::Restricted, "restricted"),
        (Self::Store, "store"),
    ];

    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(mode, _)| *mode == self).unwrap().1
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    pub mode: Mode,
    pub text: String,
}

/// The result of a case: the value, if there is one, and the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub value: Option<String>,
    pub messages: String,
}

impl Outcome {
    /// The error message and its position, without trace and source lines.
    pub fn failure(&self) -> Option<String> {
        if self.value.is_some() {
            return None;
        }
        let lines: Vec<&str> = self.messages.lines().collect();
        let first = lines
            .iter()
            .rposition(|line| line.trim_start().starts_with("error:"))?;
        let message: Vec<_> = lines[first..]
            .iter()
            .filter(|line| !is_picture(line))
            .map(|line| line.trim())
            .collect();
        Some(message.join("\n"))
    }
}

/// Messages without source lines of `derivation-internal.nix`, a file of C++ Nix: they are neither
/// recorded nor printed here. The position, with line and column, is kept.
pub fn without_internal_lines(messages: &str) -> String {
    let is_position = |line: &str| {
        let position = line.trim_start().strip_prefix("at «nix-internal»/");
        position.is_some_and(|position| position.ends_with(':'))
    };
    let mut after_position = false;
    let kept = messages.split('\n').filter(|line| {
        if after_position && is_picture(line) {
            return false;
        }
        after_position = is_position(line);
        true
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Whether a line of a message is a source line, or a marker of a column in it.
fn is_picture(line: &str) -> bool {
    line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit())
        .starts_with('|')
}

/// The search path entries, for files at `files`.
pub fn search_path(mode: Mode, files: &str) -> Vec<(&'static str, String)> {
    let entries: &[(&str, &str)] = match mode {
        Mode::Restricted => &[("", "links/real"), ("lang", "prefixed")],
        _ => &[("", "search"), ("lang", "prefixed"), ("gone", "not-there")],
    };
    let entries = entries.iter();
    entries
        .map(|(prefix, path)| (*prefix, format!("{files}/{path}")))
        .collect()
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/language")
}

/// Directory of the files that cases read; goldens contain `@FILES@` in its place.
pub fn files() -> String {
    let folder = folder().join("files");
    folder.into_os_string().into_string().unwrap()
}

/// The topics in alphabetical order.
pub fn topics() -> Vec<String> {
    let mut topics: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| Some(name.strip_suffix(".cases")?.to_owned()))
        .collect();
    topics.sort();
    topics
}

pub fn read(topic: &str) -> Vec<Case> {
    let text = std::fs::read_to_string(folder().join(format!("{topic}.cases"))).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(more) = line.strip_prefix('|') {
            let case = cases.last_mut().unwrap();
            case.text.push('\n');
            case.text.push_str(more);
            continue;
        }
        let prefix = Mode::ALL.into_iter().find_map(|(mode, name)| {
            let rest = line.strip_prefix(':')?.strip_prefix(name)?;
            Some((mode, rest.strip_prefix(' ')?))
        });
        let (mode, text) = prefix.unwrap_or((Mode::Strict, line));
        cases.push(Case {
            mode,
            text: text.to_owned(),
        });
    }
    cases
}

/// The recorded results of a topic's cases.
pub fn expected(topic: &str) -> Vec<(Case, Outcome)> {
    let path = folder().join(format!("{topic}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (mode, text, value, messages): (String, String, Option<String>, String) =
                serde_json::from_str(line).unwrap();
            let mode = Mode::ALL.iter().find(|(_, name)| *name == mode).unwrap().0;
            (Case { mode, text }, Outcome { value, messages })
        })
        .collect()
}
