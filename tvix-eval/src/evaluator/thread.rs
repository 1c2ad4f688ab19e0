//! An evaluation on a thread of its own, and the stream of its events.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::heap::Heap;
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

/// Capacity of the channel in batches: how far evaluation runs ahead of the consumer.
const BATCHES: usize = 8;

/// Maximum number of messages in a batch.
const BATCH: usize = 64;

/// Maximum time that a message waits for others, while expressions are evaluated.
const MAX_DELAY: Duration = Duration::from_millis(1);

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
        let heap = Heap::new();
        let mut world = World::new(self.settings, Rc::new(self.files), host);
        world.fetcher = self.fetcher;
        world.valid_paths = self.valid_paths;
        let interp = Interp::with_natives(&heap, world, &natives);
        // All values of the evaluation are in frames below this one, if they are on this stack.
        let base = std::ptr::from_ref(&interp).addr() + size_of_val(&interp);
        interp.stack_base.set(base);
        body(&interp)
    }

    /// Starts a thread that evaluates, and returns its event stream.
    pub(super) fn spawn<B>(self, body: B) -> Result<Events, EvalError>
    where
        B: FnOnce(&Interp<'_>, &Wire) + Send + 'static,
    {
        let (messages, receiver) = mpsc::channel(BATCHES);
        let (sender, answers) = std_mpsc::channel();
        let cancelled = self.cancelled.clone();
        let flag = cancelled.clone();
        let work = move || {
            let wire = Rc::new(Wire {
                messages: RefCell::new(Some(messages)),
                batch: RefCell::default(),
                sent: Cell::new(None),
                answers,
                awaits_task: Cell::new(false),
                cancelled: flag,
            });
            let host: Rc<dyn Host> = wire.clone();
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.work(host, |interp| {
                    body(interp, &wire);
                    // The receiver need not wait until the heap is freed.
                    wire.close();
                });
            }));
            if let Err(panic) = done {
                wire.failed(bug(&*panic));
                wire.close();
            }
        };
        on_thread(work)?;
        Ok(Events {
            receiver,
            batch: Vec::new().into_iter(),
            sender: Mutex::new(sender),
            waiting: FuturesUnordered::new(),
            ahead: FxHashMap::default(),
            working: FxHashMap::default(),
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
    /// The thread wants to know when this is ready.
    AwaitTask(BoxFuture<'static, ()>),
    Failed(EvalError),
}

/// The thread's end of the channels.
pub(super) struct Wire {
    /// `None` after the end of the evaluation.
    messages: RefCell<Option<mpsc::Sender<Vec<Message>>>>,
    /// Messages to be sent together: each wake-up of the receiver costs more than several events.
    batch: RefCell<Vec<Message>>,
    /// The time of the last send.
    sent: Cell<Option<Instant>>,
    answers: std_mpsc::Receiver<(u32, Answer)>,
    /// Whether an [`Answer::Task`] will come.
    awaits_task: Cell<bool>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Wire {
    /// Requests an [`Answer::Task`] for when a future is ready, unless one was requested before.
    pub(super) fn await_task(&self, ready: impl Future<Output = ()> + Send + 'static) {
        if !self.awaits_task.replace(true) {
            // If the stream was dropped, the next answer is `None`.
            self.send(Message::AwaitTask(Box::pin(ready)));
        }
    }

    /// Waits for an answer while no fiber does. Returns false if there will be none.
    pub(super) fn await_answer(&self) -> bool {
        self.next_answer().is_some()
    }

    fn received(&self, answer: (u32, Answer)) -> (u32, Answer) {
        if matches!(answer.1, Answer::Task) {
            self.awaits_task.set(false);
        }
        answer
    }

    /// Sends an event, waiting for room in the channel. Returns false if the stream was dropped.
    pub(super) fn event(&self, event: EvalEvent) -> bool {
        self.send(Message::Event(event))
    }

    /// Sends an error. Returns false if the stream was dropped.
    pub(super) fn failed(&self, error: EvalError) -> bool {
        self.send(Message::Failed(error))
    }

    /// Sends a message at once if none was sent lately, and with later ones otherwise.
    fn send(&self, message: Message) -> bool {
        let mut batch = self.batch.borrow_mut();
        batch.push(message);
        if batch.len() < BATCH && !self.is_due() {
            return !self.is_closed();
        }
        drop(batch);
        self.flush()
    }

    fn is_closed(&self) -> bool {
        let messages = self.messages.borrow();
        messages.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    /// Sends all messages so far, and ends the stream.
    fn close(&self) {
        self.flush();
        self.messages.take();
    }

    fn is_due(&self) -> bool {
        let sent = self.sent.get();
        sent.is_none_or(|sent| sent.elapsed() >= MAX_DELAY)
    }

    /// Sends all messages so far. Returns false if the stream was dropped.
    fn flush(&self) -> bool {
        let batch = std::mem::take(&mut *self.batch.borrow_mut());
        if batch.is_empty() {
            return !self.is_closed();
        }
        let messages = self.messages.borrow();
        let sent = messages
            .as_ref()
            .is_some_and(|it| it.blocking_send(batch).is_ok());
        self.sent.set(Some(Instant::now()));
        sent
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
        // If the stream was dropped, the next answer is `None`.
        self.send(Message::Realise(fiber, wanted));
    }

    fn realise_ahead(&self, fiber: u32, wanted: Vec<WantedOutputs>) {
        self.send(Message::RealiseAhead(fiber, wanted));
    }

    fn needed(&self, fiber: u32) {
        self.send(Message::Needed(fiber));
    }

    fn forget(&self, fiber: u32) {
        self.send(Message::Forget(fiber));
    }

    fn background(&self, fiber: u32, work: Work) -> Option<Work> {
        // If the stream was dropped, the next answer is `None`.
        self.send(Message::Background(fiber, work));
        None
    }

    fn next_answer(&self) -> Option<(u32, Answer)> {
        self.flush();
        self.answers.recv().ok().map(|answer| self.received(answer))
    }

    fn ready_answer(&self) -> Option<(u32, Answer)> {
        let answer = self.answers.try_recv().ok();
        answer.map(|answer| self.received(answer))
    }

    fn is_cancelled(&self) -> bool {
        // Called periodically, so no message waits for long.
        if self.is_due() {
            self.flush();
        }
        let cancelled = self.cancelled.as_ref();
        self.is_closed() || cancelled.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

/// The event stream of an evaluation. After it is dropped, the thread ends when it next sends an
/// event or request, or after a thousand calls.
pub(super) struct Events {
    receiver: mpsc::Receiver<Vec<Message>>,
    /// The rest of the messages that were received last.
    batch: std::vec::IntoIter<Message>,
    /// The mutex makes this [`Sync`]. It is never contended.
    sender: Mutex<std_mpsc::Sender<(u32, Answer)>>,
    /// Imports and fetches in flight.
    waiting: FuturesUnordered<BoxFuture<'static, Option<(u32, Answer)>>>,
    /// Imports ahead of evaluation that are not needed yet.
    ahead: FxHashMap<u32, (AheadRequest, AbortHandle)>,
    /// Flags that cancel the background work of a fiber.
    working: FxHashMap<u32, Arc<AtomicBool>>,
    pool: Pool,
    dropped: Arc<AtomicBool>,
    cancelled: Option<Arc<AtomicBool>>,
}

impl Events {
    /// Runs work in the pool, and sends an answer to the fiber afterwards.
    fn background(&mut self, fiber: u32, work: Work) {
        let (done, is_done) = oneshot::channel();
        let forgotten = Arc::<AtomicBool>::default();
        let flags = [&self.dropped, &forgotten];
        let flags = flags.into_iter().chain(&self.cancelled);
        let cancel = Cancel::new(flags.cloned());
        // Work that cannot be started leaves no result, and the fiber reports that.
        let _ = self.pool.submit(work, cancel, move || {
            let _: Result<(), ()> = done.send(());
        });
        self.working.insert(fiber, forgotten);
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
                self.working.remove(&answer.0);
                let sender = self
                    .sender
                    .get_mut()
                    .unwrap_or_else(PoisonError::into_inner);
                // The thread waits for this answer, unless it has panicked.
                let _ = sender.send(answer);
            }
            let message = match self.batch.next() {
                Some(message) => message,
                None => match ready!(self.receiver.poll_recv(cx)) {
                    Some(batch) => {
                        self.batch = batch.into_iter();
                        continue;
                    }
                    None => return Poll::Ready(None),
                },
            };
            return Poll::Ready(Some(match message {
                Message::Event(event) => Ok(event),
                Message::Failed(error) => Err(error),
                Message::Realise(fiber, wanted) => {
                    let (request, answer) = realise(wanted);
                    let answer = async move { Some((fiber, Answer::Realised(answer.await))) };
                    self.waiting.push(Box::pin(answer));
                    Ok(EvalEvent::Realise(request))
                }
                Message::RealiseAhead(fiber, wanted) => {
                    let (request, ahead, answer) = realise_ahead(wanted);
                    let (answer, abort) = abortable(answer);
                    self.ahead.insert(fiber, (ahead, abort));
                    self.waiting.push(Box::pin(async move {
                        let answer = answer.await.ok()?;
                        Some((fiber, Answer::Realised(answer)))
                    }));
                    Ok(EvalEvent::Realise(request))
                }
                Message::Needed(fiber) => {
                    if let Some((ahead, _)) = self.ahead.remove(&fiber) {
                        ahead.needed();
                    }
                    continue;
                }
                Message::Forget(fiber) => {
                    if let Some((_, abort)) = self.ahead.remove(&fiber) {
                        abort.abort();
                    }
                    if let Some(forgotten) = self.working.remove(&fiber) {
                        forgotten.store(true, Ordering::Relaxed);
                    }
                    continue;
                }
                Message::Background(fiber, work) => {
                    self.background(fiber, work);
                    continue;
                }
                Message::AwaitTask(ready) => {
                    self.waiting.push(Box::pin(async move {
                        ready.await;
                        Some((0, Answer::Task))
                    }));
                    continue;
                }
            }));
        }
    }
}
