//! The memory that the tree of a document takes.

use super::TomlErrorKind;

/// Memory of a table with up to five keys, in bytes.
pub(super) const TABLE_BYTES: usize = 768;

/// Memory of a value, in bytes.
pub(super) const VALUE_BYTES: usize = 64;

/// Memory that is left for a tree, in bytes.
pub(super) struct Room(usize);

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    pub(super) fn left(&self) -> usize {
        self.0
    }

    /// Counts memory of the tree.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), TomlErrorKind> {
        self.0 = self.0.checked_sub(bytes).ok_or(TomlErrorKind::Memory)?;
        Ok(())
    }
}
