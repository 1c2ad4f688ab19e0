//! Kills `tvix`, or fails a system call, at every point of its operations on a store. Afterwards
//! the store is intact, Nix verifies it, and a repetition of the operation succeeds.
//!
//! `cargo test -p tvix-tests --test peers_crash`; needs `strace`, `nix-store` and
//! a static busybox. By default the distance between points grows. `TVIX_SWEEP=all` tests every
//! point.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tvix_tests::local::{LocalWorld, find_in_path, instantiate, make_writable, names_in, shell};
use tvix_tests::nix;
use tvix_tests::program::{Ended, run, tvix};

/// System calls that change files, or that order such changes.
const CHANGES: &str = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,\
    mkdirat,write,pwrite64,fsync,fdatasync,syncfs,ftruncate,fallocate,fchmod,utimensat,flock,fcntl";

/// System calls that fail on a full or broken disk. Without `write`, because the program needs it
/// to report errors.
const FAILURES: &str =
    "rename,renameat2,linkat,symlinkat,mkdirat,pwrite64,fsync,fdatasync,ftruncate";

/// A store with contents, and an operation on it.
struct Scene {
    name: &'static str,
    world: LocalWorld,
    arguments: Vec<String>,
}

impl Scene {
    async fn new(name: &'static str) -> Self {
        let world = LocalWorld::new().await;
        fs::create_dir(world.beside("tree")).unwrap();
        for file in ["a", "b"] {
            fs::write(world.beside("tree").join(file), "equal contents").unwrap();
        }
        std::os::unix::fs::symlink("a", world.beside("tree/link")).unwrap();
        Self {
            name,
            world,
            arguments: Vec::new(),
        }
    }

    fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|it| (*it).to_owned()).collect();
        self
    }

    /// Runs `tvix` on a copy of the store, with a fault at the system call number `point` among
    /// `calls`.
    fn with_fault(&self, fault: &str, calls: &str, point: usize) -> Ended {
        let copy = self.copy();
        let _ = fs::remove_dir_all(&copy);
        let copied = Command::new("cp")
            .arg("-a")
            .arg(self.world.root())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        // A traced process that waits for a killed one and does not end counts as a failure.
        let mut command = Command::new("timeout");
        command
            .args([
                "120",
                "strace",
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={calls}"),
                "-e",
            ])
            .arg(format!("inject={calls}:{fault}:when={point}"))
            .arg(tvix());
        run(self.finish(&mut command))
    }

    fn again(&self) -> Ended {
        run(self.finish(&mut tvix_tests::program::command(tvix())))
    }

    fn finish<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let busybox = find_in_path("busybox").unwrap();
        let sandbox = [
            "--sandbox-path".to_owned(),
            format!("/bin/sh={}", busybox.display()),
        ];
        let folder = self.world.beside("work");
        fs::create_dir_all(&folder).unwrap();
        command
            .args(&self.arguments)
            .arg("--store")
            .arg(self.copy())
            .args(sandbox.iter().filter(|_| self.arguments[0] == "build"))
            .current_dir(folder)
            .env("HOME", self.world.beside("home"))
            .stdin(Stdio::null())
    }

    fn copy(&self) -> PathBuf {
        self.world.beside("copy")
    }

    /// Checks the contents of all valid paths.
    fn check(&self, when: &str) {
        let mut command = nix::command("nix-store", &self.copy());
        let output = command
            .args(["--verify", "--check-contents"])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        let complaints = ["error", "warning", "disappeared", "modified"];
        assert!(
            output.status.success() && !complaints.iter().any(|word| log.contains(word)),
            "{} {when}: {log}",
            self.name
        );
    }

    /// Runs the operation with a fault at one point after the other, and repeats it without a fault
    /// each time.
    fn sweep(&self, fault: &str, calls: &str) {
        let all = std::env::var("TVIX_SWEEP").is_ok_and(|sweep| sweep == "all");
        if !all {
            self.sweep_of(fault, calls, false);
            return;
        }
        // Calls are counted per thread. Testing one kind of call at a time covers nearly all
        // points, although threads run at different speeds.
        for call in calls.split(',') {
            self.sweep_of(fault, call.trim(), true);
        }
    }

    fn sweep_of(&self, fault: &str, calls: &str, all: bool) {
        let killed = fault.contains("KILL");
        let mut point = 1;
        let mut points = 0;
        let mut fine = 0;
        loop {
            let ended = self.with_fault(fault, calls, point);
            let when = format!("after {fault} at {point}");
            points += 1;
            self.check(&when);
            let again = self.again();
            assert_eq!(
                again.code,
                Some(0),
                "{} {when}, again: {again:#?}",
                self.name
            );
            self.check(&format!("{when}, again"));
            // Some failures of calls have no effect; after several successful runs there is no call
            // left to fail.
            fine = match ended.code {
                Some(0) => fine + 1,
                Some(2 | 1) | None => 0,
                // The exit code of the tracer for a killed process.
                Some(code) if code > 128 && killed => 0,
                code => panic!("{} {when}: {code:?}: {ended:#?}", self.name),
            };
            if killed && fine == 1 || fine == 12 {
                break;
            }
            point = match all {
                true => point + 1,
                false => (point + 1).max(point * 8 / 5),
            };
        }
        println!(
            "{}, {fault} of {calls}: {points} points, the last of them {point}",
            self.name
        );
        self.expect_nothing_left();
    }

    /// Checks that garbage collection removes the files of killed processes.
    fn expect_nothing_left(&self) {
        let gc = tvix_tests::program::command(tvix())
            .args(["store", "gc", "--store"])
            .arg(self.copy())
            .output();
        assert!(gc.unwrap().status.success());
        let state = self.copy().join("nix/var/nix");
        assert_eq!(names_in(&state.join("tmp-tvix")), [""; 0]);
        assert_eq!(names_in(&state.join("temproots")), [""; 0]);
        let listed = nix::command("nix-store", &self.copy())
            .args(["--gc", "--print-live"])
            .output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let mut valid: Vec<_> = listed
            .lines()
            .map(|line| line.rsplit('/').next().unwrap().to_owned())
            .collect();
        valid.sort();
        let mut names = names_in(&self.copy().join("nix/store"));
        names.retain(|name| name != ".links");
        assert_eq!(names, valid);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        make_writable(&self.copy());
    }
}

const KILL: &str = "signal=KILL";

async fn adding() -> Scene {
    let scene = Scene::new("add").await;
    let tree = scene.world.beside("tree");
    scene.arguments(&["store", "add", tree.to_str().unwrap()])
}

/// More paths than a group, so that one group is registered while the next one is written.
async fn adding_many() -> Scene {
    let scene = Scene::new("add many").await;
    let files: Vec<String> = (0..300)
        .map(|number| {
            let file = scene.world.beside(&format!("small-{number}"));
            fs::write(&file, number.to_string()).unwrap();
            file.to_str().unwrap().to_owned()
        })
        .collect();
    let files = files.iter().map(String::as_str);
    let arguments: Vec<&str> = ["store", "add"].into_iter().chain(files).collect();
    scene.arguments(&arguments)
}

async fn registering() -> Scene {
    let scene = Scene::new("register").await;
    let expression = "let d = n: before: derivation { name = \"d${toString n}\"; system = \"s\";
        builder = \"b\"; inherit before; }; in d 3 (d 2 (d 1 (builtins.toFile \"x\" \"x\")))";
    scene.arguments(&["instantiate", "-E", expression])
}

async fn building() -> Scene {
    let scene = Scene::new("build").await;
    let made = instantiate(
        shell("x", "echo one > $out; mkdir $dev; echo two > $dev/file").outputs(["out", "dev"]),
    );
    let drv = scene.world.write(&made).await;
    scene.arguments(&["build", &drv])
}

async fn collecting() -> Scene {
    let scene = Scene::new("gc").await;
    let made = instantiate(shell("x", "echo > $out"));
    let drv = scene.world.write(&made).await;
    let store = &scene.world.store;
    let mut before = Default::default();
    for number in 0..6 {
        let name = format!("text-{number}").parse().unwrap();
        use tvix_store_api::StoreExt as _;
        let added = store.add_text(name, b"x", before).await.unwrap();
        before = [added].into_iter().collect();
    }
    let method = nix_compat::content_address::ContentAddressMethod::NixArchive;
    for name in ["tree-1", "tree-2"] {
        use tvix_store_api::StoreExt as _;
        let tree = scene.world.beside("tree");
        let added = store.add_tree(&tree, name.parse().unwrap(), method).await;
        added.unwrap();
    }
    let root = scene.world.store.state_dir().join("gcroots/drv");
    std::os::unix::fs::symlink(drv, root).unwrap();
    let stray = scene.world.store.real_store_dir();
    fs::create_dir_all(stray.join("00bgd045z0d4icpbc2yyz4gx48ak44la-half/folder")).unwrap();
    scene.arguments(&["store", "gc"])
}

async fn optimising() -> Scene {
    let mut scene = collecting().await;
    scene.name = "optimise";
    scene.arguments(&["store", "optimise"])
}

#[tokio::test]
async fn killed_while_adding() {
    adding().await.sweep(KILL, CHANGES);
}

#[tokio::test]
async fn killed_while_adding_many() {
    adding_many().await.sweep(KILL, CHANGES);
}

#[tokio::test]
async fn killed_while_registering() {
    registering().await.sweep(KILL, CHANGES);
}

#[tokio::test]
async fn killed_while_building() {
    let scene = building().await;
    scene.sweep(KILL, CHANGES);
    // A builder is started in several steps, and some of them are waited for.
    scene.sweep_of(KILL, "write", true);
}

#[tokio::test]
async fn killed_while_collecting() {
    collecting().await.sweep(KILL, CHANGES);
}

#[tokio::test]
async fn killed_while_optimising() {
    optimising().await.sweep(KILL, CHANGES);
}

#[tokio::test]
async fn a_full_disk_while_adding() {
    adding().await.sweep("error=ENOSPC", FAILURES);
}

#[tokio::test]
async fn a_broken_disk_while_registering() {
    registering().await.sweep("error=EIO", FAILURES);
}

#[tokio::test]
async fn a_broken_disk_while_building() {
    building().await.sweep("error=EIO", FAILURES);
}

#[tokio::test]
async fn a_broken_disk_while_collecting() {
    collecting().await.sweep("error=EIO", FAILURES);
}
