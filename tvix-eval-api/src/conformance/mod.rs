//! A suite that any evaluator can be run in: what the `# Contract` of [`Evaluator`] asks.
//!
//! [`run_all`] makes evaluators of [`TestGraph`]s by a factory, runs every case that the
//! evaluator has the [`Capabilities`] for, and says in a [`Report`] which of them failed and why.
//! Every event of every case is checked for order on the way.
//!
//! ```
//! use tvix_eval_api::conformance::{self, Capabilities, Subject};
//! use tvix_eval_api::memory::StreamEvaluator;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! // An evaluator that never says anything breaks the contract.
//! let factory = |_graph| Subject::new(StreamEvaluator::new(|_| futures::stream::empty()));
//! let report = conformance::run_all(factory, Capabilities::default()).await;
//! assert!(!report.is_ok());
//! // In a test of one's own: report.assert_all();
//! # }
//! ```
//!
//! [`Evaluator`]: crate::Evaluator

mod cases;
mod graph;
mod imports;
mod report;
mod watch;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

pub use graph::{Counter, Subject, TestAttribute, TestGraph, TestImport, TestValue};
pub use report::{Failure, Report};

/// What an evaluator can do beyond yielding derivations and roots. A case that needs what an
/// evaluator cannot do is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// [`TestGraph::sources`] are yielded.
    pub sources: bool,
    /// [`TestValue::Lazy`] is computed when evaluation gets to it, and counted.
    pub lazy: bool,
    /// [`TestValue::Import`] becomes [`EvalEvent::Realise`](crate::EvalEvent::Realise).
    pub imports: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self {
        sources: true,
        lazy: true,
        imports: true,
    };
}

/// How long a case may take before it counts as hanging.
const TIMEOUT: Duration = Duration::from_secs(60);

type Outcome = Result<(), String>;
type Factory<'a> = &'a (dyn Fn(TestGraph) -> Subject + Sync);

struct Case {
    name: &'static str,
    needs: Capabilities,
    run: for<'a> fn(Factory<'a>) -> BoxFuture<'a, Outcome>,
}

/// Runs all cases that an evaluator with these capabilities has to pass, one after another.
/// `factory` makes an evaluator of a graph; it is called once or more in each case.
///
/// Needs a runtime of Tokio with time. A case that panics has failed.
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
            report.skipped.push(case.name);
            continue;
        }
        let run = AssertUnwindSafe((case.run)(&factory)).catch_unwind();
        let outcome = match tokio::time::timeout(TIMEOUT, run).await {
            Err(_) => Err(format!("hangs: not done after {TIMEOUT:?}")),
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(format!("panics: {}", report::panic_message(&*panic))),
        };
        match outcome {
            Ok(()) => report.passed.push(case.name),
            Err(reason) => report.failed.push(Failure {
                case: case.name,
                reason,
            }),
        }
    }
    report
}
