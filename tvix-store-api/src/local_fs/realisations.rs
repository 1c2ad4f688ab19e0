//! Realisations that are derived from others.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use nix_compat::derivation::Derivation;
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::store_path::{DRV_SUFFIX, StorePath};

use super::{Inner, LocalStore};
use crate::StoreError;
use crate::blocking::blocking;

/// Size limit of a derivation that is parsed, in bytes. Real ones are far smaller.
const MAX_DERIVATION: u64 = 64 << 20;

impl LocalStore {
    /// The known realisations with these output paths, as recorded by
    /// [`Store::add_realisation`](crate::Store::add_realisation).
    ///
    /// A realisation under one key of a resolved derivation is also returned under its other key,
    /// if the `.drv` file is valid. So a store that was filled by one version of Nix serves other
    /// versions.
    pub async fn realisations_of(
        &self,
        paths: Vec<StorePath>,
    ) -> Result<Vec<Realisation>, StoreError> {
        let inner = self.0.clone();
        blocking(&self.0.uri, move || {
            let mut found = inner.database.realisations_of(&paths)?;
            inner.add_other_keys(&mut found)?;
            Ok(found)
        })
        .await
    }
}

impl Inner {
    fn add_other_keys(&self, found: &mut Vec<Realisation>) -> Result<(), StoreError> {
        let mut keys: HashMap<StorePath, Vec<DrvKey>> = HashMap::new();
        let mut known: HashSet<DrvOutput> = found.iter().map(|it| it.id.clone()).collect();
        let mut new: Vec<Realisation> = Vec::new();
        for realisation in found.iter() {
            let id = &realisation.id;
            let drv = match &id.drv {
                DrvKey::Path(path) => Some(path.clone()),
                // A resolved derivation was built. The hash of an unresolved one differs.
                DrvKey::HashModulo(_) => {
                    let info = self.database.path_info(&realisation.out_path)?;
                    info.and_then(|info| info.deriver.clone())
                }
            };
            let Some(drv) = drv else {
                continue;
            };
            let keys = match keys.entry(drv) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unknown) => {
                    let keys = self.keys_of(unknown.key())?;
                    unknown.insert(keys)
                }
            };
            if !keys.contains(&id.drv) {
                continue;
            }
            for key in keys.iter() {
                let other = DrvOutput {
                    drv: key.clone(),
                    output: id.output.clone(),
                };
                if known.insert(other.clone()) {
                    new.push(Realisation::new(other, realisation.out_path.clone()));
                }
            }
        }
        found.append(&mut new);
        Ok(())
    }

    /// The keys of a derivation; empty if it is not valid or not resolved.
    fn keys_of(&self, drv: &StorePath) -> Result<Vec<DrvKey>, StoreError> {
        if !self.database.is_valid(drv)? {
            return Ok(Vec::new());
        }
        let file = self.layout.store.join(drv.to_string());
        let read = || -> std::io::Result<Vec<u8>> {
            // The path may be valid without being a derivation.
            let metadata = file.symlink_metadata()?;
            match metadata.is_file() && metadata.len() <= MAX_DERIVATION {
                true => std::fs::read(&file),
                false => Ok(Vec::new()),
            }
        };
        let contents = match read() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(|error| self.file_error("read", drv, error))?,
        };
        let name = drv.name().as_str().strip_suffix(DRV_SUFFIX);
        let Some(Ok(name)) = name.map(str::parse) else {
            return Ok(Vec::new());
        };
        let derivation = Derivation::from_aterm(&self.store_dir, name, &contents);
        Ok(derivation.map_or(Vec::new(), |it| it.realisation_keys(&self.store_dir, drv)))
    }
}
