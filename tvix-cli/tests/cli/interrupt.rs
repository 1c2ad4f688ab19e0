//! Signals.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tvix_tests::local::{LocalWorld, instantiate, shell};

use super::build;

/// Processes with this word in their arguments.
fn processes_with(marker: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid| {
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(marker)
        })
        .collect()
}

#[tokio::test]
async fn ctrl_c_ends_everything_in_order() {
    ends_everything_in_order("-INT").await;
}

#[tokio::test]
async fn sigterm_ends_everything_in_order() {
    ends_everything_in_order("-TERM").await;
}

#[tokio::test]
async fn sighup_ends_everything_in_order() {
    ends_everything_in_order("-HUP").await;
}

/// The command where SIGHUP is not ignored, as it is if the tests run below `nohup`.
fn hearing(command: &Command) -> Command {
    let mut hearing = Command::new("env");
    hearing.arg("--default-signal=HUP");
    hearing.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => hearing.env(name, value),
            None => hearing.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        hearing.current_dir(directory);
    }
    hearing
}

fn tvix() -> Command {
    hearing(&super::plain())
}

fn signal(signal: &str, child: &Child) {
    let mut kill = Command::new("kill");
    let sent = kill.args([signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// The error of a command that a signal ended. Only SIGINT is the user's.
fn interrupted_by(number: &str) -> String {
    match number {
        "-INT" => "error: interrupted by the user".to_owned(),
        number => format!("error: interrupted by SIG{}", &number[1..]),
    }
}

async fn ends_everything_in_order(number: &str) {
    let world = LocalWorld::new().await;
    let done = instantiate(shell("done", "echo > $out"));
    let marker = format!("interrupted{number}-{}", std::process::id());
    let script =
        format!(": {marker}; (sleep 1000 & sleep 1000) & echo running; sleep 1000; echo > $out");
    let endless = shell("endless", &script).input_env("done", &done, "out");
    let endless = instantiate(endless);
    let done_drv = world.write(&done).await;
    let drv = world.write(&endless).await;

    let mut command = hearing(&build(&world));
    command.args([&done_drv, &drv]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "endless> running"));
    assert!(!processes_with(&marker).is_empty());
    signal(number, &child);
    let rest: Vec<_> = lines.map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    // As in Nix.
    assert_eq!(status.code(), Some(1), "{rest:#?}");
    let said = interrupted_by(number);
    assert_eq!(rest.last(), Some(&said), "{rest:#?}");

    // The kernel may take a moment to end what it was told to kill.
    for _ in 0..1000 {
        if processes_with(&marker).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(processes_with(&marker), [0u32; 0]);
    // What was built before stays.
    let valid = world.valid().await;
    assert!(valid.contains(&done.output_path("out").unwrap()));
    assert!(!valid.contains(&endless.output_path("out").unwrap()));
    world.expect_clean().await;
}

/// Commands without a session, such as an evaluation that never ends.
#[tokio::test]
async fn signals_end_commands_without_builds() {
    for number in ["-INT", "-TERM", "-HUP"] {
        let endless = "let l = builtins.genList (x: x) 10000; fold = builtins.foldl'; in \
             builtins.trace \"running\" (fold (a: _: fold (b: _: fold (c: _: c) b l) a l) 0 l)";
        let mut child = tvix()
            .args(["eval", "-E", endless])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("running")));
        signal(number, &child);
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{rest:#?}");
        assert_eq!(rest, [interrupted_by(number)]);
    }
}

/// A read that blocks keeps the process alive for ten seconds after the first signal, not after the second.
#[tokio::test]
async fn the_second_signal_ends_the_process_at_once() {
    let world = LocalWorld::new().await;
    let fifo = world.beside("fifo");
    let made_fifo = Command::new("mkfifo").arg(&fifo).status();
    assert!(made_fifo.unwrap().success());
    let made = world
        .write(&instantiate(shell("made", "echo > $out")))
        .await;
    for (number, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let mut command = hearing(&build(&world));
        let mut child = command
            .args([&made, "--substituter", "http://127.0.0.1:1", "--netrc-file"])
            .arg(&fifo)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Opening succeeds once there is a reader, who then waits for what is never written.
        let _writer = loop {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK);
            match options.open(&fifo) {
                Ok(writer) => break writer,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        // Each signal is sent until it was heard: two that arrive at once are one.
        let begun = Instant::now();
        let status = loop {
            signal(number, &child);
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(9),
                "{number} is not heard"
            );
        };
        assert_eq!(status.code(), Some(code));
    }
}

#[tokio::test]
async fn a_server_ends_with_success() {
    let world = LocalWorld::new().await;
    for number in ["-INT", "-TERM", "-HUP"] {
        let mut child = tvix()
            .args(["store", "serve", "--listen", "127.0.0.1:0", "--store"])
            .arg(world.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().starts_with("http://"));
        signal(number, &child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Signals that are ignored by the parent stay ignored.
#[tokio::test]
async fn sighup_is_ignored_below_nohup() {
    let world = LocalWorld::new().await;
    let mut child = Command::new("nohup")
        .arg(env!("CARGO_BIN_EXE_tvix"))
        .args(["store", "serve", "--listen", "127.0.0.1:0", "--store"])
        .arg(world.root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("http://"));
    signal("-HUP", &child);
    signal("-TERM", &child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Events and logs are in their files as soon as they happened, however the command ends.
#[tokio::test]
async fn a_command_that_is_killed_leaves_events_and_logs() {
    for number in ["-TERM", "-KILL"] {
        let world = LocalWorld::new().await;
        let endless = instantiate(shell("endless", "echo one; sleep 1000; echo > $out"));
        let drv = world.write(&endless).await;
        let events = world.beside("events");
        let mut command = build(&world);
        command.arg("--events").arg(&events).arg(&drv);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut text = String::new();
        for _ in 0..3000 {
            text = std::fs::read_to_string(&events).unwrap_or_default();
            if text.contains("logLine") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(text.contains("\"event\":\"buildStarted\""), "{text}");
        assert!(text.contains("\"event\":\"logLine\""), "{text}");
        assert!(text.ends_with('\n'), "{text}");
        signal(number, &child);
        child.wait().unwrap();
        let name = drv.rsplit('/').next().unwrap();
        let (folder, file) = name.split_at(2);
        let log = world.root().join("nix/var/log/nix/drvs").join(folder);
        assert_eq!(std::fs::read(log.join(file)).unwrap(), b"one\n", "{number}");
        let after = std::fs::read_to_string(&events).unwrap();
        assert_eq!(after.contains("\"event\":\"finished\""), number == "-TERM");
    }
}
