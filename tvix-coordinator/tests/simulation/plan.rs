//! The plan of a world: a graph, an evaluation, the results of builds, options.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated, OutputName};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::realisation::{DrvKey, DrvOutput};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::BuilderProfile;
use tvix_coordinator::{BuildPolicy, CheckOptions, OnFailure, OnVanished, Options, RetryPolicy};

use tvix_test_support::random::Random;

/// The result of the builds of a derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Builds,
    Fails,
    /// The builder returns this number of errors before it builds.
    Troubled(u32),
}

/// A step of the evaluation. Steps of one thread are sequential.
#[derive(Debug, Clone)]
pub enum Step {
    Derivation(usize),
    Source(usize),
    /// The thread continues once these outputs are built.
    Import(Vec<(usize, Vec<String>)>),
    Root(usize, Vec<String>),
    Fail,
}

/// A substituter: its paths, with the references that it reports.
#[derive(Debug, Clone, Default)]
pub struct Substituter {
    pub has: BTreeMap<StorePath, Vec<StorePath>>,
    /// Percentage of queries that fail.
    pub trouble: u64,
}

/// The fault of a builder, which ends at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuilderFault {
    /// It is unreachable, before or during builds.
    Dies,
    /// It reports success without the outputs, with other paths, or with other contents.
    Lies,
    /// Builds do not end.
    Hangs,
}

#[derive(Debug, Clone)]
pub struct Plan {
    pub dir: StoreDir,
    pub derivations: Vec<Instantiated>,
    /// For each derivation, its inputs with the used outputs.
    pub inputs: Vec<Vec<(usize, String)>>,
    pub input_sources: Vec<Vec<usize>>,
    /// For each derivation, the derivations with `.drv` files that it reads.
    pub reads: Vec<Vec<usize>>,
    /// Derivations of one class differ only in their inputs, and resolve to the same derivation.
    pub classes: Vec<usize>,
    /// The results of builds, by class.
    pub fates: Vec<Fate>,
    /// For floating derivations, one of a few contents, by class.
    pub contents: Vec<u8>,
    pub sources: Vec<StorePath>,
    /// For each source, the sources that it refers to, which have lower numbers.
    pub source_references: Vec<Vec<usize>>,
    /// Paths that are in the store from the start.
    pub present: BTreeSet<StorePath>,
    /// The substituters.
    pub substituters: Vec<Substituter>,
    /// The hashes that identify realisations of floating derivations.
    pub modulos: BTreeMap<StorePath, [u8; 32]>,
    /// The realisations that substituters report.
    pub offered_realisations: BTreeMap<DrvOutput, StorePath>,
    /// The substituters that report each of them.
    pub realised_at: BTreeMap<DrvOutput, BTreeSet<usize>>,
    /// Substituters report wrong references.
    pub lies: bool,
    /// Attributes under evaluation.
    pub threads: Vec<Vec<Step>>,
    pub builders: Vec<BuilderProfile>,
    /// Faults of builders, each with its end. The first builder has none.
    pub builder_faults: Vec<Option<(BuilderFault, Duration)>>,
    pub options: Options,
    /// Percentage of store operations that fail.
    pub store_trouble: u64,
    /// Percentage of builds with locks held by another process.
    pub locked: u64,
    pub fatal_store_trouble: bool,
    /// Per cent of the failed builds of which an input vanished.
    pub vanishing: u64,
    pub duplicate_answers: bool,
    pub cancel_after: Option<usize>,
}

const NAR: ContentAddressMethod = ContentAddressMethod::NixArchive;

impl Plan {
    pub fn random(random: &mut Random) -> Self {
        let dir = StoreDir::default();
        let count = match random.below(10) {
            0 => 1,
            1..=7 => 1 + random.below(14),
            _ => 15 + random.below(30),
        };
        let floating_percent = [0, 0, 10, 40][random.below(4)];
        let source_count = random.below(4);
        let sources: Vec<StorePath> = (0..source_count)
            .map(|index| {
                StorePath::new(
                    [index as u8; 20],
                    format!("source-{index}").parse().unwrap(),
                )
            })
            .collect();
        let mut references = Vec::new();
        for source in 0..source_count {
            let mut of_source: Vec<usize> = (0..source).collect();
            of_source.retain(|_| random.percent(40));
            references.push(of_source);
        }
        let mut plan = Self {
            dir: dir.clone(),
            derivations: Vec::new(),
            inputs: Vec::new(),
            input_sources: Vec::new(),
            reads: Vec::new(),
            classes: Vec::new(),
            fates: Vec::new(),
            contents: Vec::new(),
            sources,
            source_references: references,
            present: BTreeSet::new(),
            substituters: Vec::new(),
            modulos: BTreeMap::new(),
            offered_realisations: BTreeMap::new(),
            realised_at: BTreeMap::new(),
            lies: false,
            threads: Vec::new(),
            builders: Vec::new(),
            builder_faults: Vec::new(),
            options: Options::default(),
            store_trouble: [0, 0, 0, 5, 20][random.below(5)],
            locked: [0, 0, 10, 50, 100][random.below(5)],
            fatal_store_trouble: random.percent(3),
            vanishing: [0, 0, 50][random.below(3)],
            duplicate_answers: random.percent(30),
            cancel_after: random.percent(10).then(|| random.below(200)),
        };
        let fail_percent = [0, 0, 3, 10][random.below(4)];
        let trouble_percent = [0, 5, 30][random.below(3)];
        plan.options.record_derivations = random.percent(30);
        let read_percent = match plan.options.record_derivations {
            true => [0, 30][random.below(2)],
            false => 0,
        };
        for index in 0..count {
            plan.derivation(random, index, floating_percent, read_percent);
        }
        if floating_percent > 0 && random.percent(50) {
            plan.twins(random);
        }
        for _ in 0..plan.derivations.len() {
            plan.fates.push(if random.percent(fail_percent) {
                Fate::Fails
            } else if random.percent(trouble_percent) {
                Fate::Troubled(1 + random.below(3) as u32)
            } else {
                Fate::Builds
            });
            plan.contents.push(random.below(2) as u8);
        }
        plan.fill_store(random);
        if random.percent(50) {
            plan.fill_substituters(random);
        }
        if random.percent(70) {
            plan.realise(random);
        }
        plan.evaluation(random);
        plan.set_options(random);
        plan
    }

    fn derivation(
        &mut self,
        random: &mut Random,
        index: usize,
        floating_percent: u64,
        read_percent: u64,
    ) {
        let mut builder = DerivationBuilder::new(format!("drv-{index}"), "x86_64-linux", "/b");
        let mut inputs: Vec<(usize, String)> = Vec::new();
        let fan_in = random.below(4).min(index);
        for _ in 0..fan_in {
            // Mostly near inputs, so that graphs are deep as well as wide.
            let reach = if random.percent(60) {
                index.min(4)
            } else {
                index
            };
            let input = index - 1 - random.below(reach);
            let outputs = &self.derivations[input].derivation.outputs;
            let output = random.below(outputs.len());
            let output = outputs.keys().nth(output).unwrap().to_string();
            if !inputs.contains(&(input, output.clone())) {
                let variable = format!("input{}", inputs.len());
                builder = builder.input_env(variable, &self.derivations[input], &output);
                inputs.push((input, output));
            }
        }
        let mut used = Vec::new();
        for source in 0..self.sources.len() {
            if random.percent(10) {
                builder = builder.source(&self.sources[source]);
                used.push(source);
            }
        }
        let mut read = Vec::new();
        if index > 0 && random.percent(read_percent) {
            let other = random.below(index);
            builder = builder.source(&self.derivations[other].path);
            read.push(other);
        }
        builder = match random.below(100) as u64 {
            0..8 => {
                let hash = NixHash::digest(HashAlgo::Sha256, index.to_le_bytes());
                builder.fixed(NAR, hash)
            }
            kind if kind < 8 + floating_percent => {
                let builder = match random.below(2) {
                    0 => builder,
                    _ => builder.outputs(["out", "dev"]),
                };
                builder.floating(NAR, HashAlgo::Sha256)
            }
            kind if kind < 70 => builder,
            kind if kind < 98 => builder.outputs(["out", "dev", "doc"]),
            _ => builder.outputs((0..35).map(|output| format!("o{output:02}"))),
        };
        let index = self.push(builder, inputs, used);
        self.reads[index] = read;
    }

    fn push(
        &mut self,
        builder: DerivationBuilder,
        inputs: Vec<(usize, String)>,
        sources: Vec<usize>,
    ) -> usize {
        let index = self.derivations.len();
        self.derivations
            .push(builder.instantiate(&self.dir).unwrap());
        self.inputs.push(inputs);
        self.input_sources.push(sources);
        self.reads.push(Vec::new());
        self.classes.push(index);
        index
    }

    /// Two floating derivations with the same output, and one dependent of each; the dependents
    /// resolve to the same derivation.
    fn twins(&mut self, random: &mut Random) {
        let floating = random.percent(50);
        let mut users: Vec<usize> = Vec::new();
        let mut makers: Vec<usize> = Vec::new();
        for twist in ["a", "b"] {
            let maker = DerivationBuilder::new("maker", "x86_64-linux", "/b")
                .env("twist", twist)
                .floating(NAR, HashAlgo::Sha256);
            let maker = self.push(maker, Vec::new(), Vec::new());
            makers.push(maker);
            let user = DerivationBuilder::new("user", "x86_64-linux", "/b").input_env(
                "maker",
                &self.derivations[maker],
                "out",
            );
            let user = if floating {
                user.floating(NAR, HashAlgo::Sha256)
            } else {
                user
            };
            let user = self.push(user, vec![(maker, "out".to_owned())], Vec::new());
            users.push(user);
        }
        self.classes[makers[1]] = makers[0];
        self.classes[users[1]] = users[0];
        let top = DerivationBuilder::new("top", "x86_64-linux", "/b")
            .input_env("a", &self.derivations[users[0]], "out")
            .input_env("b", &self.derivations[users[1]], "out");
        let inputs = users.iter().map(|user| (*user, "out".to_owned())).collect();
        self.push(top, inputs, Vec::new());
    }

    fn fill_store(&mut self, random: &mut Random) {
        let percent = [0, 0, 20, 80, 100][random.below(5)];
        for made in &self.derivations {
            for (_, path) in made.derivation.output_paths(&self.dir) {
                if let Some(path) = path
                    && random.percent(percent)
                {
                    self.present.insert(path);
                }
            }
        }
        for source in &self.sources {
            if random.percent(30) {
                self.present.insert(source.clone());
            }
        }
    }

    fn fill_substituters(&mut self, random: &mut Random) {
        self.lies = random.percent(10);
        for number in 0..1 + random.below(3) {
            let mut substituter = Substituter {
                trouble: [0, 0, 10, 50, 100][random.below(5)],
                ..Substituter::default()
            };
            let percent = [20, 70, 100][random.below(3)];
            for (index, made) in self.derivations.iter().enumerate() {
                for (name, path) in made.derivation.output_paths(&self.dir) {
                    let Some(path) = path.filter(|_| random.percent(percent)) else {
                        continue;
                    };
                    let mut references = Vec::new();
                    for (input, output) in &self.inputs[index] {
                        let input = &self.derivations[*input].derivation;
                        let output = input.output_path(&self.dir, &output.parse().unwrap());
                        references.extend(output.filter(|_| random.percent(60)));
                    }
                    for source in &self.input_sources[index] {
                        if random.percent(50) {
                            references.push(self.sources[*source].clone());
                        }
                    }
                    if random.percent(20) {
                        references.push(path.clone());
                    }
                    if random.percent(10) {
                        // Known only to the substituter, which may have lost the path.
                        let text = format!("extra-{number}-{index}-{name}");
                        let extra = StorePath::new([index as u8 + 100; 20], text.parse().unwrap());
                        if random.percent(80) {
                            substituter.has.insert(extra.clone(), Vec::new());
                        }
                        references.push(extra);
                    }
                    substituter.has.insert(path, references);
                }
            }
            if self.lies {
                let paths: Vec<StorePath> = substituter.has.keys().cloned().collect();
                for references in substituter.has.values_mut() {
                    if random.percent(20) {
                        references.push(paths[random.below(paths.len())].clone());
                    }
                }
            }
            self.substituters.push(substituter);
        }
    }

    /// Tells the machine the hashes of floating derivations, and substituters the realisations of
    /// some of them. Some realisations are incomplete, or their path is gone.
    fn realise(&mut self, random: &mut Random) {
        let made = self.derivations.iter();
        let hashes: BTreeMap<_, _> = made.map(|made| (made.path.clone(), made.modulo)).collect();
        let percent = [0, 50, 100][random.below(3)];
        for (index, made) in self.derivations.iter().enumerate() {
            let input = |path: &StorePath| hashes.get(path).copied();
            let Some(drv_hash) = made.derivation.realisation_hash(&self.dir, input) else {
                continue;
            };
            self.modulos.insert(made.path.clone(), drv_hash);
            if self.substituters.is_empty() || !random.percent(percent) {
                continue;
            }
            for output in made.derivation.outputs.keys() {
                if random.percent(10) {
                    continue;
                }
                let name = format!("realised-{index}-{output}").parse().unwrap();
                let path = StorePath::new([index as u8 + 60; 20], name);
                if random.percent(80) {
                    let mut references = Vec::new();
                    for (input, output) in &self.inputs[index] {
                        let input = &self.derivations[*input].derivation;
                        let output = input.output_path(&self.dir, &output.parse().unwrap());
                        references.extend(output.filter(|_| random.percent(30)));
                    }
                    let at = random.below(self.substituters.len());
                    let has = &mut self.substituters[at].has;
                    has.insert(path.clone(), references);
                }
                // The path may have been fetched from somewhere else before.
                if random.percent(10) {
                    self.present.insert(path.clone());
                }
                let output = output.clone();
                let id = DrvOutput::by_hash(drv_hash, output);
                let mut places: BTreeSet<usize> = (0..self.substituters.len()).collect();
                places.retain(|_| random.percent(60));
                places.insert(random.below(self.substituters.len()));
                self.realised_at.insert(id.clone(), places);
                self.offered_realisations.insert(id, path);
            }
        }
    }

    /// Whether substituters report this path as a floating output.
    pub fn is_offered(&self, path: &StorePath) -> bool {
        self.offered_realisations.values().any(|it| it == path)
    }

    /// The key of an output's realisation.
    pub fn drv_output(&self, drv_path: &StorePath, output: &OutputName) -> Option<DrvOutput> {
        let drv_hash = *self.modulos.get(drv_path)?;
        Some(DrvOutput::by_hash(drv_hash, output.clone()))
    }

    /// The path of an output that substituters report, by either key.
    pub fn offered(&self, id: &DrvOutput) -> Option<&StorePath> {
        match &id.drv {
            DrvKey::HashModulo(_) => self.offered_realisations.get(id),
            DrvKey::Path(path) => {
                let id = self.drv_output(path, &id.output)?;
                self.offered_realisations.get(&id)
            }
        }
    }

    /// The path that a substituter reports for an output.
    pub fn offered_by(&self, substituter: usize, id: &DrvOutput) -> Option<&StorePath> {
        let id = match &id.drv {
            DrvKey::HashModulo(_) => id.clone(),
            DrvKey::Path(path) => self.drv_output(path, &id.output)?,
        };
        let places = self.realised_at.get(&id)?;
        let path = self.offered_realisations.get(&id)?;
        places.contains(&substituter).then_some(path)
    }

    /// Whether substituters report the realisations of all outputs of a floating derivation.
    pub fn is_realised(&self, index: usize) -> bool {
        let made = &self.derivations[index];
        let Some(&drv_hash) = self.modulos.get(&made.path) else {
            return false;
        };
        let mut outputs = made.derivation.outputs.keys().cloned();
        outputs.all(|output| {
            let id = DrvOutput::by_hash(drv_hash, output);
            self.offered_realisations.contains_key(&id)
        })
    }

    /// The derivation that makes a path.
    pub fn owner(&self, path: &StorePath) -> Option<usize> {
        self.derivations.iter().position(|made| {
            let mut outputs = made.derivation.output_paths(&self.dir);
            outputs.any(|(_, it)| it.as_ref() == Some(path))
        })
    }

    fn some_outputs(&self, random: &mut Random, index: usize) -> Vec<String> {
        let all: Vec<String> = self.derivations[index]
            .derivation
            .outputs
            .keys()
            .map(ToString::to_string)
            .collect();
        let some: Vec<String> = all.iter().filter(|_| random.percent(60)).cloned().collect();
        if some.is_empty() { all } else { some }
    }

    fn evaluation(&mut self, random: &mut Random) {
        let threads = 1 + random.below(3);
        let import_percent = [0, 0, 5, 15][random.below(4)];
        let mut yielded = vec![BTreeSet::new(); threads];
        let mut steps: Vec<Vec<Step>> = vec![Vec::new(); threads];
        // Each attribute instantiates everything that it needs, so some derivations are yielded
        // twice.
        for thread in 0..threads {
            let mut missing_sources: BTreeSet<usize> = (0..self.sources.len()).collect();
            for index in 0..self.derivations.len() {
                let wanted = threads == 1 || random.percent(60);
                if !wanted {
                    continue;
                }
                for needed in self.instantiated(index) {
                    for source in self.with_references(&self.input_sources[needed]) {
                        if missing_sources.remove(&source) {
                            steps[thread].push(Step::Source(source));
                        }
                    }
                    if yielded[thread].insert(needed) {
                        steps[thread].push(Step::Derivation(needed));
                    }
                }
                if random.percent(import_percent) {
                    let mut wanted = vec![(index, self.some_outputs(random, index))];
                    let other = random.below(index + 1);
                    if yielded[thread].contains(&other) && other != index {
                        wanted.push((other, self.some_outputs(random, other)));
                    }
                    steps[thread].push(Step::Import(wanted));
                }
            }
            if let Some(last) = yielded[thread].last() {
                steps[thread].push(Step::Root(*last, self.some_outputs(random, *last)));
                if random.percent(40) {
                    let index = *yielded[thread]
                        .iter()
                        .nth(random.below(yielded[thread].len()))
                        .unwrap();
                    steps[thread].push(Step::Root(index, self.some_outputs(random, index)));
                }
            }
            if random.percent(3) {
                let at = random.below(steps[thread].len() + 1);
                steps[thread].truncate(at);
                steps[thread].push(Step::Fail);
            }
        }
        self.threads = steps;
    }

    /// A derivation and its input closure, inputs first.
    pub fn closure(&self, index: usize) -> BTreeSet<usize> {
        self.reachable(index, |_| &[])
    }

    /// A derivation and all derivations that are instantiated before it.
    fn instantiated(&self, index: usize) -> BTreeSet<usize> {
        self.reachable(index, |index| &self.reads[index])
    }

    /// Sources and all that they refer to, which come first.
    fn with_references(&self, sources: &[usize]) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        let mut open = sources.to_vec();
        while let Some(source) = open.pop() {
            if all.insert(source) {
                open.extend(&self.source_references[source]);
            }
        }
        all
    }

    fn reachable<'p>(
        &'p self,
        index: usize,
        also: impl Fn(usize) -> &'p [usize],
    ) -> BTreeSet<usize> {
        let mut closure = BTreeSet::new();
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            if closure.insert(index) {
                open.extend(self.inputs[index].iter().map(|(input, _)| *input));
                open.extend(also(index));
            }
        }
        closure
    }

    /// The fault of a builder at a time.
    pub fn fault(&self, builder: usize, now: Duration) -> Option<BuilderFault> {
        let (fault, end) = (*self.builder_faults.get(builder)?)?;
        (now < end).then_some(fault)
    }

    fn set_options(&mut self, random: &mut Random) {
        for builder in 0..1 + random.below(3) {
            let jobs = 1 + random.below(4);
            let profile = BuilderProfile::new(format!("builder-{builder}"), "x86_64-linux", jobs)
                .with_speed_factor([0.1, 0.5, 1.0, 1.0, 3.0][random.below(5)])
                .with_remote(random.percent(50));
            self.builders.push(profile);
        }
        let faults = self.builders.len() > 1 && random.percent(40);
        for builder in 0..self.builders.len() {
            let kind = match random.below(4) {
                0 => BuilderFault::Dies,
                1 => BuilderFault::Lies,
                2 => BuilderFault::Hangs,
                _ => continue,
            };
            if builder > 0 && faults {
                let end = Duration::from_millis([200, 2_000, 30_000][random.below(3)]);
                self.builder_faults.resize(builder + 1, None);
                self.builder_faults[builder] = Some((kind, end));
            }
        }
        if self.builder_faults.iter().any(Option::is_some) {
            // Attempts are for the faults of builders.
            for fate in &mut self.fates {
                if matches!(fate, Fate::Troubled(_)) {
                    *fate = Fate::Builds;
                }
            }
        }
        self.options = std::mem::take(&mut self.options)
            .with_policy(if random.percent(50) {
                BuildPolicy::Eager
            } else {
                BuildPolicy::Demand
            })
            .with_on_failure(
                [
                    OnFailure::Stop,
                    OnFailure::Continue,
                    OnFailure::Continue,
                    OnFailure::Ask,
                ][random.below(4)],
            )
            .with_max_jobs(random.percent(30).then(|| 1 + random.below(3)))
            .with_max_substitutions(random.percent(50).then(|| 1 + random.below(3)))
            .with_retry(
                RetryPolicy::default()
                    .with_attempts(5)
                    .with_first_delay(Duration::from_secs(1)),
            );
        self.options.on_vanished = match random.percent(80) {
            true => OnVanished::Restart,
            false => OnVanished::Fail,
        };
        self.options.check = random.percent(30).then(CheckOptions::default);
    }
}
