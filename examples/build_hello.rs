//! Evaluates a small package set (`packages/`), builds its `hello` in a sandbox into a local store, and runs the
//! result. Builds start during evaluation; one package is known only once another is built (IFD). In a second run
//! everything is in the store.
//!
//! `cargo run -p tvix-examples --example build_hello`. Requires Linux and a C compiler.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_coordinator::{BuildEvent, Coordinator};
use tvix_eval::NixEvaluator;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalRequest, EvalSource};
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Built-in builders (`builtin:fetchurl`) are this program, started again.
    tvix_build_api::sandbox::init();

    let here = Path::new(env!("CARGO_MANIFEST_DIR"));

    // The store: where paths are looked up and where outputs go.
    let root = here.join("../target/hello-store");
    let store = LocalStore::open(LocalStoreOptions::new(root)).await?;

    // The evaluator: the Nix language, which knows no store and no builder.
    let evaluator = NixEvaluator::new(Settings::default());

    // The builder: sandboxes on this machine, in which this machine's compiler is visible.
    let options = SandboxOptions::new("sandbox").with_sandbox_paths(SandboxPath::host_toolchain());
    let builder = SandboxBuilder::new(options)?.with_local_store(&store);

    // What to build: an attribute of a file, and an argument for the function that it holds.
    let mut request = EvalRequest::new(EvalSource::File(here.join("packages")));
    request.attr_paths = vec!["hello".to_owned()];
    let greeting = "\"Hello from the flow!\"".to_owned();
    request.args.insert("greeting".to_owned(), greeting);

    // The coordinator: a session is a stream of events and a report.
    let mut session = Coordinator::new(Arc::new(evaluator), Arc::new(store.clone()))
        .with_builder(Arc::new(builder))
        .start(request);
    while let Some(record) = session.next().await {
        match record.event {
            BuildEvent::Instantiated { drv_path } => println!("instantiated {drv_path}"),
            BuildEvent::ImportRequested { .. } => println!("evaluation waits for a build"),
            BuildEvent::ImportAnswered { .. } => println!("evaluation goes on"),
            BuildEvent::BuildStarted { drv_path, .. } => println!("building {drv_path}"),
            BuildEvent::Found { drv_path } => println!("in the store already: {drv_path}"),
            BuildEvent::LogLine { text, .. } => println!("| {text}"),
            _ => {}
        }
    }
    let report = session.report().await;
    for failure in &report.failures {
        eprintln!("{} failed: {}", failure.drv_path, failure.cause);
    }
    for error in &report.errors {
        eprintln!("error: {error}");
    }
    let Some(path) = report.output_paths().next().filter(|_| report.is_success()) else {
        return Err("hello was not built".into());
    };
    println!("{}", store.store_dir().display(path));
    std::process::Command::new(store.real_path(path).join("bin/hello")).status()?;
    Ok(())
}
