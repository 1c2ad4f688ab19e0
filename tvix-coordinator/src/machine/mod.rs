//! The coordinator's logic as a state machine: no I/O, no clock, no task.
//!
//! Tell it what happened with [`Machine::handle`], then take what is to be done with
//! [`Machine::poll_action`] until there is no more; [`Machine::poll_timeout`] says when to call
//! again if nothing happens. The same inputs give the same actions. The driver of this crate runs
//! it with tokio; another runtime, or a simulation, can run it as well.
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
//! It is interned as a node of the graph (`graph.rs`) and, if the policy says so or something
//! needs it, looked up (`lookup.rs`). If outputs that are wanted are not valid, it waits for its
//! inputs (`demand.rs`), unless a substituter has them (`substitute/`), is resolved if it has to be (`resolve.rs`), queued (`schedule.rs`) and built
//! (`builds.rs`). What became valid or failed spreads to dependents and imports (`settle.rs`).
//! Whatever follows from one thing goes through a work list, never through recursion: a graph may
//! be a chain of a million.

mod action;
mod builds;
mod checks;
mod demand;
mod finish;
mod graph;
mod imports;
mod input;
mod lookup;
mod ready;
mod record;
mod resolve;
mod schedule;
mod settle;
mod sources;
mod substitute;
mod yielded;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use nix_compat::derivation::Derivation;
use nix_compat::store_path::StoreDir;
use rustc_hash::FxHashMap;
use tvix_build_api::BuilderProfile;
use tvix_eval_api::Root;

pub use action::{Action, ImportedOutput, OutputKeys, StartBuild};
use builds::Build;
use checks::Checks;
use demand::Want;
use graph::{FailureId, Graph, NodeId};
use imports::Imports;
pub use input::{BuildResult, CheckResult, Input, Probed, RefusedRealisation, Trouble};
use lookup::LookUps;
pub use record::Recording;
use record::Recordings;
use schedule::Scheduler;
use sources::Sources;
use substitute::{GoalId, Realised, Substitutions};

use crate::event::{BuildEvent, EVENT_VERSION, EventRecord};
use crate::options::Options;
use crate::report::{Counts, Failure};

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

/// Something that follows from what happened and is still to be seen to.
#[derive(Debug)]
enum Work {
    Want(Want),
    /// Outputs are missing: substitute them, wait for inputs, or build.
    Build(NodeId),
    /// All inputs are valid.
    Ready(NodeId),
    /// What resolved to this may be valid with it.
    Satisfy(NodeId),
    /// Something needs a path that is to be substituted.
    WantGoal {
        goal: GoalId,
        urgent: bool,
    },
    /// A substituter has a path that something needs.
    Fetch(GoalId),
    /// Whoever waits to hear of a path hears of it.
    GoalSettled(GoalId),
    /// So does the derivation whose output it is.
    OutputValid(GoalId),
    /// A failure reaches whatever needs this.
    Spread {
        id: NodeId,
        failure: FailureId,
    },
}

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
    /// Builds that have waited for another process, and for a slot now.
    resumable: VecDeque<BuildId>,
    checks: Checks,
    imports: Imports,
    /// Derivations that resolved to one, and wait for it.
    delegates: FxHashMap<NodeId, Vec<NodeId>>,
    /// By which hash realisations of floating derivations are known, where the evaluator knows.
    modulos: FxHashMap<NodeId, [u8; 32]>,
    /// What caches say of floating derivations.
    realised: FxHashMap<NodeId, Realised>,
    roots: Vec<(Root, NodeId)>,
    /// What failed, and which node it is of. `None` for what was tried again.
    failures: Vec<Option<(NodeId, Failure)>>,
    skipped: Vec<(NodeId, FailureId)>,
    errors: Vec<String>,
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
}

impl Machine {
    /// A machine for one session, with these builders (at most 64 are used) and a store with
    /// this directory.
    pub fn new(dir: StoreDir, builders: Vec<BuilderProfile>, mut options: Options) -> Self {
        let estimates = std::mem::take(&mut options.estimates);
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
        }
    }

    /// Has outputs substituted that one of these has, which are asked in this order and shown
    /// under these names. To be called before anything else.
    #[must_use]
    pub fn with_substituters(mut self, names: Vec<String>) -> Self {
        self.substitutions = Substitutions::new(names, self.options.max_substitutions);
        self
    }

    /// Counts events on from that of another machine. To be called before anything else.
    #[must_use]
    pub fn with_first_event(mut self, seq: u64) -> Self {
        self.next_event = seq;
        self
    }

    /// Takes note of something that happened `now`, as time since the session began. After
    /// [`Action::Finish`] nothing matters any more.
    pub fn handle(&mut self, now: Duration, input: Input) {
        self.now = self.now.max(now);
        if self.finished {
            return self.handle_late(input);
        }
        match input {
            Input::Derivation {
                path,
                derivation,
                modulo,
            } => self.derivation_yielded(path, derivation, modulo),
            Input::Import { import, wanted } => self.import_requested(import, wanted),
            Input::Source { path } => self.source_offered(&path),
            Input::Root(root) => self.root_found(root),
            Input::Diagnostic(diagnostic) => self.emit(BuildEvent::Diagnostic { diagnostic }),
            Input::EvaluationFailed { message } => self.evaluation_failed(message),
            Input::EvaluationEnded => self.evaluation_ended(),
            Input::PathsQueried { batch, result } => self.paths_queried(batch, result),
            Input::RealisationsQueried { batch, result } => {
                self.realisations_queried(batch, result);
            }
            Input::SubstituterQueried { probe, result } => {
                self.substituter_queried(probe, result);
            }
            Input::RealisationsFound {
                probe,
                paths,
                refused,
            } => self.realisations_found(probe, paths, refused),
            Input::Substituted {
                substitution,
                result,
            } => self.substituted(substitution, result),
            Input::SourceAdded { path, result } => self.source_added(&path, result),
            Input::Recorded { batch, result } => self.recorded(batch, result),
            Input::LogLine { build, text } => self.log_line(build, &text),
            Input::BuildWaiting { build, lock } => self.build_waiting(build, lock),
            Input::BuildReady { build } => self.build_ready(build),
            Input::BuildEnded {
                build,
                result,
                usage,
            } => self.build_ended(build, result, usage),
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

    /// Whether an import of which the machine was told after the end is still answered.
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
            if let Some(paths) = self.sources.next_to_add() {
                return Some(Action::AddSources { paths });
            }
            let sources = &self.sources;
            let ready = |it: &Derivation| it.input_srcs.iter().all(|path| sources.is_settled(path));
            if let Some(action) = self.recordings.next(self.now, ready) {
                return Some(action);
            }
            if self.resume_build() {
                return self.actions.pop_front();
            }
            if let Some((id, builder)) = self.scheduler.next(&self.graph) {
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

    /// Whether [`Action::Finish`] was given out.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    fn emit(&mut self, event: BuildEvent) {
        let record = EventRecord {
            v: EVENT_VERSION,
            seq: self.next_event,
            time: self.now,
            event,
        };
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

    /// What was put off until now.
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
    fn store_failed(&mut self, trouble: Trouble) {
        self.errors.push(trouble.message);
        self.stop(Stop::Failure);
    }
}
