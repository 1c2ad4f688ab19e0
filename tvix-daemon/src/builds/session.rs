//! A session of the coordinator for a client: its events as activities, its report as results.

mod outcome;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::store_path::StorePath;
use tokio::sync::mpsc;
use tvix_build_api::{BuildLimits, BuilderProfile, FailureKind, ResourceUsage};
use tvix_coordinator::{
    BuildEvent, BuildPolicy, CheckOptions, Coordinator, FailureCause, OnFailure, OnVanished, Report,
};
use tvix_eval_api::EvalRequest;
use tvix_worker_protocol::{BuildMode, BuildResult, Verbosity};

pub(super) use self::outcome::realised;
use super::activities::{Activities, Copy};
use super::drvs::Graph;
use super::evaluator::{Given, inputs_first};
use super::history::Line;
use super::hooks::Hooks;
use super::plan::Plan;
use super::shared::{Registry, SessionBuilder};
use super::texts::{Subject, Text, Wording, as_line, cannot_run};
use crate::client::Client;

/// The derivations that a session makes valid.
pub(super) struct Goals {
    pub roots: Vec<(StorePath, Vec<OutputName>)>,
    pub plan: Plan,
    pub mode: BuildMode,
    /// Whether derivations that substituters have may be built.
    pub may_build_all: bool,
}

/// The results of a session.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// By derivation.
    pub finished: HashMap<StorePath, Finished>,
    /// Whether something could not be fetched after all and may be built: another session has to do it, with the inputs
    /// of what substituters have.
    pub again: bool,
    /// Why the operation fails as a whole.
    pub fatal: Option<String>,
}

/// The end of a requested derivation.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub result: BuildResult,
    /// Whether the client has got the error as a message.
    pub logged: bool,
}

/// Runs sessions for a client.
pub(super) struct Sessions<'a> {
    pub coordinator: &'a Coordinator,
    pub registry: &'a Arc<Registry>,
    pub client: &'a Client,
    pub wording: Wording,
}

/// A successful build.
#[derive(Debug, Clone, Copy)]
struct Built {
    usage: Option<ResourceUsage>,
}

struct Build {
    drv_path: StorePath,
    machine: String,
    is_check: bool,
}

impl Sessions<'_> {
    fn coordinator(
        &self,
        goals: &Goals,
        hooks: &Arc<Hooks>,
        keep: Option<&std::path::Path>,
    ) -> Coordinator {
        let settings = &self.client.settings;
        let options = self.coordinator.options().clone();
        let daemon = options.limits;
        let limits = BuildLimits::default()
            .with_wall_time(settings.timeout.or(daemon.wall_time))
            .with_silence(settings.max_silent_time.or(daemon.silence))
            .with_log_bytes(daemon.log_bytes);
        let on_failure = match settings.keep_going {
            true => OnFailure::Continue,
            false => OnFailure::Stop,
        };
        let most = match (settings.max_jobs, options.max_jobs) {
            (Some(client), Some(daemon)) => Some(client.min(daemon)),
            (client, daemon) => client.or(daemon),
        };
        let cores = options.cores;
        let check = (goals.mode == BuildMode::Check).then(|| {
            let options = CheckOptions::default();
            match keep {
                Some(keep) => options.with_keep(keep),
                None => options,
            }
        });
        let options = options
            .with_policy(BuildPolicy::Demand)
            .with_on_failure(on_failure)
            .with_on_vanished(OnVanished::Fail)
            .with_limits(limits)
            .with_cores(settings.cores.unwrap_or(cores))
            .with_max_jobs(most.map(|most| most.max(1)))
            .with_record_derivations(false)
            .with_check(check);
        let derivations = inputs_first(&goals.plan.graph);
        let modulos = &goals.plan.modulos;
        let dir = self.coordinator.store().store_dir();
        let hash = |derivation: &Derivation| {
            derivation.realisation_hash(dir, |input| modulos.get(input).copied())
        };
        let derivations = derivations.into_iter().map(|(path, derivation)| {
            let modulo = hash(&derivation);
            (path, derivation, modulo)
        });
        let given = Given {
            derivations: derivations.collect(),
            roots: goals.roots.clone(),
        };
        let mut coordinator = self
            .coordinator
            .clone()
            .with_evaluator(Arc::new(given))
            .with_options(options);
        if !settings.substitute {
            coordinator = coordinator.without_substituters();
        }
        let local_jobs = most != Some(0);
        let coordinator =
            coordinator.retain_builders(|builder| local_jobs || builder.profile().name != LOCAL);
        coordinator.map_builders(|builder| {
            let registry = self.registry.clone();
            let keep_failed = settings.keep_failed;
            Arc::new(SessionBuilder::new(
                builder,
                registry,
                hooks.clone(),
                keep_failed,
            ))
        })
    }

    /// Runs a session. Results are by derivation; those of derivations that were not reached are missing.
    ///
    /// Dropping the future ends the session and everything that only it wants.
    pub async fn run(
        &self,
        goals: Goals,
        activities: &mut Activities,
        keep: Option<&std::path::Path>,
    ) -> Results {
        let (hooks, post_build) = Hooks::new();
        let hooks = Arc::new(hooks);
        if !goals.may_build_all {
            hooks.set_refused(goals.plan.substitutable.clone());
        }
        activities.old = self.wording == Wording::Old;
        let coordinator = self.coordinator(&goals, &hooks, keep);
        let profiles = coordinator.builders().iter().map(|it| it.profile().clone());
        let mut tracker = Tracker {
            activities,
            hooks: &hooks,
            coordinator: &coordinator,
            wording: self.wording,
            stops: !self.client.settings.keep_going,
            profiles: profiles.collect(),
            graph: &goals.plan.graph,
            waited_for: waited_for(&goals.plan),
            builds: HashMap::new(),
            resolved: HashMap::new(),
            built: HashMap::new(),
            failed: HashMap::new(),
            skipped: Vec::new(),
            copies: HashMap::new(),
            hook_lines: HashMap::new(),
            plan: &goals.plan,
            roots: goals.roots.iter().map(|(path, _)| path.clone()).collect(),
            fallback: self.client.settings.fallback,
            may_build_all: goals.may_build_all,
            hook: self.registry.post_build_hook.as_ref().map(|hook| {
                let program = hook.program();
                program.to_string_lossy().into_owned()
            }),
            stopped: false,
            not_gone: false,
            again: HashSet::new(),
            fatal: None,
        };
        let report = tracker.follow(post_build).await;
        tracker.report_skipped().await;
        let mut finished = HashMap::new();
        for (index, (drv_path, outputs)) in goals.roots.iter().enumerate() {
            let ended = tracker
                .finished(&report, index, drv_path, outputs, &goals)
                .await;
            if let Some(ended) = ended {
                finished.insert(drv_path.clone(), ended);
            }
        }
        let again = !tracker.again.is_empty();
        Results {
            finished,
            again,
            fatal: tracker.fatal,
        }
    }
}

/// The words of Nix for a file that a cache announces and does not have.
fn gone(message: &str) -> Option<String> {
    let (start, end) = message.rsplit_once("' is not there")?;
    let file = end.is_empty().then(|| start.rsplit_once('\'')).flatten()?.1;
    Some(format!("file '{file}' does not exist in binary cache"))
}

/// The name of this machine's builder.
pub(super) const LOCAL: &str = "local";

/// Derivations that others to build wait for.
fn waited_for(plan: &Plan) -> HashSet<StorePath> {
    let built = plan
        .will_build
        .iter()
        .filter_map(|path| plan.graph.get(path));
    built.flat_map(|it| it.input_drvs.keys().cloned()).collect()
}

/// Follows a session.
struct Tracker<'a> {
    activities: &'a mut Activities,
    hooks: &'a Hooks,
    coordinator: &'a Coordinator,
    wording: Wording,
    stops: bool,
    profiles: Vec<BuilderProfile>,
    graph: &'a Graph,
    waited_for: HashSet<StorePath>,
    builds: HashMap<u64, Build>,
    resolved: HashMap<StorePath, StorePath>,
    built: HashMap<StorePath, Built>,
    failed: HashMap<StorePath, Text>,
    skipped: Vec<StorePath>,
    copies: HashMap<StorePath, Copy>,
    hook_lines: HashMap<StorePath, super::activities::Hook>,
    plan: &'a Plan,
    roots: HashSet<StorePath>,
    fallback: bool,
    may_build_all: bool,
    /// The program of the post-build hook.
    hook: Option<String>,
    /// A request has failed, which ends the others without results.
    stopped: bool,
    /// A path could not be fetched, for another reason than that it has gone from the substituter.
    not_gone: bool,
    /// Derivations that could not be fetched, and will be built by another session, with their dependents.
    again: HashSet<StorePath>,
    fatal: Option<String>,
}

impl Tracker<'_> {
    async fn follow(&mut self, mut post_build: mpsc::Receiver<(StorePath, Line)>) -> Report {
        let mut session = self
            .coordinator
            .start(EvalRequest::attrs(Vec::<String>::new()));
        let hooks = self.hooks;
        loop {
            tokio::select! {
                event = session.next_event() => match event {
                    Some(record) => self.event(record.event).await,
                    None => break,
                },
                () = hooks.begun.notified() => self.begin_started().await,
                Some((drv_path, line)) = post_build.recv() => self.hook_line(drv_path, line).await,
            }
        }
        while let Ok((drv_path, line)) = post_build.try_recv() {
            self.hook_line(drv_path, line).await;
        }
        session.report().await
    }

    fn subject<'s>(&'s self, path: &'s StorePath) -> Subject<'s> {
        Subject {
            dir: self.coordinator.store().store_dir(),
            path,
            derivation: self.graph.get(path).map(|it| &**it),
            wording: self.wording,
        }
    }

    async fn event(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::BuildStarted {
                build,
                drv_path,
                builder,
            } => self.queued(build, drv_path, &builder, false).await,
            BuildEvent::CheckStarted {
                build,
                drv_path,
                builder,
            } => self.queued(build, drv_path, &builder, true).await,
            BuildEvent::LogLine {
                build,
                text,
                partial,
            } => {
                self.begin(build).await;
                self.activities
                    .log_line(build, text.as_bytes(), partial)
                    .await;
            }
            BuildEvent::BuildWaiting { lock, .. } => {
                let text = format!("waiting for lock on '{lock}'\n");
                self.activities.message(Verbosity::Info, text).await;
            }
            BuildEvent::BuildSucceeded {
                build,
                drv_path,
                usage,
                ..
            } => {
                self.begin(build).await;
                self.builds.remove(&build);
                self.activities.build_ended(build, true).await;
                self.built.insert(drv_path, Built { usage });
            }
            BuildEvent::BuildFailed {
                build,
                drv_path,
                failure,
            } => {
                if let FailureKind::CannotRun { program, message } = &failure.kind {
                    self.begin(build).await;
                    let line = cannot_run(program, message);
                    self.activities
                        .log_line(build, line.as_bytes(), false)
                        .await;
                }
                self.begin_if_started(build).await;
                self.builds.remove(&build);
                self.activities.build_ended(build, false).await;
                let cause = FailureCause::Build { failure };
                self.failure(drv_path, &cause).await;
            }
            BuildEvent::Failed {
                drv_path, cause, ..
            } => self.failure(drv_path, &cause).await,
            BuildEvent::CheckSucceeded {
                build, drv_path, ..
            } => {
                self.begin(build).await;
                self.builds.remove(&build);
                self.activities.build_ended(build, true).await;
                self.built.insert(drv_path, Built { usage: None });
            }
            BuildEvent::CheckFailed {
                build: Some(build), ..
            } => {
                self.begin_if_started(build).await;
                self.builds.remove(&build);
                self.activities.build_ended(build, false).await;
            }
            BuildEvent::BuildRetried {
                build,
                drv_path,
                error,
                ..
            } => {
                self.builds.remove(&build);
                self.activities.build_dropped(build).await;
                let dir = self.coordinator.store().store_dir();
                let text = format!(
                    "\x1b[35;1mwarning:\x1b[0m building '{}' again: {error}\n",
                    dir.display(&drv_path)
                );
                self.activities.message(Verbosity::Warn, text).await;
            }
            BuildEvent::BuildCancelled { build, .. } => {
                self.builds.remove(&build);
                self.activities.build_dropped(build).await;
            }
            BuildEvent::Skipped {
                drv_path,
                root_cause,
            } => self.skip(drv_path, &root_cause).await,
            BuildEvent::Resolved { drv_path, resolved } => {
                self.resolved.insert(drv_path, resolved);
            }
            BuildEvent::SubstitutionStarted { path, substituter } => {
                let dir = self.coordinator.store().store_dir();
                let copy = self.activities.copy_started(dir, &path, &substituter).await;
                self.copies.insert(path, copy);
            }
            BuildEvent::Substituted { path, .. } => {
                let offer = self.plan.will_substitute.get(&path);
                let size = offer.map_or(0, |it| it.info.nar_size);
                if let Some(copy) = self.copies.remove(&path) {
                    self.activities.copy_ended(copy, true, size).await;
                }
            }
            BuildEvent::SubstitutionFailed { path, error, .. } => {
                if let Some(copy) = self.copies.remove(&path) {
                    self.activities.copy_ended(copy, false, 0).await;
                }
                let gone = gone(&error.message);
                self.not_gone |= gone.is_none();
                let (level, text) = match (gone, self.wording) {
                    (None, _) => (Verbosity::Error, as_line(&error.message)),
                    (Some(text), Wording::Old) => (Verbosity::Error, as_line(&text)),
                    (Some(text), Wording::Current) => (
                        Verbosity::Warn,
                        format!("\x1b[35;1mwarning:\x1b[0m {text}\n"),
                    ),
                };
                self.activities.message(level, text).await;
            }
            BuildEvent::SubstituterFailed { substituter, error } => {
                let text = format!(
                    "\x1b[35;1mwarning:\x1b[0m substituter '{substituter}' does not answer: {error}\n"
                );
                self.activities.message(Verbosity::Warn, text).await;
            }
            BuildEvent::RealisationRefused {
                substituter,
                message,
            } => {
                let text = format!(
                    "\x1b[35;1mwarning:\x1b[0m realisations of '{substituter}' are not used: {message}\n"
                );
                self.activities.message(Verbosity::Warn, text).await;
            }
            _ => {}
        }
    }

    /// A build was handed to a builder. It may have to wait for a place.
    async fn queued(&mut self, build: u64, drv_path: StorePath, builder: &str, is_check: bool) {
        let machine = if builder == LOCAL { "" } else { builder };
        let machine = machine.to_owned();
        self.builds.insert(
            build,
            Build {
                drv_path,
                machine,
                is_check,
            },
        );
        self.begin_if_started(build).await;
    }

    async fn begin_started(&mut self) {
        let mut waiting: Vec<u64> = self.builds.keys().copied().collect();
        waiting.retain(|build| !self.activities.is_running(*build));
        waiting.sort_unstable();
        for build in waiting {
            self.begin_if_started(build).await;
        }
    }

    async fn begin_if_started(&mut self, build: u64) {
        let known = self.builds.get(&build);
        if known.is_some_and(|known| self.hooks.has_started(&known.drv_path)) {
            self.begin(build).await;
        }
    }

    /// Begins the activity of a build, if it has not begun.
    async fn begin(&mut self, build: u64) {
        let Some(known) = self.builds.get(&build) else {
            return;
        };
        if self.activities.is_running(build) {
            return;
        }
        let shown = self
            .resolved
            .get(&known.drv_path)
            .unwrap_or(&known.drv_path);
        let shown = self.coordinator.store().store_dir().path_text(shown);
        self.activities
            .build_started(build, &shown, &known.machine, known.is_check)
            .await;
    }

    async fn failure(&mut self, drv_path: StorePath, cause: &FailureCause) {
        if let Some(message) = self.hooks.failure(&drv_path) {
            let program = self.hook.as_deref().unwrap_or_default();
            let text = format!("program {} {message}", self.wording.file(program));
            self.fatal = self.fatal.take().or(Some(text));
            self.stopped = true;
            return;
        }
        let lacks_input = matches!(cause, FailureCause::MissingInput { .. });
        let not_fetched = !self.may_build_all
            && self.plan.substitutable.contains(&drv_path)
            && (lacks_input || self.hooks.was_refused(&drv_path));
        if not_fetched && (self.fallback || !self.not_gone) {
            self.again.insert(drv_path);
            return;
        }
        let text = match not_fetched {
            true => self.subject(&drv_path).substitutes_failed(),
            false => self.subject(&drv_path).cause(cause, &self.profiles),
        };
        self.log_if_waited_for(&drv_path, &text.1).await;
        self.stopped |= self.stops && self.roots.contains(&drv_path);
        self.failed.insert(drv_path, text);
    }

    /// The error of something that others wait for is a message: the result of the operation has only theirs.
    async fn log_if_waited_for(&self, drv_path: &StorePath, text: &str) {
        if self.waited_for.contains(drv_path) {
            self.activities
                .message(Verbosity::Error, as_line(text))
                .await;
        }
    }

    async fn skip(&mut self, drv_path: StorePath, root_cause: &StorePath) {
        if self.stopped {
            return;
        }
        if self.again.contains(root_cause) {
            self.again.insert(drv_path);
            return;
        }
        self.skipped.push(drv_path.clone());
        if self.stops {
            let text = self.subject(&drv_path).dependencies_failed(1);
            self.log_if_waited_for(&drv_path, &text.1).await;
            self.stopped |= self.roots.contains(&drv_path);
            self.failed.insert(drv_path, text);
        }
    }

    /// Once all inputs have ended, it is known how many of them failed.
    async fn report_skipped(&mut self) {
        if self.stops {
            return;
        }
        let skipped: HashSet<StorePath> = self.skipped.iter().cloned().collect();
        for (drv_path, derivation) in inputs_first(self.graph) {
            if !skipped.contains(&drv_path) {
                continue;
            }
            let failed = derivation.input_drvs.keys();
            let failed = failed
                .filter(|input| self.failed.contains_key(*input))
                .count();
            let text = self.subject(&drv_path).dependencies_failed(failed.max(1));
            self.log_if_waited_for(&drv_path, &text.1).await;
            self.failed.insert(drv_path, text);
        }
    }

    async fn hook_line(&mut self, drv_path: StorePath, line: Line) {
        use super::history::Origin;
        match line.origin {
            Origin::HookStarted => {
                let drv = self.coordinator.store().store_dir().path_text(&drv_path);
                let program = String::from_utf8_lossy(&line.text).into_owned();
                let hook = self.activities.hook_started(&drv, &program).await;
                self.hook_lines.insert(drv_path, hook);
            }
            Origin::Hook => {
                if let Some(hook) = self.hook_lines.get(&drv_path) {
                    self.activities.hook_line(hook, &line.text).await;
                }
            }
            Origin::HookEnded => {
                if let Some(hook) = self.hook_lines.remove(&drv_path) {
                    self.activities.hook_ended(hook).await;
                }
            }
            Origin::Builder => {}
        }
    }
}
