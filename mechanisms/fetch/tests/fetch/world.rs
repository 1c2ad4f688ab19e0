//! What every test of a fetcher needs.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tvix_eval::error::ErrorKind;
use tvix_eval::world::Settings;
use tvix_eval::{Failure, NixEvaluator};
use tvix_fetch::{CachingFetcher, FetchOptions};

/// A folder with a cache in it, and an evaluator that uses it.
pub struct World {
    pub folder: TempDir,
    pub options: FetchOptions,
    pub settings: Settings,
}

impl World {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut options = FetchOptions::default();
        options.cache = Some(folder.path().join("cache"));
        options.transfer.stalled_download_timeout = Some(Duration::from_secs(30));
        options.transfer.download_attempts = 1;
        let mut settings = Settings::default();
        settings.store_root = Some(folder.path().join("store"));
        Self {
            folder,
            options,
            settings,
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn evaluator(&self) -> NixEvaluator {
        let fetcher = CachingFetcher::new(self.options.clone());
        NixEvaluator::new(self.settings.clone()).with_fetcher(fetcher)
    }

    pub fn eval(&self, text: &str) -> Result<Value, Failure> {
        self.evaluator().eval_to(text)
    }

    #[track_caller]
    pub fn text(&self, text: &str) -> String {
        match self.eval(text) {
            Ok(Value::String(text)) => text,
            Ok(other) => panic!("{text}: {other}"),
            Err(failure) => panic!("{text}: {}", failure.rendered),
        }
    }

    #[track_caller]
    pub fn fails(&self, text: &str, kind: ErrorKind, message: &str) {
        let failure = match self.eval(text) {
            Ok(value) => panic!("{text}: {value}"),
            Err(failure) => failure,
        };
        assert!(
            failure.message.contains(message),
            "{text}: {}",
            failure.message
        );
        assert_eq!(failure.kind, kind, "{text}: {}", failure.message);
    }

    /// Everything that the cache took in.
    pub fn kept(&self, kind: &str) -> usize {
        let folder = self.path().join("cache").join(kind);
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }
}
