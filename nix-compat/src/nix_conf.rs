//! The format of `nix.conf`: a setting per line, comments, and inclusion of other files (Nix manual,
//! "nix.conf", "File format").
//!
//! This module reads text. Which files are read, and in what order, is up to the caller.

use std::iter::FusedIterator;

use thiserror::Error;

/// A line of a file of settings that is neither empty nor a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The number of the line, from 1.
    pub line: usize,
    /// The statement.
    pub statement: Statement<'a>,
}

/// The statement of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Statement<'a> {
    /// `NAME = VALUE`.
    Set {
        /// The name of the setting, which may begin with `extra-`.
        name: &'a str,
        /// The words of the value, separated by single spaces. Empty if there is none.
        value: String,
    },
    /// `include PATH` or `!include PATH`.
    Include {
        /// The path, relative to the directory of the file.
        path: &'a str,
        /// Whether the file need not exist (`!include`).
        optional: bool,
    },
}

/// A line that is neither a setting nor an inclusion.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line} is not 'NAME = VALUE' or 'include PATH': '{text}'")]
#[non_exhaustive]
pub struct SyntaxError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

/// Reads the text of a file of settings, line by line. A `#` begins a comment anywhere in a line;
/// words are separated by whitespace, and `=` is a word of its own.
///
/// ```
/// use nix_compat::nix_conf::{Statement, parse};
///
/// let text = "cores = 4  # of eight\n!include more.conf\n";
/// let entries: Vec<_> = parse(text).collect::<Result<_, _>>()?;
/// assert_eq!(entries[0].line, 1);
/// assert_eq!(entries[0].statement, Statement::Set { name: "cores", value: "4".to_owned() });
/// assert_eq!(entries[1].statement, Statement::Include { path: "more.conf", optional: true });
/// # Ok::<(), nix_compat::nix_conf::SyntaxError>(())
/// ```
pub fn parse(text: &str) -> impl FusedIterator<Item = Result<Entry<'_>, SyntaxError>> + use<'_> {
    let lines = text.lines().enumerate();
    let entries = lines.filter_map(|(index, text)| {
        let statement = statement(text).transpose()?;
        let line = index + 1;
        Some(match statement {
            Ok(statement) => Ok(Entry { line, statement }),
            Err(NoStatement) => Err(SyntaxError {
                line,
                text: text.trim().to_owned(),
            }),
        })
    });
    entries.fuse()
}

struct NoStatement;

fn statement(line: &str) -> Result<Option<Statement<'_>>, NoStatement> {
    let code = line.split('#').next().unwrap_or_default();
    let mut words = code.split_ascii_whitespace();
    let Some(first) = words.next() else {
        return Ok(None);
    };
    let second = words.next().ok_or(NoStatement)?;
    match first {
        "include" | "!include" if words.next().is_none() => Ok(Some(Statement::Include {
            path: second,
            optional: first.starts_with('!'),
        })),
        "include" | "!include" => Err(NoStatement),
        name if second == "=" => Ok(Some(Statement::Set {
            name,
            value: words.collect::<Vec<_>>().join(" "),
        })),
        _ => Err(NoStatement),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Option<(String, String)> {
        Some((name.to_owned(), value.to_owned()))
    }

    /// Each as C++ Nix 2.34.8 reads it (`nix config show` with the line in NIX_CONF_DIR).
    #[test]
    fn lines() {
        for (line, expected) in [
            ("cores = 3", set("cores", "3")),
            ("  cores\t =  3  ", set("cores", "3")),
            ("cores = 3 # three", set("cores", "3")),
            ("allowed-uris = a  b\tc", set("allowed-uris", "a b c")),
            ("extra-substituters = x", set("extra-substituters", "x")),
            ("substituters =", set("substituters", "")),
            ("keep-going = true\r", set("keep-going", "true")),
            ("nix-path = nixpkgs=/x", set("nix-path", "nixpkgs=/x")),
        ] {
            let entries: Vec<_> = parse(line).map(Result::unwrap).collect();
            let found = entries.iter().map(|entry| match &entry.statement {
                Statement::Set { name, value } => set(name, value),
                Statement::Include { .. } => None,
            });
            assert_eq!(found.collect::<Vec<_>>(), [expected], "{line}");
        }
        for line in ["", "   ", "# cores = 3", "\t# x"] {
            assert_eq!(parse(line).count(), 0, "{line}");
        }
    }

    #[test]
    fn what_is_no_statement() {
        for line in [
            "max-jobs=7",
            "cores =3",
            "cores= 3",
            "=3",
            "= 3",
            "cores",
            "include",
            "include a b",
        ] {
            let text = format!("# first\n\n  {line}\nkeep-going = true");
            let entries: Vec<_> = parse(&text).collect();
            let error = entries[0].clone().unwrap_err();
            assert_eq!((error.line, error.text.as_str()), (3, line));
            assert!(entries[1].is_ok());
        }
    }
}
