//! Several processes on one store.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tvix_tests::local::{LocalWorld, instantiate, shell};

use super::build;

/// A derivation that says when it is built, and ends when the gate is open; its path, and the
/// option that shows it the gate.
async fn gated(world: &LocalWorld) -> (String, String) {
    let script = "echo building; while [ ! -e /gate/open ]; do sleep 0.05; done; echo > $out";
    let drv = world.write(&instantiate(shell("gated", script))).await;
    let gate = world.beside("gate");
    fs::create_dir_all(&gate).unwrap();
    (drv, format!("/gate={}", gate.display()))
}

fn command(world: &LocalWorld, drv: &str, gate: &str) -> Command {
    let mut command = build(world);
    command
        .args(["--no-out-link", "--sandbox-path", gate, drv])
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

const BUILDING: &str = "gated> building";

/// Without the outputs' locks each of them builds.
#[tokio::test]
async fn four_processes_build_one_derivation_once() {
    let world = LocalWorld::new().await;
    let (drv, gate) = gated(&world).await;
    let mut first = command(&world, &drv, &gate).spawn().unwrap();
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == BUILDING));
    let others = [(); 3].map(|()| command(&world, &drv, &gate).spawn().unwrap());
    // Whoever builds in spite of the first has time to begin.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    fs::write(world.beside("gate").join("open"), "").unwrap();
    assert!(first.wait().unwrap().success());
    for other in others {
        let ended = other.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.success(), "{said}");
        assert!(!said.contains(BUILDING), "it was built twice: {said}");
    }
    world.expect_clean().await;
}

#[tokio::test]
async fn who_waits_goes_on_when_the_builder_is_killed() {
    let world = LocalWorld::new().await;
    let (drv, gate) = gated(&world).await;
    let mut first = command(&world, &drv, &gate).spawn().unwrap();
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == BUILDING));
    let second = command(&world, &drv, &gate).spawn().unwrap();
    first.kill().unwrap();
    first.wait().unwrap();
    fs::write(world.beside("gate").join("open"), "").unwrap();
    let ended = second.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains(BUILDING), "{said}");
}

/// With one slot, which a build that waits for a lock must not keep.
#[tokio::test]
async fn who_waits_for_a_lock_says_so_and_uses_no_slot() {
    let world = LocalWorld::new().await;
    let (drv, gate) = gated(&world).await;
    let free = world
        .write(&instantiate(shell("free", "echo free; echo > $out")))
        .await;
    let mut first = command(&world, &drv, &gate).spawn().unwrap();
    let mut lines = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == BUILDING));
    let mut second = command(&world, &drv, &gate);
    let mut second = second.args([&free, "--max-jobs", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(second.stderr.take().unwrap()).lines();
    let mut said = Vec::new();
    // Both happen while the first build holds its lock.
    while !["waiting for the lock on '/nix/store/", "free> free"]
        .iter()
        .all(|part| said.iter().any(|line: &String| line.contains(part)))
    {
        let line = lines.next();
        said.push(line.unwrap_or_else(|| panic!("{said:#?}")).unwrap());
    }
    fs::write(world.beside("gate").join("open"), "").unwrap();
    assert!(first.wait().unwrap().success());
    said.extend(lines.map(Result::unwrap));
    assert!(second.wait().unwrap().success(), "{said:#?}");
    assert!(!said.iter().any(|line| line == BUILDING), "{said:#?}");
    world.expect_clean().await;
}

/// What is collected while `verify` runs is no longer there to verify, and what is built anew meanwhile is sound.
#[tokio::test]
async fn verifying_beside_builds_and_collections_is_no_failure() {
    let world = LocalWorld::new().await;
    let mut drvs = Vec::new();
    for index in 0..12 {
        let made = instantiate(shell(&format!("d{index}"), "echo $RANDOM > $out"));
        drvs.push(world.write(&made).await);
    }
    let store = |args: &[&str]| {
        let mut command = super::plain();
        command
            .arg("store")
            .args(args)
            .arg("--store")
            .arg(world.root());
        command.output().unwrap()
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                assert!(store(&["gc"]).status.success());
            }
        });
        let building = scope.spawn(|| {
            for _ in 0..10 {
                let mut command = build(&world);
                let ended = command.arg("--no-out-link").args(&drvs).output().unwrap();
                let said = String::from_utf8_lossy(&ended.stderr);
                assert!(ended.status.success(), "{said}");
            }
        });
        while !building.is_finished() {
            let verified = store(&["verify"]);
            let said = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success(), "{said}");
        }
        over.store(true, Ordering::Relaxed);
        building.join().unwrap();
        collecting.join().unwrap();
    });
    // Whoever names what is not there is told so.
    let missing = "/nix/store/00000000000000000000000000000000-missing";
    let verified = store(&["verify", missing]);
    assert_eq!(verified.status.code(), Some(1));
}
