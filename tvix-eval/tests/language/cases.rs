//! The files of cases, and of what is expected of them.
//!
//! A case is a line of a `.cases` file, and the lines after it that begin with `|`, without that. `:json`, `:xml` or `:lazy` before it says
//! how the value is written; otherwise everything in it is evaluated first. `:pure` and `:restricted` are modes of evaluation; with `:store`
//! the evaluation may write to a store, which is empty before. Lines that begin with `#` are comments.

use std::path::{Path, PathBuf};

/// How the value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As the language writes it, everything evaluated.
    Strict,
    /// As the language writes it, as far as it is evaluated.
    Lazy,
    Json,
    Xml,
    /// As [`Mode::Strict`], in pure evaluation.
    Pure,
    /// As [`Mode::Strict`], in restricted evaluation: `links/real` and `prefixed` may be read.
    Restricted,
    /// As [`Mode::Strict`], with an empty store that can be written to.
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

/// What comes of a case: the value, if there is one, and what the user is told besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub value: Option<String>,
    pub told: String,
}

impl Outcome {
    /// The message and its place, without what was being evaluated and without the lines of the program.
    pub fn failure(&self) -> Option<String> {
        if self.value.is_some() {
            return None;
        }
        let lines: Vec<&str> = self.told.lines().collect();
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

/// Messages without the lines that C++ Nix shows of its own file, `derivation-internal.nix`: they are
/// neither recorded nor printed here. The position, with the line and the column, stays.
pub fn without_internal_lines(told: &str) -> String {
    let is_position = |line: &str| {
        let position = line.trim_start().strip_prefix("at «nix-internal»/");
        position.is_some_and(|position| position.ends_with(':'))
    };
    let mut after_position = false;
    let kept = told.split('\n').filter(|line| {
        if after_position && is_picture(line) {
            return false;
        }
        after_position = is_position(line);
        true
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Whether a line of a message shows a line of a program, or points to a column of it.
fn is_picture(line: &str) -> bool {
    line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit())
        .starts_with('|')
}

/// The entries of the search path, if the files are at `files`.
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

/// The topics, in the order of the alphabet.
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

/// What was recorded of a topic's cases.
pub fn expected(topic: &str) -> Vec<(Case, Outcome)> {
    let path = folder().join(format!("{topic}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (mode, text, value, told): (String, String, Option<String>, String) =
                serde_json::from_str(line).unwrap();
            let mode = Mode::ALL.iter().find(|(_, name)| *name == mode).unwrap().0;
            (Case { mode, text }, Outcome { value, told })
        })
        .collect()
}
