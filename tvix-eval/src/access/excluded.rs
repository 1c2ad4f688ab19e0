//! Excluded files of sources. Reads of a source use its original location, and so must hide the
//! files that a filter excluded.

use crate::interp::Interp;

impl Interp<'_> {
    /// Records that files of the tree `root` are not part of the store object `object`.
    pub(super) fn exclude(&self, object: &[u8], root: &[u8], excluded: &[Vec<u8>]) {
        if excluded.is_empty() {
            return;
        }
        let below = |path: &Vec<u8>| [object, path.strip_prefix(root).unwrap_or(path)].concat();
        let excluded = excluded.iter().map(below).collect();
        let mut known = self.world.excluded.borrow_mut();
        known.insert(object.to_vec(), excluded);
    }

    /// Whether a path in the store, or a directory above it, was excluded from its store object.
    pub(super) fn is_excluded(&self, path: &[u8]) -> bool {
        let known = self.world.excluded.borrow();
        if known.is_empty() {
            return false;
        }
        let Some(object) = self.object_of(path) else {
            return false;
        };
        let Some(excluded) = known.get(object) else {
            return false;
        };
        // The filter is not called for files below an excluded directory.
        let ends = memchr::memchr_iter(b'/', path).chain([path.len()]);
        ends.filter(|end| *end > object.len())
            .any(|end| excluded.contains(&path[..end]))
    }

    /// Whether files were excluded from the store object that contains a path.
    pub(super) fn has_excluded_files(&self, path: &[u8]) -> bool {
        let known = self.world.excluded.borrow();
        let object = self.object_of(path);
        !known.is_empty() && object.is_some_and(|object| known.contains_key(object))
    }

    /// The path of the store object that a path is equal to or below.
    pub(super) fn object_of<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let dir = self.world.settings.store_dir.as_str().as_bytes();
        let below = path.strip_prefix(dir)?.strip_prefix(b"/")?;
        let end = memchr::memchr(b'/', below).unwrap_or(below.len());
        Some(&path[..dir.len() + 1 + end])
    }
}
