//! Building what an evaluation imports, where its value is what is wanted.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tvix_coordinator::{BuildPolicy, OnFailure, OnVanished, Options};
use tvix_eval_api::memory::StreamEvaluator;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream};

use crate::args::BuildingArgs;
use crate::error::CliError;
use crate::output::say;
use crate::{session, stores};

/// Follows an evaluation to its end, and builds what it imports. `record` adds its derivations and
/// sources to the store; where nothing is imported either, no store is opened.
pub async fn follow(
    events: EvalStream,
    building: &BuildingArgs,
    record: bool,
) -> Result<(), CliError> {
    let events = match record {
        true => Some(events),
        false => listen(events).await,
    };
    match events {
        Some(events) => realise(events, building, record).await,
        None => Ok(()),
    }
}

type Events = BoxStream<'static, Result<EvalEvent, EvalError>>;

/// Follows an evaluation for as long as it needs no store. What it said until then, and will say.
async fn listen(mut events: EvalStream) -> Option<Events> {
    let mut held = Vec::new();
    loop {
        match events.next().await? {
            Ok(EvalEvent::Diagnostic(diagnostic)) => say!("{}", diagnostic.message),
            event @ Ok(EvalEvent::Realise(_)) => {
                held.push(event);
                return Some(stream::iter(held).chain(events).boxed());
            }
            event => held.push(event),
        }
    }
}

async fn realise(events: Events, building: &BuildingArgs, record: bool) -> Result<(), CliError> {
    let store = Arc::new(stores::open(building.store.clone()).await?);
    let events = Mutex::new(Some(events));
    let evaluator = StreamEvaluator::new(move |_| {
        let events = events.lock().ok().and_then(|mut events| events.take());
        events.unwrap_or_else(|| stream::empty().boxed())
    });
    let options = Options {
        policy: BuildPolicy::Imports,
        on_failure: OnFailure::Continue,
        // These events come but once.
        on_vanished: OnVanished::Fail,
        record_derivations: record,
        ..Options::default()
    };
    let request = EvalRequest::attrs([""; 0]);
    session::run_imports(building, &store, Arc::new(evaluator), request, options).await?;
    Ok(())
}
