//! Invalid input and unsuitable machines: each is a clear error that names the culprit, without
//! loss of data and without partial registrations.
#![allow(clippy::unwrap_used)]

mod databases;
mod derivations;
mod graphs;
mod machines;
mod sources;
mod stores;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::program::{self, Ended, run, tvix};

/// A world with one valid derivation that has been built, which invalid input must not affect.
struct Before {
    world: LocalWorld,
    valid: Vec<StorePath>,
}

impl Before {
    async fn new() -> Self {
        let world = LocalWorld::new().await;
        let good = world.write(&good()).await;
        run(program::build(tvix(), &world).args(["--no-out-link", &good])).expect(0);
        let valid = world.valid().await;
        assert_eq!(valid.len(), 2);
        Self { world, valid }
    }

    /// Adds a derivation, which then counts as valid from the start.
    async fn write(&mut self, made: &Instantiated) -> String {
        let path = self.world.write(made).await;
        self.valid = self.world.valid().await;
        path
    }

    /// Runs `tvix build`, which must fail with this code and these messages. Afterwards the same
    /// paths are valid as before, and no files are left over.
    async fn expect(&self, args: &[&str], code: i32, words: &[&str]) -> Ended {
        let mut command = program::build(tvix(), &self.world);
        let ended = run(command.arg("--no-out-link").args(args)).expect(code);
        assert_eq!(ended.out, [""; 0]);
        let ended = ended.says(words);
        assert!(ended.err.contains("error:"), "{}", ended.err);
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        self.expect_unchanged().await;
        ended
    }

    async fn expect_unchanged(&self) {
        assert_eq!(self.world.valid().await, self.valid);
        self.world.expect_clean().await;
    }
}

fn good() -> Instantiated {
    instantiate(shell("good", "echo good > $out"))
}

/// An ordinary user with access to a world and to the program: another user if the test runs as
/// root, else the current user.
struct Nobody {
    program: PathBuf,
    /// A directory in which the user may write.
    home: PathBuf,
    is_other: bool,
}

impl Nobody {
    const ID: &str = "65534";

    fn new(world: &LocalWorld) -> Self {
        let folder = world.beside("");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let program = world.beside("tvix");
        // Copied by another process: a process started by another test at this moment would inherit
        // the copy opened for writing, and the copy could not be executed.
        let copied = Command::new("cp").arg(tvix()).arg(&program).status();
        assert!(copied.unwrap().success());
        let home = world.beside("nobody");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o777)).unwrap();
        let is_other = fs::metadata("/proc/self").unwrap().uid() == 0;
        Self {
            program,
            home,
            is_other,
        }
    }

    /// The program, run as this user.
    fn command(&self) -> Command {
        let mut command = match self.is_other {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", Self::ID, "--regid", Self::ID, "--clear-groups"]);
                command.arg(&self.program);
                command
            }
            false => Command::new(&self.program),
        };
        command.current_dir("/").env("HOME", &self.home);
        command
    }
}
