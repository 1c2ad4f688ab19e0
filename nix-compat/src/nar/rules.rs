//! Rules shared by readers and writers: names, targets, order, depth, padding.

use bstr::BString;

use super::error::Violation;
use super::limits::{MAX_DEPTH, MAX_FILE_SIZE, MAX_NAME_LEN, MAX_TARGET_LEN};

/// Maximum length of a keyword that is read at all. The longest keyword of the format has 13 bytes.
pub(super) const MAX_TAG_LEN: usize = 32;

/// Number of zero bytes after a string of `len` bytes.
pub(super) fn padding(len: u64) -> usize {
    (len.wrapping_neg() % 8) as usize
}

/// Checks a directory entry's name: not empty, not `.` or `..`, no `/`, no NUL, at most
/// [`MAX_NAME_LEN`] bytes.
pub(super) fn check_name(name: &[u8]) -> Result<(), Violation> {
    if name.len() > MAX_NAME_LEN {
        return Err(Violation::TooLong {
            kind: "name",
            len: name.len() as u64,
            limit: MAX_NAME_LEN,
        });
    }
    let bad = name.is_empty()
        || name == b"."
        || name == b".."
        || memchr::memchr2(b'/', 0, name).is_some();
    if bad {
        return Err(Violation::BadName(name.into()));
    }
    Ok(())
}

/// Checks a symlink's target: not empty, no NUL, at most [`MAX_TARGET_LEN`] bytes.
pub(super) fn check_target(target: &[u8]) -> Result<(), Violation> {
    if target.len() > MAX_TARGET_LEN {
        return Err(Violation::TooLong {
            kind: "symlink target",
            len: target.len() as u64,
            limit: MAX_TARGET_LEN,
        });
    }
    if target.is_empty() || memchr::memchr(0, target).is_some() {
        return Err(Violation::BadTarget(target.into()));
    }
    Ok(())
}

/// Checks a file's size: at most [`MAX_FILE_SIZE`].
pub(super) fn check_size(size: u64) -> Result<(), Violation> {
    if size > MAX_FILE_SIZE {
        return Err(Violation::FileTooLarge(size));
    }
    Ok(())
}

/// The position of a reader or writer in the tree: for each open directory, the name of its latest
/// entry.
///
/// The names are stored one after the other in a single buffer, so entries need no allocation of
/// their own.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    names: Vec<u8>,
    /// For each open directory, the index in `names` of its latest name.
    starts: Vec<usize>,
    /// Whether the latest entry of the innermost directory is open.
    in_entry: bool,
}

impl Trail {
    /// Number of open directories.
    pub(super) fn depth(&self) -> usize {
        self.starts.len()
    }

    /// The name of the latest entry of the innermost directory; empty if it has no entry yet.
    pub(super) fn name(&self) -> &[u8] {
        self.starts
            .last()
            .map_or(&[], |&start| &self.names[start..])
    }

    pub(super) fn open_directory(&mut self) -> Result<(), Violation> {
        if self.depth() == MAX_DEPTH {
            return Err(Violation::TooDeep);
        }
        self.starts.push(self.names.len());
        self.in_entry = false;
        Ok(())
    }

    /// Closes the innermost directory, and reopens the entry that holds it.
    pub(super) fn close_directory(&mut self) {
        if let Some(start) = self.starts.pop() {
            self.names.truncate(start);
        }
        self.in_entry = self.depth() > 0;
    }

    /// Opens the next entry of the innermost directory. Its name must be valid and greater than the
    /// previous name.
    pub(super) fn open_entry(&mut self, name: &[u8]) -> Result<(), Violation> {
        check_name(name)?;
        let previous = self.name();
        // Names are never empty, so an empty name stands for "no entry yet".
        if !previous.is_empty() {
            match name.cmp(previous) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => return Err(Violation::DuplicateName(name.into())),
                std::cmp::Ordering::Less => {
                    return Err(Violation::Unordered {
                        name: name.into(),
                        previous: previous.into(),
                    });
                }
            }
        }
        if let Some(&start) = self.starts.last() {
            self.names.truncate(start);
        }
        self.names.extend_from_slice(name);
        self.in_entry = true;
        Ok(())
    }

    pub(super) fn close_entry(&mut self) {
        self.in_entry = false;
    }

    /// Path of the open node, relative to the root and `/`-separated; empty for the root itself.
    pub(super) fn path(&self) -> BString {
        let open = if self.in_entry {
            self.depth()
        } else {
            self.depth().saturating_sub(1)
        };
        let mut path = Vec::with_capacity(self.names.len() + open);
        for level in 0..open {
            let end = self.starts.get(level + 1).copied();
            if level > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(
                &self.names[self.starts[level]..end.unwrap_or(self.names.len())],
            );
        }
        path.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_to_eight() {
        let got: Vec<_> = (0..10).map(padding).collect();
        assert_eq!(got, [0, 7, 6, 5, 4, 3, 2, 1, 0, 7]);
        assert_eq!(padding(u64::MAX), 1);
        assert_eq!(padding(u64::MAX - 8), 1);
    }

    #[test]
    fn trail_knows_its_path_and_order() {
        let mut trail = Trail::default();
        assert_eq!(trail.path(), "");
        trail.open_directory().unwrap();
        assert_eq!(trail.path(), "");
        trail.open_entry(b"b").unwrap();
        trail.open_directory().unwrap();
        trail.open_entry(b"x").unwrap();
        assert_eq!(trail.path(), "b/x");
        trail.close_entry();
        assert_eq!(trail.path(), "b");
        trail.close_directory();
        assert_eq!(trail.path(), "b");
        trail.close_entry();
        assert_eq!(trail.path(), "");
        assert!(matches!(
            trail.open_entry(b"b"),
            Err(Violation::DuplicateName(_))
        ));
        assert!(matches!(
            trail.open_entry(b"a"),
            Err(Violation::Unordered { .. })
        ));
        trail.open_entry(b"b.").unwrap();
        trail.close_entry();
        trail.close_directory();
        assert_eq!(trail.depth(), 0);
        assert!(!trail.in_entry);
    }

    #[test]
    fn names_that_are_not_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", b"\0"] {
            assert!(
                matches!(check_name(bad), Err(Violation::BadName(_))),
                "{bad:?}"
            );
        }
        for good in [&b"..."[..], b".a", b"a.", b" ", b"\xff\xfe", &[b'x'; 255]] {
            check_name(good).unwrap();
        }
        assert!(matches!(
            check_name(&[b'x'; 256]),
            Err(Violation::TooLong { .. })
        ));
    }

    #[test]
    fn targets_that_are_not_targets() {
        assert!(matches!(check_target(b""), Err(Violation::BadTarget(_))));
        assert!(matches!(
            check_target(b"a\0b"),
            Err(Violation::BadTarget(_))
        ));
        assert!(matches!(
            check_target(&[b'x'; 4096]),
            Err(Violation::TooLong { .. })
        ));
        check_target(&[b'x'; 4095]).unwrap();
        check_target(b"../../..").unwrap();
    }
}
