//! Impossible graphs and archives, from evaluators and builders that do not check them.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::{Derivation, Instantiated, OutputName};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, BuildSuccess, Builder, BuilderError, BuilderProfile,
    Delivery, StreamedOutput, this_system,
};
use tvix_coordinator::{Coordinator, FailureCause, Report, Status};
use tvix_eval_api::memory::{InMemoryEvaluator, StreamEvaluator};
use tvix_eval_api::{EvalEvent, EvalRequest};
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::session::{derivation, root, run};

/// The same derivation with an additional input. No real derivation can have it, because the name
/// of the input depends on the derivation.
fn with_input(made: &Instantiated, input: &Instantiated) -> Instantiated {
    let mut derivation = Derivation::clone(&made.derivation);
    let outputs = SortedSet::from([OutputName::out()]);
    derivation.input_drvs.insert(input.path.clone(), outputs);
    Instantiated {
        derivation: Arc::new(derivation),
        ..made.clone()
    }
}

/// Three derivations that depend on each other in a circle.
fn cycle() -> [Instantiated; 3] {
    let [a, b, c] = ["cycle-a", "cycle-b", "cycle-c"].map(|name| instantiate(shell(name, "")));
    [with_input(&a, &b), with_input(&b, &c), with_input(&c, &a)]
}

async fn expect_cycle(coordinator: Coordinator, world: &LocalWorld) -> Report {
    let (_, report) = run(&coordinator, EvalRequest::attrs(["a"])).await;
    assert_eq!(world.valid().await, []);
    world.expect_clean().await;
    report
}

#[tokio::test]
async fn a_cycle_that_the_evaluator_finds() {
    let world = LocalWorld::new().await;
    let graph = cycle();
    let evaluator = InMemoryEvaluator::new()
        .derivations(&graph)
        .root("a", &graph[0]);
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(Arc::new(world.builder()));
    let report = expect_cycle(coordinator, &world).await;
    assert_eq!(report.status, Status::EvaluationFailed, "{report:#?}");
    let [error] = &report.errors[..] else {
        panic!("{report:#?}");
    };
    for made in &graph {
        let text = error.to_string();
        assert!(text.contains(&made.path.to_string()), "{error}");
    }
}

/// An evaluator without a check leaves the detection to the coordinator.
#[tokio::test]
async fn a_cycle_that_the_coordinator_finds() {
    let world = LocalWorld::new().await;
    let graph = cycle();
    let yielded = graph.clone();
    let evaluator = StreamEvaluator::new(move |_| {
        let mut events: Vec<Result<EvalEvent, _>> =
            yielded.iter().map(|it| Ok(derivation(it))).collect();
        events.push(Ok(root("a", &yielded[0])));
        stream::iter(events)
    });
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(Arc::new(world.builder()));
    let report = expect_cycle(coordinator, &world).await;
    assert_eq!(report.status, Status::InvalidDerivation, "{report:#?}");
    let cycle = report
        .failures
        .iter()
        .find_map(|failure| match &failure.cause {
            FailureCause::Cycle { cycle } => Some(cycle),
            _ => None,
        });
    let cycle = cycle.unwrap_or_else(|| panic!("{report:#?}"));
    for made in &graph {
        assert!(cycle.contains(&made.path), "{cycle:?}");
    }
}

/// A builder that streams other outputs than it announces.
#[derive(Debug)]
struct LyingBuilder {
    profile: BuilderProfile,
    nar: Vec<u8>,
    info_of: Vec<u8>,
}

#[async_trait]
impl Builder for LyingBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.profile
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let dir = context.inputs.store_dir();
        let name = OutputName::out();
        let path = request.derivation.output_path(dir, &name).unwrap();
        let info = info(&path, &request.drv_path, &self.info_of);
        let chunks: Vec<_> = self
            .nar
            .chunks(7)
            .map(|it| Ok(Bytes::copy_from_slice(it)))
            .collect();
        let nar = stream::iter(chunks).boxed();
        Ok(BuildOutcome::Success(BuildSuccess::new(
            Delivery::Streamed(vec![StreamedOutput::new(name, info, nar)]),
            Default::default(),
        )))
    }
}

fn info(path: &StorePath, deriver: &StorePath, nar: &[u8]) -> PathInfo {
    let hash = NixHash::digest(HashAlgo::Sha256, nar);
    let mut info = PathInfo::new(
        path.clone(),
        hash.digest_bytes().try_into().unwrap(),
        nar.len() as u64,
    );
    info.deriver = Some(deriver.clone());
    info
}

fn archive() -> Vec<u8> {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(false, b"contents of a file").unwrap();
    writer.finish().unwrap()
}

#[tokio::test]
async fn archives_that_builders_stream() {
    let good = archive();
    let mut flipped = good.clone();
    // A byte of the contents, so that the archive stays valid.
    let at = good.windows(8).position(|it| it == b"of a fil").unwrap();
    flipped[at] ^= 1;
    let longer = [&good[..], b"more"].concat();
    for (what, nar, info_of, words) in [
        ("garbage", b"not an archive at all".to_vec(), None, "NAR"),
        ("truncated", good[..good.len() - 9].to_vec(), None, "NAR"),
        ("trailing", longer, None, "NAR"),
        ("another", flipped, Some(good.clone()), "have the hash"),
        ("empty", Vec::new(), None, "NAR"),
    ] {
        let world = LocalWorld::new().await;
        let made = instantiate(shell("streamed", ""));
        let builder = LyingBuilder {
            profile: BuilderProfile::new("liar", this_system(), 1),
            info_of: info_of.unwrap_or_else(|| nar.clone()),
            nar,
        };
        let evaluator = InMemoryEvaluator::new().root("it", &made);
        let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
            .with_builder(Arc::new(builder));
        let (_, report) = run(&coordinator, EvalRequest::attrs(["it"])).await;
        assert_eq!(report.status, Status::BuilderFailed, "{what}: {report:#?}");
        let [failure] = &report.failures[..] else {
            panic!("{what}: {report:#?}");
        };
        assert_eq!(failure.drv_path, made.path);
        let text = failure.cause.to_string();
        let out = made.output_path("out").unwrap().to_string();
        assert!(
            text.contains(words) && text.contains(&out),
            "{what}: {text}"
        );
        assert_eq!(world.valid().await, [], "{what}");
        assert!(!world.store.real_store_dir().join(out).exists(), "{what}");
        world.expect_clean().await;
    }
}
