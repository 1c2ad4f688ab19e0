//! Builds: started, ended, pushed, tried again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nix_compat::derivation::{Derivation, OutputName};
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::StorePath;
use tvix_build_api::{BuildFailure, CheckOutcome, ResourceUsage};

use super::graph::{NodeId, State};
use super::pool::{Needs, Paused};
use super::vanished::Failed;
use super::{Action, BuildId, BuildResult, CheckResult, ComponentError, Machine, StartBuild, Work};
use crate::component_error::{ComponentErrorKind, StoreErrorKind};
use crate::event::{BuildEvent, LogText};
use crate::report::FailureCause;

/// A build under way.
#[derive(Debug)]
pub(super) struct Build {
    pub(super) node: NodeId,
    builder: usize,
    started: Duration,
    cancelled: bool,
    /// Whether its outputs are compared with those that are valid.
    check: bool,
    /// Whether it waits for another process or, after that, for a slot. It has none then.
    waiting: bool,
    /// The outputs, once the builder is done and while they are pushed.
    pushing: Option<Vec<(OutputName, StorePath)>>,
    usage: Option<ResourceUsage>,
    /// The size of all outputs in bytes, if it is known.
    size: Option<u64>,
    /// Its result, while the store is asked for its inputs.
    pub(super) failed: Option<Failed>,
}

impl Build {
    pub(super) const fn is_check(&self) -> bool {
        self.check
    }

    pub(super) const fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    pub(super) fn is_pushing(&self) -> bool {
        self.pushing.is_some()
    }
}

impl Machine {
    pub(super) fn start_build(&mut self, id: NodeId, builder: usize) {
        let Some(derivation) = self.graph[id].derivation().cloned() else {
            self.scheduler.pool.release(builder);
            let message = "it became ready without its derivation (a bug)".to_owned();
            return self.fail(id, FailureCause::Invalid { message });
        };
        let build = self.new_build(id, builder, false);
        self.graph[id].state = State::Building;
        let drv_path = self.known_path(id).clone();
        let inputs = self.inputs_used(id, &derivation);
        self.note_inputs(id, builder, &derivation);
        let name = self.scheduler.pool.name(builder);
        self.emit(BuildEvent::BuildStarted {
            build: build.0,
            drv_path: drv_path.clone(),
            builder: name,
        });
        let start = Action::StartBuild(StartBuild {
            build,
            builder,
            drv_path,
            derivation,
            inputs,
        });
        self.actions.push_back(start);
    }

    /// Takes note that a builder will have the inputs of a build.
    fn note_inputs(&mut self, id: NodeId, builder: usize, derivation: &Arc<Derivation>) {
        if !self.scheduler.pool.cares_for_places() {
            return;
        }
        let sources = derivation.input_srcs.iter();
        let needs = Needs {
            outputs: self
                .graph
                .inputs(id)
                .iter()
                .map(|edge| edge.input)
                .collect(),
            sources: sources.map(|path| self.sources.intern(path)).collect(),
            estimate: 0,
        };
        self.scheduler.pool.sent(builder, &needs);
    }

    /// Takes note of a build that starts now.
    pub(super) fn new_build(&mut self, node: NodeId, builder: usize, check: bool) -> BuildId {
        self.last_build += 1;
        let build = BuildId(self.last_build);
        let running = Build {
            node,
            builder,
            started: self.now,
            cancelled: false,
            check,
            waiting: false,
            pushing: None,
            usage: None,
            size: None,
            failed: None,
        };
        self.builds.insert(build, running);
        build
    }

    /// The outputs and sources that a build that was started uses directly.
    pub(super) fn inputs_of_build(&self, build: BuildId) -> Vec<StorePath> {
        let used = self.builds.get(&build).and_then(|build| {
            let derivation = self.derivation_of(build)?;
            Some(self.inputs_used(build.node, derivation))
        });
        used.unwrap_or_default()
    }

    /// The derivation that a build builds.
    fn derivation_of(&self, build: &Build) -> Option<&Arc<Derivation>> {
        match build.check {
            true => self.checks.derivation(build.node),
            false => self.graph[build.node].derivation(),
        }
    }

    pub(super) fn inputs_used(&self, id: NodeId, derivation: &Derivation) -> Vec<StorePath> {
        let mut inputs: Vec<StorePath> = derivation.input_srcs.iter().cloned().collect();
        // By name unless there is only one: masks are coarse for many outputs, and a build must not
        // see outputs that it does not use.
        for (edge, (_, used)) in self
            .graph
            .inputs(id)
            .iter()
            .zip(derivation.input_drvs.iter())
        {
            match self.graph.only_out(edge.input) {
                Some(path) if edge.outputs == 1 => inputs.push(path.clone()),
                _ => {
                    let outputs = self.graph.outputs(edge.input, &self.dir);
                    let outputs = outputs.filter(|(name, _)| used.contains(*name));
                    inputs.extend(outputs.filter_map(|(_, path)| path));
                }
            }
        }
        // A source may be an output as well.
        inputs.sort_unstable();
        inputs.dedup();
        inputs
    }

    pub(super) fn build_waiting(&mut self, id: BuildId, lock: String) {
        let Some(build) = self.builds.get_mut(&id) else {
            return;
        };
        if build.is_pushing() || std::mem::replace(&mut build.waiting, true) {
            return;
        }
        let (node, builder) = (build.node, build.builder);
        self.scheduler.pool.release(builder);
        self.emit(BuildEvent::BuildWaiting {
            build: id.0,
            drv_path: self.known_path(node).clone(),
            lock,
        });
    }

    pub(super) fn build_ready(&mut self, id: BuildId) {
        match self.builds.get(&id) {
            Some(build) if build.waiting && (build.cancelled || self.resumable.contains(&id)) => {}
            Some(build) if build.waiting => self.resumable.push_back(id),
            // It has a slot.
            Some(_) => self.actions.push_back(Action::ResumeBuild(id)),
            None => {}
        }
    }

    /// Gives free slots to builds that have waited for another process, in the order in which they
    /// waited: other builds may wait for the locks that they hold.
    pub(super) fn resume_build(&mut self) -> bool {
        for index in 0..self.resumable.len() {
            let id = self.resumable[index];
            let Some(build) = self.builds.get_mut(&id) else {
                continue;
            };
            if build.failed.is_some() || !self.scheduler.pool.occupy(build.builder) {
                continue;
            }
            build.waiting = false;
            build.started = self.now;
            let node = build.node;
            self.resumable.remove(index);
            self.emit(BuildEvent::BuildResumed {
                build: id.0,
                drv_path: self.known_path(node).clone(),
            });
            self.actions.push_back(Action::ResumeBuild(id));
            return true;
        }
        false
    }

    pub(super) fn log_line(&mut self, build: BuildId, text: Bytes, partial: bool) {
        let (build, text) = (build.0, LogText::from(text));
        self.emit(BuildEvent::LogLine {
            build,
            text,
            partial,
        });
    }

    pub(super) fn build_ended(
        &mut self,
        id: BuildId,
        result: BuildResult,
        usage: Option<ResourceUsage>,
        size: Option<u64>,
    ) {
        let Some(build) = self.builds.get_mut(&id) else {
            return;
        };
        if build.is_pushing() || build.check || build.failed.is_some() {
            return;
        }
        (build.usage, build.size) = (usage, size);
        let result = match result {
            BuildResult::Failed(failure) => return self.failed(id, failure.into()),
            BuildResult::ComponentError(trouble) => {
                return self.failed(id, Failed::Builder(trouble));
            }
            succeeded => succeeded,
        };
        let cancelled = self.give_up_slot(id);
        match result {
            BuildResult::Pushed(outputs) => match self.checked_outputs(id, outputs) {
                Ok(outputs) => self.build_succeeded(id, outputs, true),
                Err(message) => self.build_fell_short(id, message),
            },
            BuildResult::Streamed(outputs) => match self.checked_outputs(id, outputs) {
                // Nobody needs them any more.
                Ok(_) if cancelled => self.build_cancelled(id),
                Ok(outputs) => {
                    if let Some(build) = self.builds.get_mut(&id) {
                        build.pushing = Some(outputs);
                    }
                    self.emit(BuildEvent::PushStarted { build: id.0 });
                    self.actions.push_back(Action::PushOutputs(id));
                }
                Err(message) => self.build_fell_short(id, message),
            },
            BuildResult::Failed(_) | BuildResult::ComponentError(_) => {}
        }
    }

    /// The result of a check, see [`super::checks`].
    pub(super) fn check_ended(&mut self, id: BuildId, result: CheckResult) {
        let build = self.builds.get(&id);
        if build.is_none_or(|build| !build.check || build.failed.is_some()) {
            return;
        }
        let outcome = match result {
            CheckResult::ComponentError(trouble) => {
                return self.failed(id, Failed::Builder(trouble));
            }
            CheckResult::Ended(CheckOutcome::Failed(failure)) => {
                return self.failed(id, failure.into());
            }
            CheckResult::Ended(outcome) => Ok(outcome),
            CheckResult::Impossible { error } => Err(FailureCause::Store { error }),
        };
        match self.give_up_slot(id) {
            true => self.build_cancelled(id),
            false => self.end_check(id, outcome),
        }
    }

    pub(super) fn end_check(&mut self, id: BuildId, outcome: Result<CheckOutcome, FailureCause>) {
        if let Some(build) = self.builds.remove(&id) {
            self.scheduler.forget_attempts(build.node);
            let duration = self.now.saturating_sub(build.started);
            self.check_result(build.node, id, duration, outcome);
        }
    }

    /// Frees the slot of a build that ended. Returns whether the build was cancelled.
    pub(super) fn give_up_slot(&mut self, id: BuildId) -> bool {
        let Some(build) = self.builds.get_mut(&id) else {
            return false;
        };
        if build.cancelled {
            self.scheduler.pool.abandoned(build.builder);
        }
        match std::mem::replace(&mut build.waiting, false) {
            // Another process has built it.
            true => build.started = self.now,
            false => self.scheduler.pool.release(build.builder),
        }
        self.resumable.retain(|it| *it != id);
        build.cancelled
    }

    /// Checks that a builder that reports success has delivered every output under its path.
    fn checked_outputs(
        &self,
        id: BuildId,
        mut outputs: Vec<(OutputName, StorePath)>,
    ) -> Result<Vec<(OutputName, StorePath)>, String> {
        let node = self.builds[&id].node;
        // As it mostly is.
        if let (Some(path), [(name, at)]) = (self.graph.only_out(node), &outputs[..])
            && name.as_str() == "out"
            && path == at
        {
            return Ok(outputs);
        }
        outputs.sort();
        let mut given = outputs.iter();
        for (name, path) in self.graph.outputs(node, &self.dir) {
            match given.next() {
                Some((given, at)) if given == name => {
                    if path.as_ref().is_some_and(|path| path != at) {
                        return Err(format!("the builder delivered output '{name}' as '{at}'"));
                    }
                }
                _ => return Err(format!("the builder did not deliver output '{name}'")),
            }
        }
        match given.next() {
            None => Ok(outputs),
            Some((name, _)) => Err(format!("the builder delivered an unknown output '{name}'")),
        }
    }

    fn build_fell_short(&mut self, id: BuildId, message: String) {
        self.try_again(id, ComponentError::builder(message));
    }

    pub(super) fn outputs_pushed(&mut self, id: BuildId, result: Result<(), ComponentError>) {
        let Some(build) = self.builds.get_mut(&id) else {
            return;
        };
        let Some(outputs) = build.pushing.take() else {
            return;
        };
        match result {
            Ok(()) => self.build_succeeded(id, outputs, false),
            // The stream is used up: only another build brings the outputs back. One of another builder,
            // if the contents are not those that this one said.
            Err(trouble) if self.stop.is_none() && (trouble.retryable || is_corrupt(&trouble)) => {
                self.try_again(id, trouble);
            }
            Err(trouble) => {
                let Some(build) = self.builds.remove(&id) else {
                    return;
                };
                if self.stop.is_none() {
                    let cause = Self::blamed(trouble);
                    self.fail(build.node, cause);
                }
            }
        }
    }

    fn build_succeeded(
        &mut self,
        id: BuildId,
        outputs: Vec<(OutputName, StorePath)>,
        pushed: bool,
    ) {
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        self.counts.built += 1;
        self.scheduler.forget_attempts(build.node);
        self.scheduler.pool.succeeded(build.builder);
        if self.scheduler.pool.cares_for_places() {
            let pool = &mut self.scheduler.pool;
            pool.made(build.builder, build.node, build.size);
        }
        if self.graph[build.node].floating {
            self.record_realisations(build.node, &outputs);
        }
        if self.graph.only_out(build.node).is_some() {
            self.graph.shrink(build.node, &self.dir);
        } else {
            let outputs = outputs.iter().cloned();
            let outputs = outputs.map(|(name, path)| (name, Some(path)));
            self.graph.set_outputs(build.node, outputs);
        }
        self.emit(BuildEvent::BuildSucceeded {
            build: id.0,
            drv_path: self.known_path(build.node).clone(),
            // They were sorted and compared with what there should be.
            outputs: SortedMap::from_sorted(outputs),
            duration: self.now.saturating_sub(build.started),
            usage: build.usage,
            pushed,
        });
        let node = &mut self.graph[build.node];
        node.state = State::Present;
        let all = node.all_outputs();
        self.now_valid(build.node, all);
        self.built_outputs_valid(build.node);
    }

    pub(super) fn build_failed(&mut self, id: BuildId, failure: BuildFailure) {
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        self.emit(BuildEvent::BuildFailed {
            build: id.0,
            drv_path: self.known_path(build.node).clone(),
            failure: failure.clone(),
        });
        self.fail(build.node, FailureCause::Build { failure });
    }

    /// Fails a build after its inputs vanished. A retry is of no use: the inputs have to be made first.
    pub(super) fn inputs_gone(&mut self, id: BuildId, message: String) {
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        self.emit(BuildEvent::BuildCancelled {
            build: id.0,
            drv_path: self.known_path(build.node).clone(),
        });
        self.fail(build.node, FailureCause::InputsGone { message });
    }

    pub(super) fn build_cancelled(&mut self, id: BuildId) {
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        self.counts.cancelled += 1;
        let drv_path = self.known_path(build.node).clone();
        self.emit(BuildEvent::BuildCancelled {
            build: id.0,
            drv_path,
        });
        if self.stop.is_some() {
            return;
        }
        // It was cancelled as unneeded; something may need it after all by now.
        self.graph[build.node].state = State::Unneeded;
        if self.graph[build.node].needed {
            self.work.push(Work::Build(build.node));
        }
    }

    /// Whether the store or the builder is to blame. A store that refuses contents because they are
    /// not what the builder says is right.
    fn blamed(error: ComponentError) -> FailureCause {
        match error.kind {
            ComponentErrorKind::Store(StoreErrorKind::Corrupt) => FailureCause::Builder { error },
            ComponentErrorKind::Store(_) => FailureCause::Store { error },
            _ => FailureCause::Builder { error },
        }
    }

    /// Retries a build after a failure of the builder or the store.
    pub(super) fn try_again(&mut self, id: BuildId, trouble: ComponentError) {
        let Some(build) = self.builds.remove(&id) else {
            return;
        };
        if self.stop.is_some() {
            return;
        }
        let paused = self
            .scheduler
            .pool
            .failed(build.builder, &trouble, self.now);
        let derivation = self.derivation_of(&build).cloned();
        let attempts = self.scheduler.attempts_mut(build.node);
        attempts.builders |= 1 << build.builder;
        if !trouble.retryable {
            attempts.unsuitable |= 1 << build.builder;
        }
        let tried = attempts.builders;
        let suitable = derivation.map_or(0, |it| {
            let system = self.graph[build.node].system;
            self.scheduler.suitable(build.node, system, &it)
        });
        // A failure of one builder does not count if it does not build this any more, if another one has
        // not tried yet, or if it is left alone and another one is not. One of the store does.
        let others = !is_of_any_builder(&trouble)
            && (suitable & !tried != 0
                || (paused.is_some() && self.scheduler.pool.any_fit(suitable)));
        let counts = !others && (trouble.retryable || suitable == 0);
        let attempts = self.scheduler.attempts_mut(build.node);
        attempts.count += u32::from(counts);
        let count = attempts.count;
        if let Some(paused) = &paused {
            self.emit(BuildEvent::BuilderPaused {
                builder: self.scheduler.pool.name(build.builder),
                error: trouble.clone(),
                pause: paused.pause,
            });
        }
        if suitable == 0 || count >= self.options.retry.attempts {
            let cause = Self::blamed(trouble);
            match build.check {
                true => self.check_result(build.node, id, Duration::ZERO, Err(cause)),
                false => self.fail(build.node, cause),
            }
            return self.give_up(paused);
        }
        let delay = match trouble.retryable && !others {
            true => self.options.retry.delay(count),
            false => Duration::ZERO,
        };
        self.emit(BuildEvent::BuildRetried {
            build: id.0,
            drv_path: self.known_path(build.node).clone(),
            error: trouble,
            delay,
        });
        self.scheduler.delay(build.node, self.now + delay);
        self.give_up(paused);
    }

    /// Fails derivations that only builders could build that are not to be waited for.
    fn give_up(&mut self, paused: Option<Paused>) {
        if !paused.is_some_and(|paused| paused.given_up) {
            return;
        }
        for (id, error) in self.scheduler.given_up(&self.graph, self.now) {
            if self.stop.is_none() && self.graph[id].state == State::Ready {
                self.fail(id, FailureCause::Builder { error });
            }
        }
    }

    /// Ends builds soon.
    pub(super) fn cancel_builds(&mut self, mut which: impl FnMut(&Self, NodeId) -> bool) {
        let mut ids: Vec<BuildId> = self.builds.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let build = &self.builds[&id];
            if build.cancelled || build.is_pushing() || !which(self, build.node) {
                continue;
            }
            let ended = build.failed.is_some();
            if let Some(build) = self.builds.get_mut(&id) {
                build.cancelled = true;
            }
            // It needs no slot to end.
            self.resumable.retain(|it| *it != id);
            if !ended {
                self.actions.push_back(Action::CancelBuild(id));
            }
        }
    }
}

/// Whether contents are not those that were announced.
fn is_corrupt(error: &ComponentError) -> bool {
    matches!(
        error.kind,
        ComponentErrorKind::Store(StoreErrorKind::Corrupt)
    )
}

/// Whether an error would come from any builder: that of the store that they read from or push to.
fn is_of_any_builder(error: &ComponentError) -> bool {
    error.is_of_store() && !is_corrupt(error)
}
