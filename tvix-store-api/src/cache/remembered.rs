//! Answers of one cache that are remembered on disk, if they are.

use bytes::Bytes;
use nix_compat::store_path::StorePath;

use super::BinaryCacheOptions;
#[cfg(feature = "disk-cache")]
use super::DiskCache;

/// The answers of a cache on disk. Without the feature `disk-cache`, there are none.
#[derive(Debug)]
pub(super) struct Remembered {
    #[cfg(feature = "disk-cache")]
    disk: Option<(DiskCache, String)>,
}

#[cfg(feature = "disk-cache")]
impl Remembered {
    /// Those of caches on other machines: what is on this one costs nothing to ask for.
    pub fn of(options: &BinaryCacheOptions) -> Self {
        let remote = matches!(options.uri.scheme(), "http" | "https" | "s3");
        let disk = options.disk_cache.clone().filter(|_| remote);
        let disk = disk.map(|disk| (disk, options.uri.place()));
        Self { disk }
    }

    pub fn is_used(&self) -> bool {
        self.disk.is_some()
    }

    /// The `nix-cache-info`.
    pub async fn info(&self) -> Option<Bytes> {
        let (disk, url) = self.disk.as_ref()?;
        disk.info(url).await
    }

    pub async fn learn_info(&self, info: Bytes) {
        if let Some((disk, url)) = &self.disk {
            disk.learn_info(url, info).await;
        }
    }

    /// The narinfo of a path; the inner `None` is that the cache does not have it.
    pub async fn narinfo(&self, path: &StorePath) -> Option<Option<Bytes>> {
        let (disk, url) = self.disk.as_ref()?;
        disk.narinfo(url, *path.digest()).await
    }

    pub async fn learn(&self, path: &StorePath, narinfo: Option<Bytes>) {
        if let Some((disk, url)) = &self.disk {
            disk.learn(url, *path.digest(), narinfo).await;
        }
    }
}

#[cfg(not(feature = "disk-cache"))]
impl Remembered {
    pub fn of(_: &BinaryCacheOptions) -> Self {
        Self {}
    }

    pub fn is_used(&self) -> bool {
        false
    }

    pub async fn info(&self) -> Option<Bytes> {
        None
    }

    pub async fn learn_info(&self, _: Bytes) {}

    pub async fn narinfo(&self, _: &StorePath) -> Option<Option<Bytes>> {
        None
    }

    pub async fn learn(&self, _: &StorePath, _: Option<Bytes>) {}
}
