//! A simulated evaluator, store and builders, and the invariants of the machine.

mod builds;
mod checks;
mod end;
mod substituters;
mod vanished;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use tvix_coordinator::StoreErrorKind;
use tvix_coordinator::machine::{
    Action, BatchId, BuildId, ComponentError, ImportId, Input, Machine, OutputKeys, ProbeId,
    QuestionId, Recording, StartBuild, SubstitutionId,
};
use tvix_coordinator::{BuildEvent, CheckProblem, ComponentErrorKind, Decision, OnFailure, Report};
use tvix_eval_api::{EvalError, Root, WantedOutputs};

use crate::Tally;
use crate::plan::{Fate, Plan, Step};
use tvix_test_support::random::Random;

/// More steps than any plan needs: a longer run does not terminate.
const MOST_STEPS: usize = 50_000;
/// Fewer than the number of attempts in the options.
const MOST_TROUBLES: u32 = 3;

/// An operation in progress that has yet to be answered.
#[derive(Debug, Clone)]
enum Pending {
    Paths(BatchId, Vec<StorePath>),
    Realisations(BatchId, Vec<OutputKeys>),
    Source(StorePath),
    Record(BatchId),
    Build(StartBuild),
    /// A build that waits for a lock of another process, and its result.
    Held(StartBuild),
    Released(StartBuild),
    Push(BuildId),
    Inputs(BuildId, Vec<StorePath>),
    Probe(ProbeId, usize, Vec<StorePath>),
    Find(ProbeId, Option<usize>, Vec<OutputKeys>),
    Fetch(SubstitutionId, usize, StorePath),
    Question(QuestionId, StorePath),
    /// An import that was requested ahead, before it is known whether it is needed.
    Ahead(ImportId),
}

#[derive(Debug, Default)]
struct Thread {
    position: usize,
    waiting: Option<ImportId>,
    done: bool,
}

pub struct World {
    plan: Plan,
    random: Random,
    verbose: bool,
    log: Option<Vec<String>>,
    machine: Machine,
    now: Duration,
    by_path: BTreeMap<StorePath, usize>,
    valid: BTreeSet<StorePath>,
    realisations: BTreeMap<DrvOutput, StorePath>,
    pending: Vec<Pending>,
    threads: Vec<Thread>,
    evaluation_over: bool,
    stopped: bool,
    cancelled: bool,
    evaluation_failed: bool,
    stop_decided: bool,
    mended_twin: bool,
    /// The derivations that the requests so far need.
    needed: BTreeSet<usize>,
    /// Those, and what imports have been requested ahead for.
    requested: BTreeSet<usize>,
    roots: Vec<Root>,
    open_imports: BTreeMap<ImportId, Vec<WantedOutputs>>,
    imports: u64,
    /// Resolved derivations that are being or have been built, by path.
    building: BTreeMap<StorePath, BuildId>,
    built: BTreeSet<StorePath>,
    running: BTreeMap<BuildId, StartBuild>,
    /// Builds without a slot that wait for another process or for a slot.
    waiting: BTreeMap<BuildId, StartBuild>,
    /// Of those, the builds that could continue.
    ready: BTreeSet<BuildId>,
    checking: checks::Checking,
    substituting: substituters::Substituting,
    /// Builds that have streamed outputs, with the outputs to push.
    streamed: BTreeMap<BuildId, (StartBuild, Vec<(OutputName, StorePath)>)>,
    cancelled_builds: BTreeSet<BuildId>,
    /// Builds that have streamed other contents than they said.
    lying: BTreeSet<BuildId>,
    /// Builds with an event for their start but not for their end.
    open_builds: BTreeSet<u64>,
    /// The same for waiting builds.
    open_waits: BTreeSet<u64>,
    troubles: BTreeMap<String, u32>,
    next_event: u64,
    /// Substituters with an event that their realisations are refused.
    refused: BTreeSet<String>,
    /// The derivations that the machine was told of, in order, and the number of recorded ones.
    told: Vec<StorePath>,
    told_paths: BTreeSet<StorePath>,
    told_sources: BTreeSet<StorePath>,
    recorded: usize,
    last_recording: Option<BatchId>,
    /// The `.drv` files that are being recorded.
    recording: Vec<StorePath>,
    resolved_to: BTreeSet<StorePath>,
    tally: Tally,
    report: Option<Report>,
    vanishing: vanished::Vanishing,
}

impl World {
    pub fn new(plan: Plan, random: Random, verbose: bool) -> Self {
        let machine = Machine::new(
            plan.dir.clone(),
            plan.builders.clone(),
            plan.options.clone(),
        );
        let names = (0..plan.substituters.len()).map(|index| format!("substituter-{index}"));
        let machine = machine.with_substituters(names.collect());
        let made = plan.derivations.iter().enumerate();
        let by_path = made
            .map(|(index, made)| (made.path.clone(), index))
            .collect();
        let threads = plan.threads.iter().map(|_| Thread::default()).collect();
        if verbose {
            println!("{:#?}", plan.options);
            for (index, made) in plan.derivations.iter().enumerate() {
                let (path, inputs) = (&made.path, &plan.inputs[index]);
                println!("{index}: {path} {:?} {inputs:?}", plan.fates[index]);
            }
        }
        Self {
            machine,
            now: Duration::ZERO,
            by_path,
            valid: plan.present.clone(),
            realisations: BTreeMap::new(),
            pending: Vec::new(),
            threads,
            evaluation_over: false,
            stopped: false,
            cancelled: false,
            evaluation_failed: false,
            stop_decided: false,
            mended_twin: false,
            needed: BTreeSet::new(),
            requested: BTreeSet::new(),
            roots: Vec::new(),
            open_imports: BTreeMap::new(),
            imports: 0,
            building: BTreeMap::new(),
            built: BTreeSet::new(),
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            ready: BTreeSet::new(),
            checking: checks::Checking::default(),
            substituting: substituters::Substituting::default(),
            streamed: BTreeMap::new(),
            cancelled_builds: BTreeSet::new(),
            lying: BTreeSet::new(),
            open_builds: BTreeSet::new(),
            open_waits: BTreeSet::new(),
            troubles: BTreeMap::new(),
            next_event: 0,
            refused: BTreeSet::new(),
            told: Vec::new(),
            told_paths: BTreeSet::new(),
            told_sources: BTreeSet::new(),
            recorded: 0,
            last_recording: None,
            recording: Vec::new(),
            resolved_to: BTreeSet::new(),
            tally: Tally::default(),
            report: None,
            vanishing: vanished::Vanishing::default(),
            plan,
            random,
            verbose,
            log: None,
        }
    }

    pub fn keep_log(&mut self) {
        self.log = Some(Vec::new());
    }

    pub fn run_logged(mut self) -> Vec<String> {
        self.go();
        self.log.unwrap()
    }

    pub fn run(mut self) -> Tally {
        self.go();
        self.tally
    }

    fn go(&mut self) {
        for step in 0.. {
            assert!(step < MOST_STEPS, "does not finish");
            while let Some(action) = self.machine.poll_action() {
                if self.verbose {
                    println!("  -> {action:?}");
                }
                if let Some(log) = &mut self.log {
                    log.push(format!("{action:?}"));
                }
                assert!(self.report.is_none(), "{action:?} after the end");
                self.perform(action);
            }
            if self.report.is_some() {
                break;
            }
            if self.plan.cancel_after == Some(step) {
                self.cancelled = true;
                self.tell(Input::Cancel);
            } else {
                self.something_happens();
            }
        }
        assert!(self.machine.is_finished());
        self.check_end();
    }

    fn tell(&mut self, input: Input) {
        if self.verbose {
            println!("{:?} {input:?}", self.now);
        }
        self.machine.handle(self.now, input);
    }

    fn something_happens(&mut self) {
        self.now += Duration::from_millis(self.random.below(20) as u64);
        let mut threads: Vec<usize> = Vec::new();
        let evaluating = !self.stopped && !self.evaluation_over;
        if evaluating && self.machine.wants_evaluation() {
            threads.extend((0..self.threads.len()).filter(|thread| {
                !self.threads[*thread].done && self.threads[*thread].waiting.is_none()
            }));
        }
        let can_end = evaluating && self.threads.iter().all(|thread| thread.done);
        let choices = threads.len() + self.pending.len() + usize::from(can_end);
        let timeout = self.machine.poll_timeout();
        if choices == 0 || (timeout.is_some() && self.random.percent(5)) {
            let Some(at) = timeout else {
                panic!("nothing is under way, and it is not over")
            };
            self.now = self.now.max(at);
            return self.tell(Input::TimePassed);
        }
        let choice = self.random.below(choices);
        if choice < threads.len() {
            self.evaluate(threads[choice]);
        } else if choice < threads.len() + self.pending.len() {
            let pending = self.pending.swap_remove(choice - threads.len());
            self.answer(pending);
        } else {
            self.evaluation_over = true;
            self.tell(Input::EvaluationEnded);
        }
    }

    fn need_all(&mut self, wanted: &[WantedOutputs]) {
        for wanted in wanted {
            self.need(self.by_path[&wanted.drv_path]);
        }
    }

    /// It turns out whether an import that was requested ahead is needed.
    fn settle_import(&mut self, import: ImportId) {
        let Some(wanted) = self.open_imports.get(&import).cloned() else {
            return;
        };
        if self.random.percent(60) {
            self.need_all(&wanted);
            self.tell(Input::ImportNeeded { import });
        } else {
            self.tell(Input::ImportDropped { import });
        }
    }

    fn outputs(names: &[String]) -> Vec<OutputName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn evaluate(&mut self, thread: usize) {
        let position = self.threads[thread].position;
        self.threads[thread].position += 1;
        let Some(step) = self.plan.threads[thread].get(position).cloned() else {
            self.threads[thread].done = true;
            return;
        };
        match step {
            Step::Derivation(index) => {
                let made = &self.plan.derivations[index];
                let (path, derivation) = (made.path.clone(), made.derivation.clone());
                if self.told_paths.insert(path.clone()) {
                    self.told.push(path.clone());
                }
                let modulo = self.plan.modulos.get(&path).copied();
                self.tell(Input::Derivation {
                    path,
                    derivation,
                    modulo,
                });
            }
            Step::Source(source) => {
                let references = self.plan.source_references[source].iter();
                let references = references.map(|other| self.plan.sources[*other].clone());
                let references = references.collect();
                let path = self.plan.sources[source].clone();
                self.told_sources.insert(path.clone());
                self.tell(Input::Source { path, references });
            }
            Step::Import(wanted) => {
                self.imports += 1;
                let import = ImportId(self.imports);
                self.threads[thread].waiting = Some(import);
                let wanted: Vec<WantedOutputs> = wanted
                    .iter()
                    .map(|(index, outputs)| {
                        WantedOutputs::new(
                            self.plan.derivations[*index].path.clone(),
                            Self::outputs(outputs),
                        )
                    })
                    .collect();
                let ahead = self.random.percent(30);
                if ahead {
                    for wanted in &wanted {
                        let index = self.by_path[&wanted.drv_path];
                        self.requested.extend(self.plan.closure(index));
                    }
                    self.pending.push(Pending::Ahead(import));
                } else {
                    self.need_all(&wanted);
                }
                self.open_imports.insert(import, wanted.clone());
                self.tell(Input::Import {
                    import,
                    wanted,
                    ahead,
                });
            }
            Step::Root(index, outputs) => {
                self.need(index);
                let drv_path = self.plan.derivations[index].path.clone();
                let wanted = WantedOutputs::new(drv_path, Self::outputs(&outputs));
                let root = Root::new(format!("attr{thread}"), wanted);
                self.roots.push(root.clone());
                self.tell(Input::Root(root));
            }
            Step::Fail => self.thread_fails(thread),
        }
    }

    fn thread_fails(&mut self, thread: usize) {
        self.threads[thread].done = true;
        self.evaluation_failed = true;
        let error = EvalError::expression("evaluation failed").failure();
        self.tell(Input::EvaluationFailed { error });
    }

    fn need(&mut self, index: usize) {
        self.needed.extend(self.plan.closure(index));
        self.requested.extend(self.plan.closure(index));
    }

    /// Whether the store or a builder fails this time.
    fn trouble(&mut self, key: String, percent: u64) -> Option<ComponentError> {
        if self.plan.fatal_store_trouble && self.random.percent(2) {
            return Some(ComponentError::new(
                ComponentErrorKind::Store(StoreErrorKind::Failed),
                "disk on fire",
            ));
        }
        let count = self.troubles.entry(key).or_default();
        if *count >= MOST_TROUBLES || !self.random.percent(percent) {
            return None;
        }
        *count += 1;
        let kind = ComponentErrorKind::Store(StoreErrorKind::Failed);
        Some(ComponentError::new(kind, "try again").retryable(true))
    }

    fn answer(&mut self, pending: Pending) {
        let percent = self.plan.store_trouble;
        match pending {
            Pending::Paths(batch, paths) => {
                let answer = || paths.iter().map(|path| self.valid.contains(path)).collect();
                let answer: Vec<bool> = answer();
                let key = format!("paths {:?}", paths.first());
                let again = answer.clone();
                let result = self.trouble(key, percent).map_or(Ok(answer), Err);
                self.tell(Input::PathsQueried { batch, result });
                if self.duplicate() {
                    self.tell(Input::PathsQueried {
                        batch,
                        result: Ok(again),
                    });
                }
            }
            Pending::Realisations(batch, outputs) => {
                let answer = outputs.iter().map(|output| {
                    output
                        .ids()
                        .find_map(|id| self.realisations.get(&id).cloned())
                });
                let answer = answer.collect();
                let key = format!("realisations {:?}", outputs.first());
                let result = self.trouble(key, percent).map_or(Ok(answer), Err);
                self.tell(Input::RealisationsQueried { batch, result });
            }
            Pending::Source(path) => {
                let result = self
                    .trouble(format!("source {path}"), percent)
                    .map_or(Ok(()), Err);
                if result.is_ok() {
                    self.valid.insert(path.clone());
                }
                self.tell(Input::SourceAdded { path, result });
            }
            Pending::Record(batch) => {
                let result = self
                    .trouble(format!("record {batch:?}"), percent)
                    .map_or(Ok(()), Err);
                if result.is_ok() {
                    self.valid.extend(self.recording.drain(..));
                }
                self.tell(Input::Recorded { batch, result });
            }
            Pending::Build(start) => self.end_build(start),
            Pending::Held(start) => self.wait_for_lock(start),
            Pending::Released(start) => self.lock_released(start),
            Pending::Push(build) => self.end_push(build),
            Pending::Inputs(build, paths) => self.answer_inputs(build, paths),
            Pending::Probe(probe, substituter, paths) => {
                self.answer_probe(probe, substituter, paths);
            }
            Pending::Find(probe, place, outputs) => self.answer_find(probe, place, outputs),
            Pending::Fetch(id, substituter, path) => self.answer_fetch(id, substituter, path),
            Pending::Ahead(import) => self.settle_import(import),
            Pending::Question(question, drv_path) => {
                self.tally.questions += 1;
                let decision = match self.random.below(5) {
                    0 => Decision::Stop,
                    1 => Decision::Retry,
                    2 if !self.stopped => {
                        // Simulates a repair.
                        let class = self.plan.classes[self.by_path[&drv_path]];
                        self.plan.fates[class] = Fate::Builds;
                        // Its twin may have failed permanently before.
                        self.mended_twin |=
                            self.plan.classes.iter().filter(|it| **it == class).count() > 1;
                        Decision::Retry
                    }
                    _ => Decision::Continue,
                };
                self.stop_decided |= decision == Decision::Stop;
                self.tell(Input::FailureDecided { question, decision });
            }
        }
    }

    fn duplicate(&mut self) -> bool {
        self.plan.duplicate_answers && self.random.percent(20)
    }

    /// A source is added after those that it refers to.
    fn expect_references(&mut self, path: &StorePath) {
        let mut sources = self.plan.sources.iter();
        let Some(source) = sources.position(|source| source == path) else {
            return;
        };
        for other in &self.plan.source_references[source] {
            let other = &self.plan.sources[*other];
            self.tally.source_references += 1;
            assert!(
                self.valid.contains(other)
                    || !self.told_sources.contains(other)
                    || self.plan.fatal_store_trouble,
                "{path} is added before {other}, which it refers to"
            );
        }
    }

    /// Sources that refer to nothing. Some turn out to be too large to be added together.
    fn add_small_sources(&mut self, paths: Vec<StorePath>) {
        let (mut added, mut large) = (Vec::new(), Vec::new());
        for path in paths {
            self.expect_references(&path);
            let source = self.plan.sources.iter().position(|source| *source == path);
            let references = source.map(|source| self.plan.source_references[source].len());
            assert!(references.unwrap_or(0) == 0, "{path} refers to others");
            match self.random.percent(20) {
                true => large.push(path),
                false => added.push(path),
            }
        }
        self.pending.extend(added.into_iter().map(Pending::Source));
        if !large.is_empty() {
            self.tell(Input::SourcesTooLarge { paths: large });
        }
    }

    fn make_valid(&mut self, _derivation: &Derivation, outputs: &[(OutputName, StorePath)]) {
        self.valid
            .extend(outputs.iter().map(|(_, path)| path.clone()));
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Emit(record) => {
                assert_eq!(record.seq, self.next_event, "events without gaps");
                self.next_event += 1;
                self.event(record.event);
            }
            Action::QueryPaths { batch, paths } => self.pending.push(Pending::Paths(batch, paths)),
            Action::QueryRealisations { batch, outputs } => {
                self.pending.push(Pending::Realisations(batch, outputs));
            }
            Action::AddSource { path } => {
                self.expect_references(&path);
                self.pending.push(Pending::Source(path));
            }
            Action::AddSmallSources { paths, .. } => self.add_small_sources(paths),
            Action::Record { batch, recording } => {
                self.record(batch, recording);
                self.pending.push(Pending::Record(batch));
            }
            Action::QuerySubstituter {
                probe,
                substituter,
                paths,
            } => self.probe(probe, substituter, paths),
            Action::FindRealisations {
                probe,
                substituter,
                outputs,
            } => self.find(probe, substituter, outputs),
            Action::Substitute {
                substitution,
                substituter,
                path,
            } => self.substitute(substitution, substituter, path),
            Action::StartBuild(start) => self.start(start),
            Action::QueryInputs { build, paths } => {
                assert!(!paths.is_empty());
                self.pending.push(Pending::Inputs(build, paths));
            }
            Action::Restart { first_event } => self.restart(first_event),
            Action::StartCheck { start, outputs } => self.start_check(start, &outputs),
            Action::ResumeBuild(build) => self.resume(build),
            Action::CancelBuild(build) => {
                let known = self.running.contains_key(&build) || self.waiting.contains_key(&build);
                assert!(known, "{build:?} does not run");
                self.cancelled_builds.insert(build);
                if self.ready.remove(&build) {
                    let start = self.waiting[&build].clone();
                    self.pending.push(Pending::Build(start));
                }
            }
            Action::PushOutputs(build) => {
                assert!(
                    self.streamed.contains_key(&build),
                    "{build:?} streamed nothing"
                );
                self.pending.push(Pending::Push(build));
            }
            Action::DropImport { import } => {
                self.tally.dropped_imports += 1;
                self.open_imports
                    .remove(&import)
                    .expect("an open import is dropped");
                for thread in &mut self.threads {
                    thread.waiting = thread.waiting.filter(|waiting| *waiting != import);
                }
            }
            Action::AnswerImport { import, answer } => {
                let is_ahead =
                    |pending: &Pending| matches!(pending, Pending::Ahead(it) if *it == import);
                assert!(
                    answer.is_ok() || self.stopped || !self.pending.iter().any(is_ahead),
                    "a failure is answered before the import is needed"
                );
                let wanted = self
                    .open_imports
                    .remove(&import)
                    .expect("an import answered twice");
                let thread = self
                    .threads
                    .iter()
                    .position(|it| it.waiting == Some(import))
                    .unwrap();
                self.threads[thread].waiting = None;
                match answer {
                    Ok(outputs) => {
                        self.tally.imports += 1;
                        let wanted: usize = wanted.iter().map(|wanted| wanted.outputs.len()).sum();
                        assert_eq!(outputs.len(), wanted, "an import gets all that it wants");
                        for output in outputs {
                            assert!(
                                self.is_valid_or_vanished(&output.path),
                                "{} is not valid",
                                output.path
                            );
                            self.expect_output(&output.drv_path, &output.output, &output.path);
                        }
                    }
                    Err(_) => {
                        self.tally.failed_imports += 1;
                        if !self.stopped {
                            self.thread_fails(thread);
                        }
                    }
                }
            }
            Action::AskAboutFailure { question, failure } => {
                assert_eq!(self.plan.options.on_failure, OnFailure::Ask);
                self.pending
                    .push(Pending::Question(question, failure.drv_path));
            }
            Action::StopEvaluation => self.stopped = true,
            Action::Finish(report) => self.report = Some((*report).clone()),
            other => panic!("what is {other:?}?"),
        }
    }

    fn event(&mut self, event: BuildEvent) {
        match event {
            BuildEvent::RealisationRefused { substituter, .. } => {
                let first = self.refused.insert(substituter.to_string());
                assert!(first, "{substituter}: refused twice");
            }
            BuildEvent::BuildStarted { build, .. } | BuildEvent::CheckStarted { build, .. } => {
                assert!(self.open_builds.insert(build));
            }
            BuildEvent::BuildWaiting { build, .. } => {
                self.tally.waits += 1;
                assert!(self.open_builds.contains(&build));
                assert!(self.open_waits.insert(build), "build {build} waits twice");
            }
            BuildEvent::BuildResumed { build, .. } => {
                self.tally.resumed += 1;
                assert!(self.open_builds.contains(&build));
                assert!(self.open_waits.remove(&build), "build {build} did not wait");
            }
            BuildEvent::CheckFailed {
                drv_path,
                problem: CheckProblem::NotValid { outputs },
                build: None,
            } => self.expect_not_valid(&drv_path, &outputs),
            BuildEvent::BuildSucceeded { build, .. }
            | BuildEvent::CheckSucceeded { build, .. }
            | BuildEvent::CheckFailed {
                build: Some(build), ..
            }
            | BuildEvent::BuildCancelled { build, .. }
            | BuildEvent::BuildFailed { build, .. } => {
                assert!(self.open_builds.remove(&build), "build {build} ends once");
            }
            BuildEvent::BuildRetried { build, .. } => {
                self.tally.retries += 1;
                assert!(self.open_builds.remove(&build), "build {build} ends once");
            }
            BuildEvent::BuilderPaused { pause, .. } => {
                self.tally.pauses += 1;
                assert!(pause > Duration::ZERO && self.plan.builders.len() > 1);
            }
            BuildEvent::Skipped { .. } => self.tally.skips += 1,
            BuildEvent::Found { .. } => self.tally.found += 1,
            BuildEvent::Resolved { resolved, .. } => {
                self.tally.resolved += 1;
                if !self.resolved_to.insert(resolved) {
                    self.tally.cut_off += 1;
                }
            }
            _ => {}
        }
    }
}

impl World {
    fn record(&mut self, batch: BatchId, recording: Recording) {
        let again = self.last_recording.replace(batch) == Some(batch);
        match recording {
            Recording::Derivations(derivations) => {
                self.recording.clear();
                for (path, derivation) in derivations {
                    let files = self.plan.reads[self.by_path[&path]].iter();
                    for file in files.map(|read| &self.plan.derivations[*read].path) {
                        assert!(
                            self.valid.contains(file) || self.recording.contains(file),
                            "'{path}' is recorded before '{file}', which it reads"
                        );
                    }
                    self.recording.push(path.clone());
                    for source in derivation.input_srcs.iter() {
                        let on_its_way =
                            |it: &Pending| matches!(it, Pending::Source(path) if path == source);
                        let on_its_way = self.pending.iter().any(on_its_way);
                        assert!(
                            !on_its_way,
                            "'{path}' is recorded before '{source}' is added"
                        );
                    }
                    if !again {
                        let next = self.told.get(self.recorded);
                        assert_eq!(Some(&path), next, "recorded in the order of evaluation");
                        self.recorded += 1;
                    }
                }
            }
            Recording::Realisations(realisations) => {
                for realisation in realisations {
                    let path = realisation.out_path;
                    assert!(self.is_valid_or_vanished(&path), "{path} is not valid");
                    if self.plan.is_offered(&path) {
                        let offered = self.plan.offered(&realisation.id);
                        assert_eq!(offered, Some(&path), "{}", realisation.id);
                    }
                    self.realisations.insert(realisation.id, path);
                }
            }
            _ => {}
        }
    }
}
