//! Imports from derivations: what to build next is known only once something was built. While one
//! attribute waits for that, the other goes on, and both imports are in flight at once.
//!
//! `cargo run -p tvix-examples --example import_from_derivation`

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use nix_compat::derivation::DerivationBuilder;
use tvix_build_api::BuilderProfile;
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_coordinator::{BuildEvent, Coordinator};
use tvix_eval_api::memory::{EvaluatedAttribute, InMemoryEvaluator};
use tvix_eval_api::{EvalError, EvalRequest, RealisedOutput};
use tvix_store_api::{MemoryStore, Store as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(MemoryStore::new(Default::default()));
    let derivation = |name: &str| DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
    let fruits = derivation("fruits").instantiate(store.store_dir())?;
    let trees = derivation("trees").instantiate(store.store_dir())?;

    // Called with the built list, at a local path. It makes one derivation for each of its words.
    let dir = store.store_dir().clone();
    let packages_of_list = move |outputs: Vec<RealisedOutput>| {
        let list = &outputs[0].local_path;
        let text = std::fs::read_to_string(list).map_err(|source| EvalError::Read {
            path: list.clone(),
            source,
        })?;
        let mut evaluated = EvaluatedAttribute::new();
        for word in text.split_whitespace() {
            let builder = DerivationBuilder::new(word, "x86_64-linux", "/bin/sh");
            evaluated = evaluated.child(word, &builder.instantiate(&dir)?);
        }
        Ok(evaluated)
    };
    let evaluator = InMemoryEvaluator::new()
        .import("fruits", [(&fruits, ["out"])], packages_of_list.clone())
        .import("trees", [(&trees, ["out"])], packages_of_list);

    let builder = InMemoryBuilder::new(BuilderProfile::new("closures", "x86_64-linux", 4))
        .with_store(store.clone())
        .with_program("fruits", |_| {
            Ok(MemoryOutputs::out(Tree::file("apple pear\n")))
        })
        .with_program("trees", |_| Ok(MemoryOutputs::out(Tree::file("oak\n"))))
        .with_default(|_| Ok(MemoryOutputs::out(Tree::file("a package\n"))))
        .with_delay_of_all(Duration::from_millis(50));

    let mut session = Coordinator::new(Arc::new(evaluator), store)
        .with_builder(Arc::new(builder))
        .start(EvalRequest::attrs(["fruits", "trees"]));
    while let Some(record) = session.next().await {
        let time = record.time.as_millis();
        match record.event {
            BuildEvent::ImportRequested {
                import, drv_paths, ..
            } => {
                println!(
                    "{time:3} ms: import {import} waits for {}",
                    drv_paths[0].name()
                );
            }
            BuildEvent::ImportAnswered { import, .. } => {
                println!("{time:3} ms: import {import} goes on");
            }
            BuildEvent::BuildSucceeded { drv_path, .. } => {
                println!("{time:3} ms: {} is built", drv_path.name());
            }
            _ => {}
        }
    }
    let report = session.report().await;
    for root in &report.roots {
        println!(
            "{} -> {}",
            root.name,
            root.outputs.values().next().ok_or("no output")?
        );
    }
    Ok(())
}
