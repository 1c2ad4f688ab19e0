//! Cases: validity and path infos.

use nix_compat::signature::Signature;
use nix_compat::store_path::StorePath;

use super::fixtures::{Object, expect_nothing, new_path};
use super::{CaseResult, Context, cases, ensure};
use crate::{StoreExt as _, StoreUri};

cases![
    an_unknown_path_is_not_valid,
    what_was_added_is_valid,
    every_field_is_kept,
    what_it_alone_knows_is_kept,
    a_path_is_found_by_its_hash_part,
    a_batch_is_answered_as_its_parts,
    an_empty_batch_is_fine,
    references_must_be_there_first,
    a_path_may_refer_to_itself,
    closures_come_references_first,
    a_text_is_addressed_by_contents,
    a_derivation_is_stored_like_any_file,
    the_uri_reads_back,
];

async fn an_unknown_path_is_not_valid(context: Context) -> CaseResult {
    expect_nothing(&*context.store, &new_path("unknown")).await
}

async fn what_was_added_is_valid(context: Context) -> CaseResult {
    let object = Object::small("added");
    object.add_to(&*context.store).await?;
    object.expect_in(&*context.store).await
}

async fn every_field_is_kept(context: Context) -> CaseResult {
    let reference = Object::small("reference");
    reference.add_to(&*context.store).await?;
    let mut object = Object::small("fields").referring_to([reference.path()]);
    // A deriver need not be valid.
    object.info.deriver = Some(new_path("fields.drv"));
    object.info.signatures = vec![
        Signature::new("a.example-1", &[1; 64])?,
        Signature::new("b.example-1", &[2; 64])?,
    ];
    object.add_to(&*context.store).await?;
    object.expect_in(&*context.store).await
}

async fn what_it_alone_knows_is_kept(context: Context) -> CaseResult {
    let mut object = Object::small("ultimate");
    object.info.ultimate = true;
    object.add_to(&*context.store).await?;
    if context.capabilities.registration {
        let info = context.store.require(object.path()).await?;
        ensure!(
            info.registration_time.is_some(),
            "it has no registration time"
        );
        ensure!(info.ultimate, "it is not ultimate");
    }
    object.expect_in(&*context.store).await
}

async fn a_path_is_found_by_its_hash_part(context: Context) -> CaseResult {
    let object = Object::small("found");
    let digest = object.path().digest();
    let found = context.store.find(digest).await?;
    ensure!(found.is_none(), "{found:?} is found before it is added");
    object.add_to(&*context.store).await?;
    let found = context.store.find(digest).await?;
    let found = found.map(|info| info.path.clone());
    ensure!(
        found.as_ref() == Some(object.path()),
        "{found:?} is found in place of '{}'",
        object.path()
    );
    Ok(())
}

async fn a_batch_is_answered_as_its_parts(context: Context) -> CaseResult {
    let mut paths: Vec<StorePath> = Vec::new();
    let mut valid: Vec<StorePath> = Vec::new();
    for index in 0..60 {
        let object = Object::small("batch");
        if index % 3 == 0 {
            object.add_to(&*context.store).await?;
            valid.push(object.path().clone());
        }
        paths.push(object.path().clone());
    }
    // A repeated path is no error.
    paths.push(paths[0].clone());
    let mut found: Vec<_> = context
        .store
        .valid_paths(&paths)
        .await?
        .into_iter()
        .collect();
    found.sort();
    valid.sort();
    ensure!(found == valid, "{valid:?} are valid, not {found:?}");
    Ok(())
}

async fn an_empty_batch_is_fine(context: Context) -> CaseResult {
    let found = context.store.valid_paths(&[]).await?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

async fn references_must_be_there_first(context: Context) -> CaseResult {
    let reference = Object::small("reference");
    let object = Object::small("referrer").referring_to([reference.path()]);
    let refused = object.add_to(&*context.store).await;
    ensure!(
        refused.is_err(),
        "a reference that is not valid is accepted"
    );
    expect_nothing(&*context.store, object.path()).await?;
    reference.add_to(&*context.store).await?;
    object.add_to(&*context.store).await?;
    object.expect_in(&*context.store).await
}

async fn a_path_may_refer_to_itself(context: Context) -> CaseResult {
    let object = Object::small("self");
    let path = object.path().clone();
    let object = object.referring_to([&path]);
    object.add_to(&*context.store).await?;
    object.expect_in(&*context.store).await
}

async fn closures_come_references_first(context: Context) -> CaseResult {
    let bottom = Object::small("bottom");
    let left = Object::small("left").referring_to([bottom.path()]);
    let right = Object::small("right").referring_to([bottom.path()]);
    let top = Object::small("top").referring_to([left.path(), right.path()]);
    for object in [&bottom, &left, &right, &top] {
        object.add_to(&*context.store).await?;
    }
    let closure = context
        .store
        .closure(std::slice::from_ref(top.path()))
        .await?;
    ensure!(closure.len() == 4, "{} paths instead of 4", closure.len());
    for (index, info) in closure.iter().enumerate() {
        for reference in info.references.iter() {
            let before = closure[..index].iter().any(|info| info.path == *reference);
            ensure!(before, "'{reference}' comes after its referrer");
        }
    }
    Ok(())
}

async fn a_text_is_addressed_by_contents(context: Context) -> CaseResult {
    let reference = Object::small("reference");
    reference.add_to(&*context.store).await?;
    let references = [reference.path().clone()].into();
    let contents = format!("{}\n", new_path("text"));
    let text = Object::text(context.store.store_dir(), "text", &contents, references);
    text.add_to(&*context.store).await?;
    text.expect_in(&*context.store).await
}

async fn a_derivation_is_stored_like_any_file(context: Context) -> CaseResult {
    let dir = context.store.store_dir();
    let output = dir.display(&new_path("made")).to_string();
    let contents = format!(
        "Derive([(\"out\",\"{output}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],\
         [(\"out\",\"{output}\")])"
    );
    for contents in [contents.as_str(), "Derive(nonsense", ""] {
        let unique = new_path("unlike").hash_part();
        let name = format!("{unique}.drv");
        let text = Object::text(dir, &name, contents, Default::default());
        match text.add_to(&*context.store).await {
            Err(_) if context.capabilities.checks_derivations => {
                expect_nothing(&*context.store, text.path()).await?;
            }
            added => {
                added?;
                text.expect_in(&*context.store).await?;
            }
        }
    }
    Ok(())
}

async fn the_uri_reads_back(context: Context) -> CaseResult {
    let uri = context.store.uri();
    let text = uri.to_string();
    let parsed: StoreUri = text.parse()?;
    ensure!(parsed == *uri, "'{text}' reads back as '{parsed}'");
    Ok(())
}
