//! Store paths in full, in serialised form.

use std::cell::RefCell;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{StoreDir, StorePath};

thread_local! {
    /// The directory of [`StoreDir::in_full`] on this thread.
    static DIR: RefCell<Option<StoreDir>> = const { RefCell::new(None) };
}

/// Restores what was there before, also when a panic goes by.
struct Restore(Option<StoreDir>);

impl Drop for Restore {
    fn drop(&mut self) {
        DIR.set(self.0.take());
    }
}

impl StoreDir {
    /// Calls `serde`. As long as it runs, store paths are serialised with this directory, as in
    /// `/nix/store/…-name`, and deserialised from that form only. Otherwise they are serialised
    /// without a directory.
    ///
    /// For formats that hold store paths of one store in the values of many types, such as the
    /// events of a session.
    ///
    /// The directory is a thread-local for the duration of the call: the paths are at any depth in types
    /// of several crates, and Serde's buffers for tagged and flattened values drop a `DeserializeSeed`.
    ///
    /// ```
    /// use nix_compat::store_path::{StoreDir, StorePath};
    ///
    /// let dir = StoreDir::default();
    /// let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse()?;
    /// let json = dir.in_full(|| serde_json::to_string(&path))?;
    /// assert_eq!(json, r#""/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-hello""#);
    /// assert_eq!(dir.in_full(|| serde_json::from_str::<StorePath>(&json))?, path);
    /// assert!(serde_json::from_str::<StorePath>(&json).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn in_full<R>(&self, serde: impl FnOnce() -> R) -> R {
        let _restore = Restore(DIR.replace(Some(self.clone())));
        serde()
    }
}

impl Serialize for StorePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DIR.with_borrow(|dir| match dir {
            Some(dir) => serializer.collect_str(&dir.display(self)),
            None => serializer.collect_str(self),
        })
    }
}

impl<'de> Deserialize<'de> for StorePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        DIR.with_borrow(|dir| match dir {
            Some(dir) => dir.parse(text.as_ref()).map_err(de::Error::custom),
            None => text.parse().map_err(de::Error::custom),
        })
    }
}
