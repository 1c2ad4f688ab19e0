//! The arrows between coordinator, builder and store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;
use tvix_build_api::sandbox::SandboxBuilder;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile, FailureKind,
};
use tvix_coordinator::{
    BuildEvent, Coordinator, Decision, FailureCause, OnFailure, OnVanished, Options, Report, Status,
};
use tvix_eval_api::EvalRequest;
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::local_fs::LocalStore;
use tvix_store_api::{Store as _, StoreExt as _};
use tvix_tests::local::{LocalWorld, absolute, instantiate, shell};
use tvix_tests::recording::{RecordedBuild, RecordedEnd, RecordingBuilder, RecordingStore};
use tvix_tests::session::{position, run};

/// Two derivations, built one after the other in a sandbox, with all recorded calls.
struct Built {
    world: LocalWorld,
    store: Arc<RecordingStore<LocalStore>>,
    builds: Vec<RecordedBuild>,
    events: Vec<BuildEvent>,
    report: Report,
    library: Instantiated,
    program: Instantiated,
}

impl Built {
    async fn new<B: Builder + 'static>(builder: impl FnOnce(&LocalWorld) -> B) -> Self {
        let world = LocalWorld::new().await;
        let source = world
            .store
            .add_text("source".parse().unwrap(), b"source", [].into());
        let source = source.await.unwrap();
        let library = instantiate(
            shell(
                "library",
                "mkdir $out $dev; cat $source > $out/it; echo $out > $dev/of",
            )
            .outputs(["out", "dev"])
            .env("source", absolute(&source))
            .source(&source),
        );
        let program = instantiate(
            shell("program", "echo $(cat $library/it) $library > $out")
                .input_env("library", &library, "out"),
        );
        let evaluator = InMemoryEvaluator::new()
            .derivation(&library)
            .root("program", &program);
        let store = RecordingStore::new(world.store.clone());
        let builder = RecordingBuilder::new(builder(&world));
        let coordinator =
            Coordinator::new(Arc::new(evaluator), store.clone()).with_builder(builder.clone());
        let (events, report) = run(&coordinator, EvalRequest::attrs(["program"])).await;
        assert!(report.is_success(), "{report:#?}");
        world.expect_clean().await;
        Self {
            world,
            store,
            builds: builder.builds(),
            events,
            report,
            library,
            program,
        }
    }

    fn outputs(&self, made: &Instantiated) -> Vec<StorePath> {
        let names = made.derivation.outputs.iter();
        names
            .filter_map(|(name, _)| made.output_path(name.as_str()))
            .collect()
    }

    /// Checks the metadata of the outputs in the store, whichever way they were added.
    async fn expect_outputs_in_store(&self) {
        let out = &self.report.roots[0].outputs.values().next().unwrap();
        let library = self.library.output_path("out").unwrap();
        let text = format!("source {}\n", absolute(&library));
        assert_eq!(self.world.read(out), text);
        for made in [&self.library, &self.program] {
            for path in self.outputs(made) {
                let info = self.world.store.require(&path).await.unwrap();
                assert_eq!(info.deriver.as_ref(), Some(&made.path));
                self.world.store.verify(&path).await.unwrap();
            }
        }
        let info = self.world.store.require(out).await.unwrap();
        assert_eq!(info.references.iter().collect::<Vec<_>>(), [&library]);
    }

    /// For each build, whether the coordinator reports its outputs as pushed.
    fn pushed(&self) -> Vec<bool> {
        let pushed = self.events.iter().filter_map(|event| match event {
            BuildEvent::BuildSucceeded { pushed, .. } => Some(*pushed),
            _ => None,
        });
        pushed.collect()
    }
}

#[tokio::test]
async fn coordinator_requests_derivation_to_be_built() {
    let built = Built::new(LocalWorld::builder).await;
    let [library, program] = &built.builds[..] else {
        panic!("{:#?}", built.builds);
    };
    for (build, made) in [(library, &built.library), (program, &built.program)] {
        assert_eq!(build.request.drv_path, made.path);
        assert_eq!(build.request.derivation, made.derivation);
        // The desired store.
        assert_eq!(build.request.store.as_ref(), Some(built.world.store.uri()));
    }
    // The closure of its inputs and nothing else: not the other output of the library.
    let needed: Vec<_> = program
        .request
        .inputs
        .iter()
        .map(|info| &info.path)
        .collect();
    assert_eq!(needed, [&built.library.output_path("out").unwrap()]);
    let sources: Vec<_> = library
        .request
        .inputs
        .iter()
        .map(|info| &info.path)
        .collect();
    let expected: Vec<_> = built.library.derivation.input_srcs.iter().collect();
    assert_eq!(sources, expected);
}

#[tokio::test]
async fn builder_pushes_outputs_to_known_store() {
    let built = Built::new(LocalWorld::builder).await;
    built.expect_outputs_in_store().await;
    // The coordinator added none of them.
    assert_eq!(built.store.additions(), []);
}

#[tokio::test]
async fn success_and_pushed_response() {
    let built = Built::new(LocalWorld::builder).await;
    for (build, made) in built.builds.iter().zip([&built.library, &built.program]) {
        let Some(RecordedEnd::Pushed(mut paths)) = build.end.clone() else {
            panic!("{:?}", build.end);
        };
        let mut expected = built.outputs(made);
        paths.sort();
        expected.sort();
        assert_eq!(paths, expected);
    }
    assert_eq!(built.pushed(), [true, true]);
}

#[tokio::test]
async fn success_and_not_pushed_response() {
    let built = Built::new(LocalWorld::streaming_builder).await;
    // The requests name a store, which this builder does not know.
    for build in &built.builds {
        assert_eq!(build.request.store.as_ref(), Some(built.world.store.uri()));
        assert!(matches!(build.end, Some(RecordedEnd::Streamed(_))));
    }
    assert_eq!(built.pushed(), [false, false]);
}

#[tokio::test]
async fn builder_streams_outputs() {
    let built = Built::new(LocalWorld::streaming_builder).await;
    let Some(RecordedEnd::Streamed(paths)) = built.builds[0].end.clone() else {
        panic!("{:?}", built.builds[0].end);
    };
    // All outputs, references first: `dev` refers to `out`.
    let path = |output| built.library.output_path(output).unwrap();
    assert_eq!(paths, [path("out"), path("dev")]);
    let started = position(&built.events, |event| {
        matches!(event, BuildEvent::PushStarted { .. })
    });
    let succeeded = position(&built.events, |event| {
        matches!(event, BuildEvent::BuildSucceeded { .. })
    });
    assert!(started < succeeded, "{:#?}", built.events);
}

#[tokio::test]
async fn coordinator_pushes_outputs_to_store() {
    let built = Built::new(LocalWorld::streaming_builder).await;
    let streamed = built.builds.iter().map(|build| match &build.end {
        Some(RecordedEnd::Streamed(paths)) => paths.clone(),
        end => panic!("{end:?}"),
    });
    assert_eq!(
        built.store.additions(),
        streamed.collect::<Vec<_>>().concat()
    );
    built.expect_outputs_in_store().await;
    // Dependents are not built before the outputs are valid.
    let succeeded = position(
        &built.events,
        |event| matches!(event, BuildEvent::BuildSucceeded { drv_path, .. } if *drv_path == built.library.path),
    );
    let dependent = position(
        &built.events,
        |event| matches!(event, BuildEvent::BuildStarted { drv_path, .. } if *drv_path == built.program.path),
    );
    assert!(succeeded < dependent, "{:#?}", built.events);
}

/// The coordinator's policy determines whether to continue after a failure: stop, continue, or ask.
#[tokio::test]
async fn build_failure_fail_response() {
    let world = LocalWorld::new().await;
    let broken = instantiate(shell("broken", "echo about to fail; exit 3"));
    let dependent =
        instantiate(shell("dependent", "echo > $out").input_env("broken", &broken, "out"));
    let good = instantiate(shell("good", "echo good > $out"));
    let evaluator = InMemoryEvaluator::new()
        .derivation(&broken)
        .root("dependent", &dependent)
        .root("good", &good);
    let builder = RecordingBuilder::new(world.builder());
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(builder.clone());
    let request = EvalRequest::attrs(["dependent", "good"]);
    let expect_failure = |report: &Report| {
        assert_eq!(report.status, Status::BuildFailed, "{report:#?}");
        let [failure] = &report.failures[..] else {
            panic!("{report:#?}");
        };
        assert_eq!(failure.drv_path, broken.path);
        let FailureCause::Build { failure } = &failure.cause else {
            panic!("{failure:?}");
        };
        assert_eq!(failure.kind, FailureKind::ExitCode { code: 3 });
        assert_eq!(failure.log_tail, ["about to fail"]);
    };

    // Stop: with one job at a time, the first build is the one that fails.
    let options = Options::default().with_max_jobs(1);
    let only = EvalRequest::attrs(["dependent"]);
    let stopping = coordinator.clone().with_options(options.clone());
    let (events, report) = run(&stopping, only).await;
    expect_failure(&report);
    assert!(
        events
            .iter()
            .any(|event| matches!(event, BuildEvent::BuildFailed { .. }))
    );
    assert!(
        builder
            .builds()
            .iter()
            .all(|build| build.request.drv_path == broken.path)
    );
    assert_eq!(world.valid().await, []);

    // Continue with everything that does not depend on it.
    let going_on = coordinator
        .clone()
        .with_options(options.with_on_failure(OnFailure::Continue));
    let (_, report) = run(&going_on, request.clone()).await;
    expect_failure(&report);
    let good_out = good.output_path("out").unwrap();
    assert_eq!(report.output_paths().collect::<Vec<_>>(), [&good_out]);
    let [skipped] = &report.skipped[..] else {
        panic!("{report:#?}");
    };
    assert_eq!(
        (&skipped.drv_path, &skipped.root_cause),
        (&dependent.path, &broken.path)
    );

    // Ask: retry once, then stop.
    let asked = Arc::new(Mutex::new(0));
    let before = builder.builds().len();
    let asking = coordinator.on_failure({
        let asked = asked.clone();
        move |failure| {
            assert_eq!(failure.drv_path.name().as_str(), "broken.drv");
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            let decision = if *asked == 1 {
                Decision::Retry
            } else {
                Decision::Stop
            };
            async move { decision }
        }
    });
    let (_, report) = run(&asking, request).await;
    assert_eq!(report.status, Status::BuildFailed, "{report:#?}");
    assert_eq!(*asked.lock().unwrap(), 2);
    assert_eq!(builder.builds().len() - before, 2);
    world.expect_clean().await;
}

/// Removes a path from the store, like a garbage collector of another program, before a build of
/// `of` starts.
#[derive(Debug)]
struct Vanishing {
    builder: SandboxBuilder,
    of: String,
    path: StorePath,
    root: std::path::PathBuf,
    /// Number of remaining removals.
    times: AtomicUsize,
    builds: AtomicUsize,
}

#[async_trait]
impl Builder for Vanishing {
    fn profile(&self) -> &BuilderProfile {
        self.builder.profile()
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        self.builds.fetch_add(1, Ordering::SeqCst);
        let left = self.times.load(Ordering::SeqCst);
        if request.derivation.name.as_str() == self.of && left > 0 {
            self.times.store(left - 1, Ordering::SeqCst);
            let database = self.root.join("nix/var/nix/db/db.sqlite");
            let database = rusqlite::Connection::open(database).unwrap();
            database.pragma_update(None, "foreign_keys", "on").unwrap();
            let removed = database
                .execute(
                    "delete from ValidPaths where path = ?",
                    [absolute(&self.path)],
                )
                .unwrap();
            assert_eq!(removed, 1);
            let file = self.root.join("nix/store").join(self.path.to_string());
            std::fs::remove_file(file).unwrap();
        }
        self.builder.build(request, context).await
    }
}

/// Builds a program with a library that vanishes `times` times.
async fn vanishing(times: usize, options: Options) -> (Vec<BuildEvent>, Report, usize) {
    let world = LocalWorld::new().await;
    let library = instantiate(shell("library", "echo library > $out"));
    let program = shell("program", "cat $library > $out").input_env("library", &library, "out");
    let program = instantiate(program);
    let evaluator = InMemoryEvaluator::new()
        .derivation(&library)
        .root("program", &program);
    let builder = Arc::new(Vanishing {
        builder: world.builder(),
        of: "program".to_owned(),
        path: library.output_path("out").unwrap(),
        root: world.root(),
        times: AtomicUsize::new(times),
        builds: AtomicUsize::new(0),
    });
    let coordinator = Coordinator::new(Arc::new(evaluator), Arc::new(world.store.clone()))
        .with_builder(builder.clone())
        .with_options(options);
    let (events, report) = run(&coordinator, EvalRequest::attrs(["program"])).await;
    if report.is_success() {
        assert_eq!(
            world.read(&program.output_path("out").unwrap()),
            "library\n"
        );
    }
    let builds = builder.builds.load(Ordering::SeqCst);
    (events, report, builds)
}

fn restarts(events: &[BuildEvent]) -> usize {
    let restarted = |event: &&BuildEvent| matches!(event, BuildEvent::Restarted { .. });
    events.iter().filter(restarted).count()
}

#[tokio::test]
async fn inputs_that_vanish_are_built_again_once() {
    let (events, report, builds) = vanishing(1, Options::default()).await;
    assert!(report.is_success(), "{report:#?}");
    assert_eq!((restarts(&events), builds), (1, 4), "{events:#?}");
    let (events, report, builds) = vanishing(2, Options::default()).await;
    let [failure] = &report.failures[..] else {
        panic!("{report:#?}")
    };
    assert!(
        matches!(failure.cause, FailureCause::InputsGone { .. }),
        "{failure:?}"
    );
    assert_eq!((restarts(&events), builds), (1, 4), "{events:#?}");
}

#[tokio::test]
async fn inputs_that_vanish_fail_their_build_where_nothing_can_be_evaluated_again() {
    let options = Options::default().with_on_vanished(OnVanished::Fail);
    let (events, report, builds) = vanishing(1, options).await;
    assert_eq!(report.status, Status::StoreFailed);
    assert_eq!((restarts(&events), builds), (0, 2), "{events:#?}");
}
