//! Builds a graph of derivations made in Rust, without the Nix language, in a sandbox into a local store, and runs
//! the result. In a second run everything is in the store.
//!
//! `cargo run -p tvix-examples --example rust_graph`. Requires Linux and a C compiler.

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt as _;
use nix_compat::derivation::DerivationBuilder;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::this_system;
use tvix_coordinator::{BuildEvent, Coordinator};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::Store as _;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};

const MESSAGE: &str = r#"echo '#define MESSAGE "Hello, world!"' > $out"#;
const LIBRARY: &str = r#"
    printf '#include <stdio.h>\n#include "%s"\nvoid greet(void) { puts(MESSAGE); }\n' $message > greet.c
    cc -c greet.c && mkdir $out && ar rcD $out/libgreet.a greet.o"#;
const HELLO: &str = r#"
    echo 'void greet(void); int main(void) { greet(); return 0; }' > hello.c
    mkdir -p $out/bin && cc -o $out/bin/hello hello.c -L$library -lgreet"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Built-in builders (`builtin:fetchurl`) are this program, started again.
    tvix_build_api::sandbox::init();

    // The store: where paths are looked up and where outputs go.
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/graph-store");
    let store = LocalStore::open(LocalStoreOptions::new(root)).await?;

    // The evaluator: here of a graph made in Rust. Each derivation is a shell script that uses
    // the compiler of this machine, and what the one before it made.
    let script = |name: &str, script: &str| {
        DerivationBuilder::new(name, this_system(), "/bin/sh")
            .args(["-euc", script])
            .env("PATH", "/usr/bin:/bin")
    };
    let dir = store.store_dir();
    let message = script("message.h", MESSAGE).instantiate(dir)?;
    let library = script("libgreet", LIBRARY).input_env("message", &message, "out");
    let library = library.instantiate(dir)?;
    let hello = script("hello", HELLO)
        .input_env("library", &library, "out")
        .instantiate(dir)?;
    let evaluator = InMemoryEvaluator::new()
        .derivations([&message, &library])
        .root("hello", &hello);

    // The builder: sandboxes on this machine, in which this machine's compiler is visible.
    let options = SandboxOptions::new("sandbox").with_sandbox_paths(SandboxPath::host_toolchain());
    let builder = SandboxBuilder::new(options)?.with_local_store(&store);

    // The coordinator: a session is a stream of events and a report.
    let mut session = Coordinator::new(Arc::new(evaluator), Arc::new(store.clone()))
        .with_builder(Arc::new(builder))
        .start(EvalRequest::attrs(["hello"]));
    while let Some(record) = session.next().await {
        match record.event {
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
    let Some(path) = report.output_paths().next().filter(|_| report.is_success()) else {
        return Err("hello was not built".into());
    };
    println!("{}", store.store_dir().display(path));
    std::process::Command::new(store.real_path(path).join("bin/hello")).status()?;
    Ok(())
}
