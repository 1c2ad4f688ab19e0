//! Errors of the database.

use crate::BoxError;

/// An error of reading or writing the database.
#[derive(Debug, thiserror::Error)]
pub(super) enum DbError {
    /// SQLite failed.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The database is damaged: SQLite reports it, or a row refers to a row that does not exist.
    #[error("the database is damaged: {0}")]
    Contradiction(String),
    /// The database belongs to another program.
    #[error("it is not the database of a store: the table '{0}' is missing or computed")]
    NotNix(&'static str),
    /// A column has another type than its declared one.
    #[error("the row of '{path}' cannot be read")]
    UnreadableRow {
        path: String,
        source: rusqlite::Error,
    },
    /// A column has an invalid value.
    #[error("the row of '{path}' holds an invalid {column}: '{value}'")]
    InvalidRow {
        path: String,
        column: &'static str,
        value: String,
        source: BoxError,
    },
}
