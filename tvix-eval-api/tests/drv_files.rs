//! `.drv` files made by C++ Nix, and invalid ones.

#![cfg(feature = "drv-files")]
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::store_path::StoreDir;
use tvix_eval_api::drv::{DrvEvaluator, DrvFileError};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalSource, Evaluator};

async fn events(
    evaluator: &DrvEvaluator,
    wanted: impl IntoIterator<Item = String>,
) -> Vec<Result<EvalEvent, EvalError>> {
    let source = EvalSource::Derivations(wanted.into_iter().collect());
    let events = evaluator.evaluate(EvalRequest::new(source)).await.unwrap();
    events.collect().await
}

async fn only_error(evaluator: &DrvEvaluator, wanted: impl Into<String>) -> EvalError {
    let mut items = events(evaluator, [wanted.into()]).await;
    let error = items.pop().unwrap().unwrap_err();
    assert!(items.iter().all(Result::is_ok), "{items:?}");
    assert!(error.attr_path().is_some());
    error
}

/// The reason of an invalid derivation.
fn reason(error: &EvalError) -> &DrvFileError {
    let EvalError::InvalidDerivation { source, .. } = error.cause() else {
        panic!("{error:?}");
    };
    source.downcast_ref().unwrap()
}

fn made(builder: DerivationBuilder) -> Instantiated {
    builder.instantiate(&StoreDir::default()).unwrap()
}

fn builder(name: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, "x86_64-linux", "/bin/sh")
}

fn write(folder: &Path, derivation: &Instantiated) -> String {
    let file = folder.join(derivation.path.to_string());
    let contents = derivation.derivation.to_aterm(&StoreDir::default());
    std::fs::write(&file, contents).unwrap();
    file.to_str().unwrap().to_owned()
}

fn store_path(derivation: &Instantiated) -> String {
    format!("/nix/store/{}", derivation.path)
}

#[tokio::test]
async fn derivations_of_cpp_nix_are_yielded_inputs_first() {
    let folder =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../nix-compat/tests/goldens/derivations");
    let names = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let wanted: Vec<_> = names
        .filter(|name| name.ends_with(".drv"))
        .map(|name| format!("/nix/store/{name}"))
        .collect();
    let evaluator = DrvEvaluator::new(StoreDir::default(), vec!["/nowhere".into(), folder]);
    let mut seen = HashSet::new();
    let mut roots = HashSet::new();
    for event in events(&evaluator, wanted.clone()).await {
        match event.unwrap() {
            EvalEvent::Derivation {
                path, derivation, ..
            } => {
                let mut inputs = derivation.input_drvs.iter();
                assert!(inputs.all(|(input, _)| seen.contains(input)), "{path}");
                assert!(seen.insert(path));
            }
            EvalEvent::Root(root) => {
                assert!(seen.contains(&root.wanted.drv_path));
                assert!(!root.wanted.outputs.is_empty());
                roots.insert(root.name);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(roots, wanted.into_iter().collect());
    assert_eq!(seen.len(), roots.len());
}

#[tokio::test]
async fn outputs_may_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let many = made(builder("many").outputs(["out", "dev", "doc"]));
    let file = write(folder.path(), &many);
    let evaluator = DrvEvaluator::new(StoreDir::default(), Vec::new());
    let wanted = [format!("{file}!doc,out"), file.clone()];
    let items = events(&evaluator, wanted.clone()).await;
    let roots = items.into_iter().filter_map(|item| match item.unwrap() {
        EvalEvent::Root(root) => Some((root.name, root.wanted.outputs.len())),
        _ => None,
    });
    let [some, all] = wanted;
    assert_eq!(roots.collect::<Vec<_>>(), [(some, 2), (all, 3)]);
    let error = only_error(&evaluator, format!("{file}!lib")).await;
    assert!(matches!(error.cause(), EvalError::NoSuchOutput { output, .. } if output == "lib"));
}

#[tokio::test]
async fn errors_name_missing_derivations() {
    let folder = tempfile::tempdir().unwrap();
    let lost = made(builder("lost"));
    let user = made(builder("user").input(&lost, "out"));
    let above = made(builder("above").input(&user, "out"));
    let fine = made(builder("fine"));
    for derivation in [&user, &above, &fine] {
        write(folder.path(), derivation);
    }
    let evaluator = DrvEvaluator::new(StoreDir::default(), vec![folder.path().into()]);
    let items = events(&evaluator, [&above, &fine, &user].map(store_path)).await;
    let (fine, errors): (Vec<_>, Vec<_>) = items.into_iter().partition(Result::is_ok);
    assert_eq!((fine.len(), errors.len()), (2, 2));
    for error in errors {
        let error = error.unwrap_err();
        let EvalError::MissingInput {
            dependent,
            missing,
            searched,
        } = error.cause()
        else {
            panic!("{error:?}");
        };
        assert_eq!((dependent, missing), (&user.path, &lost.path));
        assert!(searched.contains(folder.path().to_str().unwrap()));
    }
    let error = only_error(&evaluator, store_path(&lost)).await;
    assert!(matches!(error.cause(), EvalError::Read { .. }));
    let odd = only_error(&evaluator, "./hello.drv").await;
    assert!(matches!(reason(&odd), DrvFileError::Name(_)));
    let odd = only_error(&evaluator, store_path(&lost).replace(".drv", "")).await;
    assert!(matches!(reason(&odd), DrvFileError::NotDerivation));
}

#[tokio::test]
async fn invalid_files_are_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let evaluator = DrvEvaluator::new(StoreDir::default(), vec![folder.path().into()]);
    let honest = made(builder("honest"));
    let place = folder.path().join(honest.path.to_string());

    std::fs::write(&place, "Derive(").unwrap();
    let error = only_error(&evaluator, store_path(&honest)).await;
    assert!(matches!(reason(&error), DrvFileError::Aterm(_)));

    // The contents of another derivation.
    let other = made(builder("honest").args(["other"]));
    let contents = other.derivation.to_aterm(&StoreDir::default());
    std::fs::write(&place, contents).unwrap();
    let error = only_error(&evaluator, store_path(&honest)).await;
    assert!(
        matches!(reason(&error), DrvFileError::OtherContents { computed } if *computed == other.path)
    );

    // A derivation with the output path of another one.
    let mut claim = (*other.derivation).clone();
    claim.args.clear();
    claim.args.push("evil".into());
    let path = claim.path(&StoreDir::default()).unwrap();
    std::fs::write(
        folder.path().join(path.to_string()),
        claim.to_aterm(&StoreDir::default()),
    )
    .unwrap();
    let error = only_error(&evaluator, format!("/nix/store/{path}")).await;
    assert!(matches!(reason(&error), DrvFileError::OutputPath(_)));

    // A directory cannot be read as a file.
    let unreadable = made(builder("unreadable"));
    std::fs::create_dir(folder.path().join(unreadable.path.to_string())).unwrap();
    let error = only_error(&evaluator, store_path(&unreadable)).await;
    assert!(matches!(error.cause(), EvalError::Read { .. }));
}

#[tokio::test]
async fn long_chains_take_no_recursion() {
    let folder = tempfile::tempdir().unwrap();
    let mut top = made(builder("link"));
    write(folder.path(), &top);
    for _ in 0..2000 {
        top = made(builder("link").input(&top, "out"));
        write(folder.path(), &top);
    }
    let evaluator = DrvEvaluator::new(StoreDir::default(), vec![folder.path().into()]);
    let items = events(&evaluator, [store_path(&top)]).await;
    assert_eq!(items.len(), 2002);
    assert!(matches!(items.last(), Some(Ok(EvalEvent::Root(_)))));
}
