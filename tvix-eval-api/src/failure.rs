//! Errors of an evaluation as plain values, for events and reports.

use std::error::Error;
use std::fmt;

use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, EvalErrorKind, Position};
use crate::{RealiseError, RootOrder};

/// An [`EvalError`] as a value that can be compared, kept and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EvalFailure {
    /// The kind of error.
    pub kind: EvalErrorKind,
    /// The attribute path that failed. Missing if the error ended the whole evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attr_path: Option<AttrPath>,
    /// The place of the root that failed among all roots.
    #[serde(default, skip_serializing_if = "RootOrder::is_unknown")]
    pub order: RootOrder,
    /// The position in a source file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The derivation that could not be built, for errors of kind `build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub drv_path: Option<StorePath>,
    /// The whole error as text, with traces and causes.
    pub message: String,
    /// The texts of the error and of its causes, outermost first.
    pub causes: Vec<String>,
}

/// An attribute path, as text and in parts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct AttrPath {
    /// The path as the user wrote it, or the name of a `.drv` file.
    pub text: String,
    /// The names of attributes and the numbers of list elements on the way.
    pub names: Vec<String>,
}

/// A name in an attribute path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AttrPathName {
    /// The name without quotes.
    pub text: String,
    /// Whether a part of it is in double quotes. It is the name of an attribute then, also if it is
    /// empty or a number.
    pub is_quoted: bool,
}

impl AttrPathName {
    /// The index in a list that it stands for.
    pub fn index(&self) -> Option<u32> {
        match self.is_quoted {
            true => None,
            false => self.text.parse().ok(),
        }
    }
}

impl AttrPath {
    /// Splits an attribute path at its dots, except for those between double quotes.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let (names, _) = split(&text);
        let names = names.into_iter().map(|name| name.text).collect();
        Self { text, names }
    }

    /// The names of an attribute path; `None` if a double quote is not closed.
    ///
    /// Names are separated by dots outside of double quotes. Between them, `\"` and `\\` stand for
    /// a double quote and a backslash. An empty last name without quotes is ignored, as in C++ Nix.
    pub fn parse(text: &str) -> Option<Vec<AttrPathName>> {
        let (names, is_closed) = split(text);
        is_closed.then_some(names)
    }

    /// Appends the name of an attribute to the text of an attribute path, in double quotes if it
    /// would be read as something else.
    pub fn push_attribute(path: &mut String, name: &str) {
        separate(path);
        let is_plain =
            !name.is_empty() && !name.contains(['.', '"']) && name.parse::<u32>().is_err();
        if is_plain {
            return path.push_str(name);
        }
        path.push('"');
        for letter in name.chars() {
            if matches!(letter, '"' | '\\') {
                path.push('\\');
            }
            path.push(letter);
        }
        path.push('"');
    }

    /// Appends the number of a list element to the text of an attribute path.
    pub fn push_element(path: &mut String, number: usize) {
        separate(path);
        path.push_str(&number.to_string());
    }
}

fn separate(path: &mut String) {
    if !path.is_empty() {
        path.push('.');
    }
}

/// The names of an attribute path, and whether all double quotes are closed.
fn split(text: &str) -> (Vec<AttrPathName>, bool) {
    let mut names = Vec::new();
    let mut name = AttrPathName::default();
    let mut quoted = false;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                name.is_quoted = true;
            }
            '.' if !quoted => names.push(std::mem::take(&mut name)),
            '\\' if quoted => {
                let escaped = letters.next_if(|next| matches!(next, '"' | '\\'));
                name.text.push(escaped.unwrap_or(letter));
            }
            letter => name.text.push(letter),
        }
    }
    if name != AttrPathName::default() {
        names.push(name);
    }
    (names, !quoted)
}

impl EvalError {
    /// The error as a plain value.
    pub fn failure(&self) -> EvalFailure {
        let place = self.place();
        let (mut causes, mut error): (_, Option<&dyn Error>) = (Vec::new(), Some(self));
        while let Some(cause) = error {
            causes.push(cause.to_string());
            error = cause.source();
        }
        let inner = self.cause();
        let drv_path = match inner {
            Self::Import { source, .. } => match &**source {
                RealiseError::Failed { drv_path, .. } => Some(drv_path.clone()),
                _ => None,
            },
            _ => None,
        };
        let position = place.and_then(|place| place.position.clone());
        let inner_position = || inner.place().and_then(|place| place.position.clone());
        EvalFailure {
            kind: self.kind(),
            attr_path: self.attr_path().map(AttrPath::new),
            order: place.map(|place| place.order.clone()).unwrap_or_default(),
            position: position.or_else(inner_position),
            drv_path,
            message: joined(&causes),
            causes,
        }
    }
}

/// An error and its causes in one text. A cause that the text already contains is left out.
fn joined(causes: &[String]) -> String {
    let mut text = String::new();
    for cause in causes {
        if text.is_empty() {
            text.push_str(cause);
        } else if !text.contains(cause) {
            // A trace begins with a line of its own.
            text.push_str(if cause.starts_with('\n') { ":" } else { ": " });
            text.push_str(cause);
        }
    }
    text
}

impl fmt::Display for EvalFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for AttrPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn attribute_paths_are_split_at_dots_outside_of_quotes() {
        for (text, names) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a.0.b", &["a", "0", "b"]),
            ("a.\"b.c\".d", &["a", "b.c", "d"]),
            ("a..b", &["a", "", "b"]),
        ] {
            assert_eq!(AttrPath::new(text).names, names, "{text}");
        }
    }

    #[test]
    fn written_attribute_paths_are_read_back() {
        let parts = [
            "a",
            "",
            "0",
            "4294967295",
            "+7",
            "a.b",
            "\"",
            "\\",
            "a\\\"",
            "x y",
            "é.",
            "\\.",
        ];
        let paths = parts
            .iter()
            .flat_map(|one| parts.iter().map(move |two| [*one, *two]));
        for names in paths {
            let mut text = String::new();
            for name in names {
                AttrPath::push_attribute(&mut text, name);
            }
            let read = AttrPath::parse(&text).unwrap();
            assert!(read.iter().all(|name| name.index().is_none()), "{text}");
            let read: Vec<_> = read.iter().map(|name| name.text.as_str()).collect();
            assert_eq!(read, names, "{text}");
            assert_eq!(AttrPath::new(text).names, names);
        }
        let mut text = "a".to_owned();
        AttrPath::push_element(&mut text, 3);
        assert_eq!(AttrPath::parse(&text).unwrap()[1].index(), Some(3));
    }

    #[test]
    fn attribute_paths_are_parsed() {
        for (path, wanted) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a.\"b.c\".d", &["a", "b.c", "d"]),
            ("a.\"\"", &["a", ""]),
            ("\"\"", &[""]),
            ("\"\".a", &["", "a"]),
            ("a.", &["a"]),
            ("a.c\".\"d", &["a", "c.d"]),
            ("a..b", &["a", "", "b"]),
            ("a\\", &["a\\"]),
            ("\"a\\b\"", &["a\\b"]),
        ] {
            let names = AttrPath::parse(path).unwrap();
            let names: Vec<_> = names.iter().map(|name| name.text.as_str()).collect();
            assert_eq!(names, wanted, "{path}");
        }
        assert_eq!(AttrPath::parse("a.\"b"), None);
    }

    #[test]
    fn failures_have_the_kind_and_the_chain() {
        let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
        let read = EvalError::Read {
            path: "/there".into(),
            source: missing,
        };
        let error = EvalError::in_attribute("a.b", Arc::new(read)).with_order(RootOrder::of(3));
        let failure = error.failure();
        assert_eq!(failure.kind, EvalErrorKind::Io);
        assert_eq!(failure.attr_path, Some(AttrPath::new("a.b")));
        assert_eq!(failure.order, RootOrder::of(3));
        assert_eq!(
            failure.causes,
            [
                "cannot evaluate 'a.b'",
                "cannot read '/there'",
                "no such file"
            ]
        );
        assert_eq!(
            failure.message,
            "cannot evaluate 'a.b': cannot read '/there': no such file"
        );
        let json = serde_json::to_value(&failure).unwrap();
        assert_eq!(json["kind"], "io");
        assert_eq!(json["attrPath"]["names"][1], "b");
        assert_eq!(
            serde_json::from_value::<EvalFailure>(json).unwrap(),
            failure
        );
    }

    #[test]
    fn errors_of_a_part_are_those_of_the_whole() {
        let error = EvalError::attribute_not_found("x").with_order(RootOrder::of(1));
        let failure = error.with_offset(2).failure();
        assert_eq!(failure.kind, EvalErrorKind::AttributeNotFound);
        assert_eq!(failure.order, RootOrder::of(3));
        assert_eq!(failure.attr_path, Some(AttrPath::new("x")));
    }
}
