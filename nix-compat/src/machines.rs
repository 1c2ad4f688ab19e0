//! The format of machines that build: the setting `builders` of Nix and `/etc/nix/machines` (Nix manual,
//! "Remote builds").
//!
//! This module reads text. Reading the files that it includes (`@FILE`), which have the same format, is
//! up to the caller; Nix passes over files that do not exist.
//!
//! ```
//! use nix_compat::machines::{Item, parse};
//!
//! let text = "ssh-ng://me@mac x86_64-darwin,aarch64-darwin - 4 2 big-parallel ; @/etc/nix/machines";
//! let entries: Vec<_> = parse(text).collect::<Result<_, _>>()?;
//! let Item::Machine(machine) = &entries[0].item else { panic!() };
//! assert_eq!(machine.uri, "ssh-ng://me@mac");
//! assert_eq!((machine.max_jobs, machine.speed_factor), (4, 2.0));
//! assert_eq!(entries[1].item, Item::Include("/etc/nix/machines"));
//! # Ok::<(), nix_compat::machines::MachinesError>(())
//! ```

use std::collections::BTreeSet;
use std::iter::FusedIterator;

use data_encoding::BASE64;
use thiserror::Error;

/// A machine that builds.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The URI of its store. A name without a scheme stands for `ssh://NAME`, which is put here, as in
    /// all versions of Nix up to 2.36.
    pub uri: String,
    /// The systems that it builds for; `None` for that of the caller's machine.
    pub systems: Option<BTreeSet<String>>,
    /// The file of the private key for SSH.
    pub ssh_key: Option<String>,
    /// The maximum number of concurrent builds [default: 1]. With 0 it builds nothing.
    pub max_jobs: u32,
    /// How fast it is, compared with others [default: 1]. Finite and positive.
    pub speed_factor: f32,
    /// The features that derivations may require of it.
    pub features: BTreeSet<String>,
    /// Further features. It builds only derivations that require all of these.
    pub mandatory_features: BTreeSet<String>,
    /// The public host key for SSH: the line of `ssh_host_*_key.pub` in base 64.
    pub host_key: Option<String>,
}

impl Machine {
    /// A machine with the defaults of all columns but the first.
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            uri: complete(&uri.into()),
            systems: None,
            ssh_key: None,
            max_jobs: 1,
            speed_factor: 1.0,
            features: BTreeSet::new(),
            mandatory_features: BTreeSet::new(),
            host_key: None,
        }
    }
}

/// A part of a text, between line ends and semicolons.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The number of the line, from 1.
    pub line: usize,
    /// The number of bytes before it in the line, plus 1.
    pub column: usize,
    /// The kind.
    pub item: Item<'a>,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Item<'a> {
    /// A machine.
    Machine(Machine),
    /// `@FILE`: the machines of a file.
    Include(&'a str),
}

/// An entry that is not a machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: {field} '{text}' of machine '{machine}' is not {expected}")]
#[non_exhaustive]
pub struct MachinesError {
    /// The number of the line, from 1.
    pub line: usize,
    /// The number of bytes before the word in the line, plus 1.
    pub column: usize,
    /// The name of the field.
    pub field: &'static str,
    /// The word.
    pub text: String,
    /// The first word of the entry, which names the machine.
    pub machine: String,
    /// The values that are valid.
    pub expected: &'static str,
}

/// Reads the machines of a text, entry by entry. A `#` begins a comment up to the end of the line;
/// entries are separated by line ends and semicolons, and columns by whitespace. Columns at the end may be
/// left out, and `-` stands for the default.
pub fn parse(text: &str) -> impl FusedIterator<Item = Result<Entry<'_>, MachinesError>> + use<'_> {
    let lines = text.split('\n').enumerate();
    let entries = lines.flat_map(|(index, line)| {
        let code = line.split('#').next().unwrap_or_default();
        let mut at = 0;
        code.split(';').filter_map(move |entry| {
            let start = at;
            at += entry.len() + 1;
            parse_entry(entry, index + 1, start)
        })
    });
    entries.fuse()
}

/// Reads an entry that begins at a byte of a line.
fn parse_entry(text: &str, line: usize, start: usize) -> Option<Result<Entry<'_>, MachinesError>> {
    let trimmed = text.trim_matches(is_space);
    let first = trimmed.chars().next()?;
    let offset = |word: &str| start + (word.as_ptr() as usize - text.as_ptr() as usize) + 1;
    let column = offset(trimmed);
    let item = match first {
        '@' => Ok(Item::Include(trimmed[1..].trim_matches(is_space))),
        _ => parse_machine(trimmed)
            .map(Item::Machine)
            .map_err(|bad| MachinesError {
                line,
                column: offset(bad.word),
                field: bad.field,
                text: bad.word.to_owned(),
                machine: words(trimmed).next().unwrap_or_default().to_owned(),
                expected: bad.expected,
            }),
    };
    Some(item.map(|item| Entry { line, column, item }))
}

/// The characters that Nix separates words by.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

struct Bad<'a> {
    word: &'a str,
    field: &'static str,
    expected: &'static str,
}

fn parse_machine(text: &str) -> Result<Machine, Bad<'_>> {
    let mut columns = words(text);
    let uri = columns.next().unwrap_or(text);
    let mut next = || columns.next().filter(|word| *word != "-");
    let bad = |field, expected| {
        move |word| Bad {
            word,
            field,
            expected,
        }
    };
    if uri == "-" {
        return Err(bad("the store", "the URI of a store")(uri));
    }
    let mut machine = Machine::new(uri);
    machine.systems = next().map(list);
    machine.ssh_key = next().map(str::to_owned);
    if let Some(word) = next() {
        let number = word.parse().map_err(|_| word);
        machine.max_jobs = number.map_err(bad("the number of jobs", "a number, 0 or more"))?;
    }
    if let Some(word) = next() {
        let speed = word.parse().ok();
        let speed = speed.filter(|speed: &f32| speed.is_finite() && *speed >= 0.0);
        let speed = speed.ok_or(word);
        let speed = speed.map_err(bad("the speed factor", "a number, 0 or more"))?;
        // As in Nix, 0 is the same as leaving it out.
        machine.speed_factor = if speed == 0.0 { 1.0 } else { speed };
    }
    machine.features = next().map(list).unwrap_or_default();
    machine.mandatory_features = next().map(list).unwrap_or_default();
    if let Some(word) = next() {
        let decoded = BASE64.decode(word.as_bytes()).map_err(|_| word);
        decoded.map_err(bad("the host key", "base 64"))?;
        machine.host_key = Some(word.to_owned());
    }
    Ok(machine)
}

fn list(word: &str) -> BTreeSet<String> {
    let words = word.split(',').filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// The URI of a store, from one that may be the name of a host.
fn complete(uri: &str) -> String {
    let special = ["auto", "daemon", "local"];
    let is_special = special.iter().any(|word| {
        let rest = uri.strip_prefix(word);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('?'))
    });
    match is_special || uri.contains('/') || uri.starts_with('?') {
        true => uri.to_owned(),
        false => format!("ssh://{uri}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn machines(text: &str) -> Vec<Machine> {
        let entries = parse(text).map(Result::unwrap);
        let machines = entries.filter_map(|entry| match entry.item {
            Item::Machine(machine) => Some(machine),
            Item::Include(_) => None,
        });
        machines.collect()
    }

    #[test]
    fn all_columns() {
        let text =
            "ssh://me@host a,b /key 4 2.5 kvm,big-parallel benchmark c3NoLWVkMjU1MTkgQUFBQQ== more";
        let machine = machines(text).remove(0);
        let words = |words: &[&str]| {
            words
                .iter()
                .map(ToString::to_string)
                .collect::<BTreeSet<_>>()
        };
        let expected = Machine {
            systems: Some(words(&["a", "b"])),
            ssh_key: Some("/key".into()),
            max_jobs: 4,
            speed_factor: 2.5,
            features: words(&["big-parallel", "kvm"]),
            mandatory_features: words(&["benchmark"]),
            host_key: Some("c3NoLWVkMjU1MTkgQUFBQQ==".into()),
            ..Machine::new("ssh://me@host")
        };
        assert_eq!(machine, expected);
        let defaults = Machine::new("ssh-ng://host");
        for text in [
            "ssh-ng://host",
            "ssh-ng://host - - - - - - -",
            "\t ssh-ng://host\t- \r\n",
        ] {
            assert_eq!(machines(text)[..], [defaults.clone()][..], "{text}");
        }
    }

    #[test]
    fn names_without_a_scheme() {
        for (name, uri) in [
            ("host", "ssh://host"),
            ("me@host", "ssh://me@host"),
            ("localhost", "ssh://localhost"),
            ("autoserver", "ssh://autoserver"),
            ("daemon", "daemon"),
            ("auto?root=x", "auto?root=x"),
            ("/some/root", "/some/root"),
            ("ssh-ng://host", "ssh-ng://host"),
        ] {
            assert_eq!(machines(name)[0].uri, uri);
        }
    }

    #[test]
    fn entries_and_comments() {
        let text = "# a ; b\n a;b # c ; d\n\n;;  @ /file \n@/other;c";
        let entries: Vec<_> = parse(text).map(Result::unwrap).collect();
        let place = |entry: &Entry<'_>| (entry.line, entry.column);
        let places: Vec<_> = entries.iter().map(place).collect();
        assert_eq!(places, [(2, 2), (2, 4), (4, 5), (5, 1), (5, 9)]);
        assert_eq!(entries[2].item, Item::Include("/file"));
        assert_eq!(machines(text).len(), 3);
    }

    #[test]
    fn errors_name_the_place() {
        for (text, message) in [
            (
                "a\nb - - x",
                "line 2, column 7: the number of jobs 'x' of machine 'b' is not a number, 0 or more",
            ),
            (
                "a; b - - -1",
                "line 1, column 10: the number of jobs '-1' of machine 'b' is not a number, 0 or more",
            ),
            (
                "b - - 1 -2.0",
                "line 1, column 9: the speed factor '-2.0' of machine 'b' is not a number, 0 or more",
            ),
            (
                "b - - 1 nan",
                "line 1, column 9: the speed factor 'nan' of machine 'b' is not a number, 0 or more",
            ),
            (
                "b - - 1 1 - - ?",
                "line 1, column 15: the host key '?' of machine 'b' is not base 64",
            ),
            (
                "- x",
                "line 1, column 1: the store '-' of machine '-' is not the URI of a store",
            ),
        ] {
            let errors: Vec<_> = parse(text).filter_map(Result::err).collect();
            assert_eq!(errors.len(), 1, "{text}");
            assert_eq!(errors[0].to_string(), message);
        }
    }
}
