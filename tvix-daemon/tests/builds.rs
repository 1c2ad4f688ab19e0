//! Builds for several clients, in memory.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::HashAlgo;
use nix_compat::sorted::SortedSet;
use tokio::sync::{Notify, mpsc};
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{BuilderProfile, FailureKind};
use tvix_coordinator::Coordinator;
use tvix_daemon::{Builds, Client, PostBuildHook};
use tvix_eval_api::memory::InMemoryEvaluator;
use tvix_store_api::{MemoryStore, Store, StoreExt as _};
use tvix_worker_protocol::{
    ActivityType, BuildDerivation, BuildMode, BuildStatus, DerivedPath, Field, LogMessage,
    ResultType, Trust, Version, WantedOutputs,
};

/// A store, its builds, and a client.
struct World {
    store: Arc<MemoryStore>,
    builds: Builds,
    client: Client,
}

fn builder() -> InMemoryBuilder {
    InMemoryBuilder::new(BuilderProfile::new("local", "x86_64-linux", 4))
        .with_default(|build| Ok(MemoryOutputs::all(build, "made")))
}

impl World {
    fn new(builder: InMemoryBuilder) -> Self {
        Self::with(builder, |coordinator| coordinator)
    }

    fn with(builder: InMemoryBuilder, set: impl FnOnce(Coordinator) -> Coordinator) -> Self {
        let store = Arc::new(MemoryStore::new(Default::default()));
        let builder = builder.with_store(store.clone());
        let coordinator = Coordinator::new(Arc::new(InMemoryEvaluator::new()), store.clone());
        let coordinator = set(coordinator.with_builder(Arc::new(builder)));
        Self {
            store,
            builds: Builds::new(coordinator),
            client: Client::new(Trust::Trusted),
        }
    }

    async fn add(&self, drv: &Instantiated) {
        let text = drv.derivation.to_aterm(self.store.store_dir());
        let name = drv.path.name().clone();
        let added = self
            .store
            .add_text(name, &text, drv.derivation.references())
            .await;
        assert_eq!(added.unwrap(), drv.path);
    }

    async fn drv(&self, name: &str, inputs: &[&Instantiated]) -> Instantiated {
        let mut drv = DerivationBuilder::new(name, "x86_64-linux", "/bin/sh");
        for input in inputs {
            drv = drv.input(input, "out");
        }
        let drv = drv.instantiate(self.store.store_dir()).unwrap();
        self.add(&drv).await;
        drv
    }

    /// The statuses and errors of results, and the messages.
    async fn build(&self, drvs: &[&Instantiated]) -> (Vec<(BuildStatus, String)>, Messages) {
        self.build_as(drvs, BuildMode::Normal).await
    }

    async fn build_as(
        &self,
        drvs: &[&Instantiated],
        mode: BuildMode,
    ) -> (Vec<(BuildStatus, String)>, Messages) {
        let (sender, messages) = collected();
        let paths = drvs.iter().map(|drv| all(drv)).collect();
        let results = self
            .builds
            .build(paths, mode, &self.client, &sender)
            .await
            .unwrap();
        drop(sender);
        let results = results.into_iter().map(|it| it.result);
        let results = results.map(|it| (it.status, plain(&it.error)));
        (results.collect(), messages.await.unwrap())
    }
}

type Messages = Vec<LogMessage>;

fn collected() -> (mpsc::Sender<LogMessage>, tokio::task::JoinHandle<Messages>) {
    let (sender, mut receiver) = mpsc::channel(4);
    let collecting = tokio::spawn(async move {
        let mut messages = Vec::new();
        while let Some(message) = receiver.recv().await {
            messages.push(message);
        }
        messages
    });
    (sender, collecting)
}

fn all(drv: &Instantiated) -> DerivedPath {
    DerivedPath::Built {
        drv: drv.path.clone(),
        outputs: WantedOutputs::All,
    }
}

/// A text without colours.
fn plain(text: &[u8]) -> String {
    tvix_worker_protocol::RemoteError::new(text).to_string()
}

/// What a client without a terminal shows of builds.
fn shown(messages: &Messages) -> Vec<String> {
    let lines = messages.iter().filter_map(|message| match message {
        LogMessage::Next(text) => Some(plain(text).trim_end().to_owned()),
        LogMessage::StartActivity(activity) if !activity.text.is_empty() => {
            Some(activity.text.to_string())
        }
        LogMessage::Result(result)
            if matches!(
                result.kind,
                ResultType::BuildLogLine | ResultType::PostBuildLogLine
            ) =>
        {
            match result.fields.first() {
                Some(Field::Text(text)) => Some(format!("> {text}")),
                _ => None,
            }
        }
        _ => None,
    });
    lines.filter(|line| !line.starts_with("querying")).collect()
}

/// Every activity that begins ends, and results belong to running ones.
fn assert_orderly(messages: &Messages) {
    let mut running: BTreeMap<u64, ActivityType> = BTreeMap::new();
    for message in messages {
        match message {
            LogMessage::StartActivity(activity) => {
                assert!(running.insert(activity.id, activity.kind).is_none());
            }
            LogMessage::StopActivity(id) => assert!(running.remove(id).is_some()),
            LogMessage::Result(result) => assert!(running.contains_key(&result.id)),
            _ => {}
        }
    }
    assert!(running.is_empty(), "{running:?}");
}

#[tokio::test]
async fn builds_once_and_is_valid_then() {
    let world = World::new(builder().with_program_async("dep", |build| async move {
        build.log("a line").await;
        Ok(MemoryOutputs::out(Tree::file("dep")))
    }));
    let dep = world.drv("dep", &[]).await;
    let top = world.drv("top", &[&dep]).await;
    let (results, messages) = world.build(&[&top]).await;
    assert_eq!(results, [(BuildStatus::Built, String::new())]);
    assert_orderly(&messages);
    let dir = world.store.store_dir();
    let building = |drv: &Instantiated| format!("building '{}'", dir.display(&drv.path));
    assert_eq!(
        shown(&messages),
        [building(&dep), "> a line".into(), building(&top)]
    );
    let (results, messages) = world.build(&[&top]).await;
    assert_eq!(results, [(BuildStatus::AlreadyValid, String::new())]);
    assert!(shown(&messages).is_empty());
}

#[tokio::test]
async fn a_failure_ends_the_operation() {
    let world = World::new(builder().with_program_async("bad", |build| async move {
        build.log("it fails").await;
        Err(FailureKind::ExitCode { code: 3 }.into())
    }));
    let bad = world.drv("bad", &[]).await;
    let dep = world.drv("dep", &[&bad]).await;
    let never = world.drv("never", &[&dep]).await;
    let other = world.drv("other", &[&dep]).await;
    let (results, messages) = world.build(&[&never]).await;
    let dir = world.store.store_dir();
    let cannot = |drv: &Instantiated| format!("Cannot build '{}'.", dir.display(&drv.path));
    assert_eq!(results.len(), 1);
    assert_eq!(results[0].0, BuildStatus::DependencyFailed);
    assert!(results[0].1.starts_with(&cannot(&never)), "{results:?}");
    assert!(
        results[0]
            .1
            .contains("\nReason: 1 dependency failed.\nOutput paths:\n  /nix/store/")
    );
    assert_orderly(&messages);
    // Errors of inputs are messages.
    let text = shown(&messages).join("\n");
    assert!(text.contains(&format!("error: {}", cannot(&bad))), "{text}");
    assert!(
        text.contains("       Last 1 log lines:\n       > it fails\n"),
        "{text}"
    );
    assert!(text.contains(&format!("error: {}", cannot(&dep))), "{text}");

    // As one error.
    let (sender, messages) = collected();
    let paths = vec![all(&never), all(&other)];
    let error = world
        .builds
        .build_paths(paths, BuildMode::Normal, &world.client, &sender)
        .await;
    drop(sender);
    let mut drvs = [dir.path_text(&never.path), dir.path_text(&other.path)];
    drvs.sort();
    let expected = format!("build of '{}', '{}' failed", drvs[0], drvs[1]);
    assert_eq!(error.unwrap_err().to_string(), expected);
    assert_orderly(&messages.await.unwrap());
}

#[tokio::test]
async fn keep_going_builds_the_rest() {
    let failing = builder()
        .with_failure("bad", FailureKind::ExitCode { code: 1 })
        .with_failure(
            "late",
            FailureKind::TimedOut {
                limit: std::time::Duration::from_secs(2),
            },
        );
    let mut world = World::new(failing);
    world.client.settings.keep_going = true;
    world.client.version = Version::new(1, 34);
    let (bad, late) = (world.drv("bad", &[]).await, world.drv("late", &[]).await);
    let both = world.drv("both", &[&bad, &late]).await;
    let good = world.drv("good", &[]).await;
    let (results, messages) = world.build(&[&both, &late, &good]).await;
    let statuses: Vec<_> = results.iter().map(|it| it.0).collect();
    let expected = [
        BuildStatus::DependencyFailed,
        BuildStatus::TimedOut,
        BuildStatus::Built,
    ];
    assert_eq!(statuses, expected, "{results:?}");
    let dir = world.store.store_dir();
    let both = dir.path_text(&both.path);
    assert_eq!(
        results[0].1,
        format!("2 dependencies of derivation '{both}' failed to build")
    );
    assert!(
        results[1].1.ends_with("timed out after 2 seconds"),
        "{results:?}"
    );
    let text = shown(&messages).join("\n");
    let bad = dir.path_text(&bad.path);
    assert!(
        text.contains(&format!(
            "error: builder for '{bad}' failed with exit code 1"
        )),
        "{text}"
    );
}

/// A build that waits, and notes that it was dropped.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Slow {
    world: Arc<World>,
    drv: Instantiated,
    go: Arc<Notify>,
    runs: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Slow {
    async fn new() -> Self {
        let (go, runs) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let ended = Arc::new(AtomicBool::new(false));
        let (wait, count, end) = (go.clone(), runs.clone(), ended.clone());
        let slow = builder().with_program_async("slow", move |build| {
            let (wait, count, end) = (wait.clone(), count.clone(), Ended(end.clone()));
            async move {
                let _end = end;
                count.fetch_add(1, Ordering::SeqCst);
                build.log("begins").await;
                wait.notified().await;
                build.log("ends").await;
                Ok(MemoryOutputs::out(Tree::file("slow")))
            }
        });
        let world = Arc::new(World::new(slow));
        let drv = world.drv("slow", &[]).await;
        Self {
            world,
            drv,
            go,
            runs,
            ended,
        }
    }

    fn client(&self) -> tokio::task::JoinHandle<(Vec<(BuildStatus, String)>, Messages)> {
        let (world, drv) = (self.world.clone(), self.drv.clone());
        tokio::spawn(async move { world.build(&[&drv]).await })
    }

    async fn until(&self, ready: impl Fn() -> bool) {
        while !ready() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn several_clients_share_a_build_and_its_log() {
    let slow = Slow::new().await;
    let first = slow.client();
    slow.until(|| slow.runs.load(Ordering::SeqCst) == 1).await;
    let second = slow.client();
    // It has joined once it has got a line; until then it does no harm to wait.
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    let third = slow.client();
    third.abort();
    let _ = third.await;
    assert!(!slow.ended.load(Ordering::SeqCst));
    slow.go.notify_one();
    for client in [first, second] {
        let (results, messages) = client.await.unwrap();
        assert_eq!(results, [(BuildStatus::Built, String::new())]);
        assert_eq!(shown(&messages)[1..], ["> begins", "> ends"]);
        assert_orderly(&messages);
    }
    assert_eq!(slow.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_build_ends_with_the_last_client() {
    let slow = Slow::new().await;
    let (first, second) = (slow.client(), slow.client());
    slow.until(|| slow.runs.load(Ordering::SeqCst) == 1).await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    first.abort();
    let _ = first.await;
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(!slow.ended.load(Ordering::SeqCst));
    second.abort();
    let _ = second.await;
    slow.until(|| slow.ended.load(Ordering::SeqCst)).await;
    // Another client starts it again.
    let third = slow.client();
    slow.until(|| slow.runs.load(Ordering::SeqCst) == 2).await;
    slow.go.notify_one();
    assert_eq!(third.await.unwrap().0[0].0, BuildStatus::Built);
}

#[tokio::test]
async fn what_is_missing() {
    let cache = Arc::new(MemoryStore::new(Default::default()));
    let world = World::with(builder(), |coordinator| {
        coordinator.with_substituter(cache.clone(), 0)
    });
    let dep = world.drv("dep", &[]).await;
    let top = world.drv("top", &[&dep]).await;
    let leaf = cache
        .add_text("leaf".parse().unwrap(), b"leaf", SortedSet::new())
        .await
        .unwrap();
    let references = SortedSet::from([leaf.clone()]);
    let tree = cache
        .add_text("tree".parse().unwrap(), b"tree", references)
        .await
        .unwrap();
    let gone = cache
        .store_dir()
        .parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-gone")
        .unwrap();
    let (sender, _messages) = collected();
    let paths = [
        all(&top),
        DerivedPath::Opaque(tree.clone()),
        DerivedPath::Opaque(gone.clone()),
    ];
    let missing = world
        .builds
        .missing(&paths, &world.client, &sender)
        .await
        .unwrap();
    assert_eq!(
        missing.will_build,
        SortedSet::from([dep.path.clone(), top.path.clone()])
    );
    assert_eq!(
        missing.will_substitute,
        SortedSet::from([leaf.clone(), tree.clone()])
    );
    assert_eq!(missing.unknown, SortedSet::from([gone.clone()]));
    assert!(missing.nar_size > 0);
    assert!(!world.store.is_valid(&tree).await.unwrap());

    world
        .builds
        .ensure(tree.clone(), &world.client, &sender)
        .await
        .unwrap();
    assert!(
        world.store.is_valid(&leaf).await.unwrap() && world.store.is_valid(&tree).await.unwrap()
    );
    let error = world
        .builds
        .ensure(gone, &world.client, &sender)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no substituter that can build it"),
        "{error}"
    );
}

#[tokio::test]
async fn outputs_are_fetched_rather_than_built() {
    let made = World::new(builder());
    let dep = made.drv("dep", &[]).await;
    let out = dep.output_path("out").unwrap();
    made.build(&[&dep]).await;
    let cache = made.store.clone();
    let world = World::with(builder(), |it| it.with_substituter(cache, 0));
    let dep = world.drv("dep", &[]).await;
    let top = world.drv("top", &[&dep]).await;
    let (results, messages) = world.build(&[&top, &dep]).await;
    let statuses: Vec<_> = results.iter().map(|it| it.0).collect();
    assert_eq!(statuses, [BuildStatus::Built, BuildStatus::Substituted]);
    let dir = world.store.store_dir();
    let text = shown(&messages).join("\n");
    assert!(
        text.contains(&format!(
            "copying path '{}' from 'memory:",
            dir.display(&out)
        )),
        "{text}"
    );
    assert_orderly(&messages);
}

#[tokio::test]
async fn checks() {
    let world = World::new(builder().with_program("odd", |build| {
        let number = build.attempt();
        Ok(MemoryOutputs::out(Tree::file(format!("{number}"))))
    }));
    let (odd, even) = (world.drv("odd", &[]).await, world.drv("even", &[]).await);
    let (results, _) = world.build_as(&[&odd], BuildMode::Check).await;
    assert!(
        results[0]
            .1
            .contains("are not valid, so checking is not possible"),
        "{results:?}"
    );
    world.build(&[&odd, &even]).await;
    let (results, messages) = world.build_as(&[&odd], BuildMode::Check).await;
    assert_eq!(results[0].0, BuildStatus::NotDeterministic);
    assert!(
        results[0].1.contains("may not be deterministic: output"),
        "{results:?}"
    );
    assert!(shown(&messages)[0].starts_with("checking outputs of '"));
    let (results, _) = world.build_as(&[&even], BuildMode::Check).await;
    assert_eq!(results, [(BuildStatus::Built, String::new())]);
}

#[tokio::test]
async fn derivations_without_a_file() {
    let mut world = World::new(builder());
    let dir = world.store.store_dir().clone();
    let fixed = DerivationBuilder::new("floating", "x86_64-linux", "/bin/sh")
        .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256)
        .instantiate(&dir)
        .unwrap();
    let plain = DerivationBuilder::new("plain", "x86_64-linux", "/bin/sh")
        .instantiate(&dir)
        .unwrap();
    let (sender, _messages) = collected();
    let request = |drv: &Instantiated| BuildDerivation {
        path: drv.path.clone(),
        derivation: (*drv.derivation).clone(),
        mode: BuildMode::Normal,
    };
    let built = world
        .builds
        .build_derivation(request(&plain), &world.client, &sender)
        .await
        .unwrap();
    assert_eq!(built.status, BuildStatus::Built);
    world.client = Client::new(Trust::NotTrusted);
    let refused = world
        .builds
        .build_derivation(request(&plain), &world.client, &sender)
        .await;
    assert!(refused.unwrap_err().to_string().contains("not privileged"));
    for status in [BuildStatus::Built, BuildStatus::AlreadyValid] {
        let built = world
            .builds
            .build_derivation(request(&fixed), &world.client, &sender)
            .await
            .unwrap();
        assert_eq!(built.status, status, "{built:?}");
        let path = &built.built_outputs.values().next().unwrap().path;
        assert!(world.store.is_valid(path).await.unwrap());
    }
}

#[tokio::test]
async fn a_derivation_with_the_output_of_another_is_refused() {
    let world = World::new(builder());
    let victim = world.drv("victim", &[]).await;
    let mut forged = (*victim.derivation).clone();
    forged.args = vec!["-c".into(), "other contents".into()];
    let text = forged.to_aterm(world.store.store_dir());
    let name = victim.path.name().clone();
    let path = world
        .store
        .add_text(name, &text, SortedSet::new())
        .await
        .unwrap();
    let (sender, _messages) = collected();
    let paths = vec![DerivedPath::Built {
        drv: path,
        outputs: WantedOutputs::All,
    }];
    let error = world
        .builds
        .build(paths, BuildMode::Normal, &world.client, &sender)
        .await;
    assert!(error.unwrap_err().to_string().contains("incorrect output"));
}

#[tokio::test]
async fn a_hook_runs_after_builds() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hook");
    std::fs::write(
        &program,
        "#!/bin/sh\necho \"$DRV_PATH $OUT_PATHS\"\necho >> \"$0.runs\"\ncase $DRV_PATH in *fails.drv) exit 4;; esac\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut world = World::new(builder());
    world.builds = world
        .builds
        .clone()
        .with_post_build_hook(PostBuildHook::new(&program));
    let (works, fails) = (world.drv("works", &[]).await, world.drv("fails", &[]).await);
    let (results, messages) = world.build(&[&works]).await;
    assert_eq!(results[0].0, BuildStatus::Built);
    let dir = world.store.store_dir();
    let line = format!(
        "> {} {}",
        dir.display(&works.path),
        dir.display(&works.output_path("out").unwrap())
    );
    assert!(shown(&messages).contains(&line), "{:?}", shown(&messages));
    assert_orderly(&messages);
    // A failure ends the operation, whatever needs the build.
    let top = world.drv("top", &[&fails]).await;
    let (sender, messages) = collected();
    let paths = vec![all(&top)];
    let error = world
        .builds
        .build(paths, BuildMode::Normal, &world.client, &sender)
        .await;
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("program \"{}\" failed with exit code 4", program.display())
    );
    drop(sender);
    let shown = shown(&messages.await.unwrap());
    assert!(shown.iter().all(|it| !it.contains("error")), "{shown:?}");
    // Once for each build.
    let runs = std::fs::read(folder.path().join("hook.runs")).unwrap();
    assert_eq!(runs, b"\n\n");
}

#[tokio::test]
async fn the_places_for_builds_are_those_of_all_clients() {
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (highest, current) = (most.clone(), now.clone());
    let counting = builder().with_default_async(move |build| {
        let (highest, current) = (highest.clone(), current.clone());
        async move {
            let running = current.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(running, Ordering::SeqCst);
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            current.fetch_sub(1, Ordering::SeqCst);
            Ok(MemoryOutputs::all(&build, "made"))
        }
    });
    let world = Arc::new(World::new(counting));
    let mut clients = Vec::new();
    for client in 0..4 {
        let mut drvs = Vec::new();
        for number in 0..8 {
            drvs.push(world.drv(&format!("drv-{client}-{number}"), &[]).await);
        }
        let world = world.clone();
        clients.push(tokio::spawn(async move {
            let drvs: Vec<_> = drvs.iter().collect();
            world.build(&drvs).await.0
        }));
    }
    for client in clients {
        assert!(
            client
                .await
                .unwrap()
                .iter()
                .all(|it| it.0 == BuildStatus::Built)
        );
    }
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_keeps_no_place() {
    let loud = InMemoryBuilder::new(BuilderProfile::new("local", "x86_64-linux", 1))
        .with_default(|build| Ok(MemoryOutputs::all(build, "made")))
        .with_program_async("loud", |build| async move {
            for _ in 0..4096 {
                build.log("x".repeat(1024)).await;
            }
            Ok(MemoryOutputs::out(Tree::file("loud")))
        });
    let world = Arc::new(World::new(loud));
    let (loud, quick) = (world.drv("loud", &[]).await, world.drv("quick", &[]).await);
    let (sender, mut unread) = mpsc::channel(4);
    let (stalled, paths) = (world.clone(), vec![all(&loud)]);
    let stalled = tokio::spawn(async move {
        stalled
            .builds
            .build(paths, BuildMode::Normal, &stalled.client, &sender)
            .await
    });
    let (results, _) = world.build(&[&quick]).await;
    assert_eq!(results, [(BuildStatus::Built, String::new())]);
    // It goes on when the client reads.
    let reading = tokio::spawn(async move { while unread.recv().await.is_some() {} });
    let results = stalled.await.unwrap().unwrap();
    assert_eq!(results[0].result.status, BuildStatus::Built);
    reading.await.unwrap();
}
