//! References of store paths, recorded by evaluation or queried from the store.

use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashSet;

use crate::error::{Error, ErrorKind, Result};
use crate::interp::Interp;
use crate::paths;
use crate::value::{ContextElement, ContextId};

impl<'h> Interp<'h> {
    /// The references of a store path; `None` if the path is not known to be valid.
    pub(crate) fn references_of(&self, path: &StorePath) -> Result<Option<SortedSet<StorePath>>> {
        if let Some(known) = self.world.references.borrow().get(path) {
            return Ok(Some(known.clone()));
        }
        if let Some(known) = self.derivations.get(path) {
            return Ok(Some(known.derivation.references()));
        }
        if self.world.offered.borrow().contains(path) {
            return Ok(Some(SortedSet::new()));
        }
        let Some(store) = &self.world.valid_paths else {
            return Ok(None);
        };
        let found = store.references(path).map_err(|error| {
            let path = self.world.settings.store_dir.display(path);
            let message = format!("cannot query the references of '{path}': {error}");
            Error::new(ErrorKind::Io, message)
        })?;
        if let Some(found) = &found {
            let mut known = self.world.references.borrow_mut();
            known.insert(path.clone(), found.clone());
        }
        Ok(found)
    }

    /// Whether a store path is valid. If no store can be queried, a path is valid if its file
    /// exists.
    pub(crate) fn is_valid(&self, path: &StorePath) -> Result<bool> {
        if self.references_of(path)?.is_some() {
            return Ok(true);
        }
        if self.world.valid_paths.is_some() {
            return Ok(false);
        }
        let text = self.world.settings.store_dir.display(path).to_string();
        let local = self.local(text.as_bytes());
        Ok(matches!(
            self.world.files.kind(paths::to_os(&local)),
            Ok(Some(_))
        ))
    }

    /// A path and its known references, transitively.
    pub(super) fn closure_of(&self, path: &StorePath) -> Result<FxHashSet<StorePath>> {
        let mut closure = FxHashSet::default();
        let mut rest = vec![path.clone()];
        while let Some(path) = rest.pop() {
            if closure.contains(&path) {
                continue;
            }
            if let Some(references) = self.references_of(&path)? {
                rest.extend(references.iter().cloned());
            }
            closure.insert(path);
        }
        Ok(closure)
    }

    /// The context of a text that was read from a path: the references of the path's store object
    /// that occur in the text.
    pub(crate) fn references_in(&self, path: &[u8], text: &[u8]) -> Result<ContextId> {
        let Ok((object, _)) = self.world.settings.store_dir.parse_below(path) else {
            return Ok(ContextId::EMPTY);
        };
        let references = self.references_of(&object)?.unwrap_or_default();
        if references.is_empty() {
            return Ok(ContextId::EMPTY);
        }
        let mut scanner = ReferenceScanner::new(references.iter());
        scanner.update(text);
        let found = scanner.finish();
        let found = found.iter().cloned().map(ContextElement::Opaque);
        Ok(self.contexts.of(found))
    }
}
