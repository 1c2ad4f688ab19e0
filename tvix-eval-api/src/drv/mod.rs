//! An evaluator of `.drv` files, which another evaluator has instantiated.

mod loading;
mod read;
mod request;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use nix_compat::store_path::{StoreDir, StorePath};
use rustc_hash::FxHashMap;

use crate::{EvalError, EvalRequest, EvalSource, EvalStream, Evaluator, RootOrder, SourceAddition};
use loading::Loading;
use read::Reader;
use request::Wanted;

pub use read::DrvFileError;

/// An evaluator of `.drv` files and their inputs.
///
/// The only supported [`EvalSource`] is [`EvalSource::Derivations`]. Each element is a path in the
/// store directory (`/nix/store/<hash part>-<name>.drv`), or the path of a local file with such a
/// name, optionally followed by `!` and outputs (`…-hello.drv!out,dev`). Each element becomes a
/// [`Root`](crate::Root) of that name.
///
/// The file of a store path is looked up by its base name in the evaluator's search directories,
/// and in the directories of requested local files. Files are not trusted: the contents of a file
/// must match its path, and its output paths must be its own ([`EvalError::InvalidDerivation`]). A
/// failed file fails its dependents; other requests continue.
///
/// Sources that derivations refer to are assumed to be in the store already. Sources that are not
/// must be declared by [`DrvEvaluator::with_source`]; other files in the search directories are never
/// taken as sources.
///
/// Files are read in batches on threads that may block ([`tokio::task::spawn_blocking`], which
/// needs a Tokio runtime), and only while the stream is polled. Dropping the stream starts no
/// further batch and waits for none.
///
/// ```
/// use futures::StreamExt;
/// use nix_compat::derivation::DerivationBuilder;
/// use nix_compat::store_path::StoreDir;
/// use tvix_eval_api::drv::DrvEvaluator;
/// use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = StoreDir::default();
/// let hello = DerivationBuilder::new("hello", "x86_64-linux", "/bin/sh").instantiate(&dir)?;
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join(hello.path.to_string());
/// std::fs::write(&file, hello.derivation.to_aterm(&dir))?;
///
/// let evaluator = DrvEvaluator::new(dir, Vec::new());
/// let wanted = vec![format!("{}!out", file.display())];
/// let mut events = evaluator.evaluate(EvalRequest::new(EvalSource::Derivations(wanted))).await?;
/// let Some(Ok(EvalEvent::Derivation { path, .. })) = events.next().await else { panic!() };
/// assert_eq!(path, hello.path);
/// let Some(Ok(EvalEvent::Root(root))) = events.next().await else { panic!() };
/// assert_eq!(root.wanted.drv_path, hello.path);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DrvEvaluator {
    store_dir: StoreDir,
    search: Vec<PathBuf>,
    sources: Arc<FxHashMap<StorePath, Arc<SourceAddition>>>,
    parallel: usize,
}

/// Default number of batches that are read concurrently.
const PARALLEL: usize = 8;

impl DrvEvaluator {
    /// An evaluator of derivations of `store_dir`. Their files are looked up in the directories of
    /// `search`, in this order: `<root>/nix/store` of a store, or any directory in which files have
    /// the same names.
    pub fn new(store_dir: StoreDir, search: Vec<PathBuf>) -> Self {
        Self {
            store_dir,
            search,
            sources: Arc::default(),
            parallel: PARALLEL,
        }
    }

    /// Declares a source. It is yielded before the first derivation that uses it.
    #[must_use]
    pub fn with_source(mut self, source: SourceAddition) -> Self {
        Arc::make_mut(&mut self.sources).insert(source.path.clone(), Arc::new(source));
        self
    }

    /// Sets the number of batches that are read concurrently; at least one.
    #[must_use]
    pub fn with_concurrency(mut self, batches: usize) -> Self {
        self.parallel = batches.max(1);
        self
    }
}

#[async_trait]
impl Evaluator for DrvEvaluator {
    /// Fails for any other kind of source, and for requests with attribute paths, because `.drv`
    /// files have no attributes.
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let EvalSource::Derivations(texts) = request.source else {
            return Err(EvalError::UnsupportedSource {
                source_kind: request.source.kind().to_owned(),
            });
        };
        if let Some(attr_path) = request.attr_paths.into_iter().next() {
            return Err(EvalError::attribute_not_found(attr_path));
        }
        let wanted: Vec<_> = texts
            .into_iter()
            .enumerate()
            .map(|(number, text)| Wanted::parse(&self.store_dir, text, RootOrder::of(number)))
            .collect();
        let mut search = self.search.clone();
        let folders = wanted.iter().flatten().filter_map(Wanted::folder);
        for folder in folders {
            if !search.contains(folder) {
                search.push(folder.clone());
            }
        }
        let reader = Reader::new(self.store_dir.clone(), search);
        let sources = Arc::clone(&self.sources);
        Ok(Loading::new(reader, sources, self.parallel, wanted).boxed())
    }
}

impl fmt::Debug for DrvEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrvEvaluator")
            .field("store_dir", &self.store_dir)
            .field("search", &self.search)
            .field("sources", &self.sources.len())
            .finish_non_exhaustive()
    }
}
