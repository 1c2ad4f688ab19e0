//! Outputs in a binary cache are fetched instead of built, if something needs them. No fault of a
//! cache fails the build.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use nix_compat::derivation::Instantiated;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::net::TcpListener;
use tvix_cache_server::{CacheServer, ServerOptions};
use tvix_coordinator::{BuildEvent, BuildPolicy, Coordinator, Options, Report};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions, Tuning};
use tvix_store_api::{Store, StoreExt as _};
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::session::run;

fn key() -> SigningKey {
    SigningKey::from_seed("ours-1", &[3; 32]).unwrap()
}

/// A library with two outputs, a tool that is only needed at build time, and a program that refers
/// to the library only.
struct Packages {
    library: Instantiated,
    tool: Instantiated,
    program: Instantiated,
}

impl Packages {
    fn new() -> Self {
        let library = instantiate(
            shell("library", "echo library > $out; echo $out > $dev").outputs(["out", "dev"]),
        );
        let tool = instantiate(shell("tool", "echo tool > $out"));
        let program = instantiate(
            shell("program", "read tool < $tool; echo $tool $library > $out")
                .input_env("library", &library, "out")
                .input_env("tool", &tool, "out"),
        );
        Self {
            library,
            tool,
            program,
        }
    }

    fn evaluator(&self) -> InMemoryEvaluator {
        InMemoryEvaluator::new()
            .derivation(&self.library)
            .derivation(&self.tool)
            .root("program", &self.program)
    }

    fn out(made: &Instantiated) -> StorePath {
        made.output_path("out").unwrap()
    }
}

/// A session on an empty store, and its results.
struct Built {
    world: LocalWorld,
    events: Vec<BuildEvent>,
    report: Report,
}

async fn build(
    packages: &Packages,
    policy: BuildPolicy,
    substituters: Vec<Arc<dyn Store>>,
) -> Built {
    let world = LocalWorld::new().await;
    let options = Options::default().with_policy(policy);
    let mut coordinator = Coordinator::new(
        Arc::new(packages.evaluator()),
        Arc::new(world.store.clone()),
    )
    .with_builder(Arc::new(world.builder()))
    .with_options(options);
    for (priority, substituter) in substituters.into_iter().enumerate() {
        coordinator = coordinator.with_substituter(substituter, priority as i32);
    }
    let (events, report) = run(&coordinator, EvalRequest::attrs(["program"])).await;
    assert!(report.is_success(), "{report:#?}");
    world.expect_clean().await;
    Built {
        world,
        events,
        report,
    }
}

impl Built {
    fn fetched(&self) -> BTreeSet<StorePath> {
        let fetched = self.events.iter().filter_map(|event| match event {
            BuildEvent::Substituted { path, .. } => Some(path.clone()),
            _ => None,
        });
        let fetched: BTreeSet<StorePath> = fetched.collect();
        assert_eq!(fetched.len() as u64, self.report.counts.substituted);
        fetched
    }

    fn complaints(&self) -> Vec<&str> {
        let complaints = self.events.iter().filter_map(|event| match event {
            BuildEvent::SubstitutionFailed { error, .. }
            | BuildEvent::SubstituterFailed { error, .. } => Some(error.message.as_str()),
            _ => None,
        });
        complaints.collect()
    }
}

async fn open(uri: &str) -> BinaryCache {
    let mut tuning = Tuning::default();
    tuning.transfer.first_pause = std::time::Duration::from_millis(1);
    let options = BinaryCacheOptions::new(uri.parse().unwrap()).unwrap();
    let options = options
        .with_trusted_keys([key().verifying_key()])
        .with_tuning(tuning);
    BinaryCache::open(options).await.unwrap()
}

/// Builds the packages, and writes the closures of these to a cache next to the store.
async fn cache_of(
    packages: &Packages,
    paths: &[StorePath],
    key: SigningKey,
) -> (LocalWorld, String) {
    let Built { world, .. } = build(packages, BuildPolicy::Demand, Vec::new()).await;
    let uri = format!("file://{}", world.beside("cache").display());
    fs::create_dir(world.beside("cache")).unwrap();
    let options = BinaryCacheOptions::new(uri.parse().unwrap()).unwrap();
    let options = options
        .with_create(StoreDir::default())
        .with_require_signatures(false)
        .with_signing_keys([key]);
    let cache = BinaryCache::open(options).await.unwrap();
    world.store.copy_closure(&cache, paths).await.unwrap();
    (world, uri)
}

const POLICIES: [BuildPolicy; 2] = [BuildPolicy::Eager, BuildPolicy::Demand];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cache_has_is_not_built() {
    let packages = Packages::new();
    let all = [&packages.program, &packages.library, &packages.tool].map(Packages::out);
    let (_origin, uri) = cache_of(&packages, &all, key()).await;
    for policy in POLICIES {
        let built = build(&packages, policy, vec![Arc::new(open(&uri).await)]).await;
        assert_eq!(built.report.counts.built, 0, "{policy:?}");
        // Neither the tool, to which the program does not refer, nor outputs of the library that
        // were not requested.
        assert_eq!(
            built.fetched(),
            [&packages.program, &packages.library]
                .map(Packages::out)
                .into(),
            "{policy:?}"
        );
        let text = built.world.read(&Packages::out(&packages.program));
        assert!(text.starts_with("tool "), "{text}");
        let info = built
            .world
            .store
            .require(&Packages::out(&packages.program))
            .await
            .unwrap();
        assert!(!info.ultimate && !info.signatures.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cache_does_not_have_is_built_on_what_it_has() {
    let packages = Packages::new();
    let library = Packages::out(&packages.library);
    let (_origin, uri) = cache_of(&packages, std::slice::from_ref(&library), key()).await;
    for policy in POLICIES {
        let built = build(&packages, policy, vec![Arc::new(open(&uri).await)]).await;
        assert_eq!(built.fetched(), [library.clone()].into(), "{policy:?}");
        // The tool and the program.
        assert_eq!(built.report.counts.built, 2, "{policy:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_signed_is_built() {
    let packages = Packages::new();
    let program = [Packages::out(&packages.program)];
    let other = SigningKey::from_seed("ours-1", &[4; 32]).unwrap();
    let (_origin, uri) = cache_of(&packages, &program, other).await;
    let built = build(
        &packages,
        BuildPolicy::Demand,
        vec![Arc::new(open(&uri).await)],
    )
    .await;
    assert!(built.fetched().is_empty());
    assert_eq!(built.report.counts.built, 3);
    let complaints = built.complaints();
    assert!(
        complaints.iter().any(|it| it.contains("trusted key")),
        "{complaints:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_lies_is_passed_over() {
    let packages = Packages::new();
    let program = [Packages::out(&packages.program)];
    let (origin, uri) = cache_of(&packages, &program, key()).await;
    for file in fs::read_dir(origin.beside("cache/nar")).unwrap() {
        fs::write(file.unwrap().path(), "nonsense").unwrap();
    }
    for policy in POLICIES {
        let built = build(&packages, policy, vec![Arc::new(open(&uri).await)]).await;
        assert!(built.fetched().is_empty());
        assert_eq!(built.report.counts.built, 3);
        let complaints = built.complaints();
        assert!(
            complaints.iter().any(|it| it.contains(&uri)),
            "{complaints:?}"
        );
    }
    // A working cache after it.
    let (_origin, good) = cache_of(&packages, &program, key()).await;
    let both: Vec<Arc<dyn Store>> = vec![Arc::new(open(&uri).await), Arc::new(open(&good).await)];
    let built = build(&packages, BuildPolicy::Demand, both).await;
    assert_eq!(built.report.counts.built, 0);
    assert_eq!(built.fetched().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_cache_stops_nobody() {
    let packages = Packages::new();
    let program = [Packages::out(&packages.program)];
    let (origin, uri) = cache_of(&packages, &program, key()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_uri = format!("http://{}", listener.local_addr().unwrap());
    let server = CacheServer::new(Arc::new(origin.store.clone()), ServerOptions::default());
    let task = tokio::spawn(server.serve(listener, std::future::pending()));
    let dead = open(&dead_uri).await;
    task.abort();
    let _ = task.await;
    let both: Vec<Arc<dyn Store>> = vec![Arc::new(dead.clone()), Arc::new(open(&uri).await)];
    let built = build(&packages, BuildPolicy::Demand, both).await;
    assert_eq!(built.report.counts.built, 0);
    assert!(!built.complaints().is_empty());
    let built = build(&packages, BuildPolicy::Eager, vec![Arc::new(dead)]).await;
    assert_eq!(built.report.counts.built, 3);
}
