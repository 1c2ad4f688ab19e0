//! Builds that several sessions share.
//!
//! A session builds with a [`SessionBuilder`] in place of each builder. It looks for a running build of the same
//! derivation, and waits for that one; otherwise it starts one as a task of its own. All that wait read the same log and get
//! the same result. The task ends when nobody waits any more.
//!
//! This is below the coordinator, not above it, so that each client has its own session with its own order, failures
//! and cancellation, and only the execution is shared.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bstr::BString;
use nix_compat::derivation::Derivation;
use nix_compat::store_path::StorePath;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tvix_build_api::{
    BuildContext, BuildFailure, BuildLimits, BuildOutcome, BuildRequest, BuildSuccess, Builder,
    BuilderError, BuilderProfile, Delivery, FailureKind, PushedOutput, ResourceUsage, SlotMessage,
    log_channel, slot_channel,
};
use tvix_store_api::{Store, StoreUri};

use super::history::{History, Line, Origin, Reader};
use super::hook::PostBuildHook;
use super::hooks::{Hooks, Times};
use super::log_files::LogFiles;
use super::places::Place;

/// Lines between a builder and the log.
const LINES: usize = 64;

/// The running builds of a daemon.
#[derive(Debug)]
pub(super) struct Registry {
    running: Mutex<HashMap<Key, (u64, Weak<Running>)>>,
    last: AtomicU64,
    /// The places for builds.
    jobs: Arc<Semaphore>,
    pub logs: Option<LogFiles>,
    pub post_build_hook: Option<PostBuildHook>,
}

/// The key of equal builds. Builds with other limits may end otherwise; they wait for the lock of the outputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    drv_path: StorePath,
    derivation: Arc<Derivation>,
    builder: String,
    store: StoreUri,
    limits: (Option<Duration>, Option<Duration>, Option<u64>),
    keep_failed: bool,
}

/// A running build. It ends when this is dropped.
#[derive(Debug)]
struct Running {
    channel: Arc<Channel>,
    _task: AbortOnDropHandle<()>,
}

/// State that a build shares with its waiters.
#[derive(Debug)]
struct Channel {
    log: Arc<History>,
    state: watch::Sender<State>,
    result: OnceLock<Ended>,
    /// The error of the builder, for the first that takes it.
    error: Mutex<Option<BuilderError>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Queued,
    Running,
    /// For a lock that another process holds.
    Waiting(String),
    Ended,
}

/// A result that can be given to several.
#[derive(Debug, Clone)]
struct Ended {
    outcome: Outcome,
    times: Times,
}

#[derive(Debug, Clone)]
enum Outcome {
    Success {
        outputs: Vec<PushedOutput>,
        duration: Duration,
        usage: Option<ResourceUsage>,
    },
    Failure(BuildFailure),
    /// The outputs are valid; the hook failed.
    HookFailed(BString),
    Error {
        message: String,
        retryable: bool,
    },
}

pub(super) fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

impl Registry {
    /// Runs up to `jobs` builds at once.
    pub fn new(jobs: usize) -> Self {
        Self {
            running: Mutex::default(),
            last: AtomicU64::new(0),
            jobs: Arc::new(Semaphore::new(jobs.clamp(1, Semaphore::MAX_PERMITS))),
            logs: None,
            post_build_hook: None,
        }
    }

    /// The same places for builds, with other settings.
    pub fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut new = Self {
            running: Mutex::default(),
            last: AtomicU64::new(0),
            jobs: self.jobs.clone(),
            logs: self.logs.clone(),
            post_build_hook: self.post_build_hook.clone(),
        };
        change(&mut new);
        new
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, (u64, Weak<Running>)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running build of this key, or a new one.
    fn join(
        self: &Arc<Self>,
        key: Key,
        start: impl FnOnce(Arc<Channel>, Registered) -> tokio::task::JoinHandle<()>,
    ) -> Arc<Running> {
        let mut running = self.running();
        if let Some(found) = running.get(&key).and_then(|(_, known)| known.upgrade()) {
            return found;
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed);
        let channel = Arc::new(Channel {
            log: Arc::default(),
            state: watch::Sender::new(State::Queued),
            result: OnceLock::new(),
            error: Mutex::default(),
        });
        let registered = Registered {
            registry: self.clone(),
            key: key.clone(),
            id,
            channel: channel.clone(),
        };
        let task = start(channel.clone(), registered);
        let new = Arc::new(Running {
            channel,
            _task: AbortOnDropHandle::new(task),
        });
        running.insert(key, (id, Arc::downgrade(&new)));
        new
    }
}

/// Takes a build out of the registry at its end, however it ends.
struct Registered {
    registry: Arc<Registry>,
    key: Key,
    id: u64,
    channel: Arc<Channel>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Entry::Occupied(entry) = self.registry.running().entry(self.key.clone())
            && entry.get().0 == self.id
        {
            entry.remove();
        }
        // In case of a panic; otherwise there is a result.
        let lost = Outcome::Error {
            message: "the build was lost".to_owned(),
            retryable: false,
        };
        let times = Times::default();
        let _ = self.channel.result.set(Ended {
            outcome: lost,
            times,
        });
        self.channel.log.close();
        self.channel.state.send_replace(State::Ended);
    }
}

/// A builder of a session, which shares its builds with other sessions.
#[derive(Debug)]
pub(super) struct SessionBuilder {
    pub inner: Arc<dyn Builder>,
    pub registry: Arc<Registry>,
    pub hooks: Arc<Hooks>,
    pub keep_failed: bool,
    profile: BuilderProfile,
}

impl SessionBuilder {
    pub fn new(
        inner: Arc<dyn Builder>,
        registry: Arc<Registry>,
        hooks: Arc<Hooks>,
        keep_failed: bool,
    ) -> Self {
        let profile = inner.profile().clone();
        Self {
            inner,
            registry,
            hooks,
            keep_failed,
            profile,
        }
    }

    /// A build that is not shared, because its outputs are not added to the store. It takes a place like others.
    async fn alone(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let place = Place::take(&self.registry.jobs).await;
        let drv_path = request.drv_path.clone();
        self.hooks.started(&drv_path);
        let start = unix_now();
        let (log, mut lines) = log_channel(LINES);
        let file = self.registry.logs.as_ref();
        let file = file.map(|files| files.create(&drv_path));
        let to = context.log.clone();
        let pump = async {
            while let Some(line) = lines.recv().await {
                if let Some(file) = &file {
                    file.line(Line::new(line.text.clone(), line.partial)).await;
                }
                let send = async {
                    match line.partial {
                        true => to.send_partial(line.text).await,
                        false => to.send(line.text).await,
                    }
                };
                place.while_sending(send).await;
            }
        };
        let build = self.inner.build(request, context.with_log(log));
        let (outcome, ()) = tokio::join!(build, pump);
        if let Some(file) = file {
            file.finish().await;
        }
        let stop = unix_now();
        self.hooks.ended(&drv_path, Times { start, stop });
        outcome
    }

    fn start(
        &self,
        request: BuildRequest,
        inputs: Arc<dyn Store>,
        channel: Arc<Channel>,
        registered: Registered,
    ) -> tokio::task::JoinHandle<()> {
        let execution = Execution {
            inner: self.inner.clone(),
            registry: self.registry.clone(),
            channel,
            inputs,
        };
        tokio::spawn(async move {
            let registered = registered;
            execution.run(request).await;
            drop(registered);
        })
    }
}

#[async_trait]
impl Builder for SessionBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.profile
    }

    async fn build(
        &self,
        mut request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        if self.hooks.refuse(&request.drv_path) {
            return Ok(final_failure());
        }
        request.keep_failed = self.keep_failed;
        let Some(store) = request.store.clone() else {
            return self.alone(request, context).await;
        };
        let drv_path = request.drv_path.clone();
        let limits = request.limits;
        let BuildLimits {
            wall_time,
            silence,
            log_bytes,
            ..
        } = limits;
        let key = Key {
            drv_path: drv_path.clone(),
            derivation: request.derivation.clone(),
            builder: self.profile.name.clone(),
            store,
            limits: (wall_time, silence, log_bytes),
            keep_failed: self.keep_failed,
        };
        let inputs = context.inputs.clone();
        let running = self.registry.join(key, |channel, registered| {
            self.start(request, inputs, channel, registered)
        });
        let waiting = Waiting {
            channel: running.channel.clone(),
            reader: running.channel.log.reader(),
            hooks: &self.hooks,
            drv_path: &drv_path,
            started: false,
        };
        let cancel = context.cancel.clone();
        let ended = tokio::select! {
            ended = waiting.ended(&context) => ended,
            () = cancel.cancelled() => {
                let failure = BuildFailure::new(FailureKind::Cancelled, Duration::ZERO);
                return Ok(BuildOutcome::Failure(failure));
            }
        };
        self.hooks.ended(&drv_path, ended.times);
        self.outcome(&drv_path, &running.channel, ended.outcome)
    }
}

impl SessionBuilder {
    // The error is that of the trait.
    #[allow(clippy::result_large_err)]
    fn outcome(
        &self,
        drv_path: &StorePath,
        channel: &Channel,
        outcome: Outcome,
    ) -> Result<BuildOutcome, BuilderError> {
        match outcome {
            Outcome::Success {
                outputs,
                duration,
                usage,
            } => {
                let success = BuildSuccess::new(Delivery::Pushed(outputs), duration);
                Ok(BuildOutcome::Success(success.with_usage(usage)))
            }
            Outcome::Failure(failure) => Ok(BuildOutcome::Failure(failure)),
            Outcome::HookFailed(message) => {
                self.hooks.failed(drv_path, message);
                Ok(final_failure())
            }
            Outcome::Error { message, retryable } => {
                let mut first = channel.error.lock().unwrap_or_else(PoisonError::into_inner);
                Err(first.take().unwrap_or_else(|| BuilderError::Backend {
                    builder: self.profile.name.clone(),
                    action: "build this".to_owned(),
                    retryable,
                    source: message.into(),
                }))
            }
        }
    }
}

/// Waits for a shared build.
struct Waiting<'a> {
    channel: Arc<Channel>,
    reader: Reader,
    hooks: &'a Hooks,
    drv_path: &'a StorePath,
    started: bool,
}

impl Waiting<'_> {
    /// The result, after all lines of the log were sent to `context`.
    async fn ended(mut self, context: &BuildContext) -> Ended {
        let channel = self.channel.clone();
        let mut states = channel.state.subscribe();
        let mut gave_up = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Queued | State::Ended => {}
                State::Running => {
                    self.begin();
                    if std::mem::take(&mut gave_up) {
                        context.slot.reacquire().await;
                    }
                }
                State::Waiting(lock) if !gave_up => {
                    gave_up = true;
                    context.slot.release(lock).await;
                }
                State::Waiting(_) => {}
            }
            tokio::select! {
                line = self.reader.next() => match line {
                    Some(line) if line.origin != Origin::Builder => {
                        self.hooks.post_build(self.drv_path, line).await;
                    }
                    Some(line) => {
                        self.begin();
                        match line.partial {
                            true => context.log.send_partial(line.text).await,
                            false => context.log.send(line.text).await,
                        }
                    }
                    None => break,
                },
                _ = states.changed() => {}
            }
        }
        let lost = || Ended {
            outcome: Outcome::Error {
                message: "the build was lost".to_owned(),
                retryable: true,
            },
            times: Times::default(),
        };
        channel.result.get().cloned().unwrap_or_else(lost)
    }

    fn begin(&mut self) {
        if !std::mem::replace(&mut self.started, true) {
            self.hooks.started(self.drv_path);
        }
    }
}

/// The execution of a shared build.
struct Execution {
    inner: Arc<dyn Builder>,
    registry: Arc<Registry>,
    channel: Arc<Channel>,
    inputs: Arc<dyn Store>,
}

impl Execution {
    async fn run(self, request: BuildRequest) {
        let jobs = &self.registry.jobs;
        let place = Place::take(jobs).await;
        self.channel.state.send_replace(State::Running);
        let drv_path = request.drv_path.clone();
        let start = unix_now();
        let file = self.registry.logs.as_ref();
        let file = file.map(|files| files.create(&drv_path));
        let (log, mut lines) = log_channel(LINES);
        let (slot, mut slots) = slot_channel(4);
        let context = BuildContext::new(self.inputs.clone())
            .with_log(log)
            .with_cancel(CancellationToken::new())
            .with_slot(slot);
        let pump = async {
            while let Some(line) = lines.recv().await {
                let line = Line::new(line.text, line.partial);
                if let Some(file) = &file {
                    file.line(line.clone()).await;
                }
                place.while_sending(self.channel.log.push(line)).await;
            }
        };
        let place_of_build = async {
            while let Some(message) = slots.recv().await {
                match message {
                    SlotMessage::Waiting { lock, .. } => {
                        place.give_up();
                        self.channel.state.send_replace(State::Waiting(lock));
                    }
                    SlotMessage::Ready { go, .. } => {
                        place.take_again().await;
                        self.channel.state.send_replace(State::Running);
                        let _ = go.send(());
                    }
                    _ => {}
                }
            }
        };
        let build = self.inner.build(request, context);
        let (result, (), ()) = tokio::join!(build, pump, place_of_build);
        let outcome = self.finish(result).await;
        if let Some(file) = file {
            file.finish().await;
        }
        let outcome = self.run_hook(&drv_path, outcome).await;
        drop(place);
        let stop = unix_now();
        let times = Times { start, stop };
        let _ = self.channel.result.set(Ended { outcome, times });
    }

    /// Pushes outputs that the builder could not push, as a stream can be read once only.
    async fn finish(&self, result: Result<BuildOutcome, BuilderError>) -> Outcome {
        let success = match result {
            Ok(BuildOutcome::Success(success)) => success,
            Ok(BuildOutcome::Failure(failure)) => return Outcome::Failure(failure),
            Err(error) => return self.error(error),
        };
        let pushed = match success.delivery {
            Delivery::Pushed(outputs) => Ok(Delivery::Pushed(outputs)),
            Delivery::Streamed(outputs) => Delivery::push(outputs, &*self.inputs).await,
        };
        match pushed {
            Ok(Delivery::Pushed(outputs)) => Outcome::Success {
                outputs,
                duration: success.duration,
                usage: success.usage,
            },
            Ok(Delivery::Streamed(_)) => Outcome::Error {
                message: "outputs were not pushed".to_owned(),
                retryable: false,
            },
            Err(source) => self.error(BuilderError::Push {
                builder: self.inner.profile().name.clone(),
                source,
            }),
        }
    }

    fn error(&self, error: BuilderError) -> Outcome {
        let outcome = Outcome::Error {
            message: describe(&error),
            retryable: error.is_retryable(),
        };
        let mut first = self
            .channel
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *first = Some(error);
        outcome
    }

    async fn run_hook(&self, drv_path: &StorePath, outcome: Outcome) -> Outcome {
        let (Some(hook), Outcome::Success { outputs, .. }) =
            (&self.registry.post_build_hook, &outcome)
        else {
            return outcome;
        };
        let dir = self.inputs.store_dir();
        let paths = outputs.iter().map(|it| dir.path_text(&it.info.path));
        let paths: Vec<String> = paths.collect();
        match hook
            .run(&dir.path_text(drv_path), &paths, &self.channel.log)
            .await
        {
            Ok(()) => outcome,
            Err(message) => Outcome::HookFailed(message.into()),
        }
    }
}

/// A failure whose reason [`Hooks`] know. A cancellation would be tried again.
fn final_failure() -> BuildOutcome {
    let kind = FailureKind::ExitCode { code: 1 };
    BuildOutcome::Failure(BuildFailure::new(kind, Duration::ZERO))
}

/// An error and its causes.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
