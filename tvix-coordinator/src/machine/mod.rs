//! The coordinator's logic as a state machine: no I/O, no clock, no task.
//!
//! Tell it of each event with [`Machine::handle`], then take actions with [`Machine::poll_action`]
//! until there are no more; [`Machine::poll_timeout`] says when to call again if nothing happens.
//! The same inputs give the same actions. The driver of this crate runs the machine with tokio;
//! another runtime, or a simulation, can run it as well.
//!
//! ```
//! use std::time::Duration;
//! use nix_compat::store_path::StoreDir;
//! use tvix_coordinator::machine::{Action, Input, Machine};
//! use tvix_coordinator::Options;
//!
//! let mut machine = Machine::new(StoreDir::default(), Vec::new(), Options::default());
//! machine.handle(Duration::ZERO, Input::EvaluationEnded);
//! let mut finished = false;
//! while let Some(action) = machine.poll_action() {
//!     finished |= matches!(action, Action::Finish(report) if report.is_success());
//! }
//! assert!(finished);
//! ```
//!
//! # How a derivation gets built
//!
//! It is interned as a node of the graph (`graph.rs`) and, if the policy says so or something needs
//! it, looked up (`lookup.rs`). If wanted outputs are not valid and no substituter has them
//! (`substitute/`), it waits for its inputs (`demand.rs`), is resolved if it has to be
//! (`resolve.rs`), queued (`schedule.rs`) and built (`builds.rs`). Validity and failures spread to
//! dependents and imports (`settle.rs`). Consequences go through a work list, never through
//! recursion: a graph may be a chain of a million.

mod action;
mod builds;
mod checks;
mod demand;
mod finish;
mod graph;
mod imports;
mod input;
mod lookup;
mod pool;
mod ready;
mod record;
mod resolve;
mod schedule;
mod settle;
mod sources;
mod substitute;
mod vanished;
mod yielded;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StoreDir;
use rustc_hash::FxHashMap;
use tvix_build_api::BuilderProfile;
use tvix_eval_api::{EvalFailure, Root};

pub use action::{Action, ImportedOutput, OutputKeys, Recording, StartBuild};
use builds::Build;
use checks::Checks;
use demand::Want;
use graph::{FailureId, Graph, NodeId};
use imports::Imports;
pub use input::{BuildResult, CheckResult, FoundRealisation, Input, Probed, RealisationConflict};
use lookup::LookUps;
use record::Recordings;
use schedule::Scheduler;
use sources::Sources;
use substitute::{GoalId, Realised, Substitutions};

pub use crate::component_error::ComponentError;
use crate::event::{BuildEvent, EventRecord};
use crate::options::{OnVanished, Options};
use crate::report::{Counts, Failure, SessionError};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);
    };
}

id! {
    /// Names a query of the store.
    BatchId
}
id! {
    /// Names a build. Retries are builds of their own.
    BuildId
}
id! {
    /// Names an import from derivations.
    ImportId
}
id! {
    /// Names a question about a failure.
    QuestionId
}
id! {
    /// Names a question to a substituter.
    ProbeId
}
id! {
    /// Names a path on its way from a substituter.
    SubstitutionId
}

/// Why everything ends before it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// A failure, of a build or of evaluation.
    Failure,
    /// The caller's wish.
    Cancelled,
}

/// A pending consequence of an event.
#[derive(Debug)]
enum Work {
    Want(Want),
    /// Outputs are missing: substitute them, wait for inputs, or build.
    Build(NodeId),
    /// All inputs are valid.
    Ready(NodeId),
    /// Derivations that resolved to this one may be valid with it.
    Satisfy(NodeId),
    /// Something needs a path that is to be substituted.
    WantGoal {
        goal: GoalId,
        urgent: bool,
    },
    /// A substituter has a path that something needs.
    Fetch(GoalId),
    /// Substitutions that wait for a path go on.
    GoalSettled(GoalId),
    /// A derivation learns that one of its outputs is valid.
    OutputValid(GoalId),
    /// A failure spreads to dependents and imports.
    Spread {
        id: NodeId,
        failure: FailureId,
    },
}

/// The limit of the number of builders.
pub const MAX_BUILDERS: usize = 64;

/// The coordinator's logic. See the [module](self).
#[derive(Debug)]
pub struct Machine {
    dir: StoreDir,
    options: Options,
    now: Duration,
    graph: Graph,
    sources: Sources,
    look_ups: LookUps,
    substitutions: Substitutions,
    scheduler: Scheduler,
    builds: FxHashMap<BuildId, Build>,
    /// Builds that have waited for another process, and wait for a slot now.
    resumable: VecDeque<BuildId>,
    checks: Checks,
    imports: Imports,
    /// Derivations that resolved to one, and wait for it.
    delegates: FxHashMap<NodeId, Vec<NodeId>>,
    /// The hashes that name realisations of floating derivations, where the evaluator knows them.
    modulos: FxHashMap<NodeId, [u8; 32]>,
    /// The realisations of floating derivations that caches have.
    realised: FxHashMap<NodeId, Realised>,
    roots: Vec<(Root, NodeId)>,
    /// Roots that could not be evaluated.
    failed_roots: Vec<EvalFailure>,
    /// The attribute paths that were requested, by number.
    requested: Vec<String>,
    /// Whether the evaluator yielded all roots.
    evaluated: bool,
    /// Failures, each with its node. `None` for failures that were retried.
    failures: Vec<Option<(NodeId, Failure)>>,
    skipped: Vec<(NodeId, FailureId)>,
    errors: Vec<SessionError>,
    /// Questions that wait for an answer.
    questions: BTreeMap<QuestionId, FailureId>,
    recordings: Recordings,
    work: Vec<Work>,
    actions: VecDeque<Action>,
    counts: Counts,
    last_build: u64,
    last_question: u64,
    next_event: u64,
    evaluating: bool,
    pruned: bool,
    stop: Option<Stop>,
    finished: bool,
    /// Whether the session begins anew if inputs vanish.
    may_restart: bool,
}

impl Machine {
    /// A machine for one session, with these builders and a store with this directory.
    ///
    /// # Panics
    ///
    /// With more than [`MAX_BUILDERS`] builders.
    pub fn new(dir: StoreDir, builders: Vec<BuilderProfile>, mut options: Options) -> Self {
        assert!(
            builders.len() <= MAX_BUILDERS,
            "more than {} builders",
            MAX_BUILDERS
        );
        let estimates = std::mem::take(&mut options.estimates);
        let may_restart = options.on_vanished == OnVanished::Restart;
        let scheduler = Scheduler::new(builders, options.max_jobs, estimates);
        Self {
            dir,
            options,
            now: Duration::ZERO,
            graph: Graph::default(),
            sources: Sources::default(),
            look_ups: LookUps::default(),
            substitutions: Substitutions::default(),
            scheduler,
            builds: FxHashMap::default(),
            resumable: VecDeque::new(),
            checks: Checks::default(),
            imports: Imports::default(),
            delegates: FxHashMap::default(),
            modulos: FxHashMap::default(),
            realised: FxHashMap::default(),
            roots: Vec::new(),
            failed_roots: Vec::new(),
            requested: Vec::new(),
            evaluated: false,
            failures: Vec::new(),
            skipped: Vec::new(),
            errors: Vec::new(),
            questions: BTreeMap::new(),
            recordings: Recordings::default(),
            work: Vec::new(),
            actions: VecDeque::new(),
            counts: Counts::default(),
            last_build: 0,
            last_question: 0,
            next_event: 0,
            evaluating: true,
            pruned: false,
            stop: None,
            finished: false,
            may_restart,
        }
    }

    /// Sets the substituters, in the order in which they are asked. Events name them so. To be
    /// called before anything else.
    #[must_use]
    pub fn with_substituters(mut self, names: Vec<String>) -> Self {
        self.substitutions = Substitutions::new(names, self.options.max_substitutions);
        self
    }

    /// Sets the attribute paths that the evaluator was asked for, so that the report has an entry for
    /// each even if the session ends before it is evaluated. To be called before anything else.
    #[must_use]
    pub fn with_request(mut self, attr_paths: Vec<String>) -> Self {
        self.requested = attr_paths;
        self
    }

    /// Makes this the machine of a session that began anew ([`Action::Restart`]): its events have numbers from
    /// `first_event` on, and it does not restart again. To be called before anything else.
    #[must_use]
    pub fn again(mut self, first_event: u64) -> Self {
        self.next_event = first_event;
        self.may_restart = false;
        self
    }

    /// Handles an event at the time `now`, as time since the session began. After
    /// [`Action::Finish`] events have no effect.
    pub fn handle(&mut self, now: Duration, input: Input) {
        self.now = self.now.max(now);
        if self.next_event == 0 {
            let store_dir = self.dir.clone();
            self.emit(BuildEvent::SessionStarted { store_dir });
        }
        if self.finished {
            return self.handle_late(input);
        }
        match input {
            Input::Derivation {
                path,
                derivation,
                modulo,
            } => self.derivation_yielded(path, derivation, modulo),
            Input::Import {
                import,
                wanted,
                ahead,
            } => self.import_requested(import, wanted, ahead),
            Input::ImportNeeded { import } => self.import_needed(import),
            Input::ImportDropped { import } => self.import_dropped(import),
            Input::Source { path, references } => self.source_offered(&path, &references),
            Input::Root(root) => self.root_found(root),
            Input::Diagnostic(diagnostic) => self.emit(BuildEvent::Diagnostic { diagnostic }),
            Input::EvaluationFailed { error } => self.evaluation_failed(error),
            Input::EvaluationEnded => self.evaluation_ended(),
            Input::PathsQueried { batch, result } => self.paths_queried(batch, result),
            Input::RealisationsQueried { batch, result } => {
                self.realisations_queried(batch, result);
            }
            Input::SubstituterQueried { probe, result } => {
                self.substituter_queried(probe, result);
            }
            Input::RealisationsFound { probe, answers } => self.realisations_found(probe, answers),
            Input::Substituted {
                substitution,
                result,
            } => self.substituted(substitution, result),
            Input::SourceAdded { path, result } => self.source_added(&path, result),
            Input::SourcesTooLarge { paths } => self.sources.too_large(paths),
            Input::Recorded { batch, result } => self.recorded(batch, result),
            Input::LogLine {
                build,
                text,
                partial,
            } => self.log_line(build, text, partial),
            Input::BuildWaiting { build, lock } => self.build_waiting(build, lock),
            Input::BuildReady { build } => self.build_ready(build),
            Input::BuildEnded {
                build,
                result,
                usage,
                size,
            } => self.build_ended(build, result, usage, size),
            Input::InputsQueried { build, result } => self.inputs_queried(build, result),
            Input::CheckEnded { build, result } => self.check_ended(build, result),
            Input::OutputsPushed { build, result } => self.outputs_pushed(build, result),
            Input::FailureDecided { question, decision } => self.decided(question, decision),
            Input::TimePassed => {}
            Input::Cancel => self.stop(Stop::Cancelled),
        }
        self.do_work();
        let known = self.look_ups.is_idle() && !self.substitutions.is_asking();
        if !self.evaluating && !self.pruned && self.stop.is_none() && known {
            self.prune();
            self.do_work();
        }
    }

    /// Refuses an import that comes after the end.
    fn handle_late(&mut self, input: Input) {
        if let Input::Import { import, .. } = input {
            self.refuse_import(import);
        }
    }

    /// The next thing to do, if there is any now.
    pub fn poll_action(&mut self) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        if self.finished {
            return None;
        }
        if self.stop.is_none() {
            self.wake_due();
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if let Some(action) = self.next_query() {
                return Some(action);
            }
            if let Some(action) = self.next_substitution() {
                return Some(action);
            }
            if self.look_ups.is_idle() && self.break_circle() {
                return self.poll_action();
            }
            if let Some(action) = self.sources.next_to_add() {
                return Some(action);
            }
            let sources = &self.sources;
            let ready = |it: &Derivation| it.input_srcs.iter().all(|path| sources.is_settled(path));
            if let Some(action) = self.recordings.next(self.now, ready) {
                return Some(action);
            }
            if self.resume_build() {
                return self.actions.pop_front();
            }
            let next = self.scheduler.next(&self.graph, &self.sources, self.now);
            if let Some((id, builder)) = next {
                self.start_build(id, builder);
                return self.actions.pop_front();
            }
            if self.start_next_check() {
                return self.actions.pop_front();
            }
        }
        if self.try_finish() {
            return self.poll_action();
        }
        self.actions.pop_front()
    }

    /// When [`Input::TimePassed`] should come, as time since the session began, if nothing else
    /// happens before.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts = [
            self.look_ups.next_timeout(),
            self.scheduler.next_timeout(),
            self.scheduler
                .next_resume(self.now, self.checks.any_ready()),
            self.sources.next_timeout(),
            self.recordings.next_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// Whether more should be taken from the evaluator just now. When this is false, an answer
    /// to something that is under way will make it true.
    pub fn wants_evaluation(&self) -> bool {
        self.evaluating && self.stop.is_none() && !self.look_ups.has_backlog()
    }

    /// Whether [`Action::Finish`] or [`Action::Restart`] was given out.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn emit(&mut self, event: BuildEvent) {
        let record = EventRecord::new(self.next_event, self.now, event);
        self.next_event += 1;
        self.actions.push_back(Action::Emit(record));
    }

    fn do_work(&mut self) {
        while let Some(work) = self.work.pop() {
            match work {
                Work::Want(want) => self.want(want),
                Work::Build(id) => self.obtain(id),
                Work::WantGoal { goal, urgent } => self.want_goal(goal, urgent),
                Work::Fetch(goal) => self.fetch(goal),
                Work::GoalSettled(goal) => self.goal_settled(goal),
                Work::OutputValid(goal) => self.output_valid(goal),
                Work::Ready(id) => self.make_ready_if_waiting(id),
                Work::Satisfy(id) => self.satisfy_delegates(id),
                Work::Spread { id, failure } => self.spread_failure(id, failure),
            }
        }
    }

    /// Wakes work that was delayed until now.
    fn wake_due(&mut self) {
        while let Some(id) = self.scheduler.due(self.now) {
            if !self.retry_check(id) {
                self.make_ready(id);
            }
        }
        while let Some(id) = self.sources.due(self.now) {
            self.sources.add(id);
        }
        self.do_work();
    }

    /// The store failed for good: nothing can go on.
    fn store_failed(&mut self, trouble: ComponentError) {
        self.errors.push(SessionError::Store(trouble));
        self.stop(Stop::Failure);
    }
}
