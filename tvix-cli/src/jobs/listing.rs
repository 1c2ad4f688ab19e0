//! The evaluator of `tvix jobs`: makes a line of each root and of each error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::{StreamExt as _, future};
use tvix_eval_api::{EvalError, EvalEvent, EvalRequest, EvalStream, Evaluator};

use super::held::{Held, Passed};
use super::line::Format;
use super::lines::Lines;

/// Evaluates as another evaluator does, and passes on what the session needs. Ends early when nobody takes
/// lines any more.
#[derive(Debug)]
pub struct Listing {
    pub evaluator: Arc<dyn Evaluator>,
    pub format: Format,
    /// The attribute paths that were requested.
    pub requested: Vec<String>,
    pub lines: Arc<Lines>,
    /// Set if a requested set cannot be evaluated.
    pub failed: Arc<AtomicBool>,
    /// Whether the session gets derivations that no import needs.
    pub records: bool,
    /// Whether the session gets roots and errors, which it needs for its events alone.
    pub reports: bool,
}

#[async_trait]
impl Evaluator for Listing {
    async fn evaluate(&self, request: EvalRequest) -> Result<EvalStream, EvalError> {
        let (format, requested) = (Arc::new(self.format.clone()), self.requested.clone());
        let (lines, failed) = (self.lines.clone(), self.failed.clone());
        let reports = self.reports;
        let mut held = Held::new(!self.records && !reports);
        let events = self.evaluator.evaluate(request).await?;
        let listed = events.then(move |event| {
            let (line, passed) = match event {
                Ok(EvalEvent::Root(mut root)) => {
                    let line = (format.job(&root), Some(root.wanted.drv_path.clone()));
                    // The session would keep it to the end.
                    root.job = None;
                    (
                        Some(line),
                        Passed::if_so(reports, Ok(EvalEvent::Root(root))),
                    )
                }
                Ok(event) => (None, held.pass(event)),
                Err(error) => {
                    let is_whole = match error.attr_path() {
                        None | Some("") => true,
                        Some(path) => requested.iter().any(|it| it == path),
                    };
                    failed.fetch_or(is_whole, Ordering::Relaxed);
                    let line = (format.error(&error), None);
                    (Some(line), Passed::if_so(reports, Err(error)))
                }
            };
            let lines = lines.clone();
            async move {
                let pushed = match line {
                    Some((line, drv_path)) => lines.push(line, drv_path.as_ref()).await,
                    None => true,
                };
                pushed.then_some(passed)
            }
        });
        let listed = listed.take_while(|passed| future::ready(passed.is_some()));
        let listed = listed.filter_map(future::ready);
        Ok(listed.flat_map(Passed::into_stream).boxed())
    }
}
