//! Evaluation from Rust to Rust.

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
use crate::host::{Answer, Host, NoHost};
use crate::interp::Interp;
use crate::interp::Job;
use crate::select::current_folder;
use crate::source::Pos;
use crate::value::ContextId;

/// An evaluation error, independent of the evaluation's heap.
#[derive(Debug, Clone, Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Failure {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The message.
    pub message: String,
    /// The message with positions, source lines and trace, as printed by C++ Nix.
    pub rendered: String,
    /// The cause of a failed import from derivation.
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

/// A running evaluation with import from derivation, made by [`NixEvaluator::spawn`].
pub struct Evaluation<R> {
    /// Events and requests of the evaluation. Evaluation advances only while the stream is polled,
    /// and ends when the stream is dropped.
    pub events: EvalStream,
    /// The result of the evaluation.
    pub result: oneshot::Receiver<std::result::Result<R, Failure>>,
}

/// Interval at which a host that waits for a fetch checks for cancellation.
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A host without builds, with cancellation.
struct StandaloneHost {
    cancel: Cancel,
    pool: Pool,
    /// Number of fibers that wait for background work.
    waiting: Cell<usize>,
    sender: mpsc::Sender<u32>,
    receiver: mpsc::Receiver<u32>,
}

impl StandaloneHost {
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

impl Host for StandaloneHost {
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
            // Without a thread the fiber finds that there is no result.
            let _ = self.sender.send(fiber);
        }
        None
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        while self.waiting.get() > 0 && !self.is_cancelled() {
            if let Ok(fiber) = self.receiver.recv_timeout(CANCEL_CHECK_INTERVAL) {
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

/// Cancels the evaluation when the future of its result is dropped.
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
    /// Evaluates an expression deeply, and deserialises the result from the form that
    /// `builtins.toJSON` would write. Relative paths are relative to the current directory. Blocks
    /// until the result is there. Nothing is built: import from derivation fails.
    ///
    /// The evaluation has a thread of its own. Do not call this in async code, for which there is
    /// [`NixEvaluator::eval_to_async`].
    ///
    /// # Errors
    ///
    /// [`Failure`]: an evaluation error, a result of another type ([`ErrorKind::Type`]), or a
    /// thread that cannot be started.
    pub fn eval_to<T: DeserializeOwned>(&self, text: &str) -> std::result::Result<T, Failure> {
        let text = text.to_owned();
        parsed(&self.run(move |interp| json(interp, &text))?)
    }

    /// Asynchronous variant of [`NixEvaluator::eval_to`]. Dropping the future ends the evaluation.
    ///
    /// # Errors
    ///
    /// As for [`NixEvaluator::eval_to`].
    pub async fn eval_to_async<T: DeserializeOwned>(
        &self,
        text: &str,
    ) -> std::result::Result<T, Failure> {
        let text = text.to_owned();
        parsed(&self.run_async(move |interp| json(interp, &text)).await?)
    }

    /// Runs `work` with an interpreter on an evaluation's thread, and blocks until it returns.
    /// Nothing is built.
    ///
    /// # Errors
    ///
    /// [`Failure`]: the error of `work`, or a thread that cannot be started.
    pub fn run<R, F>(&self, work: F) -> std::result::Result<R, Failure>
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

    /// Asynchronous variant of [`NixEvaluator::run`]. Dropping the future ends the evaluation.
    ///
    /// # Errors
    ///
    /// As for [`NixEvaluator::run`].
    pub async fn run_async<R, F>(&self, work: F) -> std::result::Result<R, Failure>
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

    /// Starts `work` with an interpreter on an evaluation's thread. Imports from derivation are
    /// requested through the events, as by an [`Evaluator`](tvix_eval_api::Evaluator).
    ///
    /// # Errors
    ///
    /// If the thread cannot be started. Errors of `work` are in [`Evaluation::result`].
    pub fn spawn<R, F>(&self, work: F) -> std::result::Result<Evaluation<R>, Failure>
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

    /// Starts a thread without builds. Returns the guard that ends it.
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
            let host = StandaloneHost::new(cancel);
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
