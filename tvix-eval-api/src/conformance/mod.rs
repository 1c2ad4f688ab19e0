//! A conformance suite for evaluators: tests the `# Contract` of [`Evaluator`].
//!
//! [`run_all`] runs every case for which the evaluator has the [`Capabilities`], and returns a
//! [`Report`] with the failed cases and the reasons. A factory makes the evaluators from
//! [`TestGraph`]s. All cases check the order of events.
//!
//! ```
//! use tvix_eval_api::conformance::{self, Capabilities, Subject};
//! use tvix_eval_api::memory::StreamEvaluator;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // An evaluator without events violates the contract.
//! let factory = |_graph| Subject::new(StreamEvaluator::new(|_| futures::stream::empty()));
//! let report = conformance::run_all(factory, Capabilities::default()).await;
//! assert!(report.failures().next().is_some());
//! // In a real test: report.assert_all();
//! # }
//! ```
//!
//! [`Evaluator`]: crate::Evaluator

mod cases;
mod graph;
mod imports;
mod watch;

use std::time::Duration;

use futures::future::BoxFuture;

pub use graph::{Counter, Subject, TestAttribute, TestGraph, TestImport, TestValue};
use tvix_conformance::Failure;
pub use tvix_conformance::{Outcome, Report};

/// Optional features of an evaluator. Cases that need a missing capability are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Yields [`TestGraph::sources`].
    pub sources: bool,
    /// Computes a [`TestValue::Lazy`] on demand, and increments its counter.
    pub lazy: bool,
    /// Turns a [`TestValue::Import`] into [`EvalEvent::Realise`](crate::EvalEvent::Realise).
    pub imports: bool,
}

impl Capabilities {
    /// All capabilities.
    pub const ALL: Self = Self {
        sources: true,
        lazy: true,
        imports: true,
    };

    /// Sets [`sources`](Self::sources).
    #[must_use]
    pub fn with_sources(mut self, sources: bool) -> Self {
        self.sources = sources;
        self
    }

    /// Sets [`lazy`](Self::lazy).
    #[must_use]
    pub fn with_lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    /// Sets [`imports`](Self::imports).
    #[must_use]
    pub fn with_imports(mut self, imports: bool) -> Self {
        self.imports = imports;
        self
    }
}

/// Time limit of a case. A case that takes longer counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(60);

type CaseResult = Result<(), String>;
type Factory<'a> = &'a (dyn Fn(TestGraph) -> Subject + Sync);

struct Case {
    name: &'static str,
    needs: Capabilities,
    run: for<'a> fn(Factory<'a>) -> BoxFuture<'a, CaseResult>,
}

/// Runs all cases that these capabilities allow, one after another. `factory` makes an evaluator of
/// a graph; each case calls it at least once.
///
/// Requires a Tokio runtime with time enabled. A panic counts as a failure of its case.
pub async fn run_all(
    factory: impl Fn(TestGraph) -> Subject + Sync,
    capabilities: Capabilities,
) -> Report {
    let mut report = Report::default();
    for case in cases::ALL.iter().chain(imports::ALL) {
        let needs = case.needs;
        let able = (capabilities.sources || !needs.sources)
            && (capabilities.lazy || !needs.lazy)
            && (capabilities.imports || !needs.imports);
        if !able {
            report.skip(case.name);
            continue;
        }
        let run = async { (case.run)(&factory).await.map_err(Failure::new) };
        report.run(case.name, TIMEOUT, run).await;
    }
    report
}

/// The names of all cases, in the order in which they run.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    let cases = cases::ALL.iter().chain(imports::ALL);
    cases.map(|case| case.name)
}
