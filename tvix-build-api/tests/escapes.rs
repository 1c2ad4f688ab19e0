//! Builder programs that try to escape from the sandbox or to intrude elsewhere. Each test has a
//! canary on the host, and each comment names the defence without which the test fails. All tests
//! run as root, and again as an ordinary user.
#![cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Directory, again_as_an_ordinary_user, busybox};
use fixture::{Fixture, shell};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::Instantiated;
use nix_compat::nixhash::HashAlgo;
use tvix_build_api::sandbox::SandboxPath;
use tvix_build_api::{BuildOutcome, FailureKind};
use tvix_store_api::{Store as _, StoreExt as _};

#[test]
fn as_an_ordinary_user() {
    again_as_an_ordinary_user();
}

/// A world-writable directory and file, which must stay unchanged.
struct Canary {
    directory: Directory,
    before: (Vec<u8>, [u64; 5]),
}

impl Canary {
    fn new() -> Self {
        let directory = Directory::outside_of_tmp();
        let all = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let file = directory.path().join("file");
        fs::write(&file, "canary").unwrap();
        all(&file, 0o666);
        all(directory.path(), 0o777);
        let before = state(directory.path());
        Self { directory, before }
    }

    fn file(&self) -> PathBuf {
        self.path().join("file")
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    #[track_caller]
    fn expect_untouched(&self) {
        assert_eq!(state(self.path()), self.before);
        assert_eq!(fs::read_dir(self.path()).unwrap().count(), 1);
    }
}

fn state(directory: &Path) -> (Vec<u8>, [u64; 5]) {
    let file = directory.join("file");
    let (of, above) = (
        fs::symlink_metadata(&file).unwrap(),
        fs::symlink_metadata(directory).unwrap(),
    );
    let numbers = [
        u64::from(of.mode()),
        u64::from(of.uid()),
        of.nlink(),
        u64::from(above.mode()),
        u64::from(above.uid()),
    ];
    (fs::read(file).unwrap(), numbers)
}

/// The contents of the output of a successful build.
async fn said(fixture: &Fixture, script: &str) -> String {
    let made = fixture.succeeded_once(script).await;
    fs::read_to_string(fixture.output(&made)).unwrap()
}

/// A sandbox with access to `paths` in addition to its shell.
fn lent(paths: &[(&Path, &str)]) -> Fixture {
    let paths = paths
        .iter()
        .map(|(host, inside)| SandboxPath::new(*host, *inside));
    let all = paths.chain([SandboxPath::new(busybox(), "/bin/sh")]);
    let all: Vec<_> = all.collect();
    Fixture::with("/nix/store", |options| options.with_sandbox_paths(all))
}

/// Paths of the host are read-only also for the root of a nested user namespace. Fails without
/// `MOUNT_ATTR_RDONLY` in `Step::Bind`.
#[tokio::test]
async fn user_namespaces_inside_open_no_door() {
    let canary = Canary::new();
    let fixture = lent(&[(canary.path(), "/lent")]);
    let script = r#"
        echo start > $out
        cat > hostile <<'END'
        mount -o remount,rw /lent && echo remounted
        mount -o remount,bind,rw /lent && echo remounted bind
        umount /lent && echo unmounted
        umount -l /proc && echo unmounted proc
        echo x > /lent/file && echo written
        echo x > /lent/new && echo made
        chmod 777 /lent/file && echo changed
        touch plain; chown 12345 plain && echo given away
        chmod 4755 plain && echo set-user-ID
        mknod device c 1 3 && echo device
        mknod disk b 8 0 && echo disk
        chroot /proc/1/root /bin/sh -c 'echo x > /lent/file' && echo through init
END
        (unshare -U -r -m sh hostile || true) >> $out 2>/dev/null
        (unshare -U -r -m -p -f sh hostile || true) >> $out 2>/dev/null
    "#;
    assert_eq!(said(&fixture, script).await, "start\n");
    canary.expect_untouched();
}

/// Fails without the PID namespace's own `/proc`, or, as root, without a separate user.
#[tokio::test]
async fn no_setting_of_the_kernel_can_be_written() {
    let fixture = Fixture::new();
    // Existing settings are rewritten, and one with a visible effect.
    let script = r#"
        echo start > $out
        find /proc/sys -type f > files; test -s files
        while read file; do
            # Even the same number there makes another of its neighbour.
            case $file in */overcommit_kbytes) continue;; esac
            value=$(cat $file 2>/dev/null) || continue
            (echo "$value" > $file) 2>/dev/null && echo $file >> $out
        done < files
        (echo 7 > /proc/sysrq-trigger) 2>/dev/null && echo sysrq >> $out
        (echo -1000 > /proc/1/oom_score_adj) 2>/dev/null && echo oom >> $out
        true
    "#;
    assert_eq!(said(&fixture, script).await, "start\n");
}

/// The escape from runc (CVE-2019-5736): a program is opened for writing through `/proc` when it is
/// no longer being executed. Fails without `MOUNT_ATTR_RDONLY` in `Step::Bind`.
#[tokio::test]
async fn programs_are_not_written_through_proc() {
    let canary = Canary::new();
    fs::copy(busybox(), canary.file()).unwrap();
    fs::set_permissions(canary.file(), fs::Permissions::from_mode(0o777)).unwrap();
    let before = state(canary.path());
    let fixture = lent(&[(&canary.file(), "/bin/sleep")]);
    let script = r#"
        echo start > $out
        /bin/sleep 100 & pid=$!
        while [ "$(readlink /proc/$pid/exe)" != /bin/sleep ]; do :; done
        exec 3< /proc/$pid/exe
        kill -9 $pid; wait $pid || true
        (echo x > /proc/self/fd/3) 2>/dev/null && echo written >> $out
        (echo x > /bin/sleep) 2>/dev/null && echo written directly >> $out
        (echo x > /proc/self/exe) 2>/dev/null && echo written itself >> $out
        (cd /proc/self/cwd/.. && echo x > bin/sleep) 2>/dev/null && echo from above >> $out
        true
    "#;
    assert_eq!(said(&fixture, script).await, "start\n");
    assert_eq!(state(canary.path()), before);
}

/// Symlinks and `..` in paths of the host are resolved in the sandbox. Fails if the root is not
/// changed (`Step::PivotRoot`).
#[tokio::test]
async fn links_in_lent_paths_lead_nowhere() {
    let canary = Canary::new();
    let lender = Directory::outside_of_tmp();
    let inside = lender.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let name = canary.path().file_name().unwrap();
    let link = |to: PathBuf, name: &str| {
        std::os::unix::fs::symlink(to, inside.join(name)).unwrap();
    };
    link(Path::new("../..").join(name), "up");
    link(canary.path().to_owned(), "absolute");
    link(Path::new("../../../../../../var/tmp").join(name), "far");
    std::os::unix::fs::symlink(&inside, lender.path().join("link")).unwrap();
    let through = lender.path().join("link/../link");
    let fixture = lent(&[(&inside, "/lent"), (&through, "/a/linked")]);
    let script = r#"
        echo start > $out
        test -L /lent/up; test -L /a/linked/up
        for dir in /lent /a/linked /lent/.. /a/linked/.. /a/linked/../..; do
            for way in up absolute far; do
                cat $dir/$way/file >> $out 2>/dev/null || true
                (echo x > $dir/$way/file) 2>/dev/null || true
            done
        done
        ls /a/linked/.. >> $out
        ls /a/linked/../.. | grep -v -x -e a -e bin -e build -e dev -e etc -e lent -e nix -e proc -e tmp >> $out || true
    "#;
    assert_eq!(said(&fixture, script).await, "start\nlinked\n");
    canary.expect_untouched();
}

/// A process of the user that runs the tests.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Fails without `CLONE_NEWPID` for an ordinary user, because its builds run as the same user.
#[tokio::test]
async fn signals_do_not_reach_the_host() {
    let mut sleeper = Sleeper::new();
    let fixture = Fixture::new();
    let pid = sleeper.0.id();
    let script = format!(
        "echo start > $out
         for signal in 9 15 19; do (kill -$signal {pid}) 2>/dev/null && echo sent >> $out; done
         (cat /proc/{pid}/environ) 2>/dev/null && echo read >> $out
         (echo x > /proc/{pid}/mem) 2>/dev/null && echo traced >> $out
         (nsenter -t {pid} -m true) 2>/dev/null && echo entered >> $out
         true"
    );
    assert_eq!(said(&fixture, &script).await, "start\n");
    assert!(sleeper.0.try_wait().unwrap().is_none());
}

/// The consequence of CVE-2024-27297: a process that still has an output open when it is registered
/// can write to it. Fails without `CLONE_NEWPID` (a process with its own session would outlive the
/// build).
#[tokio::test]
async fn nobody_writes_to_what_is_registered() {
    let fixture = Fixture::new();
    for round in 0..20 {
        let made = fixture.derivation(&format!(
            "echo {round} > $out
             setsid sh -c '(exec 3>> $out; while :; do echo more >&3; done) & exit' </dev/null >/dev/null 2>&1 &
             while [ $(wc -l < $out) -lt 5 ]; do :; done"
        ));
        fixture.succeed(&made).await;
        let before = fs::read(fixture.output(&made)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(fs::read(fixture.output(&made)).unwrap() == before);
        let path = made.output_path("out").unwrap();
        fixture.store.verify(&path).await.unwrap();
    }
}

/// CVE-2024-52867: an output in the store is never writable and never belongs to a builder. Fails
/// if outputs are moved into the store before they are made canonical.
#[tokio::test]
async fn outputs_are_canonical_as_soon_as_they_can_be_seen() {
    let fixture = Fixture::new();
    let store = fixture.store.real_store_dir().to_owned();
    let done = Arc::new(AtomicBool::new(false));
    let watch = std::thread::spawn({
        let done = done.clone();
        move || {
            let own = rustix::process::geteuid().as_raw();
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&store).into_iter().flatten().flatten() {
                    let name = entry.file_name();
                    if !name.to_string_lossy().ends_with("-test") {
                        continue;
                    }
                    let Ok(metadata) = entry.path().join("file").symlink_metadata() else {
                        continue;
                    };
                    seen += 1;
                    assert_eq!(metadata.mode() & 0o7777, 0o444, "{name:?}");
                    assert_eq!(metadata.uid(), own, "{name:?}");
                }
            }
            seen
        }
    });
    for round in 0..100 {
        let script =
            format!("umask 0; mkdir -m 755 $out; echo {round} > $out/file; chmod 666 $out/file");
        fixture.succeeded_once(&script).await;
    }
    done.store(true, Ordering::Relaxed);
    assert!(watch.join().unwrap() > 0);
}

/// CVE-2026-39860: the names of temporary copies are predictable. Fails if `Settler::rewrite`
/// removes existing files of that name, or writes through them.
#[tokio::test]
async fn temporary_copies_are_not_made_through_links() {
    let canary = Canary::new();
    let fixture = Fixture::new();
    for target in [
        canary.file(),
        canary.path().join("new"),
        canary.path().to_owned(),
    ] {
        let made = fixture.instantiate(
            shell(&format!(
                "mkdir $out; echo $out > $out/self; echo x > $out/file
                 for name in .rewritten-out .tmp-out .check out; do
                   ln -s {target} $NIX_STORE/$name; done
                 ln -s {target} /build/.rewritten-out",
                target = target.display()
            ))
            .floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256),
        );
        // The build may fail or not.
        let _ = fixture.build(&made, &[]).await;
        canary.expect_untouched();
    }
}

/// Symlinks met by clean-up, canonicalisation and copying. Fails if `tree::canonicalise` or
/// `remove_contents` follow them.
#[tokio::test]
async fn links_to_the_host_stay_links() {
    let canary = Canary::new();
    let fixture = Fixture::new();
    let path = canary.path().display().to_string();
    let script = format!(
        "mkdir $out; ln -s {path} $out/dir; ln -s {path}/file $out/file; ln -s {path} /build/dir
         ln -s {path} /tmp/dir; ln -s {path} $NIX_STORE/dir; mkdir /build/a; ln -s {path} /build/a/b
         chmod 0 /build/a"
    );
    let made = fixture.succeeded_once(&script).await;
    let out = fixture.output(&made);
    assert_eq!(fs::read_link(out.join("dir")).unwrap(), canary.path());
    let made = fixture.succeeded_once(&format!("ln -s {path} $out")).await;
    assert_eq!(fs::read_link(fixture.output(&made)).unwrap(), canary.path());
    // The scratch directories are clean once the builder is dropped.
    let store = fixture.store.clone();
    drop(fixture.builder);
    canary.expect_untouched();
    let scratch = store.state_dir().join("tvix-builds");
    assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
}

/// A setting of the machine, restored on drop. Only root can change it.
struct Setting(&'static str, String);

impl Setting {
    fn set(file: &'static str, value: &str) -> Option<Self> {
        let before = fs::read_to_string(file).ok()?;
        fs::write(file, value).ok()?;
        Some(Self(file, before))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.0, &self.1);
    }
}

/// The vulnerabilities of Nix in 2013 and of Guix (CVE-2021-27851), on a machine where every user
/// may create hard links to every file: a hard link to a file of the host in an output, or in the
/// kept directory of a failed build, would let its mode or owner be changed. Fails if paths of the
/// host are on the mount of `/build` or the store.
#[tokio::test]
async fn no_hard_link_leads_out() {
    let _setting = Setting::set("/proc/sys/fs/protected_hardlinks", "0");
    let canary = Canary::new();
    let kept = Directory::new();
    let all = [
        SandboxPath::new(busybox(), "/bin/sh"),
        SandboxPath::new(canary.path(), "/lent"),
        SandboxPath::new(canary.file(), "/lent-file"),
    ];
    let fixture = Fixture::with("/nix/store", |options| {
        let options = options.with_sandbox_paths(all);
        options.with_keep_failed(kept.path().join("kept"))
    });
    let input = fixture.input("what nobody may change").await;
    let real = fixture.store.real_path(&input.path);
    for last in ["true", "false"] {
        let made = fixture.instantiate(
            shell(&format!(
                "mkdir $out; echo start > $out/said
                 for file in /lent/file /lent-file $input /etc/passwd /bin/sh /dev/null; do
                   for to in $out/link /build/link /tmp/link $NIX_STORE/link; do
                     ln $file $to 2>/dev/null && echo $file $to >> $out/said
                     ln -L $file $to 2>/dev/null && echo $file $to >> $out/said
                   done
                 done
                 test $(wc -l < $out/said) = 1; {last}"
            ))
            .source(&input.path)
            .env(
                "input",
                fixture.store.store_dir().display(&input.path).to_string(),
            ),
        );
        let outcome = fixture.build(&made, std::slice::from_ref(&input)).await;
        let outcome = outcome.unwrap();
        let succeeded = matches!(outcome, BuildOutcome::Success(_));
        assert_eq!(succeeded, last == "true", "{outcome:?}");
        if succeeded {
            let said = fs::read_to_string(fixture.output(&made).join("said"));
            assert_eq!(said.unwrap(), "start\n");
        }
        canary.expect_untouched();
        assert_eq!(fs::metadata(&real).unwrap().nlink(), 1);
    }
}

/// CVE-2025-52992: a failed build leaves nothing in the store and changes no valid path. Fails if
/// files in scratch directories of failed builds enter the store. For an ordinary user, who owns
/// the files of the store, it also fails without `MOUNT_ATTR_RDONLY` in `Step::Bind`.
#[tokio::test]
async fn failed_builds_leave_nothing_and_harm_nothing() {
    let fixture = Fixture::new();
    let valid = fixture.succeeded_once("echo valid > $out").await;
    let path = valid.output_path("out").unwrap();
    let info = fixture.store.require(&path).await.unwrap();
    let text = fixture.store.store_dir().display(&path).to_string();
    let before = fs::read_dir(fixture.store.real_store_dir())
        .unwrap()
        .count();
    for (script, outputs) in [
        (
            format!(
                "echo x > $out; chmod 666 {text} || true; rm -rf {text} || true; echo evil > {text}"
            ),
            vec!["out"],
        ),
        (
            format!("echo x > $out; ln -s / $NIX_STORE/link; mv {text} $out-evil; exit 1"),
            vec!["out"],
        ),
        (
            "echo x > $out; echo y > $NIX_STORE/other; exit 1".into(),
            vec!["out"],
        ),
        ("echo x > $dev; mkfifo $out".into(), vec!["out", "dev"]),
        ("echo x > $dev".into(), vec!["out", "dev"]),
    ] {
        let made = shell(&script).source(&path).outputs(outputs);
        let made = fixture.instantiate(made);
        let outcome = fixture.build(&made, std::slice::from_ref(&info)).await;
        let outcome = outcome.unwrap();
        assert!(matches!(outcome, BuildOutcome::Failure(_)), "{outcome:?}");
        assert_eq!(
            fs::read_dir(fixture.store.real_store_dir())
                .unwrap()
                .count(),
            before
        );
        fixture.store.verify(&path).await.unwrap();
    }
}

/// Fixed outputs: with network access, they may not contain anything that their hash does not
/// cover. Fails without `check_fixed`, or if everything in a scratch store is taken.
#[tokio::test]
async fn fixed_outputs_are_what_their_hash_says_and_nothing_more() {
    use nix_compat::nixhash::NixHash;
    let fixture = Fixture::new();
    let input = fixture.input("input").await;
    let text = fixture.store.store_dir().display(&input.path).to_string();
    let flat = |contents: &str| {
        let hash = NixHash::digest(HashAlgo::Sha256, contents);
        (ContentAddressMethod::Flat, hash)
    };
    let (method, hash) = flat("known\n");
    let builds = |script: &str, method, hash: &NixHash| {
        let builder = shell(script).source(&input.path).env("text", &*text);
        fixture.instantiate(builder.fixed(method, hash.clone()))
    };
    let outcome = |made: Instantiated| {
        let (fixture, input) = (&fixture, std::slice::from_ref(&input));
        async move { fixture.build(&made, input).await.unwrap() }
    };
    let before = fs::read_dir(fixture.store.real_store_dir())
        .unwrap()
        .count();
    for script in [
        "echo other > $out",
        "echo known > $out; chmod +x $out",
        "ln -s /bin/sh $out",
        "mkdir $out; echo known > $out/known",
    ] {
        let outcome = outcome(builds(script, method, &hash)).await;
        assert!(
            matches!(outcome, BuildOutcome::Failure(_)),
            "{script}: {outcome:?}"
        );
    }
    // References would add to the closure without being covered by the hash.
    let (method, with_reference) = flat(&format!("{text}\n"));
    let outcome_ = outcome(builds("echo $text > $out", method, &with_reference)).await;
    assert!(matches!(outcome_, BuildOutcome::Failure(_)), "{outcome_:?}");
    assert_eq!(
        fs::read_dir(fixture.store.real_store_dir())
            .unwrap()
            .count(),
        before
    );
    let made = builds(
        "echo known > $out; echo more > $out-more; mkdir $NIX_STORE/x",
        method,
        &hash,
    );
    let path = made.output_path("out").unwrap();
    assert!(matches!(outcome(made).await, BuildOutcome::Success(_)));
    fixture.store.verify(&path).await.unwrap();
    let after = fs::read_dir(fixture.store.real_store_dir())
        .unwrap()
        .count();
    assert_eq!(after, before + 1);
}

/// The error names the limit that a build exceeds.
#[tokio::test]
async fn greedy_builds_are_told_what_they_lack() {
    let limited = |change: fn(&mut tvix_build_api::sandbox::SandboxOptions)| {
        Fixture::with("/nix/store", |mut options| {
            change(&mut options);
            options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
        })
    };
    let fixture = limited(|options| options.max_disk = Some(10 << 20));
    let made = fixture.derivation(
        "i=0; while [ $i -lt 100 ]; do head -c 1000000 /dev/zero > $i; i=$((i+1)); done; sleep 20",
    );
    let failure = fixture.fail(&made).await;
    assert!(
        matches!(failure.kind, FailureKind::DiskLimit { limit } if limit == 10 << 20),
        "{failure}"
    );
    let usage = failure.usage.unwrap();
    assert!(usage.peak_memory > 0, "{usage:?}");
    let fixture = limited(|options| options.max_memory = Some(100 << 20));
    let made = fixture.derivation("head -c 400000000 /dev/zero | tail -n 1 > $out");
    fixture.fail(&made).await;
    let fixture = limited(|options| options.max_processes = Some(20));
    let made =
        fixture.derivation("i=0; while [ $i -lt 50 ]; do sleep 1 & i=$((i+1)); done; echo > $out");
    fixture.fail(&made).await;
}
