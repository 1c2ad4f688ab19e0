//! Answers of `nix-instantiate`, recorded by tests/record_text.sh.

#![allow(clippy::unwrap_used)]

#[path = "peers/ours.rs"]
mod ours;

#[test]
fn recorded_answers() {
    let mut kinds = std::collections::BTreeSet::new();
    for line in include_str!("recorded_text.jsonl").lines() {
        let (kind, input, theirs): (String, String, Option<String>) =
            serde_json::from_str(line).unwrap();
        assert_eq!(ours::answer(&kind, &input), theirs, "{kind} {input:?}");
        kinds.insert(kind);
    }
    assert_eq!(kinds.len(), ours::KINDS.len());
}
