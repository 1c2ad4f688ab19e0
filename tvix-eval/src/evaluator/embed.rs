//! Evaluating from Rust to Rust.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use futures::StreamExt as _;
use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;
use tvix_eval_api::{
    Diagnostic, EvalError, EvalStream, RealiseError, SourceAddition, WantedOutputs,
};

use super::NixEvaluator;
use super::thread::on_thread;
use crate::background::{Pool, Work};
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::Cancel;
use crate::fiber::Job;
use crate::host::{Answer, Host, NoHost};
use crate::interp::Interp;
use crate::select::current_folder;
use crate::source::Pos;
use crate::value::ContextId;

/// Why an evaluation failed, for whoever is outside of it.
#[derive(Debug, Clone, Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// What is wrong.
    pub message: String,
    /// The same with places, the lines around them, and what was evaluated on the way, as C++ Nix
    /// writes it.
    pub rendered: String,
    /// Why something could not be built, if that is it.
    pub import: Option<Box<RealiseError>>,
}

impl Failure {
    fn new(kind: ErrorKind, message: String) -> Self {
        Self {
            kind,
            rendered: format!("error: {message}"),
            message,
            import: None,
        }
    }

    fn of(interp: &Interp<'_>, error: Error) -> Self {
        Self {
            kind: error.kind,
            rendered: interp.render(&error),
            message: error.message,
            import: error.import,
        }
    }

    fn gone() -> Self {
        Self::new(ErrorKind::Other, "the evaluation ended early".to_owned())
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        Self::new(ErrorKind::Other, error.to_string())
    }
}

/// An evaluation that was started, with imports from derivations: [`NixEvaluator::start`].
pub struct Evaluation<R> {
    /// What it says and asks. It goes on only while this is polled, and ends when it is dropped.
    pub events: EvalStream,
    /// What comes of it.
    pub result: oneshot::Receiver<std::result::Result<R, Failure>>,
}

/// How often a host that waits for a fetch looks whether it was told to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A host that builds nothing and may be told to stop.
struct Alone {
    cancel: Cancel,
    pool: Pool,
    /// Fibers whose work in the background is not answered yet.
    waiting: Cell<usize>,
    sender: mpsc::Sender<u32>,
    receiver: mpsc::Receiver<u32>,
}

impl Alone {
    fn new(cancel: Cancel) -> Self {
        let (sender, receiver) = mpsc::channel();
        Self {
            cancel,
            pool: Pool::default(),
            waiting: Cell::new(0),
            sender,
            receiver,
        }
    }

    fn answered(&self, fiber: u32) -> (u32, Answer) {
        self.waiting.set(self.waiting.get() - 1);
        (fiber, Answer::Done)
    }
}

impl Host for Alone {
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        modulo: Option<[u8; 32]>,
    ) -> bool {
        NoHost.derivation(path, derivation, modulo)
    }

    fn source(&self, source: SourceAddition) -> bool {
        NoHost.source(source)
    }

    fn diagnostic(&self, diagnostic: Diagnostic) {
        NoHost.diagnostic(diagnostic);
    }

    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        NoHost.realise(fiber, wanted);
    }

    fn background(&self, fiber: u32, work: Work) -> Option<Work> {
        self.waiting.set(self.waiting.get() + 1);
        let sender = self.sender.clone();
        let done = move || {
            let _ = sender.send(fiber);
        };
        if self.pool.submit(work, self.cancel.clone(), done).is_err() {
            // No thread: the fiber finds that there is no result.
            let _ = self.sender.send(fiber);
        }
        None
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        while self.waiting.get() > 0 && !self.is_cancelled() {
            if let Ok(fiber) = self.receiver.recv_timeout(LOOK) {
                return Some(self.answered(fiber));
            }
        }
        None
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        let fiber = self.receiver.try_recv().ok()?;
        Some(self.answered(fiber))
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

/// Ends an evaluation whose result nobody waits for any more.
struct EndOnDrop(Arc<AtomicBool>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs one job on a fiber to its end.
fn run<'h, R>(
    interp: &Interp<'h>,
    work: impl FnOnce(&Interp<'h>) -> Result<R>,
) -> std::result::Result<R, Failure> {
    let result = RefCell::new(None);
    let job = |interp: &Interp<'h>| {
        let done = work(interp).map_err(|error| Failure::of(interp, *error));
        *result.borrow_mut() = Some(done);
    };
    let ran = interp.run([Box::new(job) as Job<'h, '_>]);
    match (ran, result.into_inner()) {
        (_, Some(result)) => result,
        (Err(error), None) => Err(Failure::of(interp, *error)),
        (Ok(()), None) => Err(Failure::gone()),
    }
}

impl NixEvaluator {
    /// Evaluates an expression, all of it, and waits for the result, as `builtins.toJSON` would
    /// write it, read as a `T`. Nothing is built: an import from a derivation fails.
    ///
    /// Runs on a thread of its own; must not be called where futures are polled, for which there
    /// is [`NixEvaluator::eval_to_async`].
    pub fn eval_to<T: DeserializeOwned>(&self, text: &str) -> std::result::Result<T, Failure> {
        let text = text.to_owned();
        parsed(&self.work(move |interp| json(interp, &text))?)
    }

    /// As [`NixEvaluator::eval_to`]. Dropping the future ends the evaluation.
    pub async fn eval_to_async<T: DeserializeOwned>(
        &self,
        text: &str,
    ) -> std::result::Result<T, Failure> {
        let text = text.to_owned();
        parsed(&self.work_async(move |interp| json(interp, &text)).await?)
    }

    /// Works with values on an evaluation's thread, and waits until that is done. Nothing is
    /// built.
    pub fn work<R, F>(&self, work: F) -> std::result::Result<R, Failure>
    where
        R: Send + 'static,
        F: for<'i, 'h> FnOnce(&'i Interp<'h>) -> Result<R> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel();
        self.begin(work, move |result| {
            let _ = sender.send(result);
        })?;
        receiver.recv().unwrap_or_else(|_| Err(Failure::gone()))
    }

    /// As [`NixEvaluator::work`]. Dropping the future ends the evaluation.
    pub async fn work_async<R, F>(&self, work: F) -> std::result::Result<R, Failure>
    where
        R: Send + 'static,
        F: for<'i, 'h> FnOnce(&'i Interp<'h>) -> Result<R> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let end = self.begin(work, move |result| {
            let _ = sender.send(result);
        })?;
        let _end = EndOnDrop(end);
        receiver.await.unwrap_or_else(|_| Err(Failure::gone()))
    }

    /// Starts to work with values on an evaluation's thread. What it needs built it asks for by
    /// its events, as an [`Evaluator`](tvix_eval_api::Evaluator) does.
    pub fn start<R, F>(&self, work: F) -> std::result::Result<Evaluation<R>, Failure>
    where
        R: Send + 'static,
        F: for<'i, 'h> FnOnce(&'i Interp<'h>) -> Result<R> + Send + 'static,
    {
        let (sender, result) = oneshot::channel();
        let events = self.setup().spawn(move |interp, _| {
            let _ = sender.send(run(interp, work));
        })?;
        Ok(Evaluation {
            events: events.boxed(),
            result,
        })
    }

    /// Starts a thread that builds nothing; what ends it.
    fn begin<R, F>(
        &self,
        work: F,
        done: impl FnOnce(std::result::Result<R, Failure>) + Send + 'static,
    ) -> std::result::Result<Arc<AtomicBool>, Failure>
    where
        R: Send + 'static,
        F: for<'i, 'h> FnOnce(&'i Interp<'h>) -> Result<R> + Send + 'static,
    {
        let setup = self.setup();
        let end = Arc::new(AtomicBool::new(false));
        let cancel = Cancel::new(self.cancelled.iter().chain([&end]).cloned());
        on_thread(move || {
            let host = Alone::new(cancel);
            done(setup.work(Rc::new(host), |interp| run(interp, work)));
        })?;
        Ok(end)
    }
}

fn json(interp: &Interp<'_>, text: &str) -> Result<Vec<u8>> {
    let value = interp.eval_text(text.as_bytes(), &current_folder())?;
    let mut out = Vec::new();
    let mut context = ContextId::EMPTY;
    interp.write_json(interp.cell(value), Pos::NONE, true, &mut out, &mut context)?;
    Ok(out)
}

fn parsed<T: DeserializeOwned>(json: &[u8]) -> std::result::Result<T, Failure> {
    serde_json::from_slice(json).map_err(|error| {
        Failure::new(
            ErrorKind::Type,
            format!("the value is not of the type that is wanted: {error}"),
        )
    })
}
