//! Access of the prompt to stores and builders.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use futures::stream;
use nix_compat::store_path::StorePath;
use tokio::sync::{mpsc, oneshot};
use tvix_coordinator::{BuildPolicy, OnFailure, OnVanished, Options};
use tvix_eval_api::memory::StreamEvaluator;
use tvix_eval_api::{EvalEvent, EvalRequest, EvalStream};

use crate::args::BuildingArgs;
use crate::error::{CliError, describe};
use crate::interrupt;
use crate::output::say;
use crate::session::Run;
use crate::stores::{self, MainStore};

/// A request of the prompt.
pub enum Task {
    /// Add the instantiated derivations to the store.
    Record,
    /// Make a link to a path of the store, which keeps it from being collected.
    Root { link: PathBuf, path: StorePath },
    /// The log of a derivation's build.
    Log(StorePath),
}

type Answer = Result<Vec<u8>, String>;

/// The prompt's end.
pub struct Asking(mpsc::UnboundedSender<(Task, oneshot::Sender<Answer>)>);

/// The service's end.
pub type Asked = mpsc::UnboundedReceiver<(Task, oneshot::Sender<Answer>)>;

/// A channel for requests. There is at most one at a time.
pub fn requests() -> (Asking, Asked) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Asking(sender), receiver)
}

impl Asking {
    /// Has something done, and waits for it: not for where futures are polled.
    pub fn ask(&self, task: Task) -> Answer {
        let ended = || "the session ended early".to_owned();
        let (sender, answer) = oneshot::channel();
        self.0.send((task, sender)).map_err(|_| ended())?;
        answer.blocking_recv().map_err(|_| ended())?
    }
}

/// Serves the requests of the prompt and of evaluation.
pub struct Service<'a> {
    building: &'a BuildingArgs,
    interrupted: Arc<AtomicBool>,
    store: Option<MainStore>,
    /// Derivations and sources of the evaluation, which each session has to know.
    known: Vec<EvalEvent>,
    /// How many of `known` are in the store.
    recorded: usize,
}

impl<'a> Service<'a> {
    pub fn new(building: &'a BuildingArgs, interrupted: Arc<AtomicBool>) -> Self {
        Self {
            building,
            interrupted,
            store: None,
            known: Vec::new(),
            recorded: 0,
        }
    }

    /// Follows an evaluation to its end.
    pub async fn run(mut self, mut events: EvalStream, mut asked: Asked) {
        let flag = self.interrupted.clone();
        let mut interrupts = interrupt::take_interrupts();
        let interrupts = tokio::spawn(async move {
            while interrupts.changed().await.is_ok() {
                if flag.swap(true, Ordering::Relaxed) {
                    // The last one has not ended anything yet: it is input that is waited for.
                    interrupt::restore_terminal();
                    std::process::exit(i32::from(crate::exit::ERROR));
                }
            }
        });
        loop {
            tokio::select! {
                biased;
                event = events.next() => match event {
                    Some(Ok(event)) => self.event(event).await,
                    Some(Err(error)) => say!("error: {}", describe(&error)),
                    None => break,
                },
                Some((task, answer)) = asked.recv() => {
                    // What was instantiated for it was said before.
                    while let Some(Some(Ok(event))) = futures::FutureExt::now_or_never(events.next()) {
                        self.event(event).await;
                    }
                    let done = self.perform(task).await;
                    let _ = answer.send(done.map_err(|error| describe(&error)));
                }
            }
        }
        interrupts.abort();
    }

    async fn event(&mut self, event: EvalEvent) {
        match event {
            EvalEvent::Diagnostic(diagnostic) => {
                say!("{}", diagnostic.message);
            }
            EvalEvent::Realise(_) => {
                // Its answer is in it: if the session fails, it is dropped.
                if let Err(error) = self.session(Some(event), false).await {
                    say!("error: {}", describe(&error));
                }
            }
            event @ (EvalEvent::Derivation { .. } | EvalEvent::AddSource(_)) => {
                self.known.push(event);
            }
            _ => {}
        }
    }

    async fn perform(&mut self, task: Task) -> Result<Vec<u8>, CliError> {
        match task {
            Task::Record => {
                if self.recorded < self.known.len() {
                    self.session(None, true).await?;
                    self.recorded = self.known.len();
                }
                Ok(Vec::new())
            }
            Task::Root { link, path } => {
                let store = self.store().await?;
                let made = store.add_root(&link, &path).await;
                made.map_err(|error| CliError::out_link(link.as_ref(), error))?;
                Ok(Vec::new())
            }
            Task::Log(path) => {
                let store = self.store().await?;
                let name = path.to_string();
                let (directory, file) = name.split_at(2);
                let file = store.logs().join(directory).join(file);
                read_log(&file).await.map_err(|_| CliError::NoLog {
                    derivation: store.store_dir().display(&path).to_string(),
                })
            }
        }
    }

    /// Runs a session on the events of the evaluation so far and the present request.
    async fn session(&mut self, asks: Option<EvalEvent>, record: bool) -> Result<(), CliError> {
        let store = self.store().await?;
        let known = self.known.iter().filter_map(again).chain(asks);
        let events: Vec<_> = known.map(Ok).collect();
        let events = Mutex::new(Some(events));
        let evaluator = StreamEvaluator::new(move |_| {
            let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
            stream::iter(events.take().unwrap_or_default()).boxed()
        });
        let options = Options::default()
            .with_policy(BuildPolicy::Imports)
            .with_on_failure(OnFailure::Continue)
            // These events come but once.
            .with_on_vanished(OnVanished::Fail)
            .with_record_derivations(record);
        let run = Run {
            args: self.building,
            store: &store,
            evaluator: Arc::new(evaluator),
            request: EvalRequest::attrs([""; 0]),
            options,
        };
        run.imports().await?;
        Ok(())
    }

    /// The store, opened when it is first needed.
    async fn store(&mut self) -> Result<MainStore, CliError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let store = stores::open(self.building.store.clone()).await?;
        self.store = Some(store.clone());
        Ok(store)
    }
}

/// An event once more.
fn again(event: &EvalEvent) -> Option<EvalEvent> {
    match event {
        EvalEvent::Derivation {
            path,
            derivation,
            modulo,
        } => Some(EvalEvent::Derivation {
            path: path.clone(),
            derivation: derivation.clone(),
            modulo: *modulo,
        }),
        EvalEvent::AddSource(source) => Some(EvalEvent::AddSource(source.clone())),
        _ => None,
    }
}

async fn read_log(file: &Path) -> std::io::Result<Vec<u8>> {
    tokio::fs::read(file).await
}
