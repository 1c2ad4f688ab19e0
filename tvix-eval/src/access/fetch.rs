//! Fetching: downloaded files and trees become sources.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::{StorePath, StorePathName, fixed_output_path};
use tvix_eval_api::{Diagnostic, Severity, SourceAddition, SourceContent};

use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Cancel, FetchError, FetchRequest, Fetched, is_pseudo_url, resolve_pseudo_url};
use crate::host::Answer;
use crate::interp::Interp;
use crate::interp::cancelled;
use crate::paths;

use super::copy::describe;
use super::lossy;

impl<'h> Interp<'h> {
    /// Runs blocking work on another thread, while other fibers continue.
    fn in_background<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Cancel) -> R + Send + 'static,
    ) -> Result<R> {
        let slot = Arc::new(Mutex::new(None));
        let result = slot.clone();
        let work = Box::new(move |cancel: &Cancel| {
            let done = work(cancel);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        match self.world.host.background(self.fiber.get(), work) {
            Some(work) => work(&Cancel::default()),
            None => match self.fibers.wait_for_answer(self) {
                Some(Answer::Done) => {}
                _ => return Err(cancelled()),
            },
        }
        let result = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.ok_or_else(|| {
            Error::new(
                ErrorKind::Other,
                "what fetches has panicked, or had no thread",
            )
        })
    }

    /// Fetches a file or tree and adds it to the store under `name`.
    pub(crate) fn fetch(
        &self,
        name: &StorePathName,
        request: FetchRequest,
    ) -> Result<(StorePath, Rc<Fetched>)> {
        let known = self.world.fetched.borrow().get(&request).cloned();
        let fetched = match known {
            Some(fetched) => fetched,
            None => {
                let fetched = Rc::new(self.fetch_anew(name, &request)?);
                for warning in &fetched.warnings {
                    self.diagnostic(Diagnostic::new(
                        Severity::Warning,
                        format!("warning: {warning}"),
                    ));
                }
                let mut all = self.world.fetched.borrow_mut();
                all.entry(request.clone()).or_insert(fetched).clone()
            }
        };
        let method = method_of(&request);
        let path = self.fetched_path(name, method, &fetched.sha256)?;
        let wanted = request.sha256();
        if wanted.is_none_or(|wanted| *wanted == fetched.sha256) {
            self.add_fetched(&path, method, &fetched.path)?;
        }
        Ok((path, fetched))
    }

    fn fetch_anew(&self, name: &StorePathName, request: &FetchRequest) -> Result<Fetched> {
        let method = method_of(request);
        // Contents that are in the store already are not fetched.
        let mut in_store: Option<(PathBuf, NixHash)> = None;
        if let FetchRequest::File {
            sha256: Some(hash), ..
        }
        | FetchRequest::Tarball {
            sha256: Some(hash), ..
        } = request
        {
            let path = self.fetched_path(name, method, hash)?;
            let path = self.world.settings.store_dir.display(&path).to_string();
            let local = self.local(path.as_bytes());
            let local = self.world.files.on_disk(paths::to_os(&local));
            in_store = local.map(|local| (local, hash.clone()));
        }
        let fetcher = self.world.fetcher.clone();
        let request = request.clone();
        let fetched = self.in_background(move |cancel| {
            if let Some((path, hash)) = in_store
                && hash_of(&path, method).is_some_and(|found| found == hash)
            {
                return Ok(Fetched::new(path, hash));
            }
            match fetcher {
                Some(fetcher) => fetcher.fetch(&request, cancel),
                None => Err(FetchError::Unsupported(
                    "nothing can be fetched: this evaluator was made without a fetcher".to_owned(),
                )),
            }
        })?;
        fetched.map_err(|error| fetch_error(&error))
    }

    /// The store path of a fetched file or tree.
    pub(crate) fn fetched_path(
        &self,
        name: &StorePathName,
        method: ContentAddressMethod,
        sha256: &NixHash,
    ) -> Result<StorePath> {
        let dir = &self.world.settings.store_dir;
        let address = ContentAddress {
            method,
            hash: sha256.clone(),
        };
        fixed_output_path(dir, name.clone(), &address).ok_or_else(|| {
            let message = format!("no store path has the content address {address}");
            Error::new(ErrorKind::Other, message)
        })
    }

    fn add_fetched(
        &self,
        path: &StorePath,
        method: ContentAddressMethod,
        local: &Path,
    ) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let text = self.world.settings.store_dir.display(path).to_string();
        let local_bytes = local.as_os_str().as_bytes().to_vec();
        self.world
            .copied_from
            .borrow_mut()
            .entry(text.into_bytes())
            .or_insert(local_bytes);
        self.offer(SourceAddition::new(
            path.clone(),
            method,
            SourceContent::Tree(local.to_owned()),
        ))
    }

    /// The store path, as text, of the archive at a URL that takes the place of a path.
    pub(crate) fn fetch_pseudo_url(&self, url: &str) -> Result<Vec<u8>> {
        let request = FetchRequest::Tarball {
            url: resolve_pseudo_url(url),
            sha256: None,
        };
        let name = StorePathName::from_bytes(b"source")
            .map_err(|error| Error::new(ErrorKind::Other, error.to_string()))?;
        let (path, _) = self.fetch(&name, request)?;
        let text = self.world.settings.store_dir.display(&path).to_string();
        Ok(text.into_bytes())
    }

    /// A path, or the store path of the archive if `path` is a URL.
    pub(crate) fn path_or_url(&self, path: &[u8]) -> Result<Vec<u8>> {
        match std::str::from_utf8(path) {
            Ok(url) if is_pseudo_url(url) => self.fetch_pseudo_url(url),
            _ => Ok(path.to_vec()),
        }
    }
}

fn method_of(request: &FetchRequest) -> ContentAddressMethod {
    match request {
        FetchRequest::File { .. } => ContentAddressMethod::Flat,
        _ => ContentAddressMethod::NixArchive,
    }
}

/// The hash of the file or tree at a path, if it can be read.
fn hash_of(path: &Path, method: ContentAddressMethod) -> Option<NixHash> {
    match method {
        ContentAddressMethod::Flat => {
            let metadata = path.symlink_metadata().ok()?;
            let contents = metadata.is_file().then(|| std::fs::read(path).ok())??;
            Some(NixHash::digest(HashAlgo::Sha256, contents))
        }
        _ => {
            path.symlink_metadata().ok()?;
            let (hash, _) = tvix_tree::hash_path(path, HashAlgo::Sha256).ok()?;
            Some(hash)
        }
    }
}

#[cold]
fn fetch_error(error: &FetchError) -> Box<Error> {
    let kind = match error {
        FetchError::Cancelled => return cancelled(),
        FetchError::Download { .. } | FetchError::Archive { .. } | FetchError::Git { .. } => {
            ErrorKind::Build
        }
        FetchError::Url { .. } => ErrorKind::Other,
        FetchError::Unsupported(_) => ErrorKind::Unsupported,
        FetchError::Local { .. } => ErrorKind::Io,
        _ => ErrorKind::Other,
    };
    let mut message = describe(error);
    if let FetchError::Git { log, .. } = error {
        for line in log.lines() {
            message.push_str("\n> ");
            message.push_str(line);
        }
    }
    Error::new(kind, message)
}

/// Validates the name of a store path that comes from the user.
pub(crate) fn checked_name(name: &[u8]) -> std::result::Result<StorePathName, String> {
    StorePathName::from_bytes(name)
        .map_err(|error| format!("name '{}' is not valid: {error}", lossy(name)))
}
