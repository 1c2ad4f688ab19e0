//! Which path an output turned out to have.

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

fn new_realisation(object: &Object) -> Result<Realisation, Failure> {
    Ok(Realisation {
        id: DrvOutput {
            drv_hash: digest(new_path("realised").to_string().as_bytes()),
            output: OutputName::out(),
        },
        out_path: object.path().clone(),
        signatures: vec!["key-1:AAAA".parse()?, "key-2:BBBB".parse()?],
    })
}

async fn an_unknown_realisation_is_none(context: Context) -> CaseResult {
    let unknown = new_realisation(&Object::small("unknown"))?;
    let found = context.store.realisation(&unknown.id).await?;
    ensure!(found.is_none(), "{found:?}");
    Ok(())
}

async fn realisations_are_remembered_or_forgotten(context: Context) -> CaseResult {
    let object = Object::small("realised");
    object.add_to(&*context.store).await?;
    let realisation = new_realisation(&object)?;
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
    Ok(())
}

async fn what_is_remembered_stays(context: Context) -> CaseResult {
    let (first, second) = (Object::small("first"), Object::small("second"));
    first.add_to(&*context.store).await?;
    second.add_to(&*context.store).await?;
    let realisation = new_realisation(&first)?;
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
    Ok(())
}

async fn a_realisation_needs_a_valid_path(context: Context) -> CaseResult {
    let realisation = new_realisation(&Object::small("missing"))?;
    let added = context.store.add_realisation(&realisation).await;
    if context.capabilities.realisations {
        ensure!(
            matches!(added, Err(StoreError::NotFound { .. })),
            "should fail with NotFound, not: {added:?}"
        );
    }
    let found = context.store.realisation(&realisation.id).await?;
    ensure!(found.is_none(), "{found:?}");
    Ok(())
}
