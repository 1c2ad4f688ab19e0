//! The ends of processes, and their leftovers and logs.

use std::time::{Duration, Instant};

use tvix_sandbox::{Ending, Event, Isolation, LineBuffer};

use crate::support::{Fixture, eventually, finish, marker, processes_with};

/// A script that leaves a daemon: a process that has forked twice and has a session of its own.
fn daemon(marker: &str) -> String {
    format!(
        "setsid sh -c '(sleep 1000; : {marker}) & wait' >/dev/null 2>&1 & : {marker}; sleep 0.1;"
    )
}

#[tokio::test]
async fn codes_and_signals() {
    let fixture = Fixture::new();
    assert_eq!(fixture.run("exit 3").await.0, Ending::Exited(3));
    // The first process of a PID namespace is immune to its own signals, also under Nix; a child is
    // not.
    assert_eq!(
        fixture.run("sh -c 'kill -9 $$'; exit $?").await.0,
        Ending::Exited(137)
    );
}

#[tokio::test]
async fn time_out_kills_daemons_too() {
    let fixture = Fixture::new();
    let marker = marker();
    let (mut spec, scratch) = fixture.shell(&(daemon(&marker) + "sleep 1000"));
    spec.limits.wall_time = Some(Duration::from_millis(400));
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, _) = finish(running).await;
    assert_eq!(ending, Ending::TimedOut(Duration::from_millis(400)));
    assert!(processes_with(&marker).is_empty());
}

#[tokio::test]
async fn silence_and_log_limits() {
    let fixture = Fixture::new();
    let limit = Duration::from_millis(300);
    let (mut spec, scratch) =
        fixture.shell("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done; sleep 1000");
    spec.limits.silence = Some(limit);
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert_eq!(
        finish(running).await,
        (Ending::Silent(limit), "1\n2\n3\n4\n5\n".into())
    );

    let (mut spec, scratch) = fixture.shell("yes");
    spec.limits.log_bytes = Some(100_000);
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::TooMuchLog(100_000));
    // Output that was written between the limit and the death is discarded.
    assert!(log.len() < 100_000 + (64 << 10), "{}", log.len());
}

#[tokio::test]
async fn kill_reports_the_log_so_far() {
    let fixture = Fixture::new();
    let (spec, scratch) = fixture.shell("echo before; sleep 1000");
    let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let Event::Log(log) = running.next().await.unwrap() else {
        panic!("ended early")
    };
    assert_eq!(&log[..], b"before\n");
    running.kill();
    assert!(matches!(
        running.next().await.unwrap(),
        Event::Ended(Ending::Killed)
    ));
}

#[tokio::test]
async fn dropping_leaves_no_process() {
    let fixture = Fixture::new();
    for isolation in [Isolation::Sandbox, Isolation::None] {
        let marker = marker();
        let (mut spec, scratch) = fixture.shell(&(daemon(&marker) + "echo up; sleep 1000"));
        spec.isolation = isolation;
        if isolation == Isolation::None {
            spec.cwd = "/".into();
        }
        let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
        let pid = running.pid().unwrap();
        assert!(matches!(running.next().await.unwrap(), Event::Log(_)));
        assert!(processes_with(&marker).len() >= 2);
        drop(running);
        eventually("all processes are gone", || {
            processes_with(&marker).is_empty()
        })
        .await;
        // Not even a zombie.
        eventually("the process is reaped", || {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        })
        .await;
    }
}

#[tokio::test]
async fn dropping_half_way_leaves_no_process() {
    let fixture = Fixture::new();
    let marker = marker();
    for delay in (0..2000).step_by(50) {
        let (spec, scratch) = fixture.shell(&format!("sleep 1000; : {marker}"));
        let spawn = fixture.engine.spawn_holding(spec, scratch);
        let _ = tokio::time::timeout(Duration::from_micros(delay), spawn).await;
    }
    eventually("all processes are gone", || {
        processes_with(&marker).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_background_process_does_not_hold_the_end_up() {
    let fixture = Fixture::new();
    let begin = Instant::now();
    for isolation in [Isolation::Sandbox, Isolation::None] {
        let (mut spec, scratch) = fixture.shell("sleep 1000 & echo done");
        spec.isolation = isolation;
        spec.cwd = "/".into();
        let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
        assert_eq!(finish(running).await, (Ending::Exited(0), "done\n".into()));
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_log_is_whole_and_in_order() {
    let fixture = Fixture::new();
    let script = "i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done";
    let (ending, log) = fixture.run(script).await;
    assert_eq!(ending, Ending::Exited(0));
    let expected: String = (0..20000).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert!(log == expected, "{} bytes of {}", log.len(), expected.len());
}

#[tokio::test]
async fn a_line_without_end_stays_bounded() {
    let fixture = Fixture::new();
    let (spec, scratch) = fixture.shell("head -c 3000000 /dev/zero");
    let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let mut lines = LineBuffer::new(64 * 1024);
    let mut total = 0;
    while let Event::Log(bytes) = running.next().await.unwrap() {
        lines.push(&bytes);
        while let Some(line) = lines.next_line() {
            assert!(line.text.len() <= 64 * 1024);
            total += line.text.len();
        }
    }
    total += lines.finish().map_or(0, |rest| rest.text.len());
    assert_eq!(total, 3_000_000);
}

#[tokio::test]
async fn other_children_of_the_program_are_left_alone() {
    let fixture = Fixture::new();
    let mut ours = std::process::Command::new("/bin/sh")
        .args(["-c", "exit 7"])
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..5 {
        fixture.run("true").await;
    }
    assert_eq!(ours.wait().unwrap().code(), Some(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let fixture = Fixture::new();
    let all = (0..64).map(|number| {
        let (spec, scratch) = fixture.shell(&format!("echo {number}"));
        let engine = fixture.engine.clone();
        tokio::spawn(async move {
            let running = engine.spawn_holding(spec, scratch).await.unwrap();
            (number, finish(running).await)
        })
    });
    for task in all.collect::<Vec<_>>() {
        let (number, result) = task.await.unwrap();
        assert_eq!(result, (Ending::Exited(0), format!("{number}\n")));
    }
}

/// Fails without `UnderWay::finish`.
#[tokio::test]
async fn what_is_being_started_for_nobody_is_gone_with_the_engine() {
    for round in 0..50_u64 {
        let fixture = Fixture::new();
        let (spec, scratch) = fixture.shell("sleep 1000");
        let starting = fixture.engine.start(spec, scratch).unwrap();
        // Not begun, in progress, or just completed.
        std::thread::sleep(Duration::from_micros(round * 40));
        drop(starting);
        let Fixture { engine, directory } = fixture;
        drop(engine);
        let left = std::fs::read_dir(directory.path().join("scratch")).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}
