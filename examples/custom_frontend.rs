//! A custom front end: a failure policy, an event counter and a display.
//! Nothing is run here; builds are closures.
//!
//! `cargo run -p tvix-examples --example custom_frontend`

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{BuilderProfile, FailureKind};
use tvix_coordinator::{BuildEvent, Coordinator, Decision, FailureCause};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::{MemoryStore, Store as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(MemoryStore::new(Default::default()));
    let package = |name: &str, inputs: &[&Instantiated]| {
        let builder = DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
        let with_inputs = inputs
            .iter()
            .fold(builder, |builder, input| builder.input(input, "out"));
        with_inputs.instantiate(store.store_dir())
    };
    let compiler = package("compiler", &[])?;
    let library = package("library", &[&compiler])?;
    let broken = package("broken", &[&compiler])?;
    let program = package("program", &[&library])?;
    let site = package("site", &[&broken, &program])?;
    let evaluator = InMemoryEvaluator::new()
        .derivations([&compiler, &library, &broken])
        .root("program", &program)
        .root("site", &site);

    let builder = InMemoryBuilder::new(BuilderProfile::new("closures", "x86_64-linux", 2))
        .with_store(store.clone())
        .with_failure("broken", FailureKind::ExitCode { code: 1 })
        .with_default(|build| {
            let name = &build.request().derivation.name;
            Ok(MemoryOutputs::out(Tree::file(format!("this is {name}\n"))))
        });

    // Asked about each failure of something that is needed. It may take its time: whatever does
    // not need what failed goes on meanwhile.
    let decide = |failure: tvix_coordinator::Failure| async move {
        match failure.cause {
            FailureCause::Build { .. } => {
                println!("{} is broken; going on without it", failure.drv_path.name());
                Decision::Continue
            }
            _ => Decision::Stop,
        }
    };
    let mut session = Coordinator::new(Arc::new(evaluator), store.clone())
        .with_builder(Arc::new(builder))
        .on_failure(decide)
        .start(EvalRequest::attrs(["program", "site"]));

    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    while let Some(record) = session.next().await {
        let kind = match &record.event {
            BuildEvent::Instantiated { .. } => "instantiated",
            BuildEvent::BuildSucceeded { .. } => "built",
            BuildEvent::BuildFailed { .. } => "failed",
            BuildEvent::Skipped { .. } => "skipped",
            _ => continue,
        };
        *counts.entry(kind).or_default() += 1;
    }
    println!("{counts:?}");

    let report = session.report().await;
    for root in &report.roots {
        println!(
            "{}: {}",
            root.name,
            if root.success { "there" } else { "not there" }
        );
    }
    for skipped in &report.skipped {
        let (name, cause) = (skipped.drv_path.name(), skipped.root_cause.name());
        println!("{name} was skipped because of {cause}");
    }
    Ok(())
}
