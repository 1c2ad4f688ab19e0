//! Tests of the in-memory evaluator beyond the conformance suite.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use nix_compat::derivation::{Derivation, DerivationBuilder, Instantiated};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator};
use tvix_eval_api::{
    EvalError, EvalEvent, EvalRequest, EvalSource, Evaluator, RealisedOutput, SourceAddition,
    SourceContent,
};

fn builder(name: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, "x86_64-linux", "/bin/sh")
}

fn made(builder: DerivationBuilder) -> Instantiated {
    builder.instantiate(&StoreDir::default()).unwrap()
}

/// Names of derivations and sources, `=name` for roots, `?` for imports, `!` for errors.
async fn trace(evaluator: &InMemoryEvaluator, attrs: &[&str]) -> (Vec<String>, Vec<EvalError>) {
    let request = EvalRequest::attrs(attrs.iter().copied());
    let mut events = evaluator.evaluate(request).await.unwrap();
    let (mut trace, mut errors) = (Vec::new(), Vec::new());
    while let Some(event) = events.next().await {
        trace.push(match event {
            Ok(EvalEvent::Derivation { derivation, .. }) => derivation.name.to_string(),
            Ok(EvalEvent::AddSource(source)) => format!("+{}", source.path.name()),
            Ok(EvalEvent::Root(root)) => format!("={}", root.name),
            Ok(EvalEvent::Realise(realise)) => {
                let outputs = realise.wanted.iter().flat_map(|wanted| {
                    wanted.outputs.iter().map(|output| {
                        RealisedOutput::new(
                            wanted.drv_path.clone(),
                            output.clone(),
                            wanted.drv_path.clone(),
                            "/nowhere",
                        )
                    })
                });
                let outputs = outputs.collect();
                realise.reply.answer(Ok(outputs));
                "?".to_owned()
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                errors.push(error);
                "!".to_owned()
            }
        });
    }
    (trace, errors)
}

#[tokio::test]
async fn yields_what_is_needed_once_and_inputs_first() {
    let a = made(builder("a").outputs(["out", "dev"]));
    let b = made(builder("b").input(&a, "dev"));
    let c = made(builder("c").input(&a, "out").input(&b, "out"));
    let other = made(builder("other"));
    let evaluator = InMemoryEvaluator::new()
        .derivations([&other, &b, &a])
        .root("c", &c)
        .root_outputs("dev", &a, ["dev"])
        .root_outputs("bad", &a, ["doc"]);
    let (events, _) = trace(&evaluator, &["c", "dev", "c"]).await;
    assert_eq!(events, ["a", "b", "c", "=c", "=dev"]);
    let (events, errors) = trace(&evaluator, &[]).await;
    assert_eq!(events, ["!", "a", "b", "c", "=c", "=dev"]);
    assert_eq!(errors[0].attr_path(), Some("bad"));
    assert!(matches!(errors[0].cause(), EvalError::NoSuchOutput { output, .. } if output == "doc"));
    let unsupported = EvalRequest::new(EvalSource::SearchPath("nixpkgs".to_owned()));
    let error = evaluator.evaluate(unsupported).await.err().unwrap();
    assert!(error.to_string().contains("search path"), "{error}");
}

#[tokio::test]
async fn sources_come_before_their_users() {
    let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-inner".parse().unwrap();
    let outer: StorePath = "10bgd045z0d4icpbc2yyz4gx48ak44la-outer".parse().unwrap();
    let text = |path: &StorePath, references| {
        SourceAddition::new(
            path.clone(),
            nix_compat::content_address::ContentAddressMethod::Text,
            SourceContent::Text("text".into()),
        )
        .with_references(references)
    };
    let user = made(builder("user").source(&outer));
    let unrelated = text(
        &"20bgd045z0d4icpbc2yyz4gx48ak44la-no".parse().unwrap(),
        SortedSet::new(),
    );
    let evaluator = InMemoryEvaluator::new()
        .source(text(&outer, SortedSet::from([path.clone(), outer.clone()])))
        .source(text(&path, SortedSet::new()))
        .source(unrelated)
        .root("user", &user);
    let (events, _) = trace(&evaluator, &[]).await;
    assert_eq!(events, ["+inner", "+outer", "user", "=user"]);
}

#[tokio::test]
async fn a_missing_input_fails_its_dependents_only() {
    let lost = made(builder("lost"));
    let user = made(builder("user").input(&lost, "out"));
    let above = made(builder("above").input(&user, "out"));
    let fine = made(builder("fine"));
    let evaluator = InMemoryEvaluator::new()
        .root("above", &above)
        .root("fine", &fine)
        .root("user", &user);
    let (events, errors) = trace(&evaluator, &[]).await;
    assert_eq!(events, ["!", "fine", "=fine", "!"]);
    for (error, attr) in errors.iter().zip(["above", "user"]) {
        assert_eq!(error.attr_path(), Some(attr));
        let EvalError::MissingInput {
            dependent, missing, ..
        } = error.cause()
        else {
            panic!("{error:?}");
        };
        assert_eq!((dependent, missing), (&user.path, &lost.path));
    }
}

/// A derivation at `path` that depends on the one at `input`, regardless of its contents.
fn forged(template: &Instantiated, path: StorePath, input: &StorePath) -> Instantiated {
    let mut derivation: Derivation = (*template.derivation).clone();
    derivation
        .input_drvs
        .insert(input.clone(), SortedSet::from(["out".parse().unwrap()]));
    Instantiated {
        path,
        derivation: Arc::new(derivation),
        ..template.clone()
    }
}

fn numbered(number: usize) -> StorePath {
    let mut digest = [0; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    StorePath::new(digest, "forged.drv".parse().unwrap())
}

#[tokio::test]
async fn cycles_are_errors_and_depth_is_not() {
    let (len, template) = (100_000, made(builder("forged")));
    let ring: Vec<_> = (0..len)
        .map(|number| forged(&template, numbered(number), &numbered((number + 1) % len)))
        .collect();
    let evaluator = InMemoryEvaluator::new()
        .derivations(&ring[1..])
        .root("ring", &ring[0]);
    let (events, errors) = trace(&evaluator, &[]).await;
    assert_eq!(events, ["!"]);
    let EvalError::Cycle { cycle } = errors[0].cause() else {
        panic!("{errors:?}");
    };
    assert_eq!(cycle.len(), len + 1);
    assert_eq!(cycle.first(), cycle.last());

    let bottom = Instantiated {
        path: numbered(0),
        ..made(builder("bottom"))
    };
    let chain: Vec<_> = (1..len)
        .map(|number| forged(&template, numbered(number), &numbered(number - 1)))
        .collect();
    let evaluator = InMemoryEvaluator::new()
        .derivation(&bottom)
        .derivations(&chain)
        .root("top", chain.last().unwrap());
    let (events, _) = trace(&evaluator, &[]).await;
    assert_eq!(events.len(), len + 1);
    assert_eq!((&*events[0], &*events[len]), ("bottom", "=top"));
}

#[tokio::test]
async fn imports_chain_and_each_hook_is_called_once() {
    let first = made(builder("first"));
    let second = made(builder("second"));
    let third = made(builder("third"));
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let evaluator = InMemoryEvaluator::new()
        .import("a", [(&first, ["out"])], move |outputs| {
            counted.fetch_add(1, Ordering::Relaxed);
            assert_eq!(outputs.len(), 1);
            let third = third.clone();
            let counted = Arc::clone(&counted);
            let next = move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok(EvaluatedAttribute::new().child("third", &third)))
            };
            Ok(EvaluatedAttribute::new()
                .root(&second)
                .import_async([(&second, ["out"])], next))
        })
        .import("fails", [(&first, ["out"])], |_| {
            Err(EvalError::expression("no"))
        });
    let (events, _) = trace(&evaluator, &["a"]).await;
    assert_eq!(
        events,
        ["first", "?", "second", "?", "=a", "third", "=a.third"]
    );
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let (_, errors) = trace(&evaluator, &["fails"]).await;
    assert_eq!(errors[0].attr_path(), Some("fails"));
    assert!(matches!(errors[0].cause(), EvalError::Expression { .. }));
}
