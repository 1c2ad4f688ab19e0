//! Limits on processes, memory and disk space.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tvix_sandbox::{Ending, Event, SandboxSpec};

use crate::support::{Fixture, finish};

/// Runs a script with the limits that `limit` sets.
async fn run(script: &str, limit: impl FnOnce(&mut SandboxSpec)) -> (Ending, String) {
    let fixture = Fixture::new();
    let (mut spec, scratch) = fixture.shell(script);
    // If a limit does not work, the test must not exhaust the machine.
    spec.limits.wall_time = Some(Duration::from_secs(30));
    spec.counted = scratch.directories();
    limit(&mut spec);
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    finish(running).await
}

/// Fails without `RLIMIT_NPROC`.
#[tokio::test]
async fn a_fork_bomb_has_so_many_processes_and_no_more() {
    let script = "i=0
        while [ $i -lt 200 ]; do sleep 1000 & i=$((i+1)); done 2>/dev/null
        true";
    // The shell gives up at the first failed fork.
    let counted = format!("({script}); set -- /proc/[0-9]*; echo $#");
    let (_, log) = run(&counted, |spec| spec.limits.processes = Some(40)).await;
    let last = log.lines().last().unwrap_or_default();
    let count: u32 = last.parse().unwrap_or_else(|_| panic!("{log}"));
    assert!((10..=40).contains(&count), "{log}");
    // Each sandbox has its own count.
    let (ending, log) = run("sleep 0 & sleep 0 & wait", |spec| {
        spec.limits.processes = Some(4);
    })
    .await;
    assert_eq!((ending, log.as_str()), (Ending::Exited(0), ""));
}

/// Fails with neither a control group nor `RLIMIT_AS`; with a control group, the limit is for all
/// processes together.
#[tokio::test]
async fn memory_has_a_limit() {
    // `tail` keeps the last line, which never ends.
    let one = "head -c 400000000 /dev/zero | tail -n 1 | wc -c";
    let (_, log) = run(one, |_| {}).await;
    assert_eq!(log.trim(), "400000000");
    let (_, log) = run(one, |spec| spec.limits.memory = Some(100 << 20)).await;
    assert_ne!(log.trim(), "400000000");
    // Files in memory count as well.
    let file = "head -c 400000000 /dev/zero > /dev/shm/file";
    let (ending, log) = run(file, |spec| spec.limits.memory = Some(100 << 20)).await;
    assert!(!ending.is_success(), "{log}");
}

/// Fails without `RLIMIT_FSIZE`, and without the measuring thread.
#[tokio::test]
async fn disk_has_a_limit() {
    let limit = 20 << 20;
    let disk = |spec: &mut SandboxSpec| spec.limits.disk = Some(limit);
    let one = "head -c 100000000 /dev/zero > file; stat -c %s file";
    let (_, log) = run(one, disk).await;
    assert!(
        log.lines().last().unwrap().parse::<u64>().unwrap() <= limit,
        "{log}"
    );
    for place in ["/build", "/tmp", "/nix/store"] {
        let many = format!(
            "cd {place}; i=0
             while [ $i -lt 100 ]; do head -c 1000000 /dev/zero > $i || exit 3; i=$((i+1)); done
             sleep 20"
        );
        let (ending, log) = run(&many, disk).await;
        assert_eq!(ending, Ending::TooMuchDisk(limit), "{log}");
    }
    let (ending, log) = run("head -c 1000000 /dev/zero > file; sleep 0.6", disk).await;
    assert_eq!((ending, log.as_str()), (Ending::Exited(0), ""));
}

#[tokio::test]
async fn what_was_used_is_told() {
    let fixture = Fixture::new();
    let script = "(head -c 300000000 /dev/zero | tail -n 1 | wc -c) > /dev/null";
    let (spec, scratch) = fixture.shell(script);
    let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert_eq!(running.usage(), None);
    while !matches!(running.next().await.unwrap(), Event::Ended(_)) {}
    let usage = running.usage().unwrap();
    assert!(
        usage.user + usage.system > Duration::from_millis(1),
        "{usage:?}"
    );
    assert!(usage.peak_memory > 250_000_000, "{usage:?}");
}

/// Two processes that exceed the limit only together, where control groups exist. Fails without
/// `grouped`.
#[tokio::test]
async fn memory_of_all_processes_is_told() {
    let fixture = Fixture::new();
    let script = "for i in 1 2; do
          (head -c 60000000 /dev/zero | tail -n 1 | (sleep 1; wc -c)) > /dev/null &
        done; wait";
    let mut told = Vec::new();
    let mut groups = false;
    for grouped in [true, false] {
        let (mut spec, scratch) = fixture.shell(script);
        spec.grouped = grouped;
        let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
        if grouped {
            groups = has_group(Path::new("/sys/fs/cgroup"), 6);
        }
        while !matches!(running.next().await.unwrap(), Event::Ended(_)) {}
        told.push(running.usage().unwrap().peak_memory);
    }
    if groups {
        assert!(told[0] > 110_000_000 && told[1] < 110_000_000, "{told:?}");
    }
}

/// Whether a control group created by this program still exists.
fn has_group(directory: &Path, depth: usize) -> bool {
    let prefix = format!("tvix-{}-", std::process::id());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.any(|entry| {
        entry.file_name().to_string_lossy().starts_with(&prefix)
            || depth > 0 && has_group(&entry.path(), depth - 1)
    })
}

/// Where control groups can be created, which root nearly always can. Fails without `Group::add`.
#[tokio::test]
async fn memory_is_counted_together() {
    let script = "for i in 1 2 3 4; do
          (head -c 60000000 /dev/zero | tail -n 1 | (sleep 2; wc -c)) 2>/dev/null &
        done; wait";
    let running = run(script, |spec| spec.limits.memory = Some(100 << 20));
    let looking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        has_group(Path::new("/sys/fs/cgroup"), 6)
    };
    let ((_, log), grouped) = tokio::join!(running, looking);
    if grouped {
        assert!(log.matches("60000000").count() < 4, "{log}");
    }
}
