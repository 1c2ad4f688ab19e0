//! An evaluator of `.drv` files: what another evaluator has instantiated already.

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

/// An evaluator of `.drv` files and whatever they need.
///
/// The only [`EvalSource`] is [`EvalSource::Derivations`]. Each of its elements is a path in the
/// store directory (`/nix/store/<hash part>-<name>.drv`) or that of a local file with such a
/// name, perhaps followed by `!` and outputs (`…-hello.drv!out,dev`). Every one becomes a
/// [`Root`](crate::Root) of that name.
///
/// The file of a store path is looked up by its base name in the directories that the evaluator
/// was made with, and in those of the local files that were asked for. Nothing that is read is
/// believed: a file must have the very contents from which its path follows, and claim no output
/// paths but its own ([`EvalError::InvalidDerivation`]). One that fails takes with it what needs
/// it; other requests go on.
///
/// Sources that derivations refer to are taken to be in the store already. Where they are not,
/// [`DrvEvaluator::source`] says what they are; files beside the `.drv` files are no sources.
///
/// Files are read in batches where that may block ([`tokio::task::spawn_blocking`], so within a
/// runtime of Tokio), only while the stream is polled. A stream that is dropped starts no more of
/// them and waits for none.
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

/// How many batches of files are read at once unless told otherwise.
const PARALLEL: usize = 8;

impl DrvEvaluator {
    /// An evaluator of derivations for `store_dir` whose files are looked up in `search`, in this
    /// order: `<root>/nix/store` of a store, or any directory of files named as in one.
    pub fn new(store_dir: StoreDir, search: Vec<PathBuf>) -> Self {
        Self {
            store_dir,
            search,
            sources: Arc::default(),
            parallel: PARALLEL,
        }
    }

    /// Says what a source is. It is yielded before the first derivation that uses it.
    #[must_use]
    pub fn source(mut self, source: SourceAddition) -> Self {
        Arc::make_mut(&mut self.sources).insert(source.path.clone(), Arc::new(source));
        self
    }

    /// How many batches of files may be read at once; at least one.
    #[must_use]
    pub fn parallel(mut self, batches: usize) -> Self {
        self.parallel = batches.max(1);
        self
    }
}

#[async_trait]
impl Evaluator for DrvEvaluator {
    /// Fails if the source is another, and if the request names attributes: `.drv` files have
    /// none.
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
