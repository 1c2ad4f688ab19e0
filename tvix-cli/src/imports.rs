//! Import from derivation for commands that print values.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tvix_coordinator::{BuildPolicy, OnFailure, OnVanished, Options};
use tvix_eval_api::memory::StreamEvaluator;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream};

use crate::args::BuildingArgs;
use crate::error::CliError;
use crate::exit::Failures;
use crate::output::say;
use crate::session::Run;
use crate::stores;

/// Follows an evaluation to its end, builds its imports and returns the kinds of failures. With `record`, derivations
/// and sources are added to the store. Without it, a store is opened only for an import.
pub async fn follow(
    events: EvalStream,
    building: &BuildingArgs,
    record: bool,
) -> Result<Failures, CliError> {
    let events = match record {
        true => Some(events),
        false => listen(events).await,
    };
    match events {
        Some(events) => realise(events, building, record).await,
        None => Ok(Failures::default()),
    }
}

type Events = BoxStream<'static, Result<EvalEvent, EvalError>>;

/// Follows an evaluation until it needs a store. Returns its events so far and those to come.
async fn listen(mut events: EvalStream) -> Option<Events> {
    let mut held = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(EvalEvent::Diagnostic(diagnostic)) => say!("{}", diagnostic.message),
            event @ Ok(EvalEvent::Realise(_)) => {
                held.push(event);
                return Some(stream::iter(held).chain(events).boxed());
            }
            event => held.push(event),
        }
    }
    // Once for each process, just before it ends: to free thousands of derivations would only delay that.
    std::mem::forget(held);
    None
}

async fn realise(
    events: Events,
    building: &BuildingArgs,
    record: bool,
) -> Result<Failures, CliError> {
    let store = stores::open(building.store.clone()).await?;
    let events = Mutex::new(Some(events));
    let evaluator = StreamEvaluator::new(move |_| {
        let events = events.lock().ok().and_then(|mut events| events.take());
        events.unwrap_or_else(|| stream::empty().boxed())
    });
    let options = Options::default()
        .with_policy(BuildPolicy::Imports)
        .with_on_failure(OnFailure::Continue)
        // These events come but once.
        .with_on_vanished(OnVanished::Fail)
        .with_record_derivations(record);
    let run = Run {
        args: building,
        store: &store,
        evaluator: Arc::new(evaluator),
        request: EvalRequest::attrs([""; 0]),
        options,
    };
    run.imports().await
}
