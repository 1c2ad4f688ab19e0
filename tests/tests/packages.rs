//! The package set in `packages/`, with the machinery of large ones (fixpoints, overlays,
//! overrides, modules, stages, other systems), has the same derivations as with C++ Nix: see
//! record.sh there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures::StreamExt as _;
use nix_compat::store_path::StoreDir;
use tvix_eval::NixEvaluator;
use tvix_eval::world::Settings;
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource, Evaluator as _};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packages")
}

/// Number of derivations.
const COUNT: usize = 512;

const ATTRS: [&str; 6] = ["native", "cross", "changed", "machine", "other", "recent"];

/// The instantiated derivations by name, serialised. Checks that none is yielded twice, or before
/// its inputs.
async fn derivations(collect_every: Option<u32>) -> BTreeMap<String, Vec<u8>> {
    let mut request = EvalRequest::new(EvalSource::File(folder().join("release.nix")));
    request.attr_paths = ATTRS.map(str::to_owned).to_vec();
    let mut settings = Settings::default();
    settings.collect_every = collect_every;
    let evaluator = NixEvaluator::new(settings);
    let mut events = evaluator.evaluate(request).await.unwrap();
    let mut found = BTreeMap::new();
    while let Some(event) = events.next().await {
        if let EvalEvent::Derivation {
            path, derivation, ..
        } = event.unwrap()
        {
            for input in derivation.input_drvs.keys() {
                assert!(
                    found.contains_key(&input.to_string()),
                    "{path} came before {input}"
                );
            }
            let (computed, text) = derivation.path_and_aterm(&StoreDir::default()).unwrap();
            assert_eq!(computed, path);
            assert!(
                found.insert(path.to_string(), text).is_none(),
                "{path} came twice"
            );
        }
    }
    found
}

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

/// The same comparison with the installed Nix.
#[tokio::test]
#[ignore = "needs Nix"]
async fn every_derivation_is_that_of_the_installed_nix() {
    let root = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new("nix-instantiate");
    command
        .arg("--store")
        .arg(root.path())
        .arg(folder().join("release.nix"));
    for attr in ATTRS {
        command.args(["-A", attr]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut theirs: Vec<String> = std::fs::read_dir(root.path().join("nix/store"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".drv"))
        .collect();
    theirs.sort();
    let ours: Vec<String> = derivations(None).await.into_keys().collect();
    assert_eq!(ours, theirs);
}
