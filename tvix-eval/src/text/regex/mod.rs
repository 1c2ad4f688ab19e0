//! Regular expressions in the `extended` dialect of libstdc++, on bytes.
//!
//! # Matching
//! Matching follows the depth-first executor of libstdc++, which is neither POSIX nor Perl. Of two
//! alternatives, the longer match is kept. A repetition keeps its greediest match, even if a
//! shorter iteration would lead to a longer match overall. Groups keep captures of earlier
//! iterations.

mod bracket;
mod program;
mod run;
mod syntax;

use std::cell::Cell;
use std::ops::Range;

use program::Program;
use run::{Flags, Run, Scratch};

/// Default limit of the steps of a match.
const STEP_LIMIT: u64 = 20_000_000;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegexError {
    /// Not a valid regular expression.
    #[error("invalid regular expression: {0}")]
    Invalid(&'static str),
    /// It needs more states than libstdc++ allows.
    #[error("the regular expression needs too many states")]
    TooLarge,
    /// A match exceeds the limit of steps or memory.
    #[error("matching the regular expression takes too many steps")]
    Complexity,
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Regex {
    program: Program,
    limit: u64,
    room: Cell<usize>,
}

/// The captures of a match's groups, from the first on. A group without a capture has `None`.
pub type Groups = Vec<Option<Range<usize>>>;

/// A match in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// Range of the match.
    pub range: Range<usize>,
    /// Captures of its groups.
    pub groups: Groups,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCH.set(Some(scratch));
    result
}

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`RegexError::Invalid`] and [`RegexError::TooLarge`].
    pub fn new(pattern: &[u8]) -> Result<Self, RegexError> {
        Ok(Self {
            program: Program::new(syntax::parse(pattern)?),
            limit: STEP_LIMIT,
            room: Cell::new(usize::MAX),
        })
    }

    /// Sets the memory in bytes that a match may take, if that is less than matches take at most.
    pub fn set_room(&self, bytes: usize) {
        self.room.set(bytes);
    }

    /// Whether matches may take less memory than usual.
    pub fn is_cramped(&self) -> bool {
        run::is_cramped(self.room.get())
    }

    /// Sets the limit of the steps of a match.
    #[must_use]
    pub fn with_step_limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Number of groups of the pattern.
    pub fn groups(&self) -> usize {
        self.program.groups as usize
    }

    /// Matches the complete text, as `builtins.match` does.
    ///
    /// # Errors
    /// [`RegexError::Complexity`].
    pub fn match_whole(&self, text: &[u8]) -> Result<Option<Groups>, RegexError> {
        let flags = Flags {
            whole: true,
            ..Flags::default()
        };
        let found = self.search(text, 0, flags)?;
        Ok(found.map(|found| found.groups))
    }

    /// All matches in a text, as in `builtins.split`.
    pub fn find_iter<'r, 't>(&'r self, text: &'t [u8]) -> Matches<'r, 't> {
        Matches {
            regex: self,
            text,
            last: None,
            continued: false,
            done: false,
        }
    }

    fn search(&self, text: &[u8], begin: usize, flags: Flags) -> Result<Option<Match>, RegexError> {
        let run = Run {
            program: &self.program,
            text,
            flags,
            limit: self.limit,
            room: self.room.get(),
        };
        with_scratch(|scratch| {
            let found = run.search(begin, scratch)?;
            Ok(found.map(|(start, end)| Match {
                range: start..end,
                groups: scratch
                    .groups()
                    .iter()
                    .map(|c| (c.end != syntax::NONE).then_some(c.start as usize..c.end as usize))
                    .collect(),
            }))
        })
    }
}

/// The matches in a text, in order. An error ends the iteration.
#[derive(Debug)]
pub struct Matches<'r, 't> {
    regex: &'r Regex,
    text: &'t [u8],
    last: Option<Range<usize>>,
    continued: bool,
    done: bool,
}

impl Matches<'_, '_> {
    fn advance(&mut self) -> Result<Option<Match>, RegexError> {
        let mut flags = Flags {
            continued: self.continued,
            ..Flags::default()
        };
        let Some(last) = self.last.clone() else {
            return self.regex.search(self.text, 0, flags);
        };
        let mut begin = last.end;
        if last.is_empty() {
            if begin == self.text.len() {
                return Ok(None);
            }
            // After an empty match, a non-empty match at the same position is tried first.
            let again = Flags {
                not_empty: true,
                here: true,
                ..flags
            };
            if let Some(found) = self.regex.search(self.text, begin, again)? {
                return Ok(Some(found));
            }
            begin += 1;
        }
        self.continued = true;
        flags.continued = true;
        self.regex.search(self.text, begin, flags)
    }
}

impl Iterator for Matches<'_, '_> {
    type Item = Result<Match, RegexError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let found = self.advance();
        match &found {
            Ok(Some(found)) => self.last = Some(found.range.clone()),
            _ => self.done = true,
        }
        found.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pattern: &str, text: &str) -> Option<Vec<Option<String>>> {
        let groups = Regex::new(pattern.as_bytes())
            .unwrap()
            .match_whole(text.as_bytes())
            .unwrap()?;
        let held = groups.into_iter().map(|g| g.map(|g| text[g].to_owned()));
        Some(held.collect())
    }

    fn some(groups: &[&str]) -> Option<Vec<Option<String>>> {
        Some(groups.iter().map(|g| Some((*g).to_owned())).collect())
    }

    fn ranges(pattern: &str, text: &str) -> Vec<Range<usize>> {
        let regex = Regex::new(pattern.as_bytes()).unwrap();
        let found = regex.find_iter(text.as_bytes());
        found.map(|found| found.unwrap().range).collect()
    }

    #[test]
    fn the_first_way_found_fills_the_groups() {
        assert_eq!(whole("(a|ab)(c|bcd)(d*)", "abcd"), some(&["a", "bcd", ""]));
        assert_eq!(whole("(a*)*", "b"), None);
        assert_eq!(whole("(a*)*", "aa"), some(&[""]));
        assert_eq!(whole("((a)|b)*", "ab"), some(&["b", "a"]));
        assert_eq!(whole("(a)|b", "b"), Some(vec![None]));
    }

    #[test]
    fn an_alternative_is_longest_and_a_repetition_is_greedy() {
        assert_eq!(ranges("a|ab", "ab-ab"), [0..2, 3..5]);
        assert_eq!(ranges("a?(ab)?", "ab"), [0..1, 1..1, 2..2]);
        assert_eq!(ranges("^a|b*", "aab"), [0..1, 1..1, 2..3, 3..3]);
    }

    #[test]
    fn patterns_as_packages_use_them() {
        assert_eq!(whole("([^/]*)\\.nix", "default.nix"), some(&["default"]));
        assert_eq!(
            whole("[[:space:]]*(.*[^[:space:]])[[:space:]]*", "  a b \n"),
            some(&["a b"])
        );
        assert_eq!(
            whole("^([0-9]+)\\.([0-9]+).*", "24.11pre"),
            some(&["24", "11"])
        );
        assert_eq!(whole(".*", "a\nb"), some(&[]));
    }

    #[test]
    fn invalid_patterns_are_rejected() {
        for pattern in [
            "\\d",
            "\\]",
            "\\",
            "{",
            "a{",
            "a{,2}",
            "a{2,1}",
            "a{2",
            "a{99999999999}",
            "(",
            ")",
            "[",
            "[a",
            "[]",
            "*",
            "a|*",
            "^*",
            "[a-Z]",
            "[[:nothing:]]",
            "[[.0.]]",
            "[[:alpha:]-a]",
            "[a-c-e]",
            "[[:alpha]",
            "[[.a",
            "(a)\\1",
            "\\\t",
        ] {
            let read = Regex::new(pattern.as_bytes());
            assert!(matches!(read, Err(RegexError::Invalid(_))), "{pattern}");
        }
        for pattern in [
            "]", "}", "[]]", "[^]]", "[a-]", "[-a]", "[--0]", "[[.a.]]", "()", "|", "a**", "a+?",
            "[[=a=]]",
        ] {
            assert!(Regex::new(pattern.as_bytes()).is_ok(), "{pattern}");
        }
    }

    #[test]
    fn large_patterns_are_refused() {
        for pattern in [
            "a{100000}".into(),
            "((a{1000}){1000}){1000}".into(),
            "(".repeat(100_000),
        ] {
            let read = Regex::new(pattern.as_bytes());
            assert_eq!(read.err(), Some(RegexError::TooLarge));
        }
        // Deep nesting uses no machine stack.
        let deep = format!("{}{}", "(".repeat(24_000), ")".repeat(24_000));
        let regex = Regex::new(deep.as_bytes()).unwrap();
        assert_eq!(regex.match_whole(b"").unwrap().unwrap().len(), 24_000);
    }

    #[test]
    fn patterns_that_would_take_for_ever_do_not() {
        let text = "a".repeat(10_000);
        assert_eq!(whole("(a|aa)*b", &text), None);
        assert_eq!(whole("((a*)*)*b", &text[..200]), None);
        assert_eq!(
            ranges("(x+x+)+y", &"x".repeat(300)),
            Vec::<Range<usize>>::new()
        );
        let regex = Regex::new(b"(a|aa)*b").unwrap().with_step_limit(1000);
        let found = regex.match_whole(text.as_bytes());
        assert_eq!(found, Err(RegexError::Complexity));
        let long = "ab".repeat(500_000);
        assert_eq!(whole("(a|b)*", &long), some(&["b"]));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(bytes: Vec<u8>, pattern in "[ab.*+?|()^$\\[\\]{},0-3:=\\\\-]{0,24}", text in "[ab]{0,12}") {
            for pattern in [&bytes[..], pattern.as_bytes()] {
                if let Ok(regex) = Regex::new(pattern) {
                    let regex = regex.with_step_limit(100_000);
                    let _ = regex.match_whole(text.as_bytes());
                    regex.find_iter(text.as_bytes()).for_each(drop);
                    regex.find_iter(&bytes).for_each(drop);
                }
            }
        }
    }
}
