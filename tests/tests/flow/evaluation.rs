//! The arrows between coordinator and evaluator.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::Instantiated;
use tokio::sync::{Barrier, Notify};
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{BuilderProfile, this_system};
use tvix_coordinator::{BuildEvent, Coordinator};
use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator, StreamEvaluator};
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, realise};
use tvix_store_api::MemoryStore;
use tvix_tests::local::{instantiate, shell};
use tvix_tests::session::{derivation, position, root, run, wanted};

fn trivial(name: &str) -> Instantiated {
    instantiate(shell(name, ""))
}

fn memory_store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Default::default()))
}

/// Makes files that contain the name of their derivation.
fn memory_builder() -> InMemoryBuilder {
    InMemoryBuilder::new(BuilderProfile::new("memory", this_system(), 8)).with_default(|build| {
        let name = &build.request().derivation.name;
        Ok(MemoryOutputs::out(Tree::file(format!("made by {name}"))))
    })
}

#[tokio::test]
async fn coordinator_starts_evaluation_with_path_lookup_and_attribute() {
    let hello = trivial("hello");
    let nixpkgs = tempfile::tempdir().unwrap();
    let received: Arc<Mutex<Vec<EvalRequest>>> = Arc::default();
    let evaluator = {
        let received = received.clone();
        StreamEvaluator::new(move |request: EvalRequest| {
            received.lock().unwrap().push(request);
            stream::iter([Ok(derivation(&hello)), Ok(root("hello", &hello))])
        })
    };
    let request = EvalRequest::new(EvalSource::SearchPath("nixpkgs".into()))
        .with_attr_paths(vec!["hello".into()])
        .with_search_path(vec![("nixpkgs".into(), nixpkgs.path().to_owned())]);
    let coordinator = Coordinator::new(Arc::new(evaluator), memory_store())
        .with_builder(Arc::new(memory_builder()));
    let (events, report) = run(&coordinator, request.clone()).await;

    // The request arrived unchanged, once. Its path is a local directory, which an evaluator can
    // read.
    let received = received.lock().unwrap();
    assert_eq!(*received, [request]);
    assert!(received[0].search_path[0].1.is_dir());
    assert!(report.is_success(), "{report:#?}");
    assert_eq!(report.roots[0].name, "hello");
    let is_root = |event: &BuildEvent| matches!(event, BuildEvent::Root { .. });
    assert!(position(&events, is_root) < events.len());
}

#[tokio::test]
async fn evaluator_yields_derivations_while_it_still_evaluates() {
    let (first, second) = (trivial("first"), trivial("second"));
    let begun = Arc::new(Notify::new());
    let evaluator = {
        let (first, second, begun) = (first.clone(), second.clone(), begun.clone());
        StreamEvaluator::new(move |_| {
            let (second, begun) = (second.clone(), begun.clone());
            // The evaluation waits until the build of the first derivation has started.
            let rest = stream::once(async move {
                begun.notified().await;
                stream::iter([Ok(derivation(&second)), Ok(root("second", &second))])
            });
            stream::iter([Ok(derivation(&first)), Ok(root("first", &first))]).chain(rest.flatten())
        })
    };
    let builder = memory_builder().with_program_async("first", move |_| {
        begun.notify_one();
        async { Ok(MemoryOutputs::out(Tree::file("first"))) }
    });
    let coordinator =
        Coordinator::new(Arc::new(evaluator), memory_store()).with_builder(Arc::new(builder));
    let (events, report) = run(&coordinator, EvalRequest::attrs(["all"])).await;

    assert!(report.is_success(), "{report:#?}");
    assert_eq!(report.counts.built, 2);
    let started = position(
        &events,
        |event| matches!(event, BuildEvent::BuildStarted { drv_path, .. } if *drv_path == first.path),
    );
    let later = position(
        &events,
        |event| matches!(event, BuildEvent::Instantiated { drv_path } if *drv_path == second.path),
    );
    let ended = position(&events, |event| {
        matches!(event, BuildEvent::EvaluationEnded)
    });
    assert!(started < later && later < ended, "{events:#?}");
}

#[tokio::test]
async fn import_from_derivation_is_fed_back_into_the_evaluator() {
    let list = trivial("list");
    let read: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let evaluator = {
        let (list, read) = (list.clone(), read.clone());
        StreamEvaluator::new(move |_| {
            let (request, answer) = realise(vec![wanted(&list)]);
            let read = read.clone();
            // The rest of the evaluation depends on the output of a build.
            let rest = stream::once(async move {
                let outputs = answer.await.unwrap();
                read.lock().unwrap().push(outputs[0].local_path.clone());
                let text = std::fs::read_to_string(&outputs[0].local_path).unwrap();
                let made: Vec<_> = text.split_whitespace().map(trivial).collect();
                let yielded = made
                    .iter()
                    .flat_map(|made| [Ok(derivation(made)), Ok(root("word", made))]);
                stream::iter(yielded.collect::<Vec<_>>())
            });
            let events = [Ok(derivation(&list)), Ok(EvalEvent::Realise(request))];
            stream::iter(events).chain(rest.flatten())
        })
    };
    let builder = memory_builder().with_program("list", |_| {
        Ok(MemoryOutputs::out(Tree::file("apple pear\n")))
    });
    let coordinator =
        Coordinator::new(Arc::new(evaluator), memory_store()).with_builder(Arc::new(builder));
    let (events, report) = run(&coordinator, EvalRequest::attrs(["all"])).await;

    assert!(report.is_success(), "{report:#?}");
    let names: Vec<_> = report
        .roots
        .iter()
        .map(|root| root.drv_path.as_ref().unwrap().name())
        .collect();
    assert_eq!(
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        ["apple.drv", "pear.drv"]
    );
    // The output was read at a local path, although the store has no files.
    let read = read.lock().unwrap();
    assert!(read[0].is_absolute() && !read[0].starts_with("/nix/store"));
    let built = position(
        &events,
        |event| matches!(event, BuildEvent::BuildSucceeded { drv_path, .. } if *drv_path == list.path),
    );
    let answered = position(&events, |event| {
        matches!(event, BuildEvent::ImportAnswered { success: true, .. })
    });
    assert!(built < answered, "{events:#?}");
}

#[tokio::test]
async fn fire_and_forget_is_not_fed_back() {
    let (imported, other) = (trivial("imported"), trivial("other"));
    let answers: Arc<Mutex<Vec<String>>> = Arc::default();
    let evaluator = {
        let answers = answers.clone();
        let after = other.clone();
        InMemoryEvaluator::new().root("other", &other).import(
            "imported",
            [(&imported, ["out"])],
            move |outputs| {
                let names = outputs.iter().map(|it| it.drv_path.name().to_string());
                answers.lock().unwrap().extend(names);
                Ok(EvaluatedAttribute::new().root(&after))
            },
        )
    };
    let coordinator = Coordinator::new(Arc::new(evaluator), memory_store())
        .with_builder(Arc::new(memory_builder()));
    let (events, report) = run(&coordinator, EvalRequest::attrs(["other", "imported"])).await;

    assert!(report.is_success(), "{report:#?}");
    assert_eq!((report.counts.built, report.counts.imports), (2, 1));
    assert_eq!(*answers.lock().unwrap(), ["imported.drv"]);
    let requested: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            BuildEvent::ImportRequested { drv_paths, .. } => Some(drv_paths.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(requested, [vec![imported.path]]);
}

#[tokio::test]
async fn imports_wait_side_by_side() {
    let names = ["import-a", "import-b"];
    let (a, b, other) = (trivial(names[0]), trivial(names[1]), trivial("other"));
    let results = [trivial("result-a"), trivial("result-b")];
    let [after_a, after_b] = results.clone();
    let evaluator = InMemoryEvaluator::new()
        .import("a", [(&a, ["out"])], move |_| {
            Ok(EvaluatedAttribute::new().root(&after_a))
        })
        .import("b", [(&b, ["out"])], move |_| {
            Ok(EvaluatedAttribute::new().root(&after_b))
        })
        .root("other", &other);
    // Builds end only when all three are running concurrently.
    let meeting = Arc::new(Barrier::new(3));
    let mut builder = memory_builder();
    for name in [names[0], names[1], "other"] {
        let meeting = meeting.clone();
        builder = builder.with_program_async(name, move |_| {
            let meeting = meeting.clone();
            async move {
                meeting.wait().await;
                Ok(MemoryOutputs::out(Tree::file("met")))
            }
        });
    }
    let coordinator =
        Coordinator::new(Arc::new(evaluator), memory_store()).with_builder(Arc::new(builder));
    let (events, report) = run(&coordinator, EvalRequest::attrs(["a", "b", "other"])).await;

    assert!(report.is_success(), "{report:#?}");
    assert_eq!((report.counts.built, report.counts.imports), (5, 2));
    let last_request = events
        .iter()
        .rposition(|event| matches!(event, BuildEvent::ImportRequested { .. }));
    let first_answer = position(&events, |event| {
        matches!(event, BuildEvent::ImportAnswered { .. })
    });
    assert!(last_request.unwrap() < first_answer, "{events:#?}");
}
