//! What the machine wants done, as futures.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::Derivation;
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, StreamedOutput,
};
use tvix_eval_api::{RealiseError, RealisedOutput, SourceAddition, SourceContent};
use tvix_store_api::{LocalPath, Store, StoreError, StoreExt as _};

use super::closures::{Closure, Closures};
use crate::machine::{ImportedOutput, Recording, Trouble};

/// Imported outputs that are unpacked at once, where they have to be.
const UNPACKED_AT_ONCE: usize = 4;
/// Realisations that are asked for at once.
const REALISATIONS_AT_ONCE: usize = 32;

/// `.drv` files that are added at once.
const RECORDED_AT_ONCE: usize = 64;
/// How often a source looks whether what it refers to is there.
const REFERENCE_POLL: Duration = Duration::from_millis(50);

/// An error and what it comes from, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

pub(super) fn store_trouble(error: &StoreError) -> Trouble {
    Trouble {
        message: describe(error),
        retryable: error.is_retryable(),
    }
}

fn builder_trouble(error: &BuilderError) -> Trouble {
    Trouble {
        message: describe(error),
        retryable: error.is_retryable(),
    }
}

pub(super) async fn query_paths(
    store: Arc<dyn Store>,
    paths: Vec<StorePath>,
) -> Result<Vec<bool>, Trouble> {
    let valid = store
        .valid_paths(&paths)
        .await
        .map_err(|error| store_trouble(&error))?;
    Ok(paths.iter().map(|path| valid.contains(path)).collect())
}

/// The paths of outputs, where they are known and valid.
pub(super) async fn query_realisations(
    store: Arc<dyn Store>,
    outputs: Vec<DrvOutput>,
) -> Result<Vec<Option<StorePath>>, Trouble> {
    let look_up = |output: DrvOutput| {
        let store = store.clone();
        async move {
            match store.realisation(&output).await? {
                Some(found) if store.is_valid(&found.out_path).await? => Ok(Some(found.out_path)),
                _ => Ok(None),
            }
        }
    };
    let found = stream::iter(outputs)
        .map(look_up)
        .buffered(REALISATIONS_AT_ONCE);
    found
        .try_collect()
        .await
        .map_err(|error: StoreError| store_trouble(&error))
}

/// A source that is to be added, and when that was tried.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    pub(super) source: Arc<SourceAddition>,
    pub(super) tried: CancellationToken,
}

/// Waits until those that a source refers to are there, or were tried in vain.
async fn references_added(
    store: &dyn Store,
    mut references: Vec<Offered>,
) -> Result<(), StoreError> {
    while !references.is_empty() {
        let paths: Vec<_> = references.iter().map(|it| it.source.path.clone()).collect();
        let valid = store.valid_paths(&paths).await?;
        references.retain(|it| !valid.contains(&it.source.path) && !it.tried.is_cancelled());
        if let Some(first) = references.first() {
            // Somebody else may add it.
            let _ = tokio::time::timeout(REFERENCE_POLL, first.tried.cancelled()).await;
        }
    }
    Ok(())
}

pub(super) async fn add_source(
    store: Arc<dyn Store>,
    source: Arc<SourceAddition>,
    references: Vec<Offered>,
) -> Result<(), Trouble> {
    let path = &source.path;
    references_added(&*store, references)
        .await
        .map_err(|error| store_trouble(&error))?;
    let added = match &source.content {
        SourceContent::Text(text) if source.method == ContentAddressMethod::Flat => {
            store.add_file_as(text.clone(), path).await.map(|()| None)
        }
        SourceContent::Archive(nar) => store.add_archive_as(nar.clone(), path).await.map(|()| None),
        SourceContent::Text(text) => store
            .add_text(path.name().clone(), text, source.references.clone())
            .await
            .map(Some),
        SourceContent::Tree(file) => store
            .add_tree_as(file, path, source.method, source.references.clone())
            .await
            .map(|()| None),
        _ => {
            let message = format!("a source of an unknown kind should become '{path}'");
            return Err(Trouble {
                message,
                retryable: false,
            });
        }
    };
    match added {
        Ok(Some(actual)) if actual != *path => {
            let message = format!("a text that should become '{path}' became '{actual}'");
            Err(Trouble {
                message,
                retryable: false,
            })
        }
        Ok(_) => Ok(()),
        Err(error) => Err(store_trouble(&error)),
    }
}

pub(super) async fn record(store: Arc<dyn Store>, recording: Recording) -> Result<(), Trouble> {
    let recorded = match recording {
        Recording::Derivations(derivations) => record_derivations(&*store, derivations).await,
        Recording::Realisations(realisations) => {
            let add = |realisation| {
                let store = &store;
                async move { store.add_realisation(&realisation).await }
            };
            stream::iter(realisations.into_iter().map(Ok))
                .try_for_each(add)
                .await
        }
    };
    recorded.map_err(|error| store_trouble(&error))
}

/// Adds `.drv` files that are not there yet, inputs first.
async fn record_derivations(
    store: &dyn Store,
    derivations: Vec<(StorePath, Arc<Derivation>)>,
) -> Result<(), StoreError> {
    let paths: Vec<StorePath> = derivations.iter().map(|(path, _)| path.clone()).collect();
    let valid = store.valid_paths(&paths).await?;
    // Those of one level do not refer to each other, and are added side by side: a store may
    // register many as fast as one.
    let mut levels: Vec<Vec<(StorePath, Arc<Derivation>)>> = Vec::new();
    let mut level_of: FxHashMap<StorePath, usize> = FxHashMap::default();
    for (path, derivation) in derivations {
        if valid.contains(&path) {
            continue;
        }
        let references = derivation.references();
        let below = references.iter().filter_map(|it| level_of.get(it)).max();
        let level = below.map_or(0, |below| below + 1);
        level_of.insert(path.clone(), level);
        if level == levels.len() {
            levels.push(Vec::new());
        }
        levels[level].push((path, derivation));
    }
    for level in levels {
        let add = |(path, derivation): (StorePath, Arc<Derivation>)| async move {
            let contents = derivation.to_aterm(store.store_dir());
            let references = derivation.references();
            match store
                .add_text(path.name().clone(), &contents, references)
                .await
            {
                // A source that could not be added is told of where it is needed.
                Ok(_) | Err(StoreError::InvalidReference { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        let all = stream::iter(level.into_iter().map(Ok));
        all.try_for_each_concurrent(RECORDED_AT_ONCE, add).await?;
    }
    Ok(())
}

pub(super) async fn push_outputs(
    store: Arc<dyn Store>,
    outputs: Vec<StreamedOutput>,
) -> Result<(), Trouble> {
    for output in outputs {
        store
            .add(output.info, output.nar)
            .await
            .map_err(|error| store_trouble(&error))?;
    }
    Ok(())
}

/// A build and who does it.
pub(super) struct BuildParts {
    pub(super) builder: Arc<dyn Builder>,
    pub(super) request: BuildRequest,
    pub(super) context: BuildContext,
}

/// Looks up what is missing of the closure, and builds.
pub(super) async fn build_with(
    mut parts: BuildParts,
    closures: Arc<Closures>,
    inputs: Closure,
) -> Result<BuildOutcome, Trouble> {
    let inputs = closures.complete(&*parts.context.inputs, inputs).await;
    parts.request.inputs = inputs.map_err(|error| store_trouble(&error))?;
    build(parts).await
}

pub(super) async fn build(parts: BuildParts) -> Result<BuildOutcome, Trouble> {
    let BuildParts {
        builder,
        request,
        context,
    } = parts;
    // Of the builder itself: that of the `Arc` would box another future around it.
    match AssertUnwindSafe((*builder).build(request, context))
        .catch_unwind()
        .await
    {
        Ok(outcome) => outcome.map_err(|error| builder_trouble(&error)),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let name = &builder.profile().name;
            let message = format!("builder '{name}' panicked: {}", text.unwrap_or_default());
            Err(Trouble {
                message,
                retryable: false,
            })
        }
    }
}

/// Imported outputs, with where to read them on this file system. What was unpacked for it is
/// there as long as what holds it.
pub(super) async fn local_outputs(
    store: Arc<dyn Store>,
    outputs: Vec<ImportedOutput>,
) -> Result<(Vec<RealisedOutput>, Vec<LocalPath>), RealiseError> {
    let locate = |output: ImportedOutput| {
        let store = store.clone();
        async move {
            let local = store.local_path(&output.path).await?;
            let realised = RealisedOutput {
                drv_path: output.drv_path,
                output: output.output,
                store_path: output.path,
                local_path: local.path().to_owned(),
            };
            Ok((realised, local))
        }
    };
    let located = stream::iter(outputs).map(locate).buffered(UNPACKED_AT_ONCE);
    let located: Result<Vec<_>, StoreError> = located.try_collect().await;
    match located {
        Ok(located) => Ok(located.into_iter().unzip()),
        Err(error) => Err(RealiseError::Store(describe(&error))),
    }
}
