//! The evaluator of `tvix jobs`: makes a line of each root and of each error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::{StreamExt as _, future};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator};

use super::line::Format;
use super::lines::Lines;

/// Evaluates as another evaluator does. Ends early when nobody takes lines any more.
#[derive(Debug)]
pub struct Listing {
    pub evaluator: Arc<dyn Evaluator>,
    pub format: Format,
    /// The attribute paths that were requested.
    pub requested: Vec<String>,
    pub lines: Arc<Lines>,
    /// Set if a requested set cannot be evaluated.
    pub failed: Arc<AtomicBool>,
}

#[async_trait]
impl Evaluator for Listing {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let (format, requested) = (Arc::new(self.format.clone()), self.requested.clone());
        let (lines, failed) = (self.lines.clone(), self.failed.clone());
        let events = self.evaluator.evaluate(request).await?;
        let listed = events.then(move |mut event| {
            let line = match &mut event {
                Ok(EvalEvent::Root(root)) => {
                    let line = format.job(root);
                    // The session would keep it to the end.
                    root.job = None;
                    Some((line, Some(root.wanted.drv_path.clone())))
                }
                Ok(_) => None,
                Err(error) => {
                    let is_whole = match error.attr_path() {
                        None => true,
                        Some(path) => requested.iter().any(|it| it == path),
                    };
                    failed.fetch_or(is_whole, Ordering::Relaxed);
                    Some((format.error(error), None))
                }
            };
            let lines = lines.clone();
            async move {
                let pushed = match line {
                    Some((line, drv_path)) => lines.push(line, drv_path.as_ref()).await,
                    None => true,
                };
                pushed.then_some(event)
            }
        });
        let listed = listed.take_while(|event| future::ready(event.is_some()));
        Ok(listed.filter_map(future::ready).boxed())
    }
}
