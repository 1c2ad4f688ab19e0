//! The actions of the machine as futures.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::Realisation;
use nix_compat::store_path::StorePath;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, CheckError, ResourceUsage, StreamedOutput,
    check_against,
};
use tvix_eval_api::{RealiseError, RealisedOutput};
use tvix_store_api::{LocalPath, Store, StoreError, StoreExt as _, VerifiedObject};

use super::closures::{Closure, Closures};
use crate::machine::{
    CheckResult, ComponentError, FoundRealisation, ImportedOutput, OutputKeys, Probed,
    RealisationConflict, Recording,
};
use crate::options::CheckOptions;

/// Imported outputs that are unpacked at once, where they have to be.
const UNPACKED_AT_ONCE: usize = 4;
/// Realisations that are asked for at once.
const REALISATIONS_AT_ONCE: usize = 32;
/// Paths that a substituter is asked for at once; it may do less at once.
const PROBED_AT_ONCE: usize = 64;

pub(super) async fn query_paths(
    store: Arc<dyn Store>,
    paths: Vec<StorePath>,
) -> Result<Vec<bool>, ComponentError> {
    let valid = store
        .valid_paths(&paths)
        .await
        .map_err(|error| ComponentError::from(&error))?;
    Ok(paths.iter().map(|path| valid.contains(path)).collect())
}

/// The answer of a substituter for `paths`.
pub(super) async fn query_substituter(
    substituter: Arc<dyn Store>,
    paths: Vec<StorePath>,
) -> Result<Vec<Probed>, ComponentError> {
    let look_up = |path: StorePath| {
        let substituter = substituter.clone();
        async move {
            match substituter.path_info(&path).await {
                Ok(Some(info)) => Ok(Probed::Offered {
                    references: info.references.iter().cloned().collect(),
                }),
                Ok(None) => Ok(Probed::Absent),
                // The error concerns one path only.
                Err(error @ (StoreError::Untrusted { .. } | StoreError::BadInfo { .. })) => {
                    Ok(Probed::Refused {
                        error: ComponentError::from(&error),
                    })
                }
                Err(error) => Err(ComponentError::from(&error)),
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
) -> Result<(), ComponentError> {
    let copied = async {
        let info = substituter.require(&path).await?;
        substituter.copy_path(&*store, &info).await
    };
    copied.await.map_err(|error| ComponentError::from(&error))
}

/// The paths of outputs, where they are known by any of their keys and valid.
pub(super) async fn query_realisations(
    store: Arc<dyn Store>,
    outputs: Vec<OutputKeys>,
) -> Result<Vec<Option<StorePath>>, ComponentError> {
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
        .map_err(|error: StoreError| ComponentError::from(&error))
}

/// Whether a store rejects a realisation that it has.
fn is_refused(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::UntrustedRealisation { .. } | StoreError::BadRealisation { .. }
    )
}

/// The realisations that the store has of outputs, whether their paths are valid or not.
pub(super) async fn find_recorded(
    store: Arc<dyn Store>,
    outputs: Vec<OutputKeys>,
) -> Vec<FoundRealisation> {
    let look_up = |output: OutputKeys| {
        let store = store.clone();
        async move {
            match store.realisation_of(output.keys, &output.output).await {
                Ok(Some(known)) => FoundRealisation::Known {
                    path: known.out_path,
                    conflicts: Vec::new(),
                },
                Ok(None) => FoundRealisation::Absent,
                Err(error) => FoundRealisation::Failed(ComponentError::from(&error)),
            }
        }
    };
    let found = stream::iter(outputs).map(look_up);
    found.buffered(REALISATIONS_AT_ONCE).collect().await
}

/// The realisations that a substituter has of outputs.
pub(super) async fn find_realisations(
    store: Arc<dyn Store>,
    substituter: Arc<dyn Store>,
    outputs: Vec<OutputKeys>,
) -> Vec<FoundRealisation> {
    let look_up = |output: OutputKeys| {
        let (store, substituter) = (store.clone(), substituter.clone());
        async move { find_at(&*store, &*substituter, &output).await }
    };
    let found = stream::iter(outputs).map(look_up);
    found.buffered(REALISATIONS_AT_ONCE).collect().await
}

/// The first realisation of an output, by its keys, that can be used; else the first that cannot.
async fn find_at(
    store: &dyn Store,
    substituter: &dyn Store,
    output: &OutputKeys,
) -> FoundRealisation {
    let mut unusable = None;
    for id in output.ids() {
        let found = match substituter.realisation(&id).await {
            Ok(None) => continue,
            Ok(Some(found)) => {
                let conflicts = conflicts(store, &found).await;
                let usable = conflicts.is_empty();
                let path = found.out_path;
                let found = FoundRealisation::Known { path, conflicts };
                if usable {
                    return found;
                }
                found
            }
            Err(StoreError::UntrustedRealisation { .. }) => FoundRealisation::Refused {
                message: format!(
                    "that of '{id}' has no signature of a trusted key: add the public key of the \
                     cache to the trusted keys, or have the cache signed"
                ),
            },
            Err(error) if error.is_retryable() => {
                FoundRealisation::Failed(ComponentError::from(&error))
            }
            Err(error) => FoundRealisation::Refused {
                message: ComponentError::from(&error).message,
            },
        };
        let told = matches!(unusable, None | Some(FoundRealisation::Failed(_)));
        if told {
            unusable = Some(found);
        }
    }
    unusable.unwrap_or(FoundRealisation::Absent)
}

/// Inputs of a realisation of which the store knows other paths.
async fn conflicts(store: &dyn Store, found: &Realisation) -> Vec<RealisationConflict> {
    let mut conflicts = Vec::new();
    for (input, path) in &found.dependent_realisations {
        if let Ok(Some(known)) = store.realisation(input).await
            && known.out_path != *path
        {
            conflicts.push(RealisationConflict {
                realisation: found.id.clone(),
                input: input.clone(),
                claimed: path.clone(),
                known: known.out_path,
            });
        }
    }
    conflicts
}

pub(super) async fn record(
    store: Arc<dyn Store>,
    recording: Recording,
) -> Result<(), ComponentError> {
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
    recorded.map_err(|error| ComponentError::from(&error))
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
            // A failure of the source is reported with the derivations that need it.
            Ok(()) | Err(StoreError::InvalidReference { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) async fn push_outputs(
    store: Arc<dyn Store>,
    outputs: Vec<StreamedOutput>,
) -> Result<(), ComponentError> {
    for output in outputs {
        store
            .add(output.info, output.nar)
            .await
            .map_err(|error| ComponentError::from(&error))?;
    }
    Ok(())
}

/// A build and its builder.
pub(super) struct BuildParts {
    pub(super) builder: Arc<dyn Builder>,
    pub(super) request: BuildRequest,
    pub(super) context: BuildContext,
}

/// Looks up the rest of the closure, and builds.
pub(super) async fn build_with(
    mut parts: BuildParts,
    closures: Arc<Closures>,
    inputs: Closure,
) -> Result<BuildOutcome, ComponentError> {
    let inputs = closures.complete(&*parts.context.inputs, inputs).await;
    parts.request.inputs = inputs.map_err(|error| ComponentError::from(&error))?;
    build(parts).await
}

pub(super) async fn build(parts: BuildParts) -> Result<BuildOutcome, ComponentError> {
    let BuildParts {
        builder,
        request,
        context,
    } = parts;
    // Of the builder itself: that of the `Arc` would box another future around it.
    let built = AssertUnwindSafe((*builder).build(request, context));
    match built.catch_unwind().await {
        Ok(outcome) => outcome.map_err(|error| ComponentError::from(&error)),
        Err(panic) => Err(builder_panicked(&*builder, &*panic)),
    }
}

/// The resources that a successful build used, and the size of its outputs in bytes.
pub(super) fn measured(
    result: &Result<BuildOutcome, ComponentError>,
) -> (Option<ResourceUsage>, Option<u64>) {
    let Ok(BuildOutcome::Success(success)) = result else {
        return (None, None);
    };
    let outputs = success.delivery.outputs();
    let sizes = outputs.iter().map(|(_, info)| info.nar_size);
    (success.usage, Some(sizes.sum()))
}

fn builder_panicked(builder: &dyn Builder, panic: &(dyn std::any::Any + Send)) -> ComponentError {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let name = &builder.profile().name;
    ComponentError::builder(format!(
        "builder '{name}' panicked: {}",
        text.unwrap_or_default()
    ))
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
        Err(error) => return CheckResult::ComponentError(ComponentError::from(&error)),
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
        Ok(Err(CheckError::Builder(error))) => {
            CheckResult::ComponentError(ComponentError::from(&error))
        }
        Ok(Err(CheckError::Store(error))) if error.is_retryable() => {
            CheckResult::ComponentError(ComponentError::from(&error))
        }
        Ok(Err(error)) => CheckResult::Impossible {
            error: ComponentError::from(&error),
        },
        Err(panic) => CheckResult::ComponentError(builder_panicked(&*builder, &*panic)),
    }
}

/// Imported outputs, with their places on this file system. Unpacked copies exist as long as the
/// returned guards.
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
            let realised = RealisedOutput::new(
                output.drv_path,
                output.output,
                output.path,
                local.path().to_owned(),
            )
            .with_references(references.unwrap_or_default());
            Ok((realised, local))
        }
    };
    let located = stream::iter(outputs).map(locate).buffered(UNPACKED_AT_ONCE);
    let located: Result<Vec<_>, StoreError> = located.try_collect().await;
    match located {
        Ok(located) => Ok(located.into_iter().unzip()),
        Err(error) => Err(RealiseError::Store(ComponentError::from(&error).message)),
    }
}
