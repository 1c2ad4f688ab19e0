//! The cost of the whole flow per derivation, in this process: from the request of a session until
//! every output is registered in a local store and the report exists. For a chain, where nothing
//! can overlap, and for independent derivations.
//!
//!     cargo run --release -p tvix-benches --bin flow_latency [ROUNDS [PROGRAM]]
//!
//! PROGRAM is a statically linked shell (default: the first `busybox` in PATH). Every round has a
//! fresh store; builder and store are opened before the clock starts. The last lines are sessions
//! of one derivation, which bears all fixed costs: with a builder that has prepared its resources
//! in advance, as during an evaluation; directly after the builder was created; and with a builder
//! that prepares nothing.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::store_path::StoreDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::this_system;
use tvix_coordinator::Coordinator;
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CHAIN: usize = 100;
const INDEPENDENT: usize = 200;

#[tokio::main]
async fn main() -> Result<()> {
    tvix_build_api::sandbox::init();
    let mut arguments = std::env::args().skip(1);
    let rounds: usize = arguments.next().map_or(Ok(11), |text| text.parse())?;
    let program = match arguments.next() {
        Some(path) => PathBuf::from(path),
        None => find("busybox").ok_or("no busybox in PATH: name a static executable")?,
    };
    let dir = StoreDir::default();
    let chain = chain(&dir)?;
    let independent = independent(&dir)?;
    let (ready, at_once) = (Start::Ready, Start::AtOnce);
    for (name, graph, jobs, start) in [
        ("chain of 100", &chain[..], 1, ready),
        ("200 independent, 1 at a time", &independent[..], 1, ready),
        ("200 independent, 2 at a time", &independent[..], 2, ready),
        ("one alone", &independent[..1], 1, ready),
        ("one alone, at once", &independent[..1], 1, at_once),
        ("one alone, cold", &independent[..1], 1, Start::Cold),
    ] {
        let mut times = Vec::new();
        // Short sessions have the most noise.
        let rounds = if graph.len() == 1 { 5 * rounds } else { rounds };
        for _ in 0..rounds.max(1) {
            times.push(round(graph, jobs, start, &program).await?);
        }
        times.sort_unstable();
        let each = |time: Duration| time.as_secs_f64() * 1e3 / graph.len() as f64;
        println!(
            "{name:30} median {:.2} ms a derivation, best {:.2}, worst {:.2}",
            each(times[times.len() / 2]),
            each(times[0]),
            each(times[times.len() - 1]),
        );
    }
    Ok(())
}

/// The state of the builder at the start of the session.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// Its resources are prepared.
    Ready,
    /// It has just started to prepare them.
    AtOnce,
    /// It prepares nothing.
    Cold,
}

/// One session on a fresh store.
async fn round(
    graph: &[Instantiated],
    jobs: usize,
    start: Start,
    program: &Path,
) -> Result<Duration> {
    let directory = tempfile::tempdir()?;
    let store = LocalStore::open(LocalStoreOptions::new(directory.path())).await?;
    if graph.len() == 1 {
        // The kernel takes a while to clean up after the previous round: creating a network
        // namespace waits for those that are being removed.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let options = SandboxOptions::new("sandbox")
        .with_max_jobs(jobs)
        .with_ahead(start != Start::Cold)
        .with_sandbox_paths([SandboxPath::new(program, "/bin/sh")]);
    let builder = SandboxBuilder::new(options)?.with_local_store(&store);
    let mut evaluator = InMemoryEvaluator::new();
    for made in graph {
        evaluator = evaluator.root(made.path.to_string(), made);
    }
    let coordinator =
        Coordinator::new(Arc::new(evaluator), Arc::new(store)).with_builder(Arc::new(builder));
    let request = EvalRequest::attrs(graph.iter().map(|made| made.path.to_string()));
    if start == Start::Ready {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let begin = Instant::now();
    let report = coordinator.start(request).report().await;
    let time = begin.elapsed();
    if report.is_success() && report.counts.built == graph.len() as u64 {
        Ok(time)
    } else {
        Err(format!("not built: {report:?}").into())
    }
}

fn chain(dir: &StoreDir) -> Result<Vec<Instantiated>> {
    let mut made: Vec<Instantiated> = Vec::new();
    for number in 0..CHAIN {
        let script = "if [ \"$before\" ]; then read line < $before; fi; echo $line x > $out";
        let mut builder = derivation(&format!("chain-{number}"), script);
        if let Some(before) = made.last() {
            builder = builder.input_env("before", before, "out");
        }
        made.push(builder.instantiate(dir)?);
    }
    Ok(made)
}

fn independent(dir: &StoreDir) -> Result<Vec<Instantiated>> {
    let make = |number| {
        let script = format!("echo {number} > $out");
        Ok(derivation(&format!("independent-{number}"), &script).instantiate(dir)?)
    };
    (0..INDEPENDENT).map(make).collect()
}

fn derivation(name: &str, script: &str) -> DerivationBuilder {
    DerivationBuilder::new(name, this_system(), "/bin/sh").args(["-c", script])
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}
