//! A fetcher with a cache on disk.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};

use super::archive::{self, ArchiveError};
use super::cache::{self, Cache, Kind, Known, key};
use super::http::{self, Reply};
use super::tree::Tree;
use super::{Cancel, FetchError, FetchRequest, Fetched, Fetcher, file_path, git, split_scheme};

/// How to fetch, and where to keep what was fetched.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The folder of the cache. `None`: `tvix/fetch` below `XDG_CACHE_HOME`, or `~/.cache`.
    pub cache: Option<PathBuf>,
    /// So long what a URL led to is taken for what it leads to.
    pub ttl: Duration,
    /// So long connecting may take.
    pub connect_timeout: Duration,
    /// So long a server may say nothing.
    pub stall_timeout: Duration,
    /// How often a download is tried; at least once.
    pub attempts: u32,
    /// The largest file that is downloaded, in bytes.
    pub download_limit: u64,
    /// The largest tree that is unpacked, in bytes of files.
    pub unpacked_limit: u64,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            cache: None,
            ttl: Duration::from_secs(3600),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(300),
            attempts: 5,
            download_limit: 16 << 30,
            unpacked_limit: 32 << 30,
        }
    }
}

/// A [`Fetcher`] that talks HTTP(S), reads `file:` URLs, runs `git`, and keeps what it got on disk.
///
/// Processes share a cache: who fetches the same waits for who was first. What is in the cache is
/// named by its contents and never changed; nothing is ever removed from it, which is safe to do
/// while nobody evaluates.
///
/// HTTPS servers need a certificate of one of the system's roots, or of those in the file that
/// `NIX_SSL_CERT_FILE` or `SSL_CERT_FILE` names. Proxies are taken from the environment.
#[derive(Debug, Clone, Default)]
pub struct CachingFetcher {
    options: FetchOptions,
}

impl CachingFetcher {
    /// A fetcher. The cache is made when something is fetched first.
    pub fn new(options: FetchOptions) -> Self {
        Self { options }
    }

    fn cache(&self) -> Result<Cache, FetchError> {
        let folder = self.options.cache.clone().or_else(usual_cache);
        match folder {
            Some(folder) => Cache::open(&folder),
            None => Err(FetchError::local(
                "finding a folder for the cache",
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
        // Whatever else a URL led to before, it has to lead to this now.
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
            // Not noted as seen: the next one tries again.
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

    /// Gets what a URL leads to, if that is not what it led to before.
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
                match http::download(url, etag, &self.options, cancel, create)? {
                    Reply::Unchanged => Ok(Got::Known { seen: cache::now() }),
                    Reply::Changed { etag } => Ok(Got::File {
                        path: file.to_owned(),
                        etag,
                    }),
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

    /// Makes a downloaded file part of the cache.
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
                // Copied and hashed at once: a local file may change meanwhile.
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
                keep_tree(cache, tree, scratch, url)
            }
        }
    }
}

/// Makes a tree part of the cache.
pub(super) fn keep_tree(
    cache: &Cache,
    tree: Tree,
    scratch: &Path,
    url: &str,
) -> Result<(NixHash, PathBuf), FetchError> {
    let made = scratch.join("tree");
    tree.write(&made)
        .map_err(|error| FetchError::local(format!("unpacking '{url}'"), error))?;
    let (sha256, _) = tvix_tree::hash_path(&made, HashAlgo::Sha256)
        .map_err(|error| FetchError::local(format!("hashing what '{url}' holds"), error))?;
    let path = cache.keep(Kind::Tree, &sha256, &made)?;
    Ok((sha256, path))
}

/// What a URL leads to.
enum Got {
    /// What is known already, and when that was said.
    Known { seen: u64 },
    /// A file.
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
    let xdg = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let folder = match xdg {
        Some(folder) => PathBuf::from(folder),
        None => std::env::home_dir()?.join(".cache"),
    };
    Some(folder.join("tvix/fetch"))
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
