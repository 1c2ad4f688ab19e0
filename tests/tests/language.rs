//! The whole flow with the Nix language: requests are expressions, and builds start, end and fail
//! during evaluation.
//!
//! As in `flow`, tests of order use handshakes: with a wrong order, two parts would wait for each
//! other forever.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::sync::Barrier;
use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
use tvix_build_api::{BuilderProfile, FailureKind, this_system};
use tvix_coordinator::{
    BuildEvent, BuildPolicy, Coordinator, OnFailure, Options, Report, SessionError, Status,
};
use tvix_eval::native::Native;
use tvix_eval::world::Settings;
use tvix_eval::{Limits, NixEvaluator};
use tvix_eval_api::{AttrPath, EvalErrorKind, EvalRequest, EvalSource};
use tvix_store_api::MemoryStore;
use tvix_tests::session::{position, run, within};

/// The start of every expression: a function that makes a derivation from a name.
const PRELUDE: &str = r#"
let
  drv = name: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh"; };
  after = name: input: derivation {
    inherit name input;
    system = builtins.currentSystem;
    builder = "/bin/sh";
  };
in
"#;

fn request(text: &str, attrs: &[&str]) -> EvalRequest {
    EvalRequest::new(EvalSource::Expression {
        text: format!("{PRELUDE}{text}"),
        base: "/".into(),
    })
    .with_attr_paths(attrs.iter().map(|attr| (*attr).to_owned()).collect())
}

fn evaluator() -> NixEvaluator {
    NixEvaluator::new(Settings::default())
}

/// Makes files that contain the name of their derivation.
fn builder() -> InMemoryBuilder {
    InMemoryBuilder::new(BuilderProfile::new("memory", this_system(), 8)).with_default(|build| {
        let name = &build.request().derivation.name;
        Ok(MemoryOutputs::out(Tree::file(format!("{name}"))))
    })
}

fn coordinator(evaluator: NixEvaluator, builder: InMemoryBuilder) -> Coordinator {
    let options = Options::default().with_on_failure(OnFailure::Continue);
    let store = Arc::new(MemoryStore::new(Default::default()));
    Coordinator::new(Arc::new(evaluator), store)
        .with_builder(Arc::new(builder))
        .with_options(options)
}

fn roots(report: &Report) -> Vec<String> {
    let roots = report.roots.iter();
    roots
        .filter_map(|root| {
            Some(format!(
                "{} = {}",
                root.name,
                root.drv_path.as_ref()?.name()
            ))
        })
        .collect()
}

fn traces(events: &[BuildEvent]) -> Vec<String> {
    let messages = events.iter().filter_map(|event| match event {
        BuildEvent::Diagnostic { diagnostic } => Some(diagnostic.message.clone()),
        _ => None,
    });
    messages.collect()
}

#[tokio::test]
async fn builds_begin_while_evaluation_goes_on() {
    let (begun, waits) = mpsc::channel();
    let waits = Mutex::new(waits);
    // The evaluation waits until the build of the first derivation has started.
    let wait = Native::of("wait", move |value: String| {
        let waits = waits.lock().unwrap();
        let waited = waits.recv_timeout(Duration::from_secs(120));
        waited.map(|()| value).map_err(|error| error.to_string())
    });
    let builder = builder().with_program("first", move |_| {
        begun.send(()).unwrap();
        Ok(MemoryOutputs::out(Tree::file("first")))
    });
    let coordinator = coordinator(evaluator().with_builtin(wait), builder);
    let text = r#"after "last" (after (builtins.wait "second") (drv "first"))"#;
    // Names are evaluated before derivations are instantiated, so `seq` moves the wait behind the
    // instantiation of the first derivation.
    let text = text.replace(
        "(after (builtins.wait \"second\") (drv \"first\"))",
        "(let f = drv \"first\"; in after (builtins.seq f.drvPath (builtins.wait \"second\")) f)",
    );
    let (events, report) = run(&coordinator, request(&text, &[])).await;
    assert!(report.is_success(), "{report:#?}");
    assert_eq!(report.counts.built, 3);
    let started = position(
        &events,
        |event| matches!(event, BuildEvent::BuildStarted { drv_path, .. } if drv_path.name().as_str() == "first.drv"),
    );
    let ended = position(&events, |event| {
        matches!(event, BuildEvent::EvaluationEnded)
    });
    assert!(started < ended, "{events:#?}");
}

const IMPORTS: &str = r#"
let
  shared = builtins.trace "shared" (drv "shared");
  importing = name: builtins.trace "before ${name}" (
    let text = builtins.readFile (after name shared);
    in builtins.seq text (builtins.trace "after ${name}" (drv "made-by-${text}")));
in {
  a = importing "import-a";
  b = importing "import-b";
  other = builtins.trace "other" (drv "other");
}"#;

#[tokio::test]
async fn imports_are_in_flight_side_by_side_and_nothing_is_evaluated_twice() {
    // Builds end only when all three are running concurrently.
    let meeting = Arc::new(Barrier::new(3));
    let mut builder = builder();
    for name in ["import-a", "import-b", "other"] {
        let meeting = meeting.clone();
        builder = builder.with_program_async(name, move |build| {
            let (meeting, name) = (meeting.clone(), build.request().derivation.name.clone());
            async move {
                meeting.wait().await;
                Ok(MemoryOutputs::out(Tree::file(format!("{name}"))))
            }
        });
    }
    let coordinator = coordinator(evaluator(), builder);
    let (events, report) = run(&coordinator, request(IMPORTS, &["a", "b", "other"])).await;
    assert!(report.is_success(), "{report:#?}");
    let mut found = roots(&report);
    found.sort();
    assert_eq!(
        found,
        [
            "a = made-by-import-a.drv",
            "b = made-by-import-b.drv",
            "other = other.drv"
        ]
    );
    assert_eq!((report.counts.built, report.counts.imports), (6, 2));
    let mut traces = traces(&events);
    assert_eq!(
        traces[..4],
        [
            "trace: before import-a",
            "trace: shared",
            "trace: before import-b",
            "trace: other"
        ]
    );
    traces[4..].sort();
    assert_eq!(
        traces[4..],
        ["trace: after import-a", "trace: after import-b"]
    );
}

#[tokio::test]
async fn imports_of_imports_and_sets_of_them() {
    let text = r#"{
      deep = import (builtins.toFile "n.nix" "{ f, text }: f text") {
        f = drv;
        text = builtins.readFile (drv (builtins.readFile (drv "inner")));
      };
      set = { recurseForDerivations = true; x = drv "x"; y = drv "y"; z = 1; };
      ignored = { q = drv "q"; };
      list = [ (drv "x") [ (drv "l") ] ];
      function = { n ? "default" }: drv n;
    }"#;
    let coordinator = coordinator(evaluator(), builder());
    let mut whole = request(text, &[]);
    let (_, report) = run(&coordinator, whole.clone()).await;
    assert!(report.is_success(), "{report:#?}");
    let mut found = roots(&report);
    found.sort();
    assert_eq!(
        found,
        ["deep = inner.drv", "set.x = x.drv", "set.y = y.drv"]
    );

    whole.attr_paths = ["list", "list.1.0", "function", "set.\"x\"", "ignored"]
        .map(str::to_owned)
        .into();
    whole.args = [("n".to_owned(), "\"gi\" + \"ven\"".to_owned())].into();
    let (_, report) = run(&coordinator, whole).await;
    assert!(report.is_success(), "{report:#?}");
    let mut found = roots(&report);
    found.sort();
    assert_eq!(
        found,
        [
            "function = given.drv",
            "ignored.q = q.drv",
            "list.0 = x.drv",
            "list.1.0 = l.drv",
            "list.1.0 = l.drv",
            "set.\"x\" = x.drv"
        ]
    );
}

#[tokio::test]
async fn a_failed_import_is_an_error_where_it_was_needed() {
    let builder = builder().with_program_async("broken", |build| async move {
        build.log("this is why").await;
        Err(FailureKind::ExitCode { code: 3 }.into())
    });
    let coordinator = coordinator(evaluator(), builder);
    let text = "{\n  bad = builtins.seq (builtins.readFile (drv \"broken\")) (drv \"x\");\n  good = drv \"good\";\n}";
    let (_, report) = run(&coordinator, request(text, &["bad", "good", "god"])).await;
    assert_eq!(roots(&report), ["good = good.drv"]);
    // Each thing that was asked for has its entry, in order.
    let asked: Vec<_> = report
        .roots
        .iter()
        .map(|it| (&*it.name, it.success))
        .collect();
    assert_eq!(asked, [("bad", false), ("good", true), ("god", false)]);
    let error = |number: usize| report.roots[number].error.as_ref().unwrap();
    assert_eq!(error(0).kind, EvalErrorKind::Build);
    assert_eq!(
        error(0).drv_path.as_ref().unwrap().name().as_str(),
        "broken.drv"
    );
    let position = error(0).position.as_ref().unwrap();
    let line = u32::try_from(PRELUDE.lines().count()).unwrap() + 2;
    assert_eq!((&*position.file, position.line), ("«string»", line));
    assert_eq!(error(2).kind, EvalErrorKind::AttributeNotFound);
    assert_eq!(error(2).attr_path, Some(AttrPath::new("god")));
    let errors: Vec<_> = report.errors.iter().map(ToString::to_string).collect();
    let [bad, god] = &errors[..] else {
        panic!("{report:#?}");
    };
    let (bad, god) = match bad.contains("broken") {
        true => (bad, god),
        false => (god, bad),
    };
    for words in [
        "while calling the 'readFile' builtin",
        "at «string»:",
        "  bad = builtins.seq (builtins.readFile (drv \"broken\")) (drv \"x\");",
        "-broken.drv' failed:",
        "> this is why",
    ] {
        assert!(bad.contains(words), "no '{words}' in {bad}");
    }
    assert_eq!(
        god,
        "attribute 'god' in selection path 'god' not found\n       Did you mean one of good or bad?"
    );
}

/// Roots are in the order of a depth-first search, regardless of the order in which they are found.
#[tokio::test]
async fn roots_come_in_the_order_of_the_expression() {
    let text = r#"
      let
        wait = builtins.seq (builtins.readFile (drv "gate"));
        shared = drv "shared";
      in {
        a = wait shared;
        b = drv "b";
        c = shared;
        d = [ (drv "ignored") ];
        e = { recurseForDerivations = true; z = drv "z"; y = wait { recurseForDerivations = true; x = drv "x"; again = shared; }; };
        f = wait (drv "f");
        g = shared // { outputName = "out"; };
      }"#;
    let coordinator = coordinator(evaluator(), builder());
    let (_, report) = run(&coordinator, request(text, &[])).await;
    assert!(report.is_success(), "{report:#?}");
    let whole = [
        "a = shared.drv",
        "b = b.drv",
        "e.y.x = x.drv",
        "e.z = z.drv",
        "f = f.drv",
        "g = shared.drv",
    ];
    assert_eq!(roots(&report), whole);

    // Each attribute path has roots of its own, in the order of the request.
    let (_, report) = run(&coordinator, request(text, &["f", "c", "e", "d", "a"])).await;
    assert!(report.is_success(), "{report:#?}");
    let asked = [
        "f = f.drv",
        "c = shared.drv",
        "e.y.again = shared.drv",
        "e.y.x = x.drv",
        "e.z = z.drv",
        "d.0 = ignored.drv",
        "a = shared.drv",
    ];
    assert_eq!(roots(&report), asked);
}

#[tokio::test]
async fn a_cycle_across_attributes_is_found() {
    let text = r#"
      let
        wait = name: builtins.seq (builtins.readFile (drv name));
        set = { a = wait "for-a" set.b; b = wait "for-b" set.a; };
      in set // { fine = drv "fine"; }"#;
    let coordinator = coordinator(evaluator(), builder());
    let (_, report) = run(&coordinator, request(text, &["a", "b", "fine"])).await;
    assert_eq!(roots(&report), ["fine = fine.drv"]);
    assert_eq!(report.errors.len(), 2, "{report:#?}");
    for error in &report.errors {
        assert!(
            error.to_string().contains("infinite recursion encountered"),
            "{report:#?}"
        );
        let SessionError::Evaluation(error) = error else {
            panic!("{report:#?}");
        };
        assert_eq!(error.kind, EvalErrorKind::InfiniteRecursion);
    }
}

/// An evaluator, and a reference-counted value that its evaluations hold as long as their threads
/// live.
fn watched(settings: Settings) -> (NixEvaluator, Arc<()>) {
    let held = Arc::new(());
    let holds = held.clone();
    let identity = Native::of("identity", move |value: i64| {
        let _ = &holds;
        Ok(value)
    });
    (NixEvaluator::new(settings).with_builtin(identity), held)
}

async fn gone(held: &Arc<()>) {
    within("the evaluation's thread ends", async {
        while Arc::strong_count(held) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn cancelling_ends_an_evaluation_that_waits_for_a_build() {
    let (evaluator, held) = watched(Settings::default());
    let coordinator = coordinator(evaluator, builder().never("import-a").never("import-b"));
    let mut session = coordinator.start(request(IMPORTS, &["a", "b"]));
    drop(coordinator);
    within("an import", async {
        use futures::StreamExt as _;
        while let Some(record) = session.next().await {
            if matches!(record.event, BuildEvent::ImportRequested { .. }) {
                session.cancellation().cancel();
            }
        }
    })
    .await;
    let report = session.report().await;
    assert_eq!(report.status, Status::Cancelled);
    gone(&held).await;
}

const ENDLESS: &str = "
  let
    many = builtins.genList (x: x) 1000;
    loop = depth: if depth == 0 then 0 else builtins.foldl' (a: b: loop (depth - 1)) 0 many;
  in loop 9";

#[tokio::test]
async fn cancelling_ends_an_evaluation_that_says_nothing() {
    let (evaluator, held) = watched(Settings::default());
    let coordinator = coordinator(evaluator, builder());
    let session = coordinator.start(request(ENDLESS, &[]));
    drop(coordinator);
    tokio::time::sleep(Duration::from_millis(20)).await;
    session.cancellation().cancel();
    assert_eq!(session.report().await.status, Status::Cancelled);
    gone(&held).await;
}

#[tokio::test]
async fn limits_end_an_evaluation() {
    let mut settings = Settings::default();
    let mut limits = Limits::default();
    limits.time = Some(Duration::from_millis(50));
    settings.limits = limits;
    let (_, report) = run(
        &coordinator(NixEvaluator::new(settings), builder()),
        request(ENDLESS, &[]),
    )
    .await;
    assert_eq!(report.status, Status::EvaluationFailed);
    let error = report.errors[0].to_string();
    assert!(error.contains("took longer than 50ms"), "{report:#?}");
}

/// A filtered tree is added to the store without the excluded file.
#[tokio::test]
async fn filtered_sources_are_added() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kept"), "kept").unwrap();
    std::fs::write(folder.path().join("left-out"), "left out").unwrap();
    let text = format!(
        "derivation {{
          name = \"user\"; system = builtins.currentSystem; builder = \"/bin/sh\";
          some = builtins.filterSource (path: type: baseNameOf path != \"left-out\") {0};
          all = {0};
          file = builtins.path {{ path = {0}/kept; recursive = false; }};
        }}",
        folder.path().display()
    );
    let coordinator = coordinator(evaluator(), builder());
    let (_, report) = run(&coordinator, request(&text, &[])).await;
    assert!(report.is_success(), "{report:#?}");
    assert_eq!(report.counts.sources_added, 3);
}

/// Texts that refer to texts, and `.drv` files that refer to them: each is added after its
/// references, and nothing is built.
#[tokio::test]
async fn derivations_are_recorded_without_being_built() {
    let world = tvix_tests::local::LocalWorld::new().await;
    let text = r#"
      let
        texts = builtins.genList (n:
          if n == 0 then builtins.toFile "t" "0"
          else builtins.toFile "t" "${toString n} ${builtins.elemAt texts (n - 1)}") 20;
        chain = builtins.genList (n:
          if n == 0 then drv "link" else after "link${toString n}" (builtins.elemAt chain (n - 1))) 20;
      in derivation {
        name = "top"; system = builtins.currentSystem; builder = "/bin/sh";
        inherit texts chain;
      }"#;
    let options = Options::default()
        .with_policy(BuildPolicy::Imports)
        .with_record_derivations(true);
    let coordinator = Coordinator::new(Arc::new(evaluator()), Arc::new(world.store.clone()))
        .with_options(options);
    let (_, report) = run(&coordinator, request(text, &[])).await;
    assert!(report.is_success(), "{report:#?}");
    assert_eq!((report.counts.sources_added, report.counts.built), (20, 0));
    assert_eq!(world.valid().await.len(), 20 + 20 + 1);
    world.expect_clean().await;
}
