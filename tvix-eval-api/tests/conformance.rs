//! Runs the suite on both evaluators and on pointers to them, and on broken evaluators, which must
//! fail.

#![allow(clippy::unwrap_used)]

use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tvix_eval_api::conformance::{Capabilities, Subject, TestGraph, TestValue, run_all};
use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator, StreamEvaluator};
use tvix_eval_api::tasks::{Taken, TaskSource};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator, Workers};

fn add(evaluated: EvaluatedAttribute, value: TestValue) -> EvaluatedAttribute {
    match value {
        TestValue::Root(derivation, None) => evaluated.root(&derivation),
        TestValue::Root(derivation, Some(outputs)) => evaluated.root_outputs(&derivation, outputs),
        TestValue::Import(import) => {
            let (resumed, then) = (import.resumed, import.then);
            let wanted = import.wanted.iter();
            let wanted = wanted.map(|(derivation, outputs)| (derivation, outputs));
            evaluated.import(wanted, move |_| {
                resumed.count();
                Ok(add(EvaluatedAttribute::new(), then.clone()))
            })
        }
        other => panic!("{other:?}"),
    }
}

fn in_memory(graph: TestGraph) -> InMemoryEvaluator {
    let mut evaluator = InMemoryEvaluator::new().derivations(&graph.derivations);
    for source in graph.sources {
        evaluator = evaluator.source(source);
    }
    for attribute in graph.attributes {
        evaluator = match attribute.value {
            TestValue::Lazy(derivation, computed) => evaluator.lazy(attribute.name, move || {
                computed.count();
                Ok(EvaluatedAttribute::new().root(&derivation))
            }),
            value => evaluator.attribute(attribute.name, add(EvaluatedAttribute::new(), value)),
        };
    }
    evaluator
}

#[tokio::test]
async fn the_in_memory_evaluator() {
    let report = run_all(|graph| Subject::new(in_memory(graph)), Capabilities::ALL).await;
    report.assert_all();
    assert!(
        report.skipped.is_empty() && report.outcomes.len() >= 16,
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pointers_to_evaluators() {
    let boxed = |graph| {
        let evaluator: Box<dyn Evaluator> = Box::new(in_memory(graph));
        Subject::new(evaluator)
    };
    run_all(boxed, Capabilities::ALL).await.assert_all();
    let shared = |graph| {
        let evaluator: Arc<dyn Evaluator> = Arc::new(in_memory(graph));
        Subject::new(evaluator)
    };
    run_all(shared, Capabilities::ALL).await.assert_all();
}

#[cfg(feature = "drv-files")]
#[tokio::test]
async fn the_evaluator_of_drv_files() {
    use nix_compat::store_path::StoreDir;
    use tvix_eval_api::EvalSource;
    use tvix_eval_api::drv::DrvEvaluator;

    let factory = |graph: TestGraph| {
        let dir = StoreDir::default();
        let folder = tempfile::tempdir().unwrap();
        for derivation in &graph.derivations {
            let file = folder.path().join(derivation.path.to_string());
            std::fs::write(file, derivation.derivation.to_aterm(&dir)).unwrap();
        }
        let mut evaluator = DrvEvaluator::new(dir.clone(), vec![folder.path().into()]);
        for source in graph.sources {
            evaluator = evaluator.with_source(source);
        }
        let attributes = graph.attributes;
        let request = move |names: &[&str]| {
            let texts = names.iter().map(|name| {
                let mut attributes = attributes.iter();
                match attributes.find(|attribute| attribute.name == *name) {
                    None => "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-unknown.drv".to_owned(),
                    Some(attribute) => match &attribute.value {
                        TestValue::Root(derivation, None) => {
                            dir.display(&derivation.path).to_string()
                        }
                        TestValue::Root(derivation, Some(outputs)) => {
                            format!("{}!{}", dir.display(&derivation.path), outputs.join(","))
                        }
                        other => panic!("{other:?}"),
                    },
                }
            });
            EvalRequest::new(EvalSource::Derivations(texts.collect()))
        };
        Subject::new(evaluator)
            .with_request(request)
            .keeping(folder)
    };
    let capabilities = Capabilities::default().with_sources(true);
    let report = run_all(factory, capabilities).await;
    report.assert_all();
    assert_eq!(report.outcomes.len(), 9, "{report}");
}

/// Evaluates correctly, then reorders the events.
fn reordered(
    graph: TestGraph,
    order: impl Fn(&mut Vec<EvalEvent>) + Send + Sync + Copy + 'static,
) -> Subject {
    let evaluator = Arc::new(in_memory(graph));
    Subject::new(StreamEvaluator::new(move |request| {
        let evaluator = Arc::clone(&evaluator);
        let all = async move {
            let events = evaluator.evaluate(request).await.unwrap();
            let mut events: Vec<_> = events.filter_map(async |event| event.ok()).collect().await;
            order(&mut events);
            stream::iter(events).map(Ok)
        };
        stream::once(all).flatten()
    }))
}

#[tokio::test]
async fn the_suite_bites() {
    // Dependents first.
    let backwards = |graph| reordered(graph, |events| events.reverse());
    let report = run_all(backwards, Capabilities::default()).await;
    let failed = |case: &str| {
        let mut failed = report.failures();
        failed.find(|(name, _)| *name == case).unwrap().1
    };
    assert!(failed("long_chains").contains("came before"), "{report}");

    // Roots before their derivations.
    let hasty = |graph| {
        reordered(graph, |events| {
            events.sort_by_key(|event| !matches!(event, EvalEvent::Root(_)));
        })
    };
    let report = run_all(hasty, Capabilities::default()).await;
    let (_, reason) = report.failures().next().unwrap();
    assert!(reason.contains("the root came before"), "{report}");

    // Everything at the end, and errors lost.
    let lazy = Capabilities::default().with_lazy(true);
    let report = run_all(|graph| reordered(graph, |_| ()), lazy).await;
    let cases: Vec<_> = report.failures().map(|(case, _)| case).collect();
    assert_eq!(
        cases,
        [
            "one_unknown_name_stops_no_other",
            "derivations_at_once",
            "back_pressure"
        ],
        "{report}"
    );

    // Waits where it is polled.
    let blocks = |graph| {
        reordered(graph, |_| {
            std::thread::sleep(std::time::Duration::from_millis(30));
        })
    };
    let report = run_all(blocks, Capabilities::default()).await;
    let mut failed = report.failures().map(|(case, _)| case);
    let bites = failed.any(|case| case == "polls_do_not_block");
    assert!(bites || cfg!(not(target_os = "linux")), "{report}");

    let panics = |_| -> Subject { panic!("no evaluator") };
    let report = run_all(panics, Capabilities::ALL).await;
    assert_eq!(report.failures().count(), report.outcomes.len());
    assert!(
        report.to_string().contains("panicked: no evaluator"),
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers() {
    for count in [1, 2, 3] {
        let count = NonZeroUsize::new(count).unwrap();
        let factory = |graph| Subject::new(Workers::new(in_memory(graph), count));
        let report = run_all(factory, Capabilities::ALL).await;
        report.assert_all();
        assert!(
            report.skipped.is_empty() && report.outcomes.len() >= 16,
            "{report}"
        );
        // An evaluation ends after each task, and the next continues.
        let factory = |graph| {
            let evaluator: Arc<dyn Evaluator> = Arc::new(Forgetful(in_memory(graph)));
            Subject::new(Workers::new(evaluator, count))
        };
        // What waits for an import would keep its worker from other tasks.
        let capabilities = Capabilities::default().with_sources(true).with_lazy(true);
        run_all(factory, capabilities).await.assert_all();
    }
}

/// Evaluates whole requests only.
#[derive(Debug, Clone)]
struct Whole(InMemoryEvaluator);

#[async_trait]
impl Evaluator for Whole {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        self.0.evaluate(request).await
    }
}

#[tokio::test]
async fn workers_of_an_evaluator_without_tasks() {
    let two = NonZeroUsize::new(2).unwrap();
    let factory = |graph| Subject::new(Workers::new(Whole(in_memory(graph)), two));
    run_all(factory, Capabilities::ALL).await.assert_all();
}

/// Takes one task for each evaluation.
#[derive(Debug, Clone)]
struct Forgetful(InMemoryEvaluator);

#[async_trait]
impl Evaluator for Forgetful {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        self.0.evaluate(request).await
    }

    async fn evaluate_tasks(
        &self,
        request: &EvalRequest,
        tasks: TaskSource,
    ) -> Result<Option<EvalStream>, EvalError> {
        loop {
            match tasks.try_take(0) {
                Taken::End => return Ok(Some(stream::empty().boxed())),
                Taken::Later => tasks.ready().await,
                Taken::Task(task) => {
                    let mut request = request.clone();
                    request.attr_paths = vec![task.place().attr_path()];
                    let events = self.0.evaluate(request).await?;
                    // The task and the source end with the events.
                    let end = stream::once(async move { drop((task, tasks)) });
                    let end = end.filter_map(async |()| None);
                    return Ok(Some(events.chain(end).boxed()));
                }
            }
        }
    }
}
