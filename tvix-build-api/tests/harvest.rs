//! Harvesting of outputs: limits on reading them, and attributes that do not enter the store. All
//! tests run as root, and again as an ordinary user.
#![cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{again_as_an_ordinary_user, busybox};
use fixture::{Fixture, shell};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::HashAlgo;
use tvix_build_api::sandbox::{SandboxOptions, SandboxPath};
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder as _, BuilderError, FailureKind,
};
use tvix_store_api::{MemoryStore, Store as _, StoreExt as _};

#[test]
fn as_an_ordinary_user() {
    again_as_an_ordinary_user();
}

/// Runs a test that would take hours without a limit: it fails after a minute.
fn within_a_minute<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
        // Also waits for the reading threads.
        drop(runtime);
        let _ = done.send(());
    });
    wait.recv_timeout(Duration::from_secs(60))
        .expect("it is still reading");
}

/// Outputs that take hours to read, by the name of the first reader.
fn endless() -> Vec<(&'static str, DerivationBuilder)> {
    let sparse = "truncate -s 8000000000000";
    vec![
        ("a sparse file", shell(&format!("{sparse} $out"))),
        (
            "many of them",
            shell(&format!(
                "mkdir $out; for i in 1 2 3; do {sparse} $out/$i; done"
            )),
        ),
        // Hard links are copied; holes in files are not filled.
        (
            "with several links",
            shell(&format!("mkdir $out; {sparse} $out/a; ln $out/a $out/b")),
        ),
        (
            "at the end of a deep tree",
            shell(&format!(
                "mkdir $out; cd $out; i=0; while [ $i -lt 50 ]; do mkdir d; cd d; i=$((i+1)); done
                 {sparse} file"
            )),
        ),
        (
            "of which the hash is another",
            shell(&format!("{sparse} $out")).floating(ContentAddressMethod::Flat, HashAlgo::Sha512),
        ),
        (
            "in the second output",
            shell(&format!("echo > $out; {sparse} $dev")).outputs(["out", "dev"]),
        ),
    ]
}

fn request(fixture: &Fixture, made: &Instantiated) -> BuildRequest {
    let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
    request.store = Some(fixture.store.uri().clone());
    request
}

async fn build(
    fixture: &Fixture,
    request: BuildRequest,
    context: BuildContext,
) -> Result<FailureKind, BuilderError> {
    match fixture.builder.build(request, context).await? {
        BuildOutcome::Failure(failure) => Ok(failure.kind),
        outcome => panic!("{outcome:?}"),
    }
}

/// Fails without `Bounds::interrupted` in `Walk`, and one case without it in `copy_sparse`.
#[test]
fn time_limits_hold_while_outputs_are_read() {
    within_a_minute(|| async {
        let fixture = Fixture::new();
        for (what, builder) in endless() {
            let made = fixture.instantiate(builder);
            let limit = Duration::from_secs(1);
            for silent in [false, true] {
                let mut request = request(&fixture, &made);
                match silent {
                    true => request.limits.silence = Some(limit),
                    false => request.limits.wall_time = Some(limit),
                }
                let context = BuildContext::new(Arc::new(fixture.store.clone()));
                let kind = build(&fixture, request, context).await.unwrap();
                let expected = match silent {
                    true => FailureKind::Silent { limit },
                    false => FailureKind::TimedOut { limit },
                };
                assert_eq!(kind, expected, "{what}");
            }
        }
    });
}

/// As above, for cancelled builds, and for dropped ones.
#[test]
fn reading_outputs_ends_with_the_build() {
    within_a_minute(|| async {
        let fixture = Fixture::new();
        for (what, builder) in endless() {
            let made = fixture.instantiate(builder);
            let context = BuildContext::new(Arc::new(fixture.store.clone()));
            let cancel = context.cancel.clone();
            let stop = async {
                tokio::time::sleep(Duration::from_millis(700)).await;
                cancel.cancel();
            };
            let (kind, ()) = tokio::join!(build(&fixture, request(&fixture, &made), context), stop);
            assert_eq!(kind.unwrap(), FailureKind::Cancelled, "{what}");
            let context = BuildContext::new(Arc::new(fixture.store.clone()));
            let building = fixture.builder.build(request(&fixture, &made), context);
            let ended = tokio::time::timeout(Duration::from_millis(700), building).await;
            assert!(ended.is_err(), "{what}");
        }
        // Nothing remains once the builder is dropped.
        let (store, directory) = (fixture.store.clone(), fixture.directory);
        drop(fixture.builder);
        let scratch = store.state_dir().join("tvix-builds");
        for _ in 0..500 {
            if fs::read_dir(&scratch).unwrap().count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
        drop(directory);
    });
}

/// Outputs for a store on another file system, or for a store that the builder does not know.
#[test]
fn limits_hold_wherever_outputs_go() {
    within_a_minute(|| async {
        let mut fixture = Fixture::new();
        let memory = MemoryStore::new(fixture.store.store_dir().clone());
        let elsewhere = memory.uri().clone();
        fixture.builder = fixture.builder.with_store(Arc::new(memory));
        let made =
            fixture.derivation("mkdir $out; echo > $out/a; truncate -s 8000000000000 $out/b");
        for store in [Some(elsewhere), None] {
            let mut request = request(&fixture, &made);
            request.store = store;
            let limit = Duration::from_secs(1);
            request.limits.wall_time = Some(limit);
            let context = BuildContext::new(Arc::new(fixture.store.clone()));
            let kind = build(&fixture, request, context).await.unwrap();
            assert_eq!(kind, FailureKind::TimedOut { limit });
        }
    });
}

fn limited(disk: u64) -> Fixture {
    Fixture::with("/nix/store", |options: SandboxOptions| {
        let mut options = options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")]);
        options.max_disk = Some(disk);
        options
    })
}

/// Fails without `Field::measure`.
#[test]
fn sparse_outputs_count_with_their_full_size() {
    within_a_minute(|| async {
        let fixture = limited(1 << 40);
        for (path, builder) in [
            (
                "/",
                shell("mkdir $out; for i in a b c; do truncate -s 1000000000000 $out/$i; done"),
            ),
            (
                "",
                shell("truncate -s 1000000000000 $out $dev").outputs(["out", "dev"]),
            ),
        ] {
            // Small outputs are read, and are delivered first.
            let made = fixture.instantiate(builder);
            let kind = fixture.fail(&made).await.kind;
            let FailureKind::OutputsExceedDisk {
                path: named, limit, ..
            } = &kind
            else {
                panic!("{kind}");
            };
            assert_eq!(*limit, 1 << 40);
            assert!(
                named.contains(path) && named.starts_with("/nix/store/"),
                "{kind}"
            );
            assert!(
                kind.to_string().contains(&(1u64 << 40).to_string()),
                "{kind}"
            );
        }
        let fixture = limited(10 << 20);
        let made = fixture.derivation(
            "mkdir $out; i=0; while [ $i -lt 9 ]; do truncate -s 1M $out/$i; i=$((i+1)); done",
        );
        fixture.succeed(&made).await;
    });
}

/// The names of a file's extended attributes, and its flags.
fn attributes(path: &Path) -> (Vec<u8>, u32) {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    names.truncate(len);
    let flags = match fs::symlink_metadata(path).unwrap().is_symlink() {
        true => 0,
        false => {
            let file = fs::File::open(path).unwrap();
            let flags = rustix::fs::ioctl_getflags(&file);
            let plain = rustix::fs::IFlags::from_bits_retain(0x0008_1000); // extents, indexed
            flags.map_or(0, |flags| flags.difference(plain).bits())
        }
    };
    (names, flags)
}

fn all(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// The upper directory of an overlay gets extended attributes that no system call sets. Fails
/// without `remove_attributes`; for an ordinary user also without its change of mode.
#[tokio::test]
async fn extended_attributes_of_overlays_do_not_reach_outputs() {
    let fixture = Fixture::new();
    let script = r#"
        mkdir $out $NIX_STORE/work lower merged
        mkdir -p lower/dir/inner lower/other; echo text > lower/dir/file; echo more > lower/read-only
        chmod 444 lower/read-only; ln -s dir lower/link
        cat > overlay <<'END'
        mount -t overlay -o userxattr,lowerdir=lower,upperdir=$out,workdir=$NIX_STORE/work none merged
        touch merged/dir/file merged/read-only
        rm -r merged/other; mkdir merged/other; echo new > merged/other/new
        ln -s x merged/dir/link
        umount merged
END
        unshare -U -r -m sh -e overlay
        chmod 444 $out/dir/file
    "#;
    let made = fixture.succeeded_once(script).await;
    let out = fixture.output(&made);
    let files = all(&out);
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        assert_eq!(attributes(&file), (Vec::new(), 0), "{}", file.display());
    }
    let path = made.output_path("out").unwrap();
    fixture.store.verify(&path).await.unwrap();
}

/// As in Nix 2.34.8: `suspicious ownership or permission on ...; rejecting this build output`.
#[tokio::test]
async fn outputs_that_others_can_write_to_are_refused() {
    let fixture = Fixture::new();
    for mode in ["777", "775", "757", "722", "1777"] {
        for make in ["mkdir $out", "echo x > $out"] {
            let made = fixture.derivation(&format!("{make}; chmod {mode} $out"));
            let failure = fixture.fail(&made).await;
            let text = failure.to_string();
            assert!(
                matches!(failure.kind, FailureKind::InvalidOutput { .. }),
                "{text}"
            );
            assert!(text.contains("suspicious") && text.contains(mode), "{text}");
        }
    }
    // Only the top level counts, and a symlink has no mode of its own.
    for script in [
        "mkdir $out; echo x > $out/file; chmod 666 $out/file; mkdir -m 777 $out/dir",
        "ln -s /nowhere $out",
        "mkdir $out; chmod 700 $out",
    ] {
        fixture.succeeded_once(script).await;
    }
}

/// A change to the modes of given or created directories is not an error of the builder: with Nix
/// these builds succeed, or fail because their output is missing.
#[tokio::test]
async fn changed_modes_are_no_trouble_of_the_machine() {
    let fixture = Fixture::new();
    let many = r#"
        mkdir -p $out/dir/inner $out/empty; echo text > $out/dir/inner/file; echo link > $out/a
        ln $out/a $out/b; ln $out/a $out/dir/c; ln -s a $out/link
        chmod 000 $out/a $out/dir/inner/file $out/empty $out/dir/inner
        chmod 000 $out/dir
    "#;
    let scripts = [
        (many.to_owned(), true),
        (format!("{many}\n chmod 000 $out"), true),
        ("echo x > $out; chmod 000 $out".into(), true),
        ("echo x > $out; chmod 000 /build".into(), true),
        ("echo x > $out; mkdir d; chmod 000 /build/d /build".into(), true),
        ("echo x > $out; chmod 000 /tmp /dev/shm".into(), true),
        ("echo x > $out; chmod 000 $NIX_STORE 2>/dev/null || true".into(), true),
        ("mkdir $out; cd $out; chmod 000 . .. /build /tmp 2>/dev/null || true".into(), true),
        ("chmod 000 $NIX_STORE 2>/dev/null || true".into(), false),
        ("chmod 000 /build /tmp $NIX_STORE 2>/dev/null; exit 3".into(), false),
        ("mkdir -p /build/a/b /tmp/a/b $NIX_STORE/a/b; chmod -R 000 /build/a /tmp/a $NIX_STORE/a; exit 3".into(), false),
    ];
    // Twice, so that the second build reuses the scratch directory of the first.
    for (script, good) in scripts.iter().chain(&scripts) {
        let made = fixture.derivation(&format!("{script}\n# {}", scripts.len()));
        let outcome = fixture.build(&made, &[]).await;
        let outcome = outcome.unwrap_or_else(|error| panic!("{script}: {error:?}"));
        let succeeded = matches!(outcome, BuildOutcome::Success(_));
        assert_eq!(succeeded, *good, "{script}: {outcome:?}");
        if succeeded {
            let path = made.output_path("out").unwrap();
            fixture.store.verify(&path).await.unwrap();
        }
    }
    let made = fixture.derivation(&format!("{many}\n# {}", scripts.len()));
    let out = fixture.output(&made);
    let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    // The scratch directories are clean once the builder is dropped.
    let store = fixture.store.clone();
    drop(fixture.builder);
    let scratch = store.state_dir().join("tvix-builds");
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
}

/// Directories of failed builds are kept regardless of their mode, and can be entered.
#[tokio::test]
async fn locked_build_directories_can_be_kept() {
    let kept = common::Directory::new();
    let fixture = Fixture::with("/nix/store", |options| {
        let options = options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")]);
        options.with_keep_failed(kept.path().join("kept"))
    });
    let made = fixture.derivation("echo x > file; chmod 000 /build; exit 1");
    fixture.fail(&made).await;
    let mut directories = fs::read_dir(kept.path().join("kept")).unwrap();
    let directory = directories.next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(directory.join("file")).unwrap(), "x\n");
}

/// As in Nix: no core dumps unless a program enables them.
#[tokio::test]
async fn core_dumps_are_off_and_can_be_turned_on() {
    let fixture = Fixture::new();
    let ours = fs::read_to_string("/proc/self/limits").unwrap();
    let hard = |limits: &str| {
        let line = limits.lines().find(|line| line.starts_with("Max core"));
        let words: Vec<_> = line
            .unwrap()
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        (words[4].clone(), words[5].clone())
    };
    let made = fixture.succeeded_once("cat /proc/self/limits > $out").await;
    let theirs = fs::read_to_string(fixture.output(&made)).unwrap();
    assert_eq!(hard(&theirs), ("0".into(), hard(&ours).1));
}
