//! `tvix build` with remote machines: real daemons over sockets and a stand-in for `ssh`, beside the local
//! builder; daemons and connections that are killed; verification by real Nix.
//!
//! `cargo test -p tvix-cli --test peers_remote_builders`; needs `nix-daemon` and a static `busybox`.
//! TVIX_NIX_PREFIX is put before each program of Nix, to test with a Nix in another root.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

use std::fs;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tvix_test_support::directory::make_writable;
use tvix_test_support::nix_daemon::{NixDaemon, kill, prefix, verify};

/// A directory with a local store and any number of machines.
struct World {
    directory: TempDir,
}

/// A machine: a daemon with a store of its own.
struct Machine(NixDaemon);

const CONFIG: &str = "sandbox = true\nmax-jobs = 8\nbuild-poll-interval = 1\n";

impl Machine {
    fn new(world: &World, name: &str) -> Self {
        Self(NixDaemon::within(&world.path(name), CONFIG).with_shell())
    }

    fn started(world: &World, name: &str) -> Self {
        let mut machine = Self::new(world, name);
        machine.start();
        machine
    }

    /// The number of paths in its store with this word in their names.
    fn has(&self, word: &str) -> usize {
        has(&self.beside("root/nix/store"), word)
    }
}

impl Deref for Machine {
    type Target = NixDaemon;

    fn deref(&self) -> &NixDaemon {
        &self.0
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut NixDaemon {
        &mut self.0
    }
}

fn has(store: &Path, word: &str) -> usize {
    let entries = fs::read_dir(store).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names
        .filter(|name| name.contains(word) && !name.ends_with(".drv") && !name.contains(".lock"))
        .count()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl World {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::create_dir(directory.path().join("conf")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A stand-in for `ssh` in PATH: the name of the host is the name of a machine.
    fn install_ssh(&self) {
        let ssh = self.path("bin/ssh");
        let here = self.directory.path().display();
        let prefix = prefix().join(" ");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do host=$1; shift; done\nshift\n\
             [ -d {here}/$host ] || {{ echo \"no route to $host\" >&2; exit 255; }}\n\
             export NIX_CONF_DIR={here}/$host HOME={here}/$host\nunset NIX_REMOTE\n\
             echo $$ >> {here}/$host/ssh-processes\n\
             eval exec {prefix} \"$@\" --store {here}/$host/root\n"
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn tvix(&self, expression: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tvix"));
        let path = std::env::var("PATH").unwrap();
        command
            .args(["build", "--no-out-link", "--store"])
            .arg(self.path("local"))
            .args([
                "--sandbox-path",
                "/bin/sh=/bin/busybox",
                "--expr",
                expression,
            ])
            .args(arguments)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("HOME", self.directory.path())
            .env_remove("NIX_CONFIG")
            .stdin(Stdio::null());
        command
    }

    fn build(&self, expression: &str, arguments: &[&str]) -> Output {
        self.tvix(expression, arguments).output().unwrap()
    }

    fn verify(&self) {
        verify(&self.path("local"), &self.path("conf"));
    }

    fn has(&self, word: &str) -> usize {
        has(&self.path("local/nix/store"), word)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_built(output: &Output) {
    assert!(output.status.success(), "{}", log(output));
}

/// Derivations `NAME-0`, …, of which each depends on the one before if they are a chain.
fn many(name: &str, count: usize, chain: bool, script: &str) -> String {
    let before = match chain {
        true => "if i == 0 then \"\" else at (i - 1)",
        false => "\"\"",
    };
    format!(
        "let at = i: derivation {{ name = \"{name}-${{toString i}}\"; system = \"x86_64-linux\";
           builder = \"/bin/sh\"; before = {before};
           args = [ \"-c\" ''{script}; echo ${{toString i}} $before > $out'' ]; }};
         in builtins.genList at {count}"
    )
}

#[test]
fn on_a_machine_alone() {
    let world = World::new();
    let machine = Machine::started(&world, "far");
    let builders = format!("{} x86_64-linux - 2", machine.uri());
    let arguments = ["--builders", &builders, "-j0"];
    let output = world.build(&many("one", 20, false, "echo hello"), &arguments);
    assert_built(&output);
    assert_eq!((world.has("-one-"), machine.has("-one-")), (20, 20));
    assert!(log(&output).contains("hello"), "{}", log(&output));
    assert!(log(&output).contains(" on 'unix://"), "{}", log(&output));
    // Everything is there, and a chain finds its inputs on the machine.
    assert_built(&world.build(&many("one", 20, false, "echo hello"), &arguments));
    assert_built(&world.build(&many("chain", 10, true, "true"), &arguments));
    assert_eq!(machine.has("-chain-"), 10);
    machine.verify();
    world.verify();
}

#[test]
fn over_ssh_with_files_of_machines() {
    let world = World::new();
    world.install_ssh();
    let machine = Machine::new(&world, "far");
    // The default, beside settings in nix.conf; the old form of a name.
    fs::write(world.path("conf/machines"), "# one\nfar - - 2 1 kvm\n").unwrap();
    fs::write(world.path("conf/nix.conf"), "max-jobs = 0\n").unwrap();
    let default = format!("@{}", world.path("conf/machines").display());
    assert_built(&world.build(&many("one", 5, false, "true"), &[]));
    assert_eq!(machine.has("-one-"), 5);
    assert_built(&world.build(&many("two", 5, true, "true"), &["--builders", &default]));
    assert_eq!(machine.has("-two-"), 5);
    let config = format!("builders = {default}\nmax-jobs = 0\n");
    fs::write(world.path("conf/nix.conf"), config).unwrap();
    assert_built(&world.build(&many("three", 5, false, "true"), &[]));
    assert_eq!(machine.has("-three-"), 5);
    let failed = world.build(&many("four", 1, false, "exit 7"), &[]);
    assert!(!failed.status.success());
    assert!(log(&failed).contains("exit code 7"), "{}", log(&failed));
    machine.verify();
    world.verify();
}

#[test]
fn without_a_machine_that_fits() {
    let world = World::new();
    world.install_ssh();
    let one = many("one", 1, false, "true");
    let output = world.build(&one, &["-j0"]);
    assert!(!output.status.success());
    assert!(
        log(&output).contains("there are no builders"),
        "{}",
        log(&output)
    );
    let output = world.build(&one, &["-j0", "--builders", "ssh-ng://far riscv64-linux"]);
    let text = log(&output);
    assert!(
        text.contains("'x86_64-linux'") && text.contains("ssh-ng://far"),
        "{text}"
    );
    let output = world.build(&one, &["--builders", "far x86_64-linux - many"]);
    assert_eq!(output.status.code(), Some(1));
    let text = log(&output);
    assert!(
        text.contains("line 1, column 20: the number of jobs 'many'"),
        "{text}"
    );
}

#[test]
fn an_unreachable_machine_warns_once() {
    let world = World::new();
    world.install_ssh();
    let machine = Machine::started(&world, "near");
    let builders = format!("ssh-ng://gone - - 4 100; {} - - 2 2", machine.uri());
    let output = world.build(&many("one", 30, false, "true"), &["--builders", &builders]);
    assert_built(&output);
    let text = log(&output);
    assert_eq!(
        text.matches("warning: cannot build on 'ssh-ng://gone'")
            .count(),
        1,
        "{text}"
    );
    assert!(machine.has("-one-") > 0);
    assert_eq!(world.has("-one-"), 30);
    machine.verify();
    world.verify();
}

#[test]
fn several_machines_and_the_local_one_share() {
    let world = World::new();
    let (one, two) = (
        Machine::started(&world, "m1"),
        Machine::started(&world, "m2"),
    );
    let builders = format!("{} - - 2 ; {} - - 2", one.uri(), two.uri());
    let script = "i=0; while [ $i -lt 5 ]; do sleep 0.1; i=$((i+1)); done";
    let output = world.build(
        &many("part", 24, false, script),
        &["--builders", &builders, "-j2"],
    );
    assert_built(&output);
    let shares = (one.has("-part-"), two.has("-part-"));
    // Each takes about a third.
    assert!(
        (5..=11).contains(&shares.0) && (5..=11).contains(&shares.1),
        "{shares:?}"
    );
    assert_eq!(world.has("-part-"), 24);
    one.verify();
    two.verify();
    world.verify();
}

/// A derivation that prefers the local machine is built there.
#[test]
fn a_local_preference() {
    let world = World::new();
    let machine = Machine::started(&world, "far");
    let builders = format!("{} - - 8 100", machine.uri());
    let expression =
        "derivation { name = \"here\"; system = \"x86_64-linux\"; builder = \"/bin/sh\";
        preferLocalBuild = true; args = [ \"-c\" \"echo x > $out\" ]; }";
    assert_built(&world.build(expression, &["--builders", &builders, "-j1"]));
    assert_eq!((world.has("-here"), machine.has("-here")), (1, 0));
    let expression = expression.replace("\"here\"", "\"there\"");
    assert_built(&world.build(&expression, &["--builders", &builders, "-j0"]));
    assert_eq!(machine.has("-there"), 1);
}

#[test]
fn a_daemon_that_is_killed() {
    let world = World::new();
    let mut machine = Machine::started(&world, "far");
    let builders = format!("{} - - 4 50", machine.uri());
    let script = "echo up; sleep 3";
    let mut command = world.tvix(
        &many("part", 6, false, script),
        &["--builders", &builders, "-j2"],
    );
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("nothing is built there", || {
        let builds = fs::read_dir(machine.beside("root/nix/store"))
            .into_iter()
            .flatten()
            .flatten();
        let chroots = builds.filter(|entry| entry.path().to_string_lossy().contains(".chroot"));
        chroots.count() >= 2
    });
    machine.stop();
    let output = child.wait_with_output().unwrap();
    assert_built(&output);
    assert_eq!(world.has("-part-"), 6);
    world.verify();
    // It comes back.
    machine.start();
    let arguments = ["--builders", &builders, "-j0"];
    assert_built(&world.build(&many("again", 4, false, "true"), &arguments));
    machine.verify();
    world.verify();
}

#[test]
fn an_ssh_that_is_killed() {
    let world = World::new();
    world.install_ssh();
    let machine = Machine::new(&world, "far");
    let arguments = ["--builders", "ssh-ng://far - - 3", "-j0"];
    let mut command = world.tvix(&many("part", 3, false, "echo up; sleep 2"), &arguments);
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for("nothing is built there", || {
        let builds = fs::read_dir(machine.beside("root/nix/store"))
            .into_iter()
            .flatten()
            .flatten();
        builds
            .filter(|entry| entry.path().to_string_lossy().contains(".chroot"))
            .count()
            >= 2
    });
    let processes = fs::read_to_string(machine.beside("ssh-processes")).unwrap();
    for process in processes.lines() {
        kill(process.parse().unwrap());
    }
    let output = child.wait_with_output().unwrap();
    assert_built(&output);
    assert_eq!(world.has("-part-"), 3);
    machine.verify();
    world.verify();
}

/// An interrupted session ends the builds on machines, too.
#[test]
fn an_interrupt_ends_remote_builds() {
    let world = World::new();
    let machine = Machine::started(&world, "far");
    let builders = format!("{} - - 2", machine.uri());
    let word = format!("marker-{}", std::process::id());
    let script = format!(": {word}; echo up; sleep 1000");
    let mut command = world.tvix(
        &many("part", 2, false, &script),
        &["--builders", &builders, "-j0"],
    );
    let child = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let running = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let arguments = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let arguments = arguments.map(|text| String::from_utf8_lossy(&text).into_owned());
        arguments
            .filter(|text| text.contains(&word) && !text.contains("--expr"))
            .count()
    };
    wait_for("nothing is built there", || running() >= 2);
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    wait_for("a build still runs", || running() == 0);
    machine.verify();
}
