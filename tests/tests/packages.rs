//! The package set in `packages/`, with the machinery of large ones (fixpoints, overlays,
//! overrides, modules, stages, other systems), has the same derivations as with C++ Nix: see
//! record.sh there.
#![allow(clippy::unwrap_used)]

#[path = "packages/set.rs"]
mod set;

use set::{derivations, folder};

/// Number of derivations.
const COUNT: usize = 512;

#[tokio::test]
async fn every_derivation_is_that_of_nix() {
    let found = derivations(None).await;
    let goldens = folder().join("goldens");
    let recorded = std::fs::read_to_string(goldens.join("derivations.txt")).unwrap();
    let recorded: Vec<&str> = recorded.lines().collect();
    // The few derivations that were recorded completely come first, because their differences can
    // be displayed.
    for name in &recorded {
        if let Ok(whole) = std::fs::read(goldens.join(name)) {
            let ours = found.iter().filter(|(path, _)| path[33..] == name[33..]);
            let ours: Vec<_> = ours
                .map(|(_, text)| String::from_utf8_lossy(text))
                .collect();
            let whole = String::from_utf8_lossy(&whole);
            assert!(ours.contains(&whole), "theirs {whole}\nours {ours:#?}");
        }
    }
    let missing: Vec<_> = recorded
        .iter()
        .filter(|name| !found.contains_key(**name))
        .collect();
    let other: Vec<_> = found
        .keys()
        .filter(|name| !recorded.contains(&name.as_str()))
        .collect();
    assert!(
        missing.is_empty() && other.is_empty(),
        "missing {missing:#?}, other {other:#?}"
    );
    assert_eq!(found.len(), COUNT);
}

/// The same derivations with a collection at every `TVIX_STRESS_EVERY`th call, after which freed
/// memory is overwritten.
#[tokio::test]
async fn collections_change_no_derivation() {
    let every = std::env::var("TVIX_STRESS_EVERY").ok();
    let every = every.map_or(10_000, |every| every.parse().unwrap());
    let expected = derivations(None).await;
    assert_eq!(expected.len(), COUNT);
    let found = derivations(Some(every)).await;
    assert!(found == expected, "{:#?}", found.keys());
}
