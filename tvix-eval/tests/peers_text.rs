//! The text modules, compared with `nix-instantiate` and libstdc++ on seeded random cases.
//!
//! `TVIX_PEER_CASES` sets the number of cases per test, `TVIX_PEER_SEED` the first seed,
//! `TVIX_PEER_KIND` selects one kind of question, and `TVIX_PEER_RECORD` names a file to which
//! answers are appended (see tests/record_text.sh). Tests without their peer print a message and
//! pass.

#![allow(clippy::unwrap_used)]

#[path = "peers/generate.rs"]
mod generate;
#[path = "peers/nix.rs"]
mod nix;
#[path = "peers/ours.rs"]
mod ours;
#[path = "peers/random.rs"]
mod random;
#[path = "peers/regexes.rs"]
mod regexes;

use std::io::Write as _;

use random::random;

/// Number of error cases. Errors cannot be batched, so there are fewer of them.
const ERRORS: usize = 8;

/// Kinds of questions that older versions answer differently.
const CHANGED: [&str; 5] = ["float-json", "json", "json-string", "toml", "printed"];

#[test]
fn nix_agrees() {
    let version = nix::version().expect("real Nix is needed: nix-instantiate");
    let only = std::env::var("TVIX_PEER_KIND").ok();
    let mut wrong = 0;
    for kind in ours::KINDS {
        if version < (2, 34) && CHANGED.contains(&kind) {
            eprintln!("{kind}: skipped, this nix-instantiate is too old");
            continue;
        }
        if only.as_deref().is_none_or(|only| only == kind) {
            wrong += compare(kind);
        }
    }
    assert_eq!(wrong, 0);
}

fn compare(kind: &str) -> usize {
    let mut random = random();
    let inputs: Vec<String> = (0..random::cases())
        .map(|_| generate::input(kind, &mut random))
        .collect();
    let (good, mut bad): (Vec<_>, Vec<_>) = inputs
        .into_iter()
        .partition(|input| ours::answer(kind, input).is_some());
    let most = std::env::var("TVIX_PEER_ERRORS").ok();
    bad.truncate(most.and_then(|m| m.parse().ok()).unwrap_or(ERRORS));
    let mut record = std::env::var_os("TVIX_PEER_RECORD").map(|path| {
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true).open(path).unwrap()
    });
    let mut wrong = 0;
    for inputs in std::iter::once(&good[..]).chain(bad.chunks(1)) {
        for (input, theirs) in inputs.iter().zip(nix::ask(kind, inputs)) {
            let ours = ours::answer(kind, input);
            if let Some(record) = &mut record {
                let line = serde_json::json!([kind, input, theirs.as_ref().ok()]);
                writeln!(record, "{line}").unwrap();
            }
            if ours != theirs.as_ref().ok().cloned() {
                wrong += 1;
                if wrong < 15 {
                    eprintln!("{kind} {input:?}:\n  theirs {theirs:?}\n  ours   {ours:?}");
                }
            }
        }
    }
    eprintln!(
        "{kind}: {} answers, {} errors, {wrong} differ",
        good.len(),
        bad.len()
    );
    wrong
}
