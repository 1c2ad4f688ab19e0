//! A fetcher with a cache on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use tvix_http::client::blocking::{Client, Downloaded};

use super::archive::{self, ArchiveError};
use super::cache::{self, Cache, Kind, Known, key};
use super::http;
use super::options::FetchOptions;
use super::tree::Tree;
use super::{Cancel, FetchError, FetchRequest, Fetched, Fetcher, file_path, git, split_scheme};

/// A [`Fetcher`] that speaks HTTP(S), reads `file:` URLs, runs `git`, and caches results on disk.
///
/// Processes may share a cache: concurrent fetches of the same URL wait for the first one. Cache
/// entries are named by their contents and never change. Nothing removes them; that is safe while
/// no evaluation runs.
///
/// HTTP works as in all of the project: see [`tvix_http::client`].
#[derive(Debug, Clone, Default)]
pub struct CachingFetcher {
    options: FetchOptions,
    /// Made for the first download.
    client: Arc<Mutex<Option<Client>>>,
}

impl CachingFetcher {
    /// A fetcher. The first fetch creates the cache.
    pub fn new(options: FetchOptions) -> Self {
        Self {
            options,
            client: Arc::default(),
        }
    }

    fn client(&self) -> Result<Client, FetchError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(http::client(&self.options)?).clone()),
        }
    }

    fn cache(&self) -> Result<Cache, FetchError> {
        let directory = self.options.cache.clone().or_else(usual_cache);
        match directory {
            Some(directory) => Cache::open(&directory),
            None => Err(FetchError::local(
                "finding a directory for the cache",
                "neither XDG_CACHE_HOME nor HOME is set",
            )),
        }
    }

    fn fetch_url(
        &self,
        kind: Kind,
        url: &str,
        wanted: Option<&NixHash>,
        cancel: &Cancel,
    ) -> Result<Fetched, FetchError> {
        let cache = self.cache()?;
        if let Some(sha256) = wanted
            && let Some(path) = cache.find(kind, sha256)
        {
            return Ok(Fetched::new(path, sha256.clone()));
        }
        let word = match kind {
            Kind::File => "file",
            Kind::Tree => "archive",
        };
        let key = key(&[word, url]);
        let _lock = cache.lock(&key, cancel)?;
        // A known result with another hash than the required one is of no use.
        let known = cache.known(&key).and_then(|known: Known| {
            let path = cache.find(kind, &known.sha256)?;
            Some((known, path))
        });
        let known = known.filter(|(known, _)| wanted.is_none_or(|hash| known.sha256 == *hash));
        let scratch = cache.scratch()?;
        let file = scratch.path().join("download");
        let mut got = self.get(url, known.as_ref().map(|(known, _)| known), &file, cancel);
        let mut warnings = Vec::new();
        if let (Err(error @ FetchError::Download { .. }), Some((known, _))) = (&got, &known) {
            warnings.push(format!("{error}; using cached version"));
            // Not recorded as confirmed: the next fetch tries again.
            got = Ok(Got::Known { seen: known.seen });
        }
        let (sha256, path, etag, seen) = match (got?, known) {
            (Got::Known { seen }, Some((known, path))) => (known.sha256, path, known.etag, seen),
            (Got::Known { .. }, None) => {
                return Err(FetchError::Download {
                    url: url.to_owned(),
                    reason: "the server says that it is unchanged, and it was never seen".into(),
                    retryable: false,
                });
            }
            (Got::File { path, etag }, _) => {
                let (sha256, path) =
                    self.take_in(&cache, kind, url, &path, scratch.path(), cancel)?;
                (sha256, path, etag, cache::now())
            }
        };
        let noted = Known {
            url: url.to_owned(),
            etag,
            sha256: sha256.clone(),
            seen,
        };
        cache.note(&key, &noted)?;
        let mut fetched = Fetched::new(path, sha256);
        fetched.warnings = warnings;
        Ok(fetched)
    }

    /// Downloads a URL, unless the known result is still current.
    fn get(
        &self,
        url: &str,
        known: Option<&Known>,
        file: &Path,
        cancel: &Cancel,
    ) -> Result<Got, FetchError> {
        let unknown = |reason: &str| FetchError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        };
        let Some((scheme, _)) = split_scheme(url) else {
            return Err(unknown("doesn't have a scheme"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "http" | "https" => {
                if let Some(known) = known
                    && known.is_fresh(self.options.ttl)
                {
                    return Ok(Got::Known { seen: known.seen });
                }
                let etag = known.map(|known| known.etag.as_str());
                let etag = etag.filter(|etag| !etag.is_empty());
                let create = || File::create(file).map(BufWriter::new);
                let client = self.client()?;
                match http::download(&client, url, etag, &self.options, cancel, create)? {
                    Downloaded::Written { etag } => Ok(Got::File {
                        path: file.to_owned(),
                        etag: etag.unwrap_or_default(),
                    }),
                    _ => Ok(Got::Known { seen: cache::now() }),
                }
            }
            "file" => {
                let path = file_path(url).ok_or_else(|| unknown("is on another machine"))?;
                let failed = |error: io::Error| FetchError::Download {
                    url: url.to_owned(),
                    reason: error.to_string(),
                    retryable: false,
                };
                let metadata = fs::metadata(&path).map_err(failed)?;
                if !metadata.is_file() {
                    return Err(failed(io::Error::other("it is not a file")));
                }
                let stamp = format!(
                    "{}-{}-{}.{}",
                    metadata.ino(),
                    metadata.size(),
                    metadata.mtime(),
                    metadata.mtime_nsec()
                );
                if known.is_some_and(|known| known.etag == stamp) {
                    return Ok(Got::Known { seen: cache::now() });
                }
                Ok(Got::File { path, etag: stamp })
            }
            scheme => Err(unknown(&format!(
                "has the scheme '{scheme}', which is not supported"
            ))),
        }
    }

    /// Adds a downloaded file to the cache.
    fn take_in(
        &self,
        cache: &Cache,
        kind: Kind,
        url: &str,
        file: &Path,
        scratch: &Path,
        cancel: &Cancel,
    ) -> Result<(NixHash, PathBuf), FetchError> {
        let failed = |error: io::Error| FetchError::local(format!("reading '{url}'"), error);
        match kind {
            Kind::File => {
                // Copied and hashed in one pass, as a local file may change between two.
                let copy = scratch.join("copy");
                let sha256 = copy_hashing(file, &copy, cancel).map_err(failed)?;
                if cancel.is_cancelled() {
                    return Err(FetchError::Cancelled);
                }
                cache::seal_file(&copy).map_err(failed)?;
                let path = cache.keep(kind, &sha256, &copy)?;
                Ok((sha256, path))
            }
            Kind::Tree => {
                let contents = scratch.join("contents");
                fs::create_dir(&contents).map_err(failed)?;
                let most = self.options.unpacked_limit;
                let mut tree = Tree::new(contents, most);
                let archive = File::open(file).map_err(failed)?;
                archive::unpack(archive, is_named_zip(url), &mut tree, most, cancel)
                    .map_err(|error| unpack_error(url, &error))?;
                tree.enter_only_directory();
                cache.keep_tree(tree, scratch, url)
            }
        }
    }
}

/// The result of a download.
enum Got {
    /// The known result is current; with the time when that was confirmed.
    Known { seen: u64 },
    /// A file with new contents.
    File { path: PathBuf, etag: String },
}

fn unpack_error(url: &str, error: &ArchiveError) -> FetchError {
    if matches!(error, ArchiveError::Cancelled) {
        return FetchError::Cancelled;
    }
    FetchError::Archive {
        url: url.to_owned(),
        reason: error.to_string(),
    }
}

/// Whether the path of a URL ends with `.zip`.
fn is_named_zip(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    path.to_ascii_lowercase().ends_with(".zip")
}

fn copy_hashing(from: &Path, to: &Path, cancel: &Cancel) -> io::Result<NixHash> {
    use std::io::{Read as _, Write as _};
    let mut from = File::open(from)?;
    let mut to = File::create_new(to)?;
    let mut hasher = NixHasher::new(HashAlgo::Sha256);
    let mut buffer = vec![0; 1 << 17];
    while !cancel.is_cancelled() {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
    }
    Ok(hasher.finish())
}

fn usual_cache() -> Option<PathBuf> {
    let xdg = std::env::var_os("XDG_CACHE_HOME").filter(|directory| !directory.is_empty());
    let directory = match xdg {
        Some(directory) => PathBuf::from(directory),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(directory.join("tvix/fetch"))
}

impl Fetcher for CachingFetcher {
    fn fetch(&self, request: &FetchRequest, cancel: &Cancel) -> Result<Fetched, FetchError> {
        match request {
            FetchRequest::File { url, sha256 } => {
                self.fetch_url(Kind::File, url, sha256.as_ref(), cancel)
            }
            FetchRequest::Tarball { url, sha256 } => {
                self.fetch_url(Kind::Tree, url, sha256.as_ref(), cancel)
            }
            FetchRequest::Git(request) => {
                git::fetch(&self.cache()?, &self.options, request, cancel)
            }
            other => Err(FetchError::Unsupported(format!(
                "this fetcher does not support {other:?}"
            ))),
        }
    }
}
