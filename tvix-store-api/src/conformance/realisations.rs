//! Cases: realisations, by either key.

use nix_compat::derivation::OutputName;
use nix_compat::realisation::{DrvOutput, Realisation};

use super::fixtures::{Object, new_path};
use super::{CaseResult, Context, Failure, cases, ensure};
use crate::StoreError;
use crate::verify::digest;

cases![
    an_unknown_realisation_is_none,
    realisations_are_remembered_or_forgotten,
    what_is_remembered_stays,
    a_realisation_needs_a_valid_path,
];

/// Realisations of a new output, by hash and by derivation path.
fn new_realisations(object: &Object) -> Result<[Realisation; 2], Failure> {
    let hash = digest(new_path("realised").to_string().as_bytes());
    let by_hash = DrvOutput::by_hash(hash, OutputName::out());
    let by_path = DrvOutput::by_path(new_path("realised.drv"), OutputName::out());
    let signatures = vec!["key-1:AAAA".parse()?, "key-2:BBBB".parse()?];
    Ok([by_hash, by_path].map(|id| Realisation {
        signatures: signatures.clone(),
        ..Realisation::new(id, object.path().clone())
    }))
}

async fn an_unknown_realisation_is_none(context: Context) -> CaseResult {
    for unknown in new_realisations(&Object::small("unknown"))? {
        let found = context.store.realisation(&unknown.id).await?;
        ensure!(found.is_none(), "{found:?}");
    }
    Ok(())
}

async fn realisations_are_remembered_or_forgotten(context: Context) -> CaseResult {
    let object = Object::small("realised");
    object.add_to(&*context.store).await?;
    for realisation in new_realisations(&object)? {
        context.store.add_realisation(&realisation).await?;
        let found = context.store.realisation(&realisation.id).await?;
        match &found {
            Some(found) => ensure!(
                *found == realisation,
                "{found:?} instead of {realisation:?}"
            ),
            None => ensure!(!context.capabilities.realisations, "it is forgotten"),
        }
        let mut other = realisation.id.clone();
        other.output = "dev".parse()?;
        let found = context.store.realisation(&other).await?;
        ensure!(found.is_none(), "another output has it too: {found:?}");
        for other in new_realisations(&object)? {
            let found = context.store.realisation(&other.id).await?;
            ensure!(found.is_none(), "another derivation has it too: {found:?}");
        }
    }
    Ok(())
}

async fn what_is_remembered_stays(context: Context) -> CaseResult {
    let (first, second) = (Object::small("first"), Object::small("second"));
    first.add_to(&*context.store).await?;
    second.add_to(&*context.store).await?;
    for realisation in new_realisations(&first)? {
        context.store.add_realisation(&realisation).await?;
        context.store.add_realisation(&realisation).await?;
        let mut other = realisation.clone();
        other.out_path = second.path().clone();
        context.store.add_realisation(&other).await?;
        let found = context.store.realisation(&realisation.id).await?;
        ensure!(
            found.as_ref().is_none_or(|found| *found == realisation),
            "{found:?} instead of {realisation:?}"
        );
    }
    Ok(())
}

async fn a_realisation_needs_a_valid_path(context: Context) -> CaseResult {
    for realisation in new_realisations(&Object::small("missing"))? {
        let added = context.store.add_realisation(&realisation).await;
        if context.capabilities.realisations {
            ensure!(
                matches!(added, Err(StoreError::NotFound { .. })),
                "should fail with NotFound, not: {added:?}"
            );
        }
        let found = context.store.realisation(&realisation.id).await?;
        ensure!(found.is_none(), "{found:?}");
    }
    Ok(())
}
