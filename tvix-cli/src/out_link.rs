//! Links to what was built.

use std::collections::HashMap;
use std::path::Path;

use nix_compat::store_path::StorePath;
use tvix_coordinator::Report;
use tvix_store_api::local_fs::LocalStore;

use crate::error::CliError;

/// Links every output that was asked for: `result` to the first derivation's `out`,
/// `result-dev` to its `dev`, `result-2` and `result-2-dev` for the second, as `nix-build` does.
/// The links keep what they lead to from being collected.
pub async fn link_outputs(
    report: &Report,
    link: &Path,
    store: &LocalStore,
) -> Result<(), CliError> {
    for (root, index) in report.roots.iter().zip(numbers(report)) {
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

/// The number of each root's derivation: derivations are counted in the order of the roots, each once.
/// If evaluation failed, what was asked for and has no root counts as well, so that numbers stay
/// those of the command line.
fn numbers(report: &Report) -> Vec<usize> {
    let mut known: HashMap<&StorePath, usize> = HashMap::new();
    let mut next = 0;
    let mut expected = 0;
    let numbers = report.roots.iter().map(|root| {
        if let Some(asked) = root.order.asked() {
            if !report.errors.is_empty() {
                next += asked.saturating_sub(expected);
            }
            expected = asked + 1;
        }
        *known.entry(&root.drv_path).or_insert_with(|| {
            next += 1;
            next - 1
        })
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use nix_compat::sorted::SortedMap;
    use tvix_coordinator::{Counts, RootReport, Status};
    use tvix_eval_api::RootOrder;

    use super::*;

    fn report(roots: &[(usize, &str)], errors: &[&str]) -> Report {
        let root = |(asked, name): &(usize, &str)| RootReport {
            name: String::new(),
            order: RootOrder::of(*asked),
            drv_path: format!("{}-{name}.drv", "0".repeat(32))
                .parse()
                .expect("a path"),
            outputs: SortedMap::new_vec(),
            success: true,
        };
        Report {
            status: Status::Success,
            roots: roots.iter().map(root).collect(),
            failures: Vec::new(),
            skipped: Vec::new(),
            checks: Vec::new(),
            errors: errors.iter().map(|error| (*error).to_owned()).collect(),
            counts: Counts::default(),
        }
    }

    #[test]
    fn derivations_are_numbered_once_each() {
        let roots = [(0, "a"), (0, "b"), (1, "a"), (2, "b"), (4, "c")];
        assert_eq!(numbers(&report(&roots, &[])), [0, 1, 0, 1, 2]);
    }

    #[test]
    fn what_failed_keeps_its_number() {
        let roots = [(1, "a"), (1, "b"), (4, "c")];
        assert_eq!(numbers(&report(&roots, &["no"])), [1, 2, 5]);
    }
}
