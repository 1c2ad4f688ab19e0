//! The program `tvix`, run as by a user.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::local::{LocalWorld, sandbox_paths};

/// Path of the program `tvix`, built in the profile of the test. Cargo builds it if it is out of
/// date, which it does not do automatically for tests of another package.
pub fn tvix() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // `<target>/<profile>/deps/<test>`
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // With a test of the whole workspace the features of dependencies are those with which they
        // are compiled for tests, so that nothing is compiled twice.
        cargo
            .args([
                "build",
                "--quiet",
                "--workspace",
                "--bin",
                "tvix",
                "--test",
                "cli",
            ])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .arg("--target-dir")
            .arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success(), "tvix does not build");
        profile.join("tvix")
    })
}

/// A program with settings that let it talk to no other machine, instead of those of this machine.
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("NIX_CONF_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/conf"))
        .env("NIX_USER_CONF_FILES", "/nonexistent/user.conf")
        .env_remove("NIX_CONFIG")
        .env_remove("NIX_REMOTE")
        .env_remove("XDG_CACHE_HOME");
    command
}

/// `tvix build` on the world's store, in a directory next to it.
pub fn build(program: &Path, world: &LocalWorld) -> Command {
    let mut command = bare_build(program, world);
    command.arg("--store").arg(world.root());
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    command
}

/// The same, without options.
pub fn bare_build(program: &Path, world: &LocalWorld) -> Command {
    let folder = world.beside("work");
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = command(program);
    command
        .arg("build")
        .current_dir(folder)
        .env("HOME", world.beside("home"))
        .stdin(Stdio::null());
    command
}

/// The output and exit status of a program.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// The lines of standard output.
    pub out: Vec<String>,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let out = String::from_utf8(output.stdout).unwrap();
        Self {
            code: output.status.code(),
            out: out.lines().map(str::to_owned).collect(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Fails the test unless standard error contains all of these texts.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in:\n{}", self.err);
        }
        self
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    command.output().unwrap().into()
}
