//! Daemons and `ssh` that are killed in the middle of copies.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tvix_test_support::random::Random;
use tvix_tests::program::run;

use super::daemon::{daemon, stopped};
use super::ssh::Sshd;
use super::tvix;
use tvix_test_support::nix_daemon::{NixDaemon, children, kill};

const PATHS: usize = 300;

/// Paths in a local store.
fn many_paths(daemon: &NixDaemon) -> (String, Vec<String>) {
    let local = daemon.text("local");
    let files = (0..PATHS).map(|number| {
        let text = format!("contents {number}\n").repeat(1 + number * 7 % 2000);
        daemon.write(&format!("file-{number}"), &text)
    });
    let files: Vec<_> = files.collect();
    let mut add = tvix(daemon);
    let paths = run(add.args(["store", "add", "--store", &local]).args(files))
        .expect(0)
        .out;
    (local, paths)
}

/// Copies paths to a store again and again, and has something killed meanwhile, until a copy is not disturbed.
fn disturb(
    daemon: &mut NixDaemon,
    uri: &str,
    options: &str,
    mut kill: impl FnMut(&mut NixDaemon, u32, &mut Random),
) {
    let (local, paths) = many_paths(daemon);
    let mut random = Random::new(7);
    for round in 0..12 {
        let mut command: Command = tvix(daemon);
        command
            .args(["store", "copy", "--from", &local, "--to", uri])
            .args(&paths)
            .env("NIX_SSHOPTS", options)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let pause = Duration::from_millis(random.below(40 + round * 20) as u64);
        let end = Instant::now() + pause;
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(daemon, child.id(), &mut random);
        // It ends by itself, with or without an error.
        let _ = child.wait().unwrap();
        daemon.verify();
    }
    let mut command = tvix(daemon);
    command
        .args(["store", "copy", "--from", &local, "--to", uri])
        .args(&paths)
        .env("NIX_SSHOPTS", options);
    run(&mut command).expect(0);
    let mut info = tvix(daemon);
    info.args(["store", "path-info", "--store", uri])
        .args(&paths)
        .env("NIX_SSHOPTS", options);
    assert_eq!(run(&mut info).expect(0).out.len(), PATHS);
    daemon.verify();
}

#[test]
fn daemons_that_are_killed_leave_valid_stores() {
    let mut daemon = daemon("");
    let uri = daemon.uri();
    disturb(&mut daemon, &uri, "", |daemon, _, random| {
        if random.below(2) == 0 {
            daemon.kill_connections();
        } else {
            daemon.stop();
            daemon.start();
        }
    });
}

#[test]
fn ssh_that_is_killed_leaves_a_valid_store() {
    let mut daemon = stopped("");
    let Some(sshd) = Sshd::start(&daemon) else {
        return;
    };
    let (uri, options) = (sshd.uri(&daemon), sshd.options().to_owned());
    disturb(&mut daemon, &uri, &options, |_, tvix, _| {
        children(tvix).into_iter().for_each(kill)
    });
}
