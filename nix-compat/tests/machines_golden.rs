//! Texts of machines, as the build hook of C++ Nix reads them (`goldens/make-machines.py`).
#![cfg(feature = "json")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use nix_compat::machines::{Item, Machine, MachinesError, parse};
use serde_json::Value;

/// All machines of a text. There is one file.
fn machines(text: &str, file: &str) -> Result<Vec<Machine>, MachinesError> {
    let mut found = Vec::new();
    for entry in parse(text) {
        match entry?.item {
            Item::Machine(machine) => found.push(machine),
            Item::Include(path) if path.contains("does/not/exist") => {}
            Item::Include(_) => found.extend(machines(file, "")?),
            _ => unreachable!(),
        }
    }
    Ok(found)
}

fn words(value: &Value) -> BTreeSet<String> {
    let words = value.as_array().unwrap().iter();
    words
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn as_nix_reads_them() {
    let text = include_str!("goldens/machines/2.34.8.json");
    let golden: Value = serde_json::from_str(text).unwrap();
    let file = golden["file"].as_str().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let found = machines(text, file);
        let Some(expected) = case["machines"].as_array() else {
            assert!(found.is_err(), "{text:?}: {found:?}");
            continue;
        };
        let found = found.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(found.len(), expected.len(), "{text:?}");
        for (machine, expected) in found.iter().zip(expected) {
            let systems = machine.systems.clone();
            let systems = systems.unwrap_or_else(|| BTreeSet::from(["x86_64-linux".to_owned()]));
            assert_eq!(systems, words(&expected["systems"]), "{text:?}");
            assert_eq!(u64::from(machine.max_jobs), expected["maxJobs"], "{text:?}");
            assert_eq!(machine.features, words(&expected["features"]), "{text:?}");
            let mandatory = words(&expected["mandatoryFeatures"]);
            assert_eq!(machine.mandatory_features, mandatory, "{text:?}");
        }
    }
}
