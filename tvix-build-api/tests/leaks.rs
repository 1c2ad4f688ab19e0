//! Five hundred builds in a row leak nothing: no mount, process (and therefore no namespace),
//! control group, file descriptor or file. In a test program of its own, because resources are
//! counted per program.
#![cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{again_as_an_ordinary_user, busybox};
use fixture::{Fixture, shell};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nixhash::{HashAlgo, NixHash};
use tvix_build_api::sandbox::SandboxPath;

/// Resources of this program and its builds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    mounts: usize,
    descriptors: usize,
    children: usize,
    groups: usize,
    /// Files in scratch directories.
    files: usize,
}

impl Held {
    fn now(fixture: &Fixture) -> Self {
        let scratch = fixture.store.state_dir().join("tvix-builds");
        Held {
            mounts: fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .lines()
                .count(),
            descriptors: fs::read_dir("/proc/self/fd").unwrap().count(),
            children: children(),
            groups: groups(Path::new("/sys/fs/cgroup"), 6),
            // In the temporary directory, only the files of the scratch directories count: the run
            // as another user has files there too.
            files: slots(&scratch)
                .iter()
                .map(|slot| in_slot(slot))
                .sum::<usize>()
                + fs::read_dir(fixture.directory.path()).unwrap().count(),
        }
    }
}

/// A word in the arguments of processes that builds leave running.
fn marker() -> String {
    format!("left-by-{}-x", std::process::id())
}

/// Children of this program, and processes with [`marker`], with any parent.
fn children() -> usize {
    let (own, marker) = (std::process::id().to_string(), marker());
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let ours = processes.filter(|entry| {
        let read = |file| fs::read(entry.path().join(file)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let arguments = read("cmdline");
        after_name.split_whitespace().nth(1) == Some(&own)
            || String::from_utf8_lossy(&arguments).contains(&marker)
    });
    ours.count()
}

fn groups(directory: &Path, depth: usize) -> usize {
    let prefix = format!("tvix-{}-", std::process::id());
    let mut count = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            count += 1;
        } else if depth > 0 {
            count += groups(&entry.path(), depth - 1);
        }
    }
    count
}

/// The scratch directories, which are reused. There are as many as were in use at a time, including
/// the clean-up after builds.
fn slots(scratch: &Path) -> Vec<PathBuf> {
    let entries = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let engines = entries(scratch);
    engines
        .iter()
        .flat_map(|engine| entries(&engine.join("builds")))
        .collect()
}

/// The entries of a slot in addition to its three directories.
fn in_slot(slot: &Path) -> usize {
    below(slot) - 3
}

fn below(directory: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        count += 1;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count += below(&entry.path());
        }
    }
    count
}

/// Fails if a slot is not cleaned or a control group not removed, and without `CLONE_NEWPID`.
#[tokio::test]
async fn five_hundred_builds_leave_nothing() {
    let fixture = Fixture::with("/nix/store", |mut options| {
        options.max_memory = Some(1 << 30);
        options.max_disk = Some(1 << 30);
        options.max_processes = Some(100);
        options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
    });
    let before = tokio::sync::OnceCell::new();
    for round in 0..520 {
        // The first builds create the resources that are reused.
        if round == 20 {
            before.set(settled(&fixture).await).unwrap();
        }
        let litter = format!(
            "mkdir -p a/b /tmp/c; echo x > a/b/file
             (setsid sh -c 'sleep 1000; : {}' &) > /dev/null 2>&1",
            marker()
        );
        let builder = match round % 4 {
            0 => shell(&format!("{litter}; echo {round} > $out")),
            1 => shell(&format!("{litter}; echo {round} > $out; exit 1")),
            2 => shell(&format!("{litter}; sleep 0; echo -n {round} > $out")).fixed(
                ContentAddressMethod::Flat,
                NixHash::digest(HashAlgo::Sha256, round.to_string()),
            ),
            _ => shell(&format!("mkdir $out; echo $out {round} > $out/self"))
                .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256),
        };
        let made = fixture.instantiate(builder);
        fixture.build(&made, &[]).await.unwrap();
    }
    let after = settled(&fixture).await;
    assert_eq!(Some(&after), before.get());
    let scratch = fixture.store.state_dir().join("tvix-builds");
    assert!(slots(&scratch).len() < 20, "{:?}", slots(&scratch));
    assert_eq!((after.children, after.groups), (0, 0));
    drop(fixture);
    again_as_an_ordinary_user();
}

/// The resources after the clean-up, or after ten seconds.
async fn settled(fixture: &Fixture) -> Held {
    let mut held = Held::now(fixture);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = Held::now(fixture);
        if now == held && now.children == 0 {
            break;
        }
        held = now;
    }
    held
}
