//! Links to build outputs.

use std::collections::HashMap;
use std::path::Path;

use nix_compat::store_path::StorePath;
use tvix_coordinator::{Report, RootReport};

use crate::error::CliError;
use crate::stores::MainStore;

/// Links every output that was asked for: `result` to the first derivation's `out`,
/// `result-dev` to its `dev`, `result-2` and `result-2-dev` for the second, as `nix-build` does.
/// The links are garbage collector roots.
pub async fn link_outputs(report: &Report, link: &Path, store: &MainStore) -> Result<(), CliError> {
    for ((root, _), index) in derivations(report).zip(numbers(report)) {
        for (output, path) in &root.outputs {
            let mut name = link.as_os_str().to_owned();
            if index > 0 {
                name.push(format!("-{}", index + 1));
            }
            if output.as_str() != "out" {
                name.push(format!("-{output}"));
            }
            let name = Path::new(&name);
            let linked = store.add_root(name, path).await;
            linked.map_err(|error| CliError::out_link(name, error))?;
        }
    }
    Ok(())
}

/// The roots that could be evaluated.
fn derivations(report: &Report) -> impl Iterator<Item = (&RootReport, &StorePath)> {
    let roots = report.roots.iter();
    roots.filter_map(|root| Some((root, root.drv_path.as_ref()?)))
}

/// The number of each root's derivation: derivations are counted in the order of the roots, each once.
/// If evaluation failed, requested attributes without a root count as well, so that numbers match the command
/// line.
fn numbers(report: &Report) -> Vec<usize> {
    let mut known: HashMap<&StorePath, usize> = HashMap::new();
    let mut next = 0;
    let mut expected = 0;
    let numbers = derivations(report).map(|(root, drv_path)| {
        if let Some(asked) = root.order.request_index() {
            if !report.errors.is_empty() {
                next += asked.saturating_sub(expected);
            }
            expected = asked + 1;
        }
        *known.entry(drv_path).or_insert_with(|| {
            next += 1;
            next - 1
        })
    });
    numbers.collect()
}

#[cfg(test)]
mod tests {
    use tvix_coordinator::{SessionError, Status};
    use tvix_eval_api::{EvalError, RootOrder};

    use super::*;

    /// A root of this number, with the name of its derivation; without, its evaluation failed.
    type Case<'a> = (usize, Option<&'a str>);

    fn report(roots: &[Case<'_>]) -> Report {
        let path = |name| format!("{}-{name}.drv", "0".repeat(32)).parse();
        let mut report = Report::new(Status::Success);
        for (asked, name) in roots {
            let mut root = RootReport::new("", RootOrder::of(*asked));
            root.drv_path = name.map(|name| path(name).expect("a path"));
            if root.drv_path.is_none() {
                let failure = EvalError::expression("no").failure();
                root.error = Some(failure.clone());
                report.errors.push(SessionError::Evaluation(failure));
            }
            report.roots.push(root);
        }
        report
    }

    #[test]
    fn derivations_are_numbered_once_each() {
        let roots = [(0, "a"), (0, "b"), (1, "a"), (2, "b"), (4, "c")];
        let roots = roots.map(|(asked, name)| (asked, Some(name)));
        assert_eq!(numbers(&report(&roots)), [0, 1, 0, 1, 2]);
    }

    #[test]
    fn what_failed_keeps_its_number() {
        let roots = [
            (0, None),
            (1, Some("a")),
            (1, Some("b")),
            (2, None),
            (3, None),
            (4, Some("c")),
        ];
        assert_eq!(numbers(&report(&roots)), [1, 2, 5]);
    }
}
