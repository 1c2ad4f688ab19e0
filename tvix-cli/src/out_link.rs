//! Links to what was built.

use std::path::Path;

use tvix_coordinator::Report;
use tvix_store_api::local_fs::LocalStore;

use crate::error::CliError;

/// Links every output that was asked for: `result` to the first derivation's `out`,
/// `result-dev` to its `dev`, `result-2` and `result-2-dev` for the second, as `nix-build` does.
/// First and second are those on the command line, whatever has become of the others. The links keep
/// what they lead to from being collected.
pub async fn link_outputs(
    report: &Report,
    asked_for: &[String],
    link: &Path,
    store: &LocalStore,
) -> Result<(), CliError> {
    for root in &report.roots {
        let index = number(asked_for, &root.name);
        for (output, path) in &root.outputs {
            let mut name = link.as_os_str().to_owned();
            if index > 0 {
                name.push(format!("-{}", index + 1));
            }
            if output.as_str() != "out" {
                name.push(format!("-{output}"));
            }
            let linked = store.add_root(Path::new(&name), path).await;
            linked.map_err(|error| CliError::OutLink(Box::new(error)))?;
        }
    }
    Ok(())
}

/// How many other derivations come before that of `name`. What follows a `!` says which outputs.
fn number(asked_for: &[String], name: &str) -> usize {
    let derivation = |asked: &'_ str| asked.split('!').next().unwrap_or_default().to_owned();
    let name = derivation(name);
    let mut before: Vec<String> = Vec::new();
    for asked in asked_for.iter().map(|asked| derivation(asked)) {
        if asked == name {
            break;
        }
        if !before.contains(&asked) {
            before.push(asked);
        }
    }
    before.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_twice_is_counted_once() {
        let asked_for = ["a", "b!out", "a", "b!dev", "c"].map(str::to_owned);
        let numbers = ["a", "b!out", "b!dev", "c"].map(|name| number(&asked_for, name));
        assert_eq!(numbers, [0, 1, 1, 2]);
    }
}
