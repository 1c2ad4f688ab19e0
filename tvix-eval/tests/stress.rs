//! Random programs with a collection at every few calls, compared with their evaluation without
//! collections. What was freed is overwritten, so that a value that was freed too early is seen.
//!
//! `TVIX_SEED` is the first seed; each test ends after `TVIX_STRESS_SECONDS`.

#![allow(clippy::unwrap_used)]

#[path = "stress/builder.rs"]
mod builder;
#[path = "imports/program.rs"]
mod imports;
#[path = "peers_language/program.rs"]
mod program;
#[path = "peers/random.rs"]
mod random;

use std::time::{Duration, Instant};

use builder::Builder;
use futures::StreamExt as _;
use random::Random;
use tvix_eval::world::Settings;
use tvix_eval::{Limits, NixEvaluator, PrintFormat};
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource};

/// What an evaluation shows to its user.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    text: String,
    failure: Option<String>,
    messages: Vec<String>,
}

/// The outcome, and the number of requests that were answered while others were open; `None` if it
/// takes too long.
async fn evaluate(text: &str, format: PrintFormat, every: Option<u32>) -> Option<(Outcome, usize)> {
    let mut settings = Settings::default();
    settings.system = "x".into();
    settings.time = 0;
    settings.collect_every = every;
    settings.limits = Limits::default()
        .with_time(Duration::from_secs(2))
        .with_depth(1000);
    let request = EvalRequest::new(EvalSource::Expression {
        text: text.to_owned(),
        base: "/".into(),
    });
    let printing = NixEvaluator::new(settings)
        .print(vec![request], format)
        .unwrap();
    let mut builder = Builder::new();
    let mut messages = Vec::new();
    let mut events = printing.events;
    loop {
        // Several fibers are suspended before any continues.
        let next = events.next();
        let event = match builder.is_idle() {
            true => next.await,
            false => match tokio::time::timeout(Duration::from_millis(2), next).await {
                Ok(event) => event,
                Err(_) => {
                    builder.answer();
                    continue;
                }
            },
        };
        match event {
            None => break,
            Some(Ok(EvalEvent::Diagnostic(diagnostic))) => messages.push(diagnostic.message),
            Some(Ok(EvalEvent::Derivation {
                path, derivation, ..
            })) => builder.knows(path, derivation),
            Some(Ok(EvalEvent::Realise(request))) => builder.add(request),
            Some(event) => _ = event.unwrap(),
        }
    }
    let printed = printing.result.await.unwrap().unwrap();
    let failure = printed.failure.map(|failure| failure.rendered);
    let is_late = |text: &String| text.contains("took longer");
    if failure.as_ref().is_some_and(is_late) {
        return None;
    }
    let outcome = Outcome {
        text: String::from_utf8_lossy(&printed.text).into_owned(),
        failure,
        messages,
    };
    Some((outcome, builder.side_by_side))
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    }
}

/// Compares programs until the time is over. Returns the number of those that were compared, and of
/// requests that were answered while others were open.
async fn compare(program: impl Fn(u64) -> String) -> (usize, usize) {
    let limit = Duration::from_secs(number("TVIX_STRESS_SECONDS", 6));
    let start = Instant::now();
    let (mut compared, mut late, mut requests) = (0, 0, 0);
    let mut wrong = Vec::new();
    let seeds = number("TVIX_SEED", 1)..;
    let programs = seeds.take_while(|_| start.elapsed() < limit);
    let outcomes = programs.map(|seed| {
        let text = program(seed);
        let mut random = Random::new(!seed);
        let every = [1, 1, 2, 3, 7, 40][random.below(6)];
        let strict = random.below(4) > 0;
        let format = match random.below(4) {
            0 => PrintFormat::Json,
            1 => PrintFormat::Xml {
                strict,
                places: strict,
            },
            _ => PrintFormat::Nix { strict },
        };
        async move {
            let plain = evaluate(&text, format, None).await;
            let stressed = evaluate(&text, format, Some(every)).await;
            let shown = format!("seed {seed}, every {every} calls, {format:?}:\n{text}");
            (shown, plain, stressed)
        }
    });
    let mut outcomes = futures::stream::iter(outcomes).buffer_unordered(4);
    while let Some((shown, plain, stressed)) = outcomes.next().await {
        let (Some((plain, _)), Some((stressed, side_by_side))) = (plain, stressed) else {
            late += 1;
            continue;
        };
        compared += 1;
        requests += side_by_side;
        if plain != stressed {
            println!("--- {shown}\n  {plain:?}\n  {stressed:?}");
            wrong.push(shown);
        }
    }
    println!(
        "{compared} programs compared, {late} took too long, {requests} requests were answered while \
         others were open"
    );
    assert!(wrong.is_empty(), "{}", wrong.len());
    (compared, requests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_change_no_program() {
    let (compared, _) = compare(|seed| program::program(&mut Random::new(seed), true)).await;
    assert!(compared > 20, "{compared}");
}

/// The same with programs that are suspended in imports from derivations at random places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_change_no_import() {
    let (compared, requests) = compare(imports::Program::text).await;
    assert!(compared > 10 && requests > 0, "{compared} {requests}");
}
