//! Time to the first build, from the first instantiation of an evaluation and from the request.
//! Each build takes 100 ms, there are eight build slots, and a local store is queried.
//!
//!     cargo run --release -p tvix-benches --bin first_build NIXPKGS [ATTRIBUTE [ROUNDS]]
//!
//! Each round has a fresh store and ends with the evaluation: only the beginning is measured, and
//! downloaded sources could not be simulated.

use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{BuilderProfile, this_system};
use tvix_coordinator::{BuildEvent, Coordinator, OnFailure, Options};
use tvix_eval::NixEvaluator;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalSource, EvalStream, Evaluator};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BUILD: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let tree = PathBuf::from(arguments.next().ok_or("name a nixpkgs tree")?);
    let attribute = arguments.next().unwrap_or_else(|| "hello".to_owned());
    let rounds: usize = arguments.next().map_or(Ok(11), |text| text.parse())?;
    let mut taken = Vec::new();
    for _ in 0..rounds.max(1) {
        taken.push(round(&tree, &attribute).await?);
    }
    for (name, time) in [
        (
            "first instantiation to first build",
            Round::latency as fn(&Round) -> Duration,
        ),
        ("request to first instantiation", |round| round.instantiated),
        ("request to first build", |round| round.built),
        ("request to end of evaluation", |round| round.evaluated),
    ] {
        let mut times: Vec<f64> = taken
            .iter()
            .map(|it| time(it).as_secs_f64() * 1e3)
            .collect();
        times.sort_by(f64::total_cmp);
        println!(
            "{name:36} median {:>7.2} ms, best {:>7.2}, worst {:>7.2}",
            times[times.len() / 2],
            times[0],
            times[times.len() - 1],
        );
    }
    let begun = taken.iter().map(|round| round.begun);
    println!(
        "builds begun before evaluation ended: {} to {}, of {} derivations",
        begun.clone().min().unwrap_or(0),
        begun.max().unwrap_or(0),
        taken[0].derivations,
    );
    Ok(())
}

/// Times since the request.
struct Round {
    instantiated: Duration,
    built: Duration,
    evaluated: Duration,
    begun: usize,
    derivations: usize,
}

impl Round {
    fn latency(&self) -> Duration {
        self.built.saturating_sub(self.instantiated)
    }
}

/// An evaluator that records the time of its first derivation.
#[derive(Debug)]
struct Timed {
    evaluator: NixEvaluator,
    first: Arc<Mutex<Option<Instant>>>,
}

#[async_trait]
impl Evaluator for Timed {
    async fn evaluate(&self, request: EvalRequest) -> std::result::Result<EvalStream, EvalError> {
        let first = self.first.clone();
        let events = self.evaluator.evaluate(request).await?;
        let timed = events.inspect(move |event| {
            if let Ok(EvalEvent::Derivation { .. }) = event {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert_with(Instant::now);
            }
        });
        Ok(timed.boxed())
    }
}

async fn round(tree: &std::path::Path, attribute: &str) -> Result<Round> {
    let directory = tempfile::tempdir()?;
    let store = LocalStore::open(LocalStoreOptions::new(directory.path())).await?;
    let starts: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = starts.clone();
    let profile = BuilderProfile::new("memory", this_system(), 8);
    let builder = InMemoryBuilder::new(profile).with_default_async(move |_| {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
        async {
            tokio::time::sleep(BUILD).await;
            Ok(MemoryOutputs::out(Tree::file("built")))
        }
    });
    let options = Options::default().with_on_failure(OnFailure::Continue);
    let first: Arc<Mutex<Option<Instant>>> = Arc::default();
    let evaluator = Timed {
        evaluator: NixEvaluator::new(Settings::default()),
        first: first.clone(),
    };
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(store))
        .with_builder(Arc::new(builder))
        .with_options(options);
    let request = EvalRequest::new(EvalSource::File(tree.to_owned()))
        .with_attr_paths(vec![attribute.to_owned()]);

    let begin = Instant::now();
    let mut session = coordinator.start(request);
    let (mut evaluated, mut derivations) = (None, 0);
    while let Some(event) = session.next().await {
        match event.event {
            BuildEvent::Instantiated { .. } => derivations += 1,
            BuildEvent::EvaluationEnded => evaluated = Some(Instant::now()),
            BuildEvent::EvaluationFailed { error } => return Err(error.message.into()),
            _ => {}
        }
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        let instantiated = *first.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(instantiated), Some(evaluated), Some(built)) =
            (instantiated, evaluated, starts.first())
        {
            return Ok(Round {
                instantiated: instantiated - begin,
                built: built.saturating_duration_since(begin),
                evaluated: evaluated - begin,
                begun: starts.iter().filter(|start| **start < evaluated).count(),
                derivations,
            });
        }
    }
    Err("nothing was built".into())
}
