//! `nix-cache-info`: the self-description of a cache.

use std::fmt;

use nix_compat::store_path::StoreDir;
use thiserror::Error;

/// The name of the file.
pub(crate) const FILE: &str = "nix-cache-info";

/// The self-description of a cache: lines of the form `Name: value`. Unknown names are ignored, as
/// in Nix.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheInfo {
    /// The logical store directory of its paths.
    pub store_dir: StoreDir,
    /// Whether the cache accepts queries for many paths at a time.
    pub want_mass_query: bool,
    /// The priority; caches with lower numbers are queried first. 50 if the file has none.
    pub priority: i32,
}

/// The reason that a text is not a valid `nix-cache-info`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CacheInfoError {
    /// The store directory is not an absolute path, or is otherwise invalid.
    #[error("'{0}' is not a store directory")]
    StoreDir(String),
    /// The priority is not a number.
    #[error("'{0}' is not a priority")]
    Priority(String),
}

impl Default for CacheInfo {
    fn default() -> Self {
        Self {
            store_dir: StoreDir::default(),
            want_mass_query: false,
            priority: 50,
        }
    }
}

impl CacheInfo {
    /// The description of a cache with this store directory that accepts queries for many paths.
    pub fn new(store_dir: StoreDir, priority: i32) -> Self {
        Self {
            store_dir,
            want_mass_query: true,
            priority,
        }
    }

    /// Parses a whole file.
    ///
    /// # Errors
    ///
    /// [`CacheInfoError`].
    pub fn parse(text: &str) -> Result<Self, CacheInfoError> {
        let mut info = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name {
                "StoreDir" => {
                    let dir = StoreDir::new(value);
                    info.store_dir = dir.map_err(|_| CacheInfoError::StoreDir(value.to_owned()))?;
                }
                "WantMassQuery" => info.want_mass_query = value == "1",
                "Priority" => {
                    let priority = value.parse();
                    info.priority =
                        priority.map_err(|_| CacheInfoError::Priority(value.to_owned()))?;
                }
                _ => {}
            }
        }
        Ok(info)
    }
}

impl fmt::Display for CacheInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "StoreDir: {}", self.store_dir)?;
        writeln!(f, "WantMassQuery: {}", u8::from(self.want_mass_query))?;
        writeln!(f, "Priority: {}", self.priority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_caches_say() {
        let text = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
        let info = CacheInfo::parse(text).unwrap();
        assert_eq!((info.want_mass_query, info.priority), (true, 40));
        assert_eq!(info.to_string(), text);
        assert_eq!(CacheInfo::parse("").unwrap(), CacheInfo::default());
        assert_eq!(
            CacheInfo::parse("nonsense\nOther: x\n").unwrap(),
            CacheInfo::default()
        );
        assert!(CacheInfo::parse("StoreDir: relative\n").is_err());
        assert!(CacheInfo::parse("Priority: high\n").is_err());
    }
}
