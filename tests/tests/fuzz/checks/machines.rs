//! Arbitrary text as machines: places are within the text, and a machine that is written again is read
//! again.

use nix_compat::machines::{Item, Machine, parse};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for entry in parse(text) {
        let (line, column) = match &entry {
            Ok(entry) => (entry.line, entry.column),
            Err(error) => (error.line, error.column),
        };
        let line = lines[line - 1];
        assert!(line.is_char_boundary(column - 1) && column <= line.len());
        let Ok(entry) = entry else { continue };
        if let Item::Machine(machine) = entry.item {
            let text = written(&machine);
            let again: Vec<_> = parse(&text).collect::<Result<_, _>>().unwrap();
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].item, Item::Machine(machine));
        }
    }
}

fn written(machine: &Machine) -> String {
    let list = |words: &std::collections::BTreeSet<String>| match words.is_empty() {
        true => "-".to_owned(),
        // A comma at the end adds no element, and tells a single `-` from the default.
        false => words.iter().map(|word| format!("{word},")).collect(),
    };
    let systems = machine.systems.as_ref();
    // `,` is a list without elements.
    let systems = systems.map_or("-".to_owned(), |words| match words.is_empty() {
        true => ",".to_owned(),
        false => list(words),
    });
    format!(
        "{} {systems} {} {} {} {} {} {}",
        machine.uri,
        machine.ssh_key.as_deref().unwrap_or("-"),
        machine.max_jobs,
        machine.speed_factor,
        list(&machine.features),
        list(&machine.mandatory_features),
        machine.host_key.as_deref().unwrap_or("-"),
    )
}
