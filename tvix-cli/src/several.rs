//! Several sources in one session.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream;
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalSource, EvalStream, Evaluator};

/// Evaluates requests one after the other.
///
/// Names of roots and errors begin with the number of the request, from 0 on, as if the requests were elements of a list; a
/// single request has no number. Roots are in the order of requests.
#[derive(Debug)]
pub struct Several {
    requests: Vec<Part>,
}

/// A request, and the evaluator that takes it.
pub type Part = (Arc<dyn Evaluator>, EvalRequest);

impl Several {
    pub fn new(requests: Vec<Part>) -> Self {
        Self { requests }
    }

    /// One request for everything, for a session: the name of each root in its place.
    pub fn request(&self) -> EvalRequest {
        let several = self.requests.len() > 1;
        let names = self.requests.iter().enumerate();
        EvalRequest::attrs(names.flat_map(|(number, (_, request))| {
            let names = match &request.source {
                EvalSource::Derivations(wanted) => wanted.clone(),
                _ if request.attr_paths.is_empty() => vec![String::new()],
                _ => request.attr_paths.clone(),
            };
            let name = move |name: String| match several {
                true => numbered(number, &name),
                false => name,
            };
            names.into_iter().map(name)
        }))
    }
}

/// The number of roots that a request asks for; the places of the next request follow them.
pub fn asked_for(request: &EvalRequest) -> usize {
    match &request.source {
        EvalSource::Derivations(derivations) => derivations.len(),
        _ => request.attr_paths.len().max(1),
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
        let mut before = 0;
        let requests = self.requests.iter().enumerate().map(|(number, it)| {
            let place = before;
            before += asked_for(&it.1);
            (number, place, it.clone())
        });
        let requests: Vec<_> = requests.collect();
        let streams =
            stream::iter(requests).then(|(number, before, (evaluator, request))| async move {
                let events = match evaluator.evaluate(request).await {
                    Ok(events) => events,
                    Err(error) => return stream::iter([Err(error.with_part(number))]).boxed(),
                };
                let numbered = events.map(move |event| match event {
                    Ok(EvalEvent::Root(mut root)) => {
                        root.name = numbered(number, &root.name);
                        if let Some(job) = &mut root.job {
                            job.attr_path.insert(0, number.to_string());
                        }
                        Ok(EvalEvent::Root(root.with_offset(before)))
                    }
                    Ok(event) => Ok(event),
                    Err(error) => Err(error.with_offset(before).with_part(number)),
                });
                numbered.boxed()
            });
        Ok(streams.flatten().boxed())
    }
}
