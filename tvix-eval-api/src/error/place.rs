//! Where an error belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EvalCost, RootOrder};

/// Where an error belongs: in the request, and in the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ErrorPlace {
    /// The place of the root that failed among all roots; unknown if the error ended more than one.
    pub order: RootOrder,
    /// The position in a source file.
    pub position: Option<Position>,
    /// The cost of the evaluation that failed, if the evaluator knows it.
    pub cost: Option<EvalCost>,
}

impl ErrorPlace {
    /// The place of a root, without a position in a source file.
    pub fn of_root(order: RootOrder) -> Self {
        Self {
            order,
            position: None,
            cost: None,
        }
    }

    /// The same root, at a position in a source file.
    #[must_use]
    pub fn with_position(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }
}

/// A position in a source file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Position {
    /// The file, or the name of another source, such as `«string»`.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// The column in bytes, counted from 1.
    pub column: u32,
}

impl Position {
    /// A position.
    pub fn new(file: impl Into<String>, line: u32, column: u32) -> Self {
        let file = file.into();
        Self { file, line, column }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}
