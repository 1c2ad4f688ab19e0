//! The cost of the coordinator: time and memory per derivation, on graphs of several shapes and
//! sizes, with in-memory back ends.
//!
//! `cargo run --release -p tvix-benches --bin coordinator_rate [SIZE…]`, with `SHAPE=wide`, `chain`
//! or `nixpkgs` for a single shape, and `POLICY=eager` or `demand` for a single policy.
//!
//! "whole" is a session from evaluation to report. "back ends" is the same builds and look-ups
//! called one by one without a coordinator, also on a thread of the runtime. The difference is the
//! cost of the coordinator, apart from processor cache effects: back ends that run alone find their
//! data in the cache. "machine" is the state machine alone, without driver, tasks and back ends;
//! its inputs are made up. Memory is the peak allocation during the session, minus the final size
//! of the store and the size of the graph before the session.
//!
//! `ONLY=machine` runs nothing but that, on one thread and deterministically: for profilers.
//!
//! Each figure is the median of `RUNS` runs, 1 by default.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::StreamExt as _;
use nix_compat::derivation::{Derivation, Output, OutputName};
use nix_compat::sorted::{SortedMap, SortedSet};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::memory::InMemoryBuilder;
use tvix_build_api::{BuildContext, BuildRequest, Builder as _, BuilderProfile};
use tvix_coordinator::machine::{Action, BuildResult, Input, Machine};
use tvix_coordinator::{BuildPolicy, Coordinator, Options};
use tvix_eval_api::memory::StreamEvaluator;
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Root, WantedOutputs};
use tvix_store_api::{MemoryStore, Store as _};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grew(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is forwarded to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grew(layout.size());
        // SAFETY: the caller fulfils the requirements of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller fulfils the requirements of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        grew(size);
        // SAFETY: the caller fulfils the requirements of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy, Debug)]
enum Shape {
    Wide,
    Chain,
    Nixpkgs,
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end.max(1)
    }
}

fn digest(index: usize, kind: u8) -> [u8; 20] {
    let mut digest = [kind; 20];
    let mixed = (index as u64 ^ 0x1234_5678).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    digest[..8].copy_from_slice(&mixed.to_le_bytes());
    digest[8..16].copy_from_slice(&(index as u64).to_le_bytes());
    digest
}

type Graph = Vec<(StorePath, Arc<Derivation>)>;

/// Derivations with made-up hashes: nothing here checks them, and hashing is not measured.
fn graph(shape: Shape, size: usize) -> Graph {
    let mut random = Random(42);
    let out = OutputName::out();
    let mut graph: Graph = Vec::with_capacity(size);
    for index in 0..size {
        let name = format!("package-{index}-1.0");
        let inputs: Vec<usize> = match shape {
            Shape::Wide => vec![],
            Shape::Chain => index.checked_sub(1).into_iter().collect(),
            // A few common inputs, some near ones, some from anywhere.
            Shape::Nixpkgs => (0..random.below(9).min(index))
                .map(|which| match which {
                    0..3 => random.below(index.min(40)),
                    3..6 => index - 1 - random.below(index.min(100)),
                    _ => random.below(index),
                })
                .collect(),
        };
        let inputs: SortedMap<StorePath, SortedSet<OutputName>> = inputs
            .into_iter()
            .map(|input| (graph[input].0.clone(), SortedSet::from([out.clone()])))
            .collect();
        let path = StorePath::new(digest(index, 1), name.parse().expect("a name"));
        let drv_path = StorePath::new(
            digest(index, 2),
            format!("{name}.drv").parse().expect("a name"),
        );
        let env = [
            ("name", name.clone()),
            ("out", format!("/nix/store/{path}")),
        ];
        let derivation = Derivation {
            name: name.parse().expect("a name"),
            outputs: [(out.clone(), Output::InputAddressed(path))]
                .into_iter()
                .collect(),
            input_drvs: inputs,
            input_srcs: SortedSet::new(),
            system: "x86_64-linux".into(),
            builder: "/bin/sh".into(),
            args: vec!["-c".into(), "echo > $out".into()],
            env: env
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        };
        graph.push((drv_path, Arc::new(derivation)));
    }
    graph
}

/// All derivations without dependents.
fn roots(graph: &Graph) -> Vec<Root> {
    let used: HashSet<&StorePath> = graph
        .iter()
        .flat_map(|(_, derivation)| derivation.input_drvs.keys())
        .collect();
    let tops = graph.iter().filter(|(path, _)| !used.contains(path));
    let wanted = tops.map(|(path, _)| WantedOutputs::new(path.clone(), vec![OutputName::out()]));
    wanted.map(|wanted| Root::new("", wanted)).collect()
}

struct Figures {
    micros: f64,
    cpu: f64,
    bytes: f64,
}

/// Processor time of all threads, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn whole(graph: Arc<Graph>, roots: Arc<Vec<Root>>, policy: BuildPolicy) -> Figures {
    let size = graph.len() as f64;
    let store = Arc::new(MemoryStore::new(StoreDir::default()));
    let profile = BuilderProfile::new("memory", "x86_64-linux", 16);
    let builder = InMemoryBuilder::trivial(profile).with_store(store.clone());
    let evaluator = StreamEvaluator::new(move |_request: EvalRequest| {
        let (graph, roots) = (graph.clone(), roots.clone());
        let derivations = (0..graph.len()).map(move |index| {
            let (path, derivation) = graph[index].clone();
            Ok(EvalEvent::Derivation {
                path,
                derivation,
                modulo: None,
            })
        });
        let roots = (0..roots.len()).map(move |index| Ok(EvalEvent::Root(roots[index].clone())));
        futures::stream::iter(derivations.chain(roots)).boxed()
    });
    let coordinator = Coordinator::new(Arc::new(evaluator), store.clone())
        .with_builder(Arc::new(builder))
        .with_options(Options::default().with_policy(policy));
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let start = Instant::now();
    let cpu = cpu_seconds();
    let mut session = coordinator.start(EvalRequest::new(EvalSource::Predefined));
    let mut events = 0u64;
    while session.next().await.is_some() {
        events += 1;
    }
    let report = session.report().await;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu;
    assert!(
        report.is_success(),
        "{:?} {:?}",
        report.status,
        report.errors
    );
    assert_eq!(report.counts.built as f64, size, "{events} events");
    drop(report);
    drop(coordinator);
    let peak = PEAK.load(Ordering::Relaxed);
    let after = LIVE.load(Ordering::Relaxed);
    Figures {
        micros: seconds * 1e6 / size,
        cpu: cpu * 1e6 / size,
        bytes: (peak - after.max(before)) as f64 / size,
    }
}

/// Microseconds per derivation.
async fn back_ends(graph: Arc<Graph>) -> f64 {
    let store = Arc::new(MemoryStore::new(StoreDir::default()));
    let profile = BuilderProfile::new("memory", "x86_64-linux", 16);
    let builder = InMemoryBuilder::trivial(profile).with_store(store.clone());
    let start = Instant::now();
    for chunk in graph.chunks(1000) {
        let outputs: Vec<StorePath> = chunk
            .iter()
            .flat_map(|(_, derivation)| derivation.output_paths(store.store_dir()))
            .filter_map(|(_, path)| path)
            .collect();
        let valid = store
            .valid_paths(&outputs)
            .await
            .expect("a memory store answers");
        assert!(valid.is_empty());
        for (path, derivation) in chunk {
            let mut request = BuildRequest::new(path.clone(), derivation.clone());
            request.store = Some(store.uri().clone());
            builder
                .build(request, BuildContext::new(store.clone()))
                .await
                .expect("it builds");
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / graph.len() as f64
}

/// Microseconds per derivation.
fn machine(graph: &Graph, roots: &[Root], policy: BuildPolicy) -> f64 {
    let profile = BuilderProfile::new("memory", "x86_64-linux", 16);
    let options = Options::default().with_policy(policy);
    let mut machine = Machine::new(StoreDir::default(), vec![profile], options);
    let start = Instant::now();
    let derivations = graph.iter().map(|(path, derivation)| Input::Derivation {
        path: path.clone(),
        derivation: derivation.clone(),
        modulo: None,
    });
    let roots = roots.iter().map(|root| Input::Root(root.clone()));
    let end = std::iter::once(Input::EvaluationEnded);
    let mut evaluation = derivations.chain(roots).chain(end);
    let mut answers = VecDeque::new();
    let mut built = 0;
    'session: loop {
        while let Some(action) = machine.poll_action() {
            match action {
                Action::QueryPaths { batch, paths } => answers.push_back(Input::PathsQueried {
                    batch,
                    result: Ok(vec![false; paths.len()]),
                }),
                Action::StartBuild(build) => {
                    built += 1;
                    let outputs = build.derivation.outputs.iter();
                    let outputs = outputs.filter_map(|(name, output)| match output {
                        Output::InputAddressed(path) => Some((name.clone(), path.clone())),
                        _ => None,
                    });
                    answers.push_back(Input::BuildEnded {
                        build: build.build,
                        result: BuildResult::Pushed(outputs.collect()),
                        usage: None,
                        size: None,
                    });
                }
                Action::Finish(report) => {
                    assert!(report.is_success() && built == graph.len());
                    break 'session;
                }
                _ => {}
            }
        }
        for _ in 0..64 {
            let Some(answer) = answers.pop_front() else {
                break;
            };
            machine.handle(start.elapsed(), answer);
        }
        let now = start.elapsed();
        for _ in 0..64 {
            if !machine.wants_evaluation() {
                break;
            }
            let Some(event) = evaluation.next() else {
                break;
            };
            machine.handle(now, event);
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / graph.len() as f64
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let runs: usize = std::env::var("RUNS").map_or(1, |runs| runs.parse().expect("a number"));
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|it| it.parse().ok())
        .collect();
    let sizes = if sizes.is_empty() {
        vec![100_000, 1_000_000]
    } else {
        sizes
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("tokio");
    println!(
        "{:>9} {:>8} {:>7}   {:>8} {:>8} {:>9} {:>12} {:>8} {:>6}",
        "size",
        "shape",
        "policy",
        "whole µs",
        "of CPU",
        "back ends",
        "coordinator",
        "machine",
        "bytes"
    );
    let is_left_out = |variable: &str, name: &str| {
        std::env::var(variable).is_ok_and(|only| !name.eq_ignore_ascii_case(&only))
    };
    for shape in [Shape::Wide, Shape::Chain, Shape::Nixpkgs] {
        if is_left_out("SHAPE", &format!("{shape:?}")) {
            continue;
        }
        for &size in &sizes {
            let graph = Arc::new(graph(shape, size));
            let roots = Arc::new(roots(&graph));
            for policy in [BuildPolicy::Eager, BuildPolicy::Demand] {
                if is_left_out("POLICY", &format!("{policy:?}")) {
                    continue;
                }
                let (mut alone, mut wholes, mut machines) = (vec![], vec![], vec![]);
                if std::env::var("ONLY").is_ok_and(|only| only == "machine") {
                    let alone = machine(&graph, &roots, policy);
                    println!("{size:>9} {shape:?} {policy:?} machine {alone:.2}");
                    continue;
                }
                for _ in 0..runs {
                    let (back, session) = (
                        back_ends(graph.clone()),
                        whole(graph.clone(), roots.clone(), policy),
                    );
                    alone.push(
                        runtime.block_on(async { tokio::spawn(back).await.expect("it ends") }),
                    );
                    wholes.push(runtime.block_on(session));
                    machines.push(machine(&graph, &roots, policy));
                }
                let alone = median(alone);
                let figure = |of: fn(&Figures) -> f64| median(wholes.iter().map(of).collect());
                let micros = figure(|run| run.micros);
                println!(
                    "{size:>9} {:>8} {:>7}   {micros:>8.2} {:>8.2} {alone:>9.2} {:>12.2} {:>8.2} {:>6.0}",
                    format!("{shape:?}"),
                    format!("{policy:?}"),
                    figure(|run| run.cpu),
                    micros - alone,
                    median(machines),
                    figure(|run| run.bytes),
                );
            }
        }
    }
}
