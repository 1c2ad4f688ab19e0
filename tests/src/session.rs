//! Runs sessions of the coordinator to their end.

use std::time::Duration;

use futures::StreamExt as _;
use nix_compat::derivation::Instantiated;
use tvix_coordinator::{BuildEvent, Coordinator, Report};
use tvix_eval_api::{EvalEvent, EvalRequest, Root, WantedOutputs};

/// Awaits a future with a generous time limit, so that a test fails instead of hanging. No test
/// depends on the limit.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(120), future).await {
        Ok(output) => output,
        Err(_) => panic!("not within two minutes: {what}"),
    }
}

/// Runs a session. Returns its events and its report.
pub async fn run(coordinator: &Coordinator, request: EvalRequest) -> (Vec<BuildEvent>, Report) {
    let mut session = coordinator.start(request);
    let events = within("the session ends", async {
        let mut events = Vec::new();
        while let Some(record) = session.next().await {
            events.push(record.event);
        }
        events
    });
    (events.await, session.report().await)
}

/// The index of the first event that fulfils a condition.
pub fn position(events: &[BuildEvent], holds: impl Fn(&BuildEvent) -> bool) -> usize {
    let found = events.iter().position(holds);
    found.unwrap_or_else(|| panic!("no such event in {events:#?}"))
}

/// The event of a derivation.
pub fn derivation(made: &Instantiated) -> EvalEvent {
    EvalEvent::Derivation {
        path: made.path.clone(),
        derivation: made.derivation.clone(),
        modulo: None,
    }
}

/// The event of a root.
pub fn root(name: &str, made: &Instantiated) -> EvalEvent {
    EvalEvent::Root(Root::new(name, wanted(made)))
}

/// All outputs.
pub fn wanted(made: &Instantiated) -> WantedOutputs {
    let outputs = made.derivation.outputs.iter();
    WantedOutputs::new(
        made.path.clone(),
        outputs.map(|(name, _)| name.clone()).collect(),
    )
}
