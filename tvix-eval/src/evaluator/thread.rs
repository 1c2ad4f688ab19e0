//! An evaluation on a thread of its own, and the stream of its events.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bumpalo::Bump;
use futures::future::{AbortHandle, BoxFuture, abortable};
use futures::stream::{FuturesUnordered, Stream, StreamExt as _};
use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tvix_eval_api::{
    AheadRequest, Diagnostic, EvalError, EvalEvent, SourceAddition, WantedOutputs, realise,
    realise_ahead,
};

use crate::background::{Pool, Work};
use crate::fetch::{Cancel, Fetcher};
use crate::files::Files;
use crate::host::{Answer, Host};
use crate::interp::Interp;
use crate::native::Native;
use crate::valid_paths::ValidPaths;
use crate::world::{Settings, World};

/// Capacity of the event channel: how far evaluation runs ahead of the consumer.
const EVENTS: usize = 256;

/// The configuration of an evaluation.
pub(super) struct Setup {
    pub(super) settings: Settings,
    pub(super) files: Arc<dyn Files + Send + Sync>,
    pub(super) natives: Arc<[Native]>,
    pub(super) fetcher: Option<Arc<dyn Fetcher>>,
    pub(super) valid_paths: Option<Arc<dyn ValidPaths>>,
    /// Cancels the evaluation while it is `true`.
    pub(super) cancelled: Option<Arc<AtomicBool>>,
}

impl Setup {
    /// Evaluates on this thread, in a heap of its own.
    pub(super) fn work<R>(self, host: Rc<dyn Host>, body: impl FnOnce(&Interp<'_>) -> R) -> R {
        let natives = self.natives;
        let heap = Bump::new();
        let mut world = World::new(self.settings, Rc::new(self.files), host);
        world.fetcher = self.fetcher;
        world.valid_paths = self.valid_paths;
        body(&Interp::with_natives(&heap, world, &natives))
    }

    /// Starts a thread that evaluates, and returns its event stream.
    pub(super) fn spawn<B>(self, body: B) -> Result<Events, EvalError>
    where
        B: FnOnce(&Interp<'_>, &Wire) + Send + 'static,
    {
        let (messages, receiver) = mpsc::channel(EVENTS);
        let (sender, answers) = std_mpsc::channel();
        let panicked = messages.clone();
        let cancelled = self.cancelled.clone();
        let flag = cancelled.clone();
        let work = move || {
            let wire = Rc::new(Wire {
                messages,
                answers,
                cancelled: flag,
            });
            let host: Rc<dyn Host> = wire.clone();
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.work(host, |interp| body(interp, &wire));
            }));
            if let Err(panic) = done {
                let _ = panicked.blocking_send(Message::Failed(bug(&*panic)));
            }
        };
        on_thread(work)?;
        Ok(Events {
            receiver,
            sender: Mutex::new(sender),
            waiting: FuturesUnordered::new(),
            ahead: FxHashMap::default(),
            pool: Pool::default(),
            dropped: Arc::default(),
            cancelled,
        })
    }
}

/// Starts a thread for an evaluation.
pub(super) fn on_thread(work: impl FnOnce() + Send + 'static) -> Result<(), EvalError> {
    let thread = std::thread::Builder::new().name("nix-eval".to_owned());
    match thread.spawn(work) {
        Ok(_) => Ok(()),
        Err(error) => Err(EvalError::expression(format!(
            "cannot start a thread to evaluate on: {error}; raise the limit (ulimit -u, or -v)"
        ))),
    }
}

fn bug(panic: &(dyn Any + Send)) -> EvalError {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    EvalError::expression(format!(
        "the evaluator panicked, which is a bug in it: {}",
        text.unwrap_or_default()
    ))
}

/// A message from the evaluation's thread.
enum Message {
    Event(EvalEvent),
    Realise(u32, Vec<WantedOutputs>),
    RealiseAhead(u32, Vec<WantedOutputs>),
    Needed(u32),
    Forget(u32),
    Background(u32, Work),
    Failed(EvalError),
}

/// The thread's end of the channels.
pub(super) struct Wire {
    messages: mpsc::Sender<Message>,
    answers: std_mpsc::Receiver<(u32, Answer)>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Wire {
    /// Sends an event, waiting for room in the channel. Returns false if the stream was dropped.
    pub(super) fn event(&self, event: EvalEvent) -> bool {
        self.messages.blocking_send(Message::Event(event)).is_ok()
    }

    /// Sends an error. Returns false if the stream was dropped.
    pub(super) fn failed(&self, error: EvalError) -> bool {
        self.messages.blocking_send(Message::Failed(error)).is_ok()
    }
}

impl Host for Wire {
    fn derivation(
        &self,
        path: &StorePath,
        derivation: &Arc<Derivation>,
        modulo: Option<[u8; 32]>,
    ) -> bool {
        self.event(EvalEvent::Derivation {
            modulo,
            path: path.clone(),
            derivation: derivation.clone(),
        })
    }

    fn source(&self, source: SourceAddition) -> bool {
        self.event(EvalEvent::AddSource(source))
    }

    fn diagnostic(&self, diagnostic: Diagnostic) {
        self.event(EvalEvent::Diagnostic(diagnostic));
    }

    fn realise(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        let message = Message::Realise(fiber, wanted);
        // If the stream was dropped, the next answer is `None`.
        let _ = self.messages.blocking_send(message);
    }

    fn realise_ahead(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        let message = Message::RealiseAhead(fiber, wanted);
        let _ = self.messages.blocking_send(message);
    }

    fn needed(&self, fiber: u32) {
        let _ = self.messages.blocking_send(Message::Needed(fiber));
    }

    fn forget(&self, fiber: u32) {
        let _ = self.messages.blocking_send(Message::Forget(fiber));
    }

    fn background(&self, fiber: u32, work: Work) -> Option<Work> {
        // If the stream was dropped, the next answer is `None`.
        let _ = self
            .messages
            .blocking_send(Message::Background(fiber, work));
        None
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        self.answers.recv().ok()
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        self.answers.try_recv().ok()
    }

    fn is_cancelled(&self) -> bool {
        let cancelled = self.cancelled.as_ref();
        self.messages.is_closed() || cancelled.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// The event stream of an evaluation. After it is dropped, the thread ends when it next sends an
/// event or request, or after a thousand calls.
pub(super) struct Events {
    receiver: mpsc::Receiver<Message>,
    /// The mutex makes this [`Sync`]. It is never contended.
    sender: Mutex<std_mpsc::Sender<(u32, Answer)>>,
    /// Imports and fetches in flight.
    waiting: FuturesUnordered<BoxFuture<'static, Option<(u32, Answer)>>>,
    /// Imports ahead of evaluation that are not needed yet.
    ahead: FxHashMap<u32, (AheadRequest, AbortHandle)>,
    pool: Pool,
    dropped: Arc<AtomicBool>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Events {
    /// Runs work in the pool, and sends an answer to the fiber afterwards.
    fn background(&self, fiber: u32, work: Work) {
        let (done, is_done) = oneshot::channel();
        let flags = [&self.dropped].into_iter().chain(&self.cancelled);
        let cancel = Cancel::new(flags.cloned());
        // Work that cannot be started leaves no result, and the fiber reports that.
        let _ = self.pool.submit(work, cancel, move || {
            let _: Result<(), ()> = done.send(());
        });
        self.waiting.push(Box::pin(async move {
            let _ = is_done.await;
            Some((fiber, Answer::Done))
        }));
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

impl Stream for Events {
    type Item = Result<EvalEvent, EvalError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Poll::Ready(Some(answer)) = self.waiting.poll_next_unpin(cx) {
                // It was forgotten.
                let Some(answer) = answer else {
                    continue;
                };
                self.ahead.remove(&answer.0);
                let sender = self
                    .sender
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner);
                // The thread waits for this answer, unless it has panicked.
                let _ = sender.send(answer);
            }
            return match self.receiver.poll_recv(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Ready(Some(Message::Event(event))) => Poll::Ready(Some(Ok(event))),
                Poll::Ready(Some(Message::Failed(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Message::Realise(fiber, wanted))) => {
                    let (request, answer) = realise(wanted);
                    let answer = async move { Some((fiber, Answer::Realised(answer.await))) };
                    self.waiting.push(Box::pin(answer));
                    Poll::Ready(Some(Ok(EvalEvent::Realise(request))))
                }
                Poll::Ready(Some(Message::RealiseAhead(fiber, wanted))) => {
                    let (request, ahead, answer) = realise_ahead(wanted);
                    let (answer, abort) = abortable(answer);
                    self.ahead.insert(fiber, (ahead, abort));
                    self.waiting.push(Box::pin(async move {
                        let answer = answer.await.ok()?;
                        Some((fiber, Answer::Realised(answer)))
                    }));
                    Poll::Ready(Some(Ok(EvalEvent::Realise(request))))
                }
                Poll::Ready(Some(Message::Needed(fiber))) => {
                    if let Some((ahead, _)) = self.ahead.remove(&fiber) {
                        ahead.needed();
                    }
                    continue;
                }
                Poll::Ready(Some(Message::Forget(fiber))) => {
                    if let Some((_, abort)) = self.ahead.remove(&fiber) {
                        abort.abort();
                    }
                    continue;
                }
                Poll::Ready(Some(Message::Background(fiber, work))) => {
                    self.background(fiber, work);
                    continue;
                }
            };
        }
    }
}
