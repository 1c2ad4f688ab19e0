//! Several sources in one session.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalSource, EvalStream, Evaluator};

/// Evaluates requests one after the other.
///
/// Names of what was found begin with the number of the request, from 0 on, as if the requests were
/// elements of a list; where there is only one, they are its own.
#[derive(Debug)]
pub struct Several {
    requests: Vec<(Arc<dyn Evaluator>, EvalRequest)>,
}

impl Several {
    pub fn new(requests: Vec<(Arc<dyn Evaluator>, EvalRequest)>) -> Self {
        Self { requests }
    }

    /// What is asked for, by the names that the session knows.
    pub fn asked_for(&self) -> Vec<String> {
        let several = self.requests.len() > 1;
        let requests = self.requests.iter().enumerate();
        let names = requests.flat_map(|(number, (_, request))| {
            let asked = match &request.source {
                EvalSource::Derivations(derivations) => derivations.clone(),
                _ if request.attr_paths.is_empty() && several => vec![String::new()],
                _ => request.attr_paths.clone(),
            };
            asked.into_iter().map(move |name| match several {
                true => numbered(number, &name),
                false => name,
            })
        });
        names.collect()
    }
}

fn numbered(number: usize, name: &str) -> String {
    match name {
        "" => number.to_string(),
        name => format!("{number}.{name}"),
    }
}

#[async_trait]
impl Evaluator for Several {
    async fn evaluate(&self, _: EvalRequest) -> Result<EvalStream, EvalError> {
        if let [(evaluator, request)] = &self.requests[..] {
            return evaluator.evaluate(request.clone()).await;
        }
        let requests = self.requests.clone().into_iter().enumerate();
        let streams = stream::iter(requests).then(|(number, (evaluator, request))| async move {
            let events = match evaluator.evaluate(request).await {
                Ok(events) => events,
                Err(error) => return stream::iter([Err(error)]).boxed(),
            };
            let numbered = events.map(move |event| match event {
                Ok(EvalEvent::Root(mut root)) => {
                    root.name = numbered(number, &root.name);
                    Ok(EvalEvent::Root(root))
                }
                event => event,
            });
            numbered.boxed()
        });
        Ok(streams.flatten().boxed())
    }
}
