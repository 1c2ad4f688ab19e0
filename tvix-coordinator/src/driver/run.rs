//! The loop: perform actions of the machine, and tell it the results.

mod begin;
mod end;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use futures::{FutureExt as _, Stream};
use nix_compat::store_path::StorePath;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tvix_build_api::{
    BuildOutcome, BuildSlot, Delivery, LogReceiver, LogSender, SlotMessage, SlotReceiver,
    StreamedOutput, log_channel, slot_channel,
};
use tvix_eval_api::{
    EvalError, EvalEvent, EvalRequest, EvalStream, RealiseReply, RealisedOutput, SourceAddition,
};
use tvix_store_api::{LocalPath, Store};

use super::closures::Closures;
use super::coordinator::Coordinator;
use super::outbox::Outbox;
use super::sources::Added;
use super::tasks;
use crate::machine::{
    Action, BatchId, BuildId, BuildResult, CheckResult, ComponentError, FoundRealisation, ImportId,
    Input, Machine, ProbeId, Probed, QuestionId, SubstitutionId,
};
use crate::options::Decision;
use crate::report::Report;

/// Log lines on their way from builders.
const LOG_LINES: usize = 256;
/// Messages on their way from builds that wait.
const SLOT_MESSAGES: usize = 64;
/// Things that are taken from one place before the others get their turn.
const AT_A_STRETCH: usize = 64;

/// The result of a task of the driver.
enum Done {
    /// Whether an import that was requested ahead is needed.
    ImportSettled(ImportId, bool),
    Paths(BatchId, Result<Vec<bool>, ComponentError>),
    Realisations(BatchId, Result<Vec<Option<StorePath>>, ComponentError>),
    Realised(ProbeId, Vec<FoundRealisation>),
    Probed(ProbeId, Result<Vec<Probed>, ComponentError>),
    Substituted(SubstitutionId, Result<(), ComponentError>),
    /// How adding these went, and which are to be added by themselves.
    Sources(Added, Vec<StorePath>),
    Recorded(BatchId, Result<(), ComponentError>),
    Built(BuildId, Result<BuildOutcome, ComponentError>),
    Checked(BuildId, CheckResult),
    Inputs(BuildId, Result<Vec<bool>, ComponentError>),
    Pushed(BuildId, Result<(), ComponentError>),
    Decided(QuestionId, Decision),
    Located(Answer),
    EvaluationStarted(Result<EvalStream, EvalError>),
}

/// How a machine ended.
enum End {
    Finished(Arc<Report>),
    /// The session begins anew, with an event of this number.
    Restart(u64),
}

/// An import and its answer.
type Answer = (
    RealiseReply,
    Result<(Vec<RealisedOutput>, Vec<LocalPath>), tvix_eval_api::RealiseError>,
);

pub(super) struct Driver {
    parts: Coordinator,
    store: Arc<dyn Store>,
    machine: Machine,
    began: Instant,
    cancel: CancellationToken,
    cancelling: bool,
    outbox: Outbox,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Results of tasks that finished at once.
    at_once: VecDeque<Done>,
    evaluation: Option<EvalStream>,
    log: LogSender,
    log_lines: LogReceiver,
    slot: BuildSlot,
    slot_messages: SlotReceiver,
    /// Builds that wait for a slot.
    waiting: FxHashMap<BuildId, oneshot::Sender<()>>,
    last_import: u64,
    replies: FxHashMap<ImportId, RealiseReply>,
    /// Sources that evaluation yielded and that were not added.
    sources: FxHashMap<StorePath, Arc<SourceAddition>>,
    cancels: FxHashMap<BuildId, CancellationToken>,
    streamed: FxHashMap<BuildId, Vec<StreamedOutput>>,
    closures: Arc<Closures>,
    /// Answers to imports that are on their way.
    locating: usize,
    /// Paths unpacked for imports: evaluation may read them until it ends.
    unpacked: Vec<LocalPath>,
}

/// The event that woke the driver.
enum Woken {
    Cancelled,
    Sent,
    Done(Option<Done>),
    Evaluation(Option<Result<EvalEvent, EvalError>>),
    Log(tvix_build_api::LogLine),
    Slot(SlotMessage),
    Time,
}

impl Driver {
    pub(super) fn new(parts: Coordinator, outbox: Outbox, cancel: CancellationToken) -> Self {
        let profiles = parts
            .builders
            .iter()
            .map(|builder| builder.profile().clone())
            .collect();
        let store = parts.store.clone();
        let substituters = parts.substituters.iter();
        let substituters = substituters.map(|(_, it)| it.uri().to_string()).collect();
        let machine = Machine::new(store.store_dir().clone(), profiles, parts.options.clone())
            .with_substituters(substituters);
        let (log, log_lines) = log_channel(LOG_LINES);
        let (slot, slot_messages) = slot_channel(SLOT_MESSAGES);
        Self {
            store,
            parts,
            machine,
            began: Instant::now(),
            cancel,
            cancelling: false,
            outbox,
            running: FuturesUnordered::new(),
            at_once: VecDeque::new(),
            evaluation: None,
            log,
            log_lines,
            slot,
            slot_messages,
            waiting: FxHashMap::default(),
            last_import: 0,
            replies: FxHashMap::default(),
            sources: FxHashMap::default(),
            cancels: FxHashMap::default(),
            streamed: FxHashMap::default(),
            closures: Arc::default(),
            locating: 0,
            unpacked: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, request: EvalRequest) -> Report {
        loop {
            self.machine = self.machine.with_request(request.attr_paths.clone());
            match self.session(request.clone()).await {
                End::Finished(report) => {
                    self.send_rest().await;
                    return Arc::unwrap_or_clone(report);
                }
                End::Restart(first_event) => {
                    let began = self.began;
                    self = Self::new(self.parts, self.outbox, self.cancel);
                    self.machine = self.machine.again(first_event);
                    self.began = began;
                }
            }
        }
    }

    async fn session(&mut self, request: EvalRequest) -> End {
        let evaluator = self.parts.evaluator.clone();
        self.spawn(async move { Done::EvaluationStarted(evaluator.evaluate(request).await) });
        loop {
            while let Some(action) = self.machine.poll_action() {
                if let Some(end) = self.perform(action) {
                    self.send_answers().await;
                    return end;
                }
            }
            self.outbox.send_full();
            // Sources that are always ready must not keep the thread.
            tokio::task::coop::consume_budget().await;
            if !self.take_what_is_ready() {
                let woken = self.wait().await;
                self.woken(woken);
            }
        }
    }

    fn spawn(&mut self, future: impl Future<Output = Done> + Send + 'static) {
        let mut future = future.boxed();
        // A future that is ready at once is not queued.
        match (&mut future).now_or_never() {
            Some(done) => self.at_once.push_back(done),
            None => self.running.push(future),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn tell(&mut self, input: Input) {
        self.machine.handle(self.now(), input);
    }

    async fn wait(&mut self) -> Woken {
        let Self {
            outbox,
            running,
            at_once,
            evaluation,
            log_lines,
            slot_messages,
            machine,
            cancel,
            ..
        } = self;
        let cancelling = self.cancelling;
        // A slow listener applies back-pressure, but cannot keep the session from ending.
        let open = cancelling || !outbox.is_full();
        let wants_evaluation = open && machine.wants_evaluation();
        let evaluation = evaluation.as_mut().filter(|_| wants_evaluation);
        let any_done = !at_once.is_empty() || !running.is_empty();
        let timeout = machine.poll_timeout().map(|at| self.began + at);
        tokio::select! {
            () = cancel.cancelled(), if !cancelling => Woken::Cancelled,
            done = next_done(at_once, running), if open && any_done => Woken::Done(done),
            event = next_of(evaluation) => Woken::Evaluation(event),
            Some(line) = log_lines.recv(), if open => Woken::Log(line),
            Some(message) = slot_messages.recv(), if open => Woken::Slot(message),
            () = sleep_until(timeout) => Woken::Time,
            // There is nothing else to do.
            () = outbox.send(), if !outbox.is_empty() => Woken::Sent,
        }
    }

    fn woken(&mut self, woken: Woken) {
        match woken {
            Woken::Cancelled => {
                self.cancelling = true;
                self.tell(Input::Cancel);
            }
            Woken::Done(Some(done)) => self.done(done),
            Woken::Evaluation(event) => self.evaluated(self.now(), event),
            Woken::Log(line) => self.tell_log(line),
            Woken::Slot(message) => self.slot_message(message),
            Woken::Time => self.tell(Input::TimePassed),
            Woken::Done(None) | Woken::Sent => {}
        }
    }

    /// Takes a batch of ready events from each source in turn, without waiting. False if nothing
    /// was ready.
    fn take_what_is_ready(&mut self) -> bool {
        if self.cancelling || self.cancel.is_cancelled() || self.outbox.is_full() {
            return false;
        }
        let mut any = false;
        for _ in 0..AT_A_STRETCH {
            let next = next_done(&mut self.at_once, &mut self.running);
            let Some(Some(done)) = next.now_or_never() else {
                break;
            };
            self.done(done);
            any = true;
        }
        let now = self.now();
        for _ in 0..AT_A_STRETCH {
            if !self.machine.wants_evaluation() {
                break;
            }
            let Some(evaluation) = &mut self.evaluation else {
                break;
            };
            let Some(event) = evaluation.next().now_or_never() else {
                break;
            };
            self.evaluated(now, event);
            any = true;
        }
        for _ in 0..AT_A_STRETCH {
            let Ok(line) = self.log_lines.try_recv() else {
                break;
            };
            self.tell_log(line);
            any = true;
        }
        while let Ok(message) = self.slot_messages.try_recv() {
            self.slot_message(message);
            any = true;
        }
        any
    }

    fn tell_log(&mut self, line: tvix_build_api::LogLine) {
        self.tell(Input::LogLine {
            build: BuildId(line.build),
            text: line.text,
            partial: line.partial,
        });
    }

    /// Drops the state of a build that ended.
    fn forget(&mut self, build: BuildId) {
        self.drain_log();
        self.cancels.remove(&build);
        self.waiting.remove(&build);
    }

    /// A build sends all its lines before it ends, so none comes after its end is told.
    fn drain_log(&mut self) {
        while let Ok(line) = self.log_lines.try_recv() {
            self.tell_log(line);
        }
    }

    fn evaluated(&mut self, now: Duration, event: Option<Result<EvalEvent, EvalError>>) {
        let input = match event {
            None => {
                self.evaluation = None;
                Input::EvaluationEnded
            }
            Some(Err(error)) => Input::EvaluationFailed {
                error: error.failure(),
            },
            Some(Ok(EvalEvent::Derivation {
                path,
                derivation,
                modulo,
            })) => Input::Derivation {
                path,
                derivation,
                modulo,
            },
            Some(Ok(EvalEvent::Realise(realise))) => {
                self.last_import += 1;
                let import = ImportId(self.last_import);
                self.replies.insert(import, realise.reply);
                let ahead = realise.ahead.is_some();
                if let Some(ahead) = realise.ahead {
                    self.spawn(async move { Done::ImportSettled(import, ahead.await) });
                }
                Input::Import {
                    import,
                    wanted: realise.wanted,
                    ahead,
                }
            }
            Some(Ok(EvalEvent::AddSource(source))) => {
                let path = source.path.clone();
                let references = source.references.iter().cloned().collect();
                self.sources.insert(path.clone(), Arc::new(source));
                Input::Source { path, references }
            }
            Some(Ok(EvalEvent::Root(root))) => Input::Root(root),
            Some(Ok(EvalEvent::Diagnostic(diagnostic))) => Input::Diagnostic(diagnostic),
            // A kind of event that came after this was written needs nothing of it.
            Some(Ok(_)) => return,
        };
        self.machine.handle(now, input);
    }

    fn done(&mut self, done: Done) {
        let input = match done {
            Done::ImportSettled(import, true) => Input::ImportNeeded { import },
            Done::ImportSettled(import, false) => Input::ImportDropped { import },
            Done::Paths(batch, result) => Input::PathsQueried { batch, result },
            Done::Realised(probe, answers) => Input::RealisationsFound { probe, answers },
            Done::Realisations(batch, result) => Input::RealisationsQueried { batch, result },
            Done::Sources(added, large) => {
                for (path, result) in added {
                    self.source_added(path, result);
                }
                if large.is_empty() {
                    return;
                }
                Input::SourcesTooLarge { paths: large }
            }
            Done::Probed(probe, result) => Input::SubstituterQueried { probe, result },
            Done::Substituted(substitution, result) => Input::Substituted {
                substitution,
                result,
            },
            Done::Recorded(batch, result) => Input::Recorded { batch, result },
            Done::Inputs(build, result) => Input::InputsQueried { build, result },
            Done::Checked(build, result) => {
                self.forget(build);
                Input::CheckEnded { build, result }
            }
            Done::Built(build, result) => {
                self.forget(build);
                let (usage, size) = tasks::measured(&result);
                let result = self.build_result(build, result);
                Input::BuildEnded {
                    build,
                    result,
                    usage,
                    size,
                }
            }
            Done::Pushed(build, result) => Input::OutputsPushed { build, result },
            Done::Decided(question, decision) => Input::FailureDecided { question, decision },
            Done::Located((reply, located)) => {
                self.locating -= 1;
                let answer = located.map(|(outputs, unpacked)| {
                    let temporary = unpacked.into_iter().filter(LocalPath::is_temporary);
                    self.unpacked.extend(temporary);
                    outputs
                });
                return reply.answer(answer);
            }
            Done::EvaluationStarted(Ok(evaluation)) => {
                self.evaluation = Some(evaluation);
                return;
            }
            Done::EvaluationStarted(Err(error)) => {
                self.tell(Input::EvaluationFailed {
                    error: error.failure(),
                });
                Input::EvaluationEnded
            }
        };
        self.tell(input);
    }

    fn build_result(
        &mut self,
        build: BuildId,
        result: Result<BuildOutcome, ComponentError>,
    ) -> BuildResult {
        match result {
            Ok(BuildOutcome::Success(success)) => match success.delivery {
                Delivery::Pushed(outputs) => {
                    let infos = outputs.iter().map(|output| output.info.clone());
                    self.closures.learn(infos);
                    let outputs = outputs.into_iter();
                    let paths = outputs.map(|output| (output.name, output.info.path.clone()));
                    BuildResult::Pushed(paths.collect())
                }
                Delivery::Streamed(outputs) => {
                    let paths = outputs
                        .iter()
                        .map(|output| (output.name.clone(), output.info.path.clone()));
                    let paths = paths.collect();
                    self.streamed.insert(build, outputs);
                    BuildResult::Streamed(paths)
                }
            },
            Ok(BuildOutcome::Failure(failure)) => BuildResult::Failed(failure),
            Err(trouble) => BuildResult::ComponentError(trouble),
        }
    }

    /// Performs an action. The report, if it was the last one.
    fn perform(&mut self, action: Action) -> Option<End> {
        let store = self.store.clone();
        match action {
            Action::Emit(record) => self.outbox.push(record),
            Action::QueryPaths { batch, paths } => {
                let query = tasks::query_paths(store, paths);
                self.spawn(query.map(move |result| Done::Paths(batch, result)));
            }
            Action::QueryRealisations { batch, outputs } => {
                let query = tasks::query_realisations(store, outputs);
                self.spawn(query.map(move |result| Done::Realisations(batch, result)));
            }
            Action::QuerySubstituter {
                probe,
                substituter,
                paths,
            } => {
                let substituter = self.parts.substituters[substituter].1.clone();
                let query = tasks::query_substituter(substituter, paths);
                self.spawn(query.map(move |result| Done::Probed(probe, result)));
            }
            Action::FindRealisations {
                probe,
                substituter,
                outputs,
            } => match substituter {
                None => {
                    let found = tasks::find_recorded(store, outputs);
                    self.spawn(found.map(move |found| Done::Realised(probe, found)));
                }
                Some(substituter) => {
                    let substituter = self.parts.substituters[substituter].1.clone();
                    let found = tasks::find_realisations(store, substituter, outputs);
                    self.spawn(found.map(move |found| Done::Realised(probe, found)));
                }
            },
            Action::Substitute {
                substitution,
                substituter,
                path,
            } => {
                let substituter = self.parts.substituters[substituter].1.clone();
                let copied = tasks::substitute(substituter, store, path);
                self.spawn(copied.map(move |result| Done::Substituted(substitution, result)));
            }
            Action::AddSource { path } => self.add_source(path),
            Action::AddSmallSources {
                paths,
                max_size,
                max_total,
            } => self.add_small_sources(paths, max_size, max_total),
            Action::Record { batch, recording } => {
                let record = tasks::record(store, recording);
                self.spawn(record.map(move |result| Done::Recorded(batch, result)));
            }
            Action::StartBuild(start) => self.start_build(start),
            Action::StartCheck { start, outputs } => self.start_check(start, outputs),
            Action::ResumeBuild(build) => {
                if let Some(go) = self.waiting.remove(&build) {
                    // If it has ended meanwhile, that is told next.
                    let _ = go.send(());
                }
            }
            Action::CancelBuild(build) => {
                if let Some(cancel) = self.cancels.get(&build) {
                    cancel.cancel();
                }
            }
            Action::PushOutputs(build) => {
                let outputs = self.streamed.remove(&build).unwrap_or_default();
                let push = tasks::push_outputs(store, outputs);
                self.spawn(push.map(move |result| Done::Pushed(build, result)));
            }
            Action::DropImport { import } => {
                self.replies.remove(&import);
            }
            Action::AnswerImport { import, answer } => {
                if let Some(reply) = self.replies.remove(&import) {
                    match answer {
                        Ok(outputs) => {
                            let locate = tasks::local_outputs(store, outputs);
                            self.locating += 1;
                            self.spawn(locate.map(|located| Done::Located((reply, located))));
                        }
                        Err(error) => reply.answer(Err(error)),
                    }
                }
            }
            Action::AskAboutFailure { question, failure } => match &self.parts.ask {
                Some(ask) => {
                    let decision = ask(*failure);
                    self.spawn(decision.map(move |decision| Done::Decided(question, decision)));
                }
                // No callback: as the options say by default.
                None => self.spawn(async move { Done::Decided(question, Decision::Stop) }),
            },
            Action::StopEvaluation => self.evaluation = None,
            Action::QueryInputs { build, paths } => {
                let query = tasks::query_paths(store, paths);
                self.spawn(query.map(move |result| Done::Inputs(build, result)));
            }
            Action::Restart { first_event } => return Some(End::Restart(first_event)),
            Action::Finish(report) => return Some(End::Finished(report)),
        }
        None
    }
}

/// The next thing that is done. Loses none when dropped.
async fn next_done(
    at_once: &mut VecDeque<Done>,
    running: &mut FuturesUnordered<BoxFuture<'static, Done>>,
) -> Option<Done> {
    match at_once.pop_front() {
        Some(done) => Some(done),
        None => running.next().await,
    }
}

async fn next_of<S: Stream + Unpin>(stream: Option<&mut S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
