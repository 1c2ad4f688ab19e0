//! The recorded cases of the language, compared with C++ Nix 2.34.8. The directory tests/language/
//! holds the cases by topic, with the recorded results (see record.sh there). All differences are
//! printed; `TVIX_CASES` selects a single topic.

#![allow(clippy::unwrap_used)]

#[path = "language/cases.rs"]
mod cases;
#[path = "language/collecting.rs"]
mod collecting;
#[path = "language/ours.rs"]
mod ours;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cases::{Case, Outcome};
use futures::StreamExt as _;

/// The known differences of a kind (`results` or `messages`), with reasons: see
/// tests/language/differences.txt.
fn differences(what: &str) -> HashSet<String> {
    let text = std::fs::read_to_string(cases::folder().join("differences.txt")).unwrap();
    let prefix = format!("{what} ");
    text.lines()
        .filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
        .collect()
}

/// A case on one line.
fn key(topic: &str, case: &Case) -> String {
    format!(
        "{topic}, {}: {}",
        case.mode.name(),
        case.text.replace('\n', "\\n")
    )
}

fn recorded() -> Vec<(String, Case, Outcome)> {
    let only = std::env::var("TVIX_CASES").ok();
    let mut all = Vec::new();
    for topic in cases::topics() {
        if only.as_ref().is_some_and(|only| *only != topic) {
            continue;
        }
        let expected = cases::expected(&topic);
        let fresh = cases::read(&topic);
        let same = expected.iter().map(|(case, _)| case).eq(&fresh);
        assert!(same, "{topic}: its cases changed, record them again");
        all.extend(expected.into_iter().map(|(c, o)| (topic.clone(), c, o)));
    }
    all
}

/// The lines of the file in which C++ Nix defines `derivation` are neither recorded nor printed.
#[test]
fn lines_of_internal_files_are_omitted() {
    let shown = "error:\n       … while x\n         at «nix-internal»/f.nix:3:1:\n            2| a\n            3| b\n             | ^\n            4| c\n\n       at «string»:1:1:\n            1| d";
    let kept = "error:\n       … while x\n         at «nix-internal»/f.nix:3:1:\n\n       at «string»:1:1:\n            1| d";
    assert_eq!(cases::without_internal_lines(shown), kept);
    for (topic, case, theirs) in recorded() {
        let kept = cases::without_internal_lines(&theirs.messages);
        assert_eq!(theirs.messages, kept, "{}", key(&topic, &case));
    }
}

fn compare(what: &str, view: fn(&Outcome) -> String) {
    let mut wrong = 0;
    let all = recorded();
    let known = differences(what);
    for (topic, case, theirs) in &all {
        let ours = ours::evaluate(case);
        // C++ Nix did not terminate; the test is that this evaluator does.
        if theirs.value.is_none() && theirs.messages.is_empty() {
            continue;
        }
        let key = key(topic, case);
        let (ours, theirs) = (view(&ours), view(theirs));
        if (ours == theirs) == known.contains(&key) {
            wrong += 1;
            println!("--- {key}");
            if ours == theirs {
                println!("  is said to differ, but does not");
            } else {
                println!("  theirs: {theirs}\n  ours:   {ours}");
            }
        }
    }
    let number = all.len();
    assert_eq!(
        wrong, 0,
        "the {what} of so many of {number} cases are not as expected"
    );
}

/// Values, and error messages with positions.
#[test]
fn results() {
    compare("results", |outcome| {
        match (&outcome.value, outcome.failure()) {
            (Some(value), _) => value.clone(),
            (None, Some(failure)) => failure,
            (None, None) => outcome.messages.clone(),
        }
    });
}

/// All output: traces and warnings, and errors with traces.
#[test]
fn printed() {
    compare("messages", |outcome| outcome.messages.clone());
}

/// Cases in an order that differs with the seed `TVIX_SEED`, each with a collection at every
/// `TVIX_STRESS_EVERY`th call, until all were run or `TVIX_STRESS_SECONDS` have passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collections_change_nothing() {
    let number = |name: &str, default| match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => default,
    };
    let limit = Duration::from_secs(number("TVIX_STRESS_SECONDS", 20));
    let each = Duration::from_secs(number("TVIX_STRESS_CASE_SECONDS", 1));
    let every = number("TVIX_STRESS_EVERY", 1) as u32;
    let mut cases = recorded();
    let mut random = number("TVIX_SEED", 1) | 1;
    for end in (1..cases.len()).rev() {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        cases.swap(end, (random % (end as u64 + 1)) as usize);
    }
    let start = Instant::now();
    let (mut compared, mut wrong) = (0, 0);
    let started = cases.iter().take_while(|_| start.elapsed() < limit);
    let outcomes = started.map(|(topic, case, _)| async move {
        let plain = collecting::evaluate(case, None, each).await;
        let stressed = collecting::evaluate(case, Some(every), each).await;
        (topic, case, plain, stressed)
    });
    let mut outcomes = futures::stream::iter(outcomes).buffer_unordered(4);
    while let Some((topic, case, plain, stressed)) = outcomes.next().await {
        if let (Some(plain), Some(stressed)) = (plain, stressed) {
            compared += 1;
            if plain != stressed {
                wrong += 1;
                println!("--- {}\n  {plain:?}\n  {stressed:?}", key(topic, case));
            }
        }
    }
    println!("{compared} of {} cases compared", cases.len());
    assert_eq!(wrong, 0);
    assert!(compared > 20, "{compared}");
}
