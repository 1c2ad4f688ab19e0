//! The in-memory builder.

use std::sync::Arc;
use std::time::Duration;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::HashAlgo;
use nix_compat::store_path::StoreDir;
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderProfile, Delivery, FailureKind,
};
use tvix_store_api::{MemoryStore, Store};

fn profile() -> BuilderProfile {
    BuilderProfile::new("memory", "x86_64-linux", 4)
}

fn derivation(name: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, "x86_64-linux", "/bin/sh")
}

fn request(instantiated: &Instantiated, store: &MemoryStore) -> BuildRequest {
    let mut request = BuildRequest::new(instantiated.path.clone(), instantiated.derivation.clone());
    request.store = Some(store.uri().clone());
    request
}

/// Outputs that refer to each other and to themselves have paths that a store accepts; the store
/// computes them again.
#[tokio::test]
async fn floating_outputs_are_addressed_by_what_they_hold() {
    let store = MemoryStore::new(StoreDir::new("/other/store").unwrap());
    let builder = InMemoryBuilder::new(profile())
        .with_store(Arc::new(store.clone()))
        .with_default(|build| {
            let path = |name| build.output_path(name).unwrap();
            Ok(MemoryOutputs::new()
                .with("dev", Tree::file(format!("{} {0}", path("dev"))))
                .with(
                    "out",
                    Tree::directory()
                        .with("self", Tree::symlink(path("out")))
                        .with("dev", Tree::file(format!("see {}", path("dev")))),
                ))
        });
    let built = derivation("both")
        .outputs(["out", "dev"])
        .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256)
        .instantiate(store.store_dir())
        .unwrap();
    let context = BuildContext::new(Arc::new(store.clone()));
    let outcome = builder.build(request(&built, &store), context).await;
    let BuildOutcome::Success(success) = outcome.unwrap() else {
        panic!("failed");
    };
    let outputs = success.delivery.outputs();
    let names: Vec<_> = outputs.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dev", "out"], "references come first");
    let (dev, out) = (outputs[0].1, outputs[1].1);
    assert!(dev.references.contains(&dev.path) && dev.references.len() == 1);
    assert!(out.references.contains(&dev.path) && out.references.contains(&out.path));
    assert!(out.is_content_addressed(store.store_dir()));
    assert_eq!(store.len(), 2);
}

#[tokio::test]
async fn faults_come_as_asked() {
    let store = MemoryStore::new(StoreDir::default());
    let builder = InMemoryBuilder::new(profile())
        .with_default(|build| Ok(MemoryOutputs::all(build, "made")))
        .with_error("a", 2)
        .with_delay("a", Duration::from_millis(1))
        .with_failure("b", FailureKind::Signal { signal: 11 });
    let a = derivation("a").instantiate(store.store_dir()).unwrap();
    let b = derivation("b").instantiate(store.store_dir()).unwrap();
    let build = |of: &Instantiated| {
        let context = BuildContext::new(Arc::new(store.clone()));
        builder.build(request(of, &store), context)
    };
    for _ in 0..2 {
        assert!(build(&a).await.unwrap_err().is_retryable());
    }
    let outcome = build(&a).await.unwrap();
    assert!(matches!(
        outcome,
        BuildOutcome::Success(success) if matches!(success.delivery, Delivery::Streamed(_))
    ));
    let outcome = build(&b).await.unwrap();
    assert!(matches!(
        outcome,
        BuildOutcome::Failure(failure) if failure.kind == FailureKind::Signal { signal: 11 }
    ));
    assert_eq!(
        (builder.count("a"), builder.count("b"), builder.total()),
        (3, 1, 4)
    );
    let nothing = InMemoryBuilder::new(profile());
    let context = BuildContext::new(Arc::new(store.clone()));
    let outcome = nothing.build(request(&a, &store), context).await.unwrap();
    assert!(matches!(
        outcome,
        BuildOutcome::Failure(failure) if matches!(failure.kind, FailureKind::CannotRun { .. })
    ));
}

/// A manual benchmark: `cargo test --release -p tvix-build-api --test memory -- --nocapture
/// trivial`.
#[tokio::test]
async fn trivial_builds_cost_little() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
    let builder = InMemoryBuilder::trivial(profile());
    let a = derivation("a").instantiate(store.store_dir()).unwrap();
    let request = BuildRequest::new(a.path, a.derivation);
    let context = BuildContext::new(store);
    let rounds = 100_000;
    let began = std::time::Instant::now();
    for _ in 0..rounds {
        let outcome = builder
            .build(request.clone(), context.clone())
            .await
            .unwrap();
        assert!(matches!(outcome, BuildOutcome::Success(_)));
    }
    let each = began.elapsed() / rounds;
    println!("{each:?} for a trivial build");
    assert!(each < Duration::from_micros(100), "{each:?}");
}
