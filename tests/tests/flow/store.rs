//! The arrows between coordinator and store, before any build.

use std::collections::HashSet;
use std::sync::Arc;

use nix_compat::derivation::Instantiated;
use tvix_build_api::memory::InMemoryBuilder;
use tvix_build_api::{BuilderProfile, this_system};
use tvix_coordinator::{BuildEvent, Coordinator};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::MemoryStore;
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::recording::{RecordingBuilder, RecordingStore};
use tvix_tests::session::run;

fn independent(count: usize) -> Vec<Instantiated> {
    let make = |number| instantiate(shell(&format!("independent-{number}"), ""));
    (0..count).map(make).collect()
}

fn evaluator_of(graph: &[Instantiated]) -> Arc<InMemoryEvaluator> {
    let with_root = |evaluator: InMemoryEvaluator, made: &Instantiated| {
        evaluator.root(made.path.to_string(), made)
    };
    Arc::new(graph.iter().fold(InMemoryEvaluator::new(), with_root))
}

fn all(graph: &[Instantiated]) -> EvalRequest {
    EvalRequest::attrs(graph.iter().map(|made| made.path.to_string()))
}

#[tokio::test]
async fn coordinator_checks_if_desired_paths_are_in_store() {
    let graph = independent(300);
    let store = RecordingStore::new(MemoryStore::new(Default::default()));
    let builder = RecordingBuilder::new(InMemoryBuilder::trivial(BuilderProfile::new(
        "memory",
        this_system(),
        8,
    )));
    let coordinator =
        Coordinator::new(evaluator_of(&graph), store.clone()).with_builder(builder.clone());
    let (_, report) = run(&coordinator, all(&graph)).await;
    assert!(report.is_success(), "{report:#?}");

    let lookups = store.lookups();
    let looked_up: Vec<_> = lookups.concat();
    let outputs: HashSet<_> = graph
        .iter()
        .map(|made| made.output_path("out").unwrap())
        .collect();
    // Every output is looked up exactly once.
    assert_eq!(looked_up.len(), outputs.len());
    assert_eq!(looked_up.into_iter().collect::<HashSet<_>>(), outputs);
    // Look-ups are batched: there are far fewer round trips than paths.
    assert!(
        lookups.len() * 4 <= outputs.len(),
        "{} look-ups of {} paths",
        lookups.len(),
        outputs.len()
    );
    // All outputs were looked up and missing, so all are built.
    assert_eq!(builder.builds().len(), graph.len());
}

#[tokio::test]
async fn store_has_path_success_response() {
    let world = LocalWorld::new().await;
    let inner = instantiate(shell("inner", "echo inner > $out"));
    let outer = instantiate(shell("outer", "cat $inner > $out").input_env("inner", &inner, "out"));
    let evaluator = InMemoryEvaluator::new()
        .derivation(&inner)
        .root("outer", &outer);
    let builder = RecordingBuilder::new(world.builder());
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(builder.clone());
    let (_, first) = run(&coordinator, EvalRequest::attrs(["outer"])).await;
    assert!(first.is_success(), "{first:#?}");
    assert_eq!((first.counts.built, builder.builds().len()), (2, 2));

    let (events, second) = run(&coordinator, EvalRequest::attrs(["outer"])).await;
    assert!(second.is_success(), "{second:#?}");
    assert_eq!(second.roots, first.roots);
    assert_eq!((second.counts.built, builder.builds().len()), (0, 2));
    let found = |event: &BuildEvent| matches!(event, BuildEvent::Found { drv_path } if *drv_path == outer.path);
    assert!(events.iter().any(found), "{events:#?}");
    world.expect_clean().await;
}

/// Some paths are valid and some are missing; each is looked up and, if necessary, built.
#[tokio::test]
async fn has_more_derivations_loops() {
    let graph = independent(40);
    let store: Arc<MemoryStore> = Arc::new(MemoryStore::new(Default::default()));
    let profile = BuilderProfile::new("memory", this_system(), 3);
    let builder = RecordingBuilder::new(InMemoryBuilder::trivial(profile));
    let (there, _) = graph.split_at(15);
    for (part, built) in [(there, 15), (&graph[..], 25)] {
        let coordinator =
            Coordinator::new(evaluator_of(part), store.clone()).with_builder(builder.clone());
        let (events, report) = run(&coordinator, all(part)).await;
        assert!(report.is_success(), "{report:#?}");
        assert_eq!(report.roots.len(), part.len());
        assert_eq!(report.counts.built, built);
        assert!(matches!(events.last(), Some(BuildEvent::Finished { .. })));
    }
    let built: HashSet<_> = builder
        .builds()
        .into_iter()
        .map(|build| build.request.drv_path)
        .collect();
    assert_eq!((built.len(), builder.builds().len()), (40, 40));
}
