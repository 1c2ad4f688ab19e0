//! Simulated builders: requests are checked, results are random.

use std::collections::BTreeSet;
use std::time::Duration;

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::derivation::{Output, OutputName};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::{StorePath, fixed_output_path, output_path_name};
use tvix_build_api::{BuildFailure, BuilderErrorKind, FailureKind};
use tvix_coordinator::machine::{BuildId, BuildResult, ComponentError, Input, StartBuild};
use tvix_coordinator::{BuildPolicy, ComponentErrorKind, StoreErrorKind};

use super::{Pending, World};
use crate::plan::{BuilderFault, Fate};

impl World {
    /// The output paths of a build. Floating ones depend only on name and contents.
    pub(super) fn made(&self, start: &StartBuild) -> Vec<(OutputName, StorePath)> {
        let index = self.by_path[&start.drv_path];
        let derivation = &start.derivation;
        let made = derivation.output_paths(&self.plan.dir).map(|(name, path)| {
            let path = path.unwrap_or_else(|| {
                let contents = self.plan.contents[self.plan.classes[index]];
                let text = format!("{} {name} {contents}", derivation.name);
                let hash = NixHash::digest(HashAlgo::Sha256, text);
                let address = ContentAddress {
                    method: ContentAddressMethod::NixArchive,
                    hash,
                };
                let path_name = output_path_name(&derivation.name, name).unwrap();
                fixed_output_path(&self.plan.dir, path_name, &address).unwrap()
            });
            (name.clone(), path)
        });
        made.collect()
    }

    pub(super) fn end_build(&mut self, start: StartBuild) {
        let build = start.build;
        if self.is_check(build) {
            return self.end_check(start);
        }
        let cancelled = self.cancelled_builds.contains(&build);
        let fault = self.plan.fault(start.builder, self.now);
        if fault == Some(BuilderFault::Hangs) && !cancelled {
            self.tally.hung += 1;
            self.now += Duration::from_millis(300);
            return self.pending.push(Pending::Build(start));
        }
        let index = self.by_path[&start.drv_path];
        let resolved = start.derivation.path(&self.plan.dir).unwrap();
        self.vanishing.started = Some(start.clone());
        self.running.remove(&build);
        self.waiting.remove(&build);
        self.building.remove(&resolved);
        let duration = self.now;
        let failure = |kind| {
            let failure = BuildFailure::new(kind, duration).with_log_tail(vec!["oh no".to_owned()]);
            BuildResult::Failed(failure)
        };
        if self.random.percent(30) {
            self.tell(Input::LogLine {
                build,
                text: b"a line"[..].into(),
                partial: false,
            });
        }
        let class = self.plan.classes[index];
        let fate = self.plan.fates[class];
        let result = if cancelled && self.random.percent(80) {
            failure(FailureKind::Cancelled)
        } else if fault == Some(BuilderFault::Dies) {
            self.tally.unreachable += 1;
            let kind = ComponentErrorKind::Builder(BuilderErrorKind::Unreachable);
            BuildResult::ComponentError(ComponentError::new(kind, "no route").retryable(true))
        } else if fault == Some(BuilderFault::Lies) && fate != Fate::Fails {
            self.lie(start)
        } else {
            match fate {
                Fate::Fails => failure(FailureKind::ExitCode { code: 1 }),
                Fate::Troubled(count)
                    if self
                        .troubles
                        .get(&format!("class {class}"))
                        .copied()
                        .unwrap_or(0)
                        < count =>
                {
                    *self.troubles.entry(format!("class {class}")).or_default() += 1;
                    let trouble = ComponentError::builder("builder fell over");
                    BuildResult::ComponentError(trouble.retryable(true))
                }
                _ => {
                    let outputs = self.made(&start);
                    if self.random.percent(50) {
                        self.make_valid(&start.derivation, &outputs);
                        self.built.insert(resolved);
                        BuildResult::Pushed(outputs)
                    } else {
                        self.streamed.insert(build, (start, outputs.clone()));
                        BuildResult::Streamed(outputs)
                    }
                }
            }
        };
        let result = self.maybe_vanishes(build, result);
        let again = result.clone();
        self.tell(Input::BuildEnded {
            build,
            result,
            usage: None,
            size: None,
        });
        if self.duplicate() {
            self.tell(Input::BuildEnded {
                build,
                result: again,
                usage: None,
                size: None,
            });
        }
    }

    /// A success that is none.
    fn lie(&mut self, start: StartBuild) -> BuildResult {
        self.tally.lies += 1;
        let mut outputs = self.made(&start);
        let derivation = start.derivation.clone();
        let known = derivation
            .output_paths(&self.plan.dir)
            .all(|(_, path)| path.is_some());
        match self.random.below(3) {
            0 => {
                self.lying.insert(start.build);
                self.streamed.insert(start.build, (start, outputs.clone()));
                return BuildResult::Streamed(outputs);
            }
            1 if known => outputs[0].1 = start.drv_path,
            _ => drop(outputs.pop()),
        }
        BuildResult::Pushed(outputs)
    }

    pub(super) fn end_push(&mut self, build: BuildId) {
        self.tally.pushes += 1;
        let (start, outputs) = self.streamed.remove(&build).unwrap();
        let class = self.plan.classes[self.by_path[&start.drv_path]];
        // A failed push counts as an attempt of the build: errors of both count together.
        let percent = self.plan.store_trouble;
        let result = match self.lying.remove(&build) {
            true => {
                let kind = ComponentErrorKind::Store(StoreErrorKind::Corrupt);
                Err(ComponentError::new(kind, "it is something else"))
            }
            false => self
                .trouble(format!("class {class}"), percent)
                .map_or(Ok(()), Err),
        };
        if result.is_ok() {
            self.make_valid(&start.derivation, &outputs);
            self.built
                .insert(start.derivation.path(&self.plan.dir).unwrap());
        }
        self.tell(Input::OutputsPushed { build, result });
        if self.duplicate() {
            self.tell(Input::OutputsPushed {
                build,
                result: Ok(()),
            });
        }
    }

    pub(super) fn start(&mut self, start: StartBuild) {
        self.tally.builds += 1;
        let index = *self
            .by_path
            .get(&start.drv_path)
            .expect("a known derivation");
        let resolved = start.derivation.path(&self.plan.dir).unwrap();
        let name = &start.derivation.name;
        assert!(
            !self.stopped && !self.cancelled,
            "{name}: a build after everything ended"
        );
        assert!(!self.built.contains(&resolved), "{name}: built twice");
        let twin = self.building.insert(resolved.clone(), start.build);
        assert!(twin.is_none(), "{name}: built twice at once");
        let outputs = &start.derivation.outputs;
        let floating = outputs
            .values()
            .any(|it| !matches!(it, Output::InputAddressed(_) | Output::Fixed(_)));
        assert!(
            !floating || start.derivation.input_drvs.is_empty(),
            "{name}: not resolved"
        );
        let known = start
            .derivation
            .output_paths(&self.plan.dir)
            .filter_map(|(_, path)| path);
        let known: Vec<StorePath> = known.collect();
        let all_there = !floating && known.iter().all(|path| self.valid.contains(path));
        assert!(!all_there, "{name}: built although it is in the store");
        self.expect_inputs(&start);
        self.expect_slot(start.builder);
        // With the policy "demand", only needed derivations are built.
        if self.plan.options.policy == BuildPolicy::Demand {
            assert!(self.requested.contains(&index), "{name}: nothing needs it");
        }
        self.run_build(start);
    }

    pub(super) fn run_build(&mut self, start: StartBuild) {
        self.running.insert(start.build, start.clone());
        self.pending
            .push(match self.random.percent(self.plan.locked) {
                true => Pending::Held(start),
                false => Pending::Build(start),
            });
    }

    /// Checks that everything that a build uses is valid and given to it.
    pub(super) fn expect_inputs(&self, start: &StartBuild) {
        let name = &start.derivation.name;
        let mut used: BTreeSet<StorePath> = start.derivation.input_srcs.iter().cloned().collect();
        for (input, outputs) in start.derivation.input_drvs.iter() {
            let input = &self.plan.derivations[self.by_path[input]].derivation;
            for output in outputs.iter() {
                used.insert(input.output_path(&self.plan.dir, output).unwrap());
            }
        }
        assert_eq!(
            used,
            start.inputs.iter().cloned().collect(),
            "{name}: its inputs"
        );
        for input in &used {
            assert!(
                self.is_valid_or_vanished(input),
                "{name}: built before its input {input} is valid"
            );
        }
    }

    /// Checks that one more build is within the limits.
    pub(super) fn expect_slot(&self, builder: usize) {
        let on_it = self.running.values().filter(|it| it.builder == builder);
        assert!(
            on_it.count() < self.plan.builders[builder].max_jobs,
            "a builder is overloaded"
        );
        let most = self.plan.options.max_jobs.unwrap_or(usize::MAX);
        assert!(self.running.len() < most, "more builds than allowed");
    }

    pub(super) fn wait_for_lock(&mut self, start: StartBuild) {
        let build = start.build;
        self.running.remove(&build);
        self.waiting.insert(build, start.clone());
        let lock = "a lock".to_owned();
        self.tell(Input::BuildWaiting { build, lock });
        if self.duplicate() {
            let lock = "a lock".to_owned();
            self.tell(Input::BuildWaiting { build, lock });
        }
        self.pending.push(Pending::Released(start));
    }

    /// The other process has built the derivation, or not.
    pub(super) fn lock_released(&mut self, start: StartBuild) {
        let build = start.build;
        if self.cancelled_builds.contains(&build) {
            return self.end_build(start);
        }
        let class = self.plan.classes[self.by_path[&start.drv_path]];
        let built_by_other = self.plan.fates[class] != Fate::Fails && self.random.percent(50);
        if built_by_other && !self.is_check(build) {
            let outputs = self.made(&start);
            self.make_valid(&start.derivation, &outputs);
            let resolved = start.derivation.path(&self.plan.dir).unwrap();
            self.building.remove(&resolved);
            self.built.insert(resolved);
            self.waiting.remove(&build);
            return self.tell(Input::BuildEnded {
                build,
                result: BuildResult::Pushed(outputs),
                usage: None,
                size: None,
            });
        }
        self.ready.insert(build);
        self.tell(Input::BuildReady { build });
        if self.duplicate() {
            self.tell(Input::BuildReady { build });
        }
    }

    pub(super) fn resume(&mut self, build: BuildId) {
        assert!(
            self.ready.remove(&build),
            "{build:?} did not ask for a slot"
        );
        let start = self.waiting.remove(&build).unwrap();
        assert!(
            !self.stopped && !self.cancelled,
            "{build:?} goes on after everything ended"
        );
        self.expect_slot(start.builder);
        self.running.insert(build, start.clone());
        self.pending.push(Pending::Build(start));
    }
}
