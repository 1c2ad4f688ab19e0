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

impl AttrPath {
    /// Splits an attribute path at its dots, except for those between double quotes.
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let mut names = Vec::new();
        let mut name = String::new();
        let mut quoted = false;
        for letter in text.chars() {
            match letter {
                '"' => quoted = !quoted,
                '.' if !quoted => names.push(std::mem::take(&mut name)),
                letter => name.push(letter),
            }
        }
        if !name.is_empty() {
            names.push(name);
        }
        Self { text, names }
    }
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
