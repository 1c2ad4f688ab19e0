//! The language, case by case, as C++ Nix 2.34.8 has it: tests/language/ holds the cases by topic, and beside them what that made of them
//! (see record.sh there). Every difference is printed; `TVIX_CASES` names one topic to be tested alone.

#![allow(clippy::unwrap_used)]

#[path = "language/cases.rs"]
mod cases;
#[path = "language/ours.rs"]
mod ours;
#[cfg(feature = "peers")]
#[path = "language/record.rs"]
mod record;

use cases::{Case, Outcome};

/// Where we differ on purpose: how a case begins, and why.
const ON_PURPOSE: &[(&str, &str)] = &[];

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

fn compare(what: &str, view: fn(&Outcome) -> String) {
    let mut wrong = 0;
    let all = recorded();
    for (topic, case, theirs) in &all {
        let unanswered = theirs.value.is_none() && theirs.told.is_empty();
        if unanswered
            || ON_PURPOSE
                .iter()
                .any(|(text, _)| case.text.starts_with(text))
        {
            continue;
        }
        let ours = ours::evaluate(case);
        let (ours, theirs) = (view(&ours), view(theirs));
        if ours != theirs {
            wrong += 1;
            let mode = case.mode.name();
            println!(
                "--- {topic}, {mode}: {}\n  theirs: {theirs}\n  ours:   {ours}",
                case.text
            );
        }
    }
    let number = all.len();
    assert_eq!(wrong, 0, "the {what} of so many of {number} cases differ");
}

/// Values; messages of errors and their places.
#[test]
fn results() {
    compare("results", |outcome| {
        match (&outcome.value, outcome.failure()) {
            (Some(value), _) => value.clone(),
            (None, Some(failure)) => failure,
            (None, None) => outcome.told.clone(),
        }
    });
}

/// All that is printed: traces and warnings, and errors with the way to them.
#[test]
fn printed() {
    compare("messages", |outcome| outcome.told.clone());
}
