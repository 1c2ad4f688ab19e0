//! What the machine wants done, as futures.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::Realisation;
use nix_compat::store_path::StorePath;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, CheckError, StreamedOutput,
    check_against,
};
use tvix_eval_api::{RealiseError, RealisedOutput};
use tvix_store_api::{LocalPath, Store, StoreError, StoreExt as _, VerifiedObject};

use super::closures::{Closure, Closures};
use crate::machine::{
    CheckResult, ImportedOutput, OutputKeys, Probed, Recording, RefusedRealisation, Trouble,
};
use crate::options::CheckOptions;

/// Imported outputs that are unpacked at once, where they have to be.
const UNPACKED_AT_ONCE: usize = 4;
/// Realisations that are asked for at once.
const REALISATIONS_AT_ONCE: usize = 32;
/// Paths that a substituter is asked for at once; it may do less at once.
const PROBED_AT_ONCE: usize = 64;

/// An error and what it comes from, in one line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            // A trace begins with a line of its own.
            text.push_str(if cause.starts_with('\n') { ":" } else { ": " });
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

/// What a substituter has of `paths`.
pub(super) async fn query_substituter(
    substituter: Arc<dyn Store>,
    paths: Vec<StorePath>,
) -> Result<Vec<Probed>, Trouble> {
    let look_up = |path: StorePath| {
        let substituter = substituter.clone();
        async move {
            match substituter.path_info(&path).await {
                Ok(Some(info)) => Ok(Probed::Offered {
                    references: info.references.iter().cloned().collect(),
                }),
                Ok(None) => Ok(Probed::Absent),
                // That is said of one path, and says nothing of others.
                Err(error @ (StoreError::Untrusted { .. } | StoreError::BadInfo { .. })) => {
                    Ok(Probed::Refused {
                        message: describe(&error),
                    })
                }
                Err(error) => Err(store_trouble(&error)),
            }
        }
    };
    let found = stream::iter(paths).map(look_up).buffered(PROBED_AT_ONCE);
    found.try_collect().await
}

/// Copies a path from a substituter.
pub(super) async fn substitute(
    substituter: Arc<dyn Store>,
    store: Arc<dyn Store>,
    path: StorePath,
) -> Result<(), Trouble> {
    let copied = async {
        let info = substituter.require(&path).await?;
        substituter.copy_path(&*store, &info).await
    };
    copied.await.map_err(|error| store_trouble(&error))
}

/// The paths of outputs, where they are known by any of their keys and valid.
pub(super) async fn query_realisations(
    store: Arc<dyn Store>,
    outputs: Vec<OutputKeys>,
) -> Result<Vec<Option<StorePath>>, Trouble> {
    let look_up = |output: OutputKeys| {
        let store = store.clone();
        async move {
            for id in output.ids() {
                match store.realisation(&id).await {
                    Ok(Some(found)) if store.is_valid(&found.out_path).await? => {
                        return Ok(Some(found.out_path));
                    }
                    Ok(_) => {}
                    Err(error) if is_refused(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(None)
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

/// Whether a store has something that it does not believe itself.
fn is_refused(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::UntrustedRealisation { .. } | StoreError::BadRealisation { .. }
    )
}

/// What substituters say of outputs.
pub(super) struct FoundRealisations {
    /// For each output its path, if it is known.
    pub(super) paths: Vec<Option<StorePath>>,
    /// What is not believed.
    pub(super) refused: Vec<RefusedRealisation>,
}

/// What the store itself, or the first substituter that knows and answers, says of each output. It is
/// believed as far as the substituter believes it, and does not contradict the store.
pub(super) async fn find_realisations(
    store: Arc<dyn Store>,
    substituters: Vec<Arc<dyn Store>>,
    outputs: Vec<OutputKeys>,
) -> FoundRealisations {
    let look_up = |output: OutputKeys| {
        let (store, substituters) = (store.clone(), substituters.clone());
        async move {
            // It may remember a path that was collected since.
            let known = store.realisation_of(output.keys.clone(), &output.output);
            if let Ok(Some(known)) = known.await {
                return (Some(known.out_path), Vec::new());
            }
            let mut refused = Vec::new();
            for (index, substituter) in substituters.iter().enumerate() {
                match find_at(&*store, &**substituter, &output).await {
                    Ok(Some(path)) => return (Some(path), refused),
                    Ok(None) => {}
                    Err(message) => refused.push(RefusedRealisation {
                        substituter: index,
                        message,
                    }),
                }
            }
            (None, refused)
        }
    };
    let found = stream::iter(outputs)
        .map(look_up)
        .buffered(REALISATIONS_AT_ONCE);
    let (paths, refused): (Vec<_>, Vec<_>) = found.unzip().await;
    FoundRealisations {
        paths,
        refused: refused.into_iter().flatten().collect(),
    }
}

/// What a substituter says of an output, or why that is not believed.
async fn find_at(
    store: &dyn Store,
    substituter: &dyn Store,
    output: &OutputKeys,
) -> Result<Option<StorePath>, String> {
    let mut refused = None;
    for id in output.ids() {
        let why = match substituter.realisation(&id).await {
            Ok(None) => continue,
            Ok(Some(found)) => match contradiction(store, &found).await {
                None => return Ok(Some(found.out_path)),
                Some(why) => why,
            },
            Err(StoreError::UntrustedRealisation { .. }) => format!(
                "that of '{id}' has no signature of a trusted key: add the public key of the cache \
                 to the trusted keys, or have the cache signed"
            ),
            // One that may pass is seen where paths are asked for.
            Err(error) if error.is_retryable() => continue,
            Err(error) => describe(&error),
        };
        refused = refused.or(Some(why));
    }
    refused.map_or(Ok(None), Err)
}

/// How a realisation contradicts what the store knows of the inputs that it was made with.
async fn contradiction(store: &dyn Store, found: &Realisation) -> Option<String> {
    for (input, path) in &found.dependent_realisations {
        if let Ok(Some(known)) = store.realisation(input).await
            && known.out_path != *path
        {
            let (id, known) = (&found.id, known.out_path);
            return Some(format!(
                "that of '{id}' was made with '{path}' as '{input}', which is '{known}' here"
            ));
        }
    }
    None
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
    let missing = derivations.into_iter();
    let missing: Vec<_> = missing.filter(|(path, _)| !valid.contains(path)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let dir = store.store_dir().clone();
    // Writing and hashing thousands of texts takes a while.
    let made = tokio::task::spawn_blocking(move || {
        let made = missing
            .iter()
            .map(|(path, derivation)| VerifiedObject::derivation_as(&dir, path, derivation));
        made.collect::<Result<Vec<_>, _>>()
    });
    let objects = made.await.unwrap_or_else(|error| {
        Err(StoreError::Bug {
            store: store.uri().clone(),
            message: format!("writing derivations was lost: {error}"),
        })
    })?;
    for added in store.add_many(objects).await {
        match added {
            // A source that could not be added is told of where it is needed.
            Ok(()) | Err(StoreError::InvalidReference { .. }) => {}
            Err(error) => return Err(error),
        }
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
    let built = AssertUnwindSafe((*builder).build(request, context));
    match built.catch_unwind().await {
        Ok(outcome) => outcome.map_err(|error| builder_trouble(&error)),
        Err(panic) => Err(builder_panicked(&*builder, &*panic)),
    }
}

fn builder_panicked(builder: &dyn Builder, panic: &(dyn std::any::Any + Send)) -> Trouble {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let name = &builder.profile().name;
    Trouble {
        message: format!("builder '{name}' panicked: {}", text.unwrap_or_default()),
        retryable: false,
    }
}

/// Rebuilds valid `outputs` and compares them.
pub(super) async fn check(
    mut parts: BuildParts,
    closures: Arc<Closures>,
    inputs: Closure,
    outputs: Vec<(OutputName, StorePath)>,
    options: CheckOptions,
) -> CheckResult {
    let inputs = closures.complete(&*parts.context.inputs, inputs).await;
    match inputs {
        Ok(inputs) => parts.request.inputs = inputs,
        Err(error) => return CheckResult::Trouble(store_trouble(&error)),
    }
    let BuildParts {
        builder,
        request,
        context,
    } = parts;
    let keep = options.keep.as_deref();
    let checked = AssertUnwindSafe(check_against(&*builder, request, context, &outputs, keep));
    match checked.catch_unwind().await {
        Ok(Ok(outcome)) => CheckResult::Ended(outcome),
        Ok(Err(CheckError::Builder(error))) => CheckResult::Trouble(builder_trouble(&error)),
        Ok(Err(CheckError::Store(error))) if error.is_retryable() => {
            CheckResult::Trouble(store_trouble(&error))
        }
        Ok(Err(error)) => CheckResult::Impossible {
            message: describe(&error),
        },
        Err(panic) => CheckResult::Trouble(builder_panicked(&*builder, &*panic)),
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
            let info = store.path_info(&output.path).await?;
            let references = info.map(|info| info.references.clone());
            let realised = RealisedOutput {
                drv_path: output.drv_path,
                output: output.output,
                store_path: output.path,
                local_path: local.path().to_owned(),
                references: references.unwrap_or_default(),
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
