//! The arrows between user, command line and coordinator: the program `tvix`, run as by a user.

use std::fs;
use std::path::Path;

use nix_compat::derivation::Instantiated;
use tvix_coordinator::{BuildEvent, EVENT_VERSION, EventRecord, Report, Status};
use tvix_store_api::Store as _;
use tvix_tests::local::{LocalWorld, absolute, instantiate, shell};
use tvix_tests::program::{Ended, build, run, tvix};

fn hello() -> Instantiated {
    let greeting = instantiate(shell("greeting", "echo hello > $out"));
    instantiate(shell("hello", "cat $greeting > $out").input_env("greeting", &greeting, "out"))
}

fn greeting() -> Instantiated {
    instantiate(shell("greeting", "echo hello > $out"))
}

/// Builds `made`, and returns the events.
async fn build_with_events(
    world: &LocalWorld,
    made: &[&Instantiated],
) -> (Ended, Vec<EventRecord>) {
    let file = world.beside("events");
    let mut command = build(tvix(), world);
    command.arg("--events").arg(&file);
    for made in made {
        command.arg(world.write(made).await);
    }
    let ended = run(&mut command);
    (ended, events_in(&file, world))
}

fn events_in(file: &Path, world: &LocalWorld) -> Vec<EventRecord> {
    let dir = world.store.store_dir();
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines();
    let events = lines.map(|line| EventRecord::from_json(line, dir).unwrap());
    events.collect()
}

fn report_of(events: &[EventRecord]) -> &Report {
    match &events.last().unwrap().event {
        BuildEvent::Finished { report } => report,
        other => panic!("the last event is {other:?}"),
    }
}

#[tokio::test]
async fn user_initiates_build() {
    let world = LocalWorld::new().await;
    world.write(&greeting()).await;
    let drv = world.write(&hello()).await;
    let ended = run(build(tvix(), &world).arg(&drv)).expect(0);
    let out = hello().output_path("out").unwrap();
    assert_eq!(ended.out, [absolute(&out)]);
    assert_eq!(world.read(&out), "hello\n");
    let link = fs::read_link(world.beside("work/result")).unwrap();
    assert_eq!(link, world.store.real_path(&out));
    world.expect_clean().await;
}

#[tokio::test]
async fn cli_invokes_coordinator() {
    let world = LocalWorld::new().await;
    world.write(&greeting()).await;
    let (ended, events) = build_with_events(&world, &[&hello()]).await;
    let ended = ended.expect(0);
    // One session of the coordinator, with the user's request.
    assert!(events.iter().all(|record| record.v == EVENT_VERSION));
    let report = report_of(&events);
    let [root] = &report.roots[..] else {
        panic!("{report:#?}");
    };
    assert_eq!(root.name, absolute(&hello().path));
    assert_eq!(root.drv_path, Some(hello().path));
    assert_eq!(report.counts.built, 2);
    let printed: Vec<_> = report.output_paths().map(absolute).collect();
    assert_eq!(ended.out, printed);
}

#[tokio::test]
async fn coordinator_responds_success_or_fail() {
    let world = LocalWorld::new().await;
    let (ended, events) = build_with_events(&world, &[&greeting()]).await;
    ended.expect(0);
    assert_eq!(report_of(&events).status, Status::Success);

    let broken = instantiate(shell("broken", "echo why it failed; exit 9"));
    let (ended, events) = build_with_events(&world, &[&broken]).await;
    let report = report_of(&events);
    assert_eq!(report.status, Status::BuildFailed);
    assert_eq!(report.failures[0].drv_path, broken.path);
    // The command line prints it.
    let drv = absolute(&broken.path);
    let ended = ended.says(&[&drv, "exit code 9", "why it failed"]);
    assert_eq!(ended.out, [""; 0]);
}

#[tokio::test]
async fn report_has_what_was_not_evaluated() {
    let world = LocalWorld::new().await;
    let events = world.beside("events");
    let mut command = build(tvix(), &world);
    command.arg("--events").arg(&events);
    let fine = "derivation { name = \"a\"; system = \"any\"; builder = \"/bin/sh\"; }";
    command.args(["-E", "throw \"no\"", fine]);
    run(&mut command).expect(1).says(&["no"]);
    let events = events_in(&events, &world);
    let roots = report_of(&events).roots.iter();
    let roots = roots.map(|root| (&*root.name, root.success, root.error.is_some()));
    let roots: Vec<_> = roots.collect();
    assert_eq!(roots, [("0", false, true), ("1", false, false)]);
}

#[tokio::test]
async fn user_gets_exit_code() {
    let world = LocalWorld::new().await;
    let good = world.write(&greeting()).await;
    let bad = world.write(&instantiate(shell("bad", "exit 9"))).await;
    run(build(tvix(), &world).arg(&good)).expect(0);
    run(build(tvix(), &world).arg(&bad)).expect(100);
    run(build(tvix(), &world).args([&good, &bad])).expect(100);
    run(build(tvix(), &world).arg("/nowhere/such-a.drv")).expect(1);
    run(build(tvix(), &world).arg("--no-such-option")).expect(1);
    world.expect_clean().await;
}

#[tokio::test]
async fn log_files_have_the_bytes_that_were_written() {
    let world = LocalWorld::new().await;
    // A line longer than those that events carry, bytes that are not UTF-8, and no newline at the end.
    let script = "head -c 100000 /dev/zero | tr '\\0' x; printf '\\n\\377\\n\\nend'; echo > $out";
    let loud = instantiate(shell("loud", script));
    let drv = world.write(&loud).await;
    run(build(tvix(), &world).arg(&drv)).expect(0);
    let name = loud.path.to_string();
    let (folder, file) = name.split_at(2);
    let logs = world.root().join("nix/var/log/nix/drvs");
    let log = fs::read(logs.join(folder).join(file)).unwrap();
    let mut expected = vec![b'x'; 100_000];
    expected.extend_from_slice(b"\n\xff\n\nend");
    assert!(log == expected, "{} bytes", log.len());
}
