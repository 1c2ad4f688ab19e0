//! The serialised form of events: each variant as it is in `golden.jsonl`, which consumers of other
//! languages rely on. Run with `UPDATE_GOLDEN=1` to write the file anew after an intended change.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::{BuildFailure, BuilderErrorKind, Difference, FailureKind, ResourceUsage};
use tvix_coordinator::StoreErrorKind;
use tvix_coordinator::{
    BuildEvent, CheckProblem, CheckReport, ComponentError, ComponentErrorKind, EventRecord,
    Failure, FailureCause, Report, RootReport, SessionError, Skipped, Status,
};
use tvix_eval_api::{
    Diagnostic, EvalError, EvalErrorKind, EvalFailure, Position, Root, RootOrder, Severity,
    WantedOutputs,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/events/golden.jsonl");

fn path(name: &str) -> StorePath {
    let name = format!("00bgd045z0d4icpbc2yyz4gx48ak44la-{name}");
    name.parse().unwrap()
}

fn out() -> OutputName {
    "out".parse().unwrap()
}

fn not_found() -> EvalFailure {
    let error = EvalError::attribute_not_found("packages.nothere").with_order(RootOrder::of(1));
    error.failure()
}

fn thrown() -> EvalFailure {
    let mut failure = EvalError::expression("no").failure();
    failure.kind = EvalErrorKind::Thrown;
    failure.position = Some(Position::new("/home/me/default.nix", 3, 14));
    failure
}

fn full() -> ComponentError {
    let message = "store 'local' failed while writing: No space left on device (os error 28)";
    let mut trouble =
        ComponentError::new(ComponentErrorKind::Store(StoreErrorKind::NoSpace), message);
    trouble.causes = vec![
        "store 'local' failed while writing".to_owned(),
        "No space left on device (os error 28)".to_owned(),
    ];
    trouble
}

fn failure(kind: FailureKind) -> BuildFailure {
    BuildFailure::new(kind, Duration::from_millis(1500))
        .with_log_tail(vec!["last words".to_owned()])
        .with_usage(usage())
}

fn usage() -> ResourceUsage {
    ResourceUsage::new(
        Duration::from_millis(250),
        Duration::from_millis(125),
        1 << 20,
    )
}

fn failure_kinds() -> Vec<FailureKind> {
    let hash = |text: &[u8]| NixHash::digest(HashAlgo::Sha256, text);
    let limit = Duration::from_secs(60);
    vec![
        FailureKind::ExitCode { code: 2 },
        FailureKind::Signal { signal: 9 },
        FailureKind::CannotRun {
            program: "/bin/nope".to_owned(),
            message: "no such file".to_owned(),
        },
        FailureKind::TimedOut { limit },
        FailureKind::Silent { limit },
        FailureKind::LogLimit { limit: 1000 },
        FailureKind::DiskLimit { limit: 1000 },
        FailureKind::MemoryLimit { limit: 1000 },
        FailureKind::MissingOutput {
            output: out(),
            path: "/nix/store/x".to_owned(),
        },
        FailureKind::HashMismatch {
            expected: hash(b"a"),
            actual: hash(b"b"),
        },
        FailureKind::ForbiddenReference {
            output: out(),
            references: vec![path("gcc")],
        },
        FailureKind::TooLarge {
            output: out(),
            size: 2000,
            limit: 1000,
            closure: true,
        },
        FailureKind::InvalidOutput {
            output: out(),
            message: "a socket".to_owned(),
        },
        FailureKind::InvalidDerivation {
            message: "no builder".to_owned(),
        },
        FailureKind::Cancelled,
    ]
}

fn causes() -> Vec<FailureCause> {
    let message = || "why".to_owned();
    vec![
        FailureCause::Build {
            failure: failure(FailureKind::ExitCode { code: 1 }),
        },
        FailureCause::Unsuitable { message: message() },
        FailureCause::Builder {
            error: ComponentError::new(
                ComponentErrorKind::Builder(BuilderErrorKind::SandboxUnavailable),
                "no namespaces",
            ),
        },
        FailureCause::InputsGone { message: message() },
        FailureCause::Store { error: full() },
        FailureCause::MissingInput {
            input: path("input.drv"),
        },
        FailureCause::NoSuchOutput {
            input: path("input.drv"),
            output: "dev".to_owned(),
        },
        FailureCause::Cycle {
            cycle: vec![path("a.drv"), path("b.drv"), path("a.drv")],
        },
        FailureCause::Invalid { message: message() },
    ]
}

fn check_problems() -> Vec<CheckProblem> {
    let hash = |text: &[u8]| NixHash::digest(HashAlgo::Sha256, text);
    vec![
        CheckProblem::Differs {
            differences: vec![
                Difference::new(out(), path("hello"), hash(b"a"), hash(b"b"))
                    .with_kept(PathBuf::from("/tmp/kept")),
            ],
        },
        CheckProblem::Failed {
            failure: failure(FailureKind::ExitCode { code: 1 }),
            fixed_output: true,
        },
        CheckProblem::NotValid {
            outputs: vec![out()],
        },
        CheckProblem::Impossible {
            reason: Box::new(FailureCause::Store { error: full() }),
        },
        CheckProblem::Skipped {
            root_cause: path("bad.drv"),
        },
    ]
}

fn report() -> Report {
    let mut report = Report::new(Status::BuildFailed);
    let causes = causes().into_iter();
    let failures = causes.map(|cause| Failure::new(path("bad.drv"), cause));
    report.failures.extend(failures);
    let skipped = Skipped::new(path("other.drv"), path("bad.drv"));
    report.skipped.push(skipped);
    report.errors = vec![
        SessionError::Evaluation(not_found()),
        SessionError::Evaluation(thrown()),
        SessionError::Store(full()),
        SessionError::NoSuchOutput {
            drv_path: path("hello.drv"),
            output: "doc".to_owned(),
        },
        SessionError::Bug {
            message: "a bug".to_owned(),
        },
    ];
    report.checks = check_problems()
        .into_iter()
        .map(|problem| CheckReport::new(path("hello.drv"), Some(problem)))
        .collect();
    let mut hello = RootReport::new("packages.hello", RootOrder::of(0));
    hello.drv_path = Some(path("hello.drv"));
    hello.outputs = [(out(), path("hello"))].into_iter().collect();
    hello.success = true;
    let mut missing = RootReport::new("packages.nothere", RootOrder::of(1));
    missing.error = Some(not_found());
    report.roots = vec![hello, missing];
    report
}

/// At least one event of each variant.
fn events() -> Vec<BuildEvent> {
    let drv_path = || path("hello.drv");
    let wanted = WantedOutputs::new(drv_path(), vec![out()]);
    let mut root = Root::new("packages.hello", wanted).with_order(RootOrder::of(0).child(2));
    root.moved_from = Some(RootOrder::of(1));
    let diagnostic = Diagnostic::new(Severity::Warning, "careful".to_owned());
    let substituter: Arc<str> = "https://cache.example.org".into();
    let builder: Arc<str> = "local".into();
    let second = Duration::from_secs(1);
    let unreachable = ComponentError::new(
        ComponentErrorKind::Store(StoreErrorKind::Unreachable),
        "no answer",
    );
    let mut events = vec![
        BuildEvent::SessionStarted {
            store_dir: StoreDir::default(),
        },
        BuildEvent::Instantiated {
            drv_path: drv_path(),
        },
        BuildEvent::Root { root },
        BuildEvent::ImportRequested {
            import: 1,
            drv_paths: vec![drv_path()],
            ahead: false,
        },
        BuildEvent::ImportAnswered {
            import: 1,
            success: true,
        },
        BuildEvent::ImportRequested {
            import: 2,
            drv_paths: vec![drv_path()],
            ahead: true,
        },
        BuildEvent::ImportNeeded { import: 2 },
        BuildEvent::ImportDropped { import: 3 },
        BuildEvent::Diagnostic { diagnostic },
        BuildEvent::EvaluationFailed { error: not_found() },
        BuildEvent::EvaluationFailed { error: thrown() },
        BuildEvent::EvaluationEnded,
        BuildEvent::SourceAdded {
            path: path("source"),
        },
        BuildEvent::Recorded {
            drv_paths: vec![drv_path()],
        },
        BuildEvent::Found {
            drv_path: drv_path(),
        },
        BuildEvent::SubstitutionStarted {
            path: path("hello"),
            substituter: substituter.clone(),
        },
        BuildEvent::Substituted {
            path: path("hello"),
            substituter: substituter.clone(),
            duration: second,
        },
        BuildEvent::SubstitutionFailed {
            path: path("hello"),
            substituter: substituter.clone(),
            error: ComponentError::new(
                ComponentErrorKind::Store(StoreErrorKind::Corrupt),
                "not a NAR",
            ),
        },
        BuildEvent::SubstituterFailed {
            substituter: substituter.clone(),
            error: unreachable.retryable(true),
        },
        BuildEvent::RealisationRefused {
            substituter,
            message: "not signed".to_owned(),
        },
        BuildEvent::Resolved {
            drv_path: drv_path(),
            resolved: path("resolved.drv"),
        },
        BuildEvent::BuildStarted {
            build: 1,
            drv_path: drv_path(),
            builder: builder.clone(),
        },
        BuildEvent::BuildWaiting {
            build: 1,
            drv_path: drv_path(),
            lock: "/nix/store/x.lock".to_owned(),
        },
        BuildEvent::BuildResumed {
            build: 1,
            drv_path: drv_path(),
        },
        BuildEvent::LogLine {
            build: 1,
            text: "compiling".into(),
            partial: false,
        },
        BuildEvent::LogLine {
            build: 1,
            text: "no newline at the end".into(),
            partial: true,
        },
        BuildEvent::PushStarted { build: 1 },
        BuildEvent::BuildSucceeded {
            build: 1,
            drv_path: drv_path(),
            outputs: [(out(), path("hello"))].into_iter().collect(),
            duration: second,
            usage: Some(usage()),
            pushed: true,
        },
        BuildEvent::BuildRetried {
            build: 1,
            drv_path: drv_path(),
            error: ComponentError::bug("lost").retryable(true),
            delay: second,
        },
        BuildEvent::BuilderPaused {
            builder: "ssh-ng://host".into(),
            error: ComponentError::new(
                ComponentErrorKind::Builder(BuilderErrorKind::Unreachable),
                "no route to host",
            )
            .retryable(true),
            pause: second,
        },
        BuildEvent::Skipped {
            drv_path: drv_path(),
            root_cause: path("bad.drv"),
        },
        BuildEvent::BuildCancelled {
            build: 1,
            drv_path: drv_path(),
        },
        BuildEvent::CheckStarted {
            build: 2,
            drv_path: drv_path(),
            builder,
        },
        BuildEvent::CheckSucceeded {
            build: 2,
            drv_path: drv_path(),
            duration: second,
        },
        BuildEvent::Restarted {
            message: "input vanished".to_owned(),
        },
    ];
    let problems = check_problems().into_iter();
    events.extend(problems.map(|problem| BuildEvent::CheckFailed {
        build: Some(2),
        drv_path: drv_path(),
        problem,
    }));
    events.extend(
        failure_kinds()
            .into_iter()
            .map(|kind| BuildEvent::BuildFailed {
                build: 1,
                drv_path: path("bad.drv"),
                failure: failure(kind),
            }),
    );
    let failed = causes().into_iter().skip(1);
    events.extend(failed.map(|cause| BuildEvent::Failed {
        drv_path: path("bad.drv"),
        message: cause.to_string(),
        cause,
    }));
    events.push(BuildEvent::Finished {
        report: Arc::new(report()),
    });
    events
}

fn records() -> Vec<EventRecord> {
    let events = events().into_iter().enumerate();
    let record = |(number, event)| {
        let time = Duration::from_millis(number as u64 * 500);
        EventRecord::new(number as u64, time, event)
    };
    events.map(record).collect()
}

#[test]
fn events_are_serialised_as_in_the_golden_file() {
    let dir = StoreDir::default();
    let lines = records().into_iter();
    let lines = lines.map(|record| record.to_json(&dir).unwrap() + "\n");
    let text: String = lines.collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(GOLDEN, &text).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    for (line, golden) in text.lines().zip(golden.lines()) {
        assert_eq!(line, golden);
    }
    assert_eq!(text, golden);
}

#[test]
fn the_golden_file_is_read_as_what_was_written() {
    let dir = StoreDir::default();
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let read: Vec<_> = golden
        .lines()
        .map(|line| EventRecord::from_json(line, &dir).unwrap())
        .collect();
    assert_eq!(read, records());
}

#[test]
fn lines_that_are_not_utf_8_are_kept_as_bytes_and_shown_as_text() {
    let text = tvix_coordinator::LogText::from(&b"caf\xe9"[..]);
    assert_eq!(text.as_bytes(), b"caf\xe9");
    assert_eq!(serde_json::to_string(&text).unwrap(), "\"caf\u{fffd}\"");
}

/// `docs/EVENTS.md` has a row for each event, with each of its fields.
#[test]
fn each_event_and_each_field_is_documented() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/EVENTS.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    for line in golden.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let event = value["event"].as_str().unwrap();
        let row = docs
            .lines()
            .find(|row| row.starts_with(&format!("| `{event}` |")));
        let row = row.unwrap_or_else(|| panic!("no row of {event}"));
        for field in value.as_object().unwrap().keys() {
            let common = matches!(field.as_str(), "v" | "seq" | "time" | "event");
            let named = row.contains(&format!("`{field}`"))
                || (row.contains("*evaluation error*") && EVALUATION_ERROR.contains(&&**field))
                || (row.contains("*error*") && ERROR.contains(&&**field));
            assert!(common || named, "{event}: no field {field} in {row}");
        }
    }
    for field in EVALUATION_ERROR.iter().chain(&ERROR) {
        assert!(docs.contains(&format!("| `{field}` |")), "{field}");
    }
}

/// Fields of *evaluation error*.
const EVALUATION_ERROR: [&str; 7] = [
    "kind", "attrPath", "order", "position", "drvPath", "message", "causes",
];
/// Fields of *error*.
const ERROR: [&str; 5] = ["origin", "kind", "message", "causes", "retryable"];

#[cfg(feature = "schema")]
#[test]
fn the_schema_is_the_documented_one() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/events.schema.json");
    let schema = schemars::schema_for!(EventRecord);
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), text);
    // Each event of the golden file is one of the schema, and the other way round.
    let golden = std::fs::read_to_string(GOLDEN).unwrap();
    let events = golden.lines().map(|line| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["event"].as_str().unwrap().to_owned()
    });
    let events: std::collections::BTreeSet<String> = events.collect();
    let schema = serde_json::to_value(&schema).unwrap();
    let variants = schema["oneOf"].as_array().unwrap().iter().map(|variant| {
        let tag = &variant["properties"]["event"]["const"];
        tag.as_str().unwrap().to_owned()
    });
    assert_eq!(variants.collect::<std::collections::BTreeSet<_>>(), events);
}
