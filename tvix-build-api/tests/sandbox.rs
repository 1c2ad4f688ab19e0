//! The sandbox builder beyond the contract: malicious outputs, paths of the host, leftovers.
#![cfg(all(feature = "sandbox", feature = "local-fs", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Directory, again_as_an_ordinary_user, busybox};
use fixture::{Fixture, shell};
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::nixhash::HashAlgo;
use tvix_build_api::sandbox::SandboxPath;
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder as _, BuilderError, CheckError, CheckOutcome,
    FailureKind, StructuredLog, check, this_system,
};
use tvix_store_api::{Store as _, StoreExt as _};

#[tokio::test]
async fn outputs_that_no_store_holds_are_refused_by_name() {
    let fixture = Fixture::new();
    for (script, kind) in [
        ("mkfifo $out", "fifo"),
        ("mkdir -p $out/a/b; mkfifo $out/a/b/pipe", "fifo"),
        (
            "d=$out; mkdir $d; cd $d; i=0
             while [ $i -lt 200 ]; do mkdir d; cd d; i=$((i+1)); done",
            "deep",
        ),
    ] {
        let made = fixture.derivation(script);
        let failure = fixture.fail(&made).await;
        let FailureKind::InvalidOutput { message, .. } = &failure.kind else {
            panic!("{script}: {failure}");
        };
        assert!(message.contains(kind), "{message}");
        let root = fixture.directory.path().to_str().unwrap();
        assert!(!message.contains(root), "{message}");
        let path = made.output_path("out").unwrap();
        assert!(!fixture.store.real_path(&path).exists());
    }
}

/// A hard link to an input would make the input's file a part of the output, or let the output be
/// changed through it.
#[tokio::test]
async fn links_to_inputs_do_not_get_into_outputs() {
    let fixture = Fixture::new();
    let input = fixture.input("what nobody may change").await;
    let made = fixture.instantiate(
        shell("ln $input $out || cat $input > $out; if chmod 777 $input 2>&-; then exit 9; fi")
            .source(&input.path)
            .env(
                "input",
                fixture.store.store_dir().display(&input.path).to_string(),
            ),
    );
    let outcome = fixture
        .build(&made, std::slice::from_ref(&input))
        .await
        .unwrap();
    assert!(matches!(outcome, BuildOutcome::Success(_)), "{outcome:?}");
    let (from, to) = (fixture.store.real_path(&input.path), fixture.output(&made));
    assert_ne!(from.metadata().unwrap().ino(), to.metadata().unwrap().ino());
    assert_eq!(from.metadata().unwrap().mode() & 0o7777, 0o444);
}

#[tokio::test]
async fn outputs_are_canonical() {
    let fixture = Fixture::new();
    let made = fixture.derivation(
        "umask 0; mkdir $out; echo x > $out/file; echo y > $out/run; chmod 4711 $out/run || chmod 711 $out/run
         chmod 755 $out",
    );
    fixture.succeed(&made).await;
    let out = fixture.output(&made);
    let of = |path: &Path| {
        let metadata = path.symlink_metadata().unwrap();
        (metadata.mode() & 0o7777, metadata.mtime(), metadata.uid())
    };
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(of(&out), (0o555, 1, uid));
    assert_eq!(of(&out.join("file")), (0o444, 1, uid));
    assert_eq!(of(&out.join("run")), (0o555, 1, uid));
    fixture
        .store
        .verify(&made.output_path("out").unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_named() {
    let fixture = Fixture::new();
    let builder = DerivationBuilder::new("test", this_system(), "/no/such/program");
    let failure = fixture.fail(&fixture.instantiate(builder)).await;
    assert!(
        matches!(&failure.kind, FailureKind::CannotRun { program, .. } if program == "/no/such/program"),
        "{failure}"
    );
    // One of this machine that the sandbox lacks.
    let program = std::env::current_exe().unwrap();
    let builder = DerivationBuilder::new("test", this_system(), program.to_str().unwrap());
    let failure = fixture.fail(&fixture.instantiate(builder)).await;
    assert!(failure.to_string().contains("--sandbox-path"), "{failure}");
}

#[tokio::test]
async fn what_is_not_supported_is_told_apart_from_failing() {
    let fixture = Fixture::new();
    for attribute in ["__noChroot", "__impureHostDeps"] {
        let made = fixture.instantiate(shell("echo x > $out").env(attribute, "1"));
        let error = fixture.build(&made, &[]).await.unwrap_err();
        assert!(matches!(error, BuilderError::Unsupported { .. }), "{error}");
    }
}

/// A graph that contains a derivation also contains the outputs of that derivation.
#[tokio::test]
async fn graphs_of_derivations_hold_their_outputs() {
    let fixture = Fixture::new();
    let input = fixture.succeeded_once("echo input > $out").await;
    let contents = input.derivation.to_aterm(fixture.store.store_dir());
    let name = input.path.name().clone();
    let drv = fixture
        .store
        .add_text(name, &contents, [].into())
        .await
        .unwrap();
    assert_eq!(drv, input.path);
    let output = input.output_path("out").unwrap();
    let drv_text = fixture.store.store_dir().display(&drv).to_string();
    let made = fixture.instantiate(
        shell("cat graph > $out")
            .env("exportReferencesGraph", format!("graph {drv_text}"))
            .source(&drv)
            .source(&output),
    );
    let mut inputs = Vec::new();
    for path in [&drv, &output] {
        inputs.push(fixture.store.require(path).await.unwrap());
    }
    let outcome = fixture.build(&made, &inputs).await.unwrap();
    assert!(matches!(outcome, BuildOutcome::Success(_)), "{outcome:?}");
    let graph = fixture.output(&made);
    let graph = fs::read_to_string(graph).unwrap();
    let output = fixture.store.store_dir().display(&output).to_string();
    assert!(
        graph.contains(&drv_text) && graph.contains(&output),
        "{graph}"
    );
}

/// An output with discarded references has none, but its own path in its contents is still
/// rewritten.
#[tokio::test]
async fn references_can_be_discarded() {
    let fixture = Fixture::new();
    let input = fixture.input("text").await;
    let text = fixture.store.store_dir().display(&input.path).to_string();
    for floating in [false, true] {
        let json = format!(
            r#"{{"unsafeDiscardReferences":{{"out":true}},
                 "outputChecks":{{"out":{{"allowedRequisites":["out"]}}}},"floating":{floating}}}"#
        );
        let script = format!(
            "line=$(grep '^declare -A outputs=' .attrs.sh); out=${{line#*\\'out\\'*\\'}}
             out=${{out%%\\'*}}; echo {text} $out > $out"
        );
        let mut builder = shell(&script).env("__json", json).source(&input.path);
        if floating {
            builder = builder.floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256);
        }
        let made = fixture.instantiate(builder);
        let outcome = fixture
            .build(&made, std::slice::from_ref(&input))
            .await
            .unwrap();
        let BuildOutcome::Success(success) = outcome else {
            panic!("{outcome:?}");
        };
        let outputs = success.delivery.outputs();
        let info = outputs[0].1;
        assert!(info.references.is_empty(), "{info:?}");
        let contents = fs::read_to_string(fixture.store.real_path(&info.path)).unwrap();
        let own = fixture.store.store_dir().display(&info.path).to_string();
        assert_eq!(contents, format!("{text} {own}\n"));
    }
}

#[tokio::test]
async fn the_host_lends_its_compiler() {
    let fixture = Fixture::with("/nix/store", |options| {
        options.with_sandbox_paths(SandboxPath::host_toolchain())
    });
    let made = fixture.instantiate(
        DerivationBuilder::new("hello", this_system(), "/bin/sh")
            .args([
                "-e",
                "-c",
                "mkdir -p $out/bin; printf '%s\\n' \"$source\" > hello.c
                 cc hello.c -o $out/bin/hello; $out/bin/hello > $out/said",
            ])
            .env("PATH", "/usr/bin:/bin")
            .env(
                "source",
                "#include <stdio.h>\nint main(void) { return puts(\"hello\") < 0; }",
            ),
    );
    fixture.succeed(&made).await;
    let out = fixture.output(&made);
    assert_eq!(fs::read_to_string(out.join("said")).unwrap(), "hello\n");
}

#[tokio::test]
async fn build_directories_of_failed_builds_can_be_kept() {
    let kept = Directory::new();
    let fixture = Fixture::with("/nix/store", |options| {
        options
            .with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
            .with_keep_failed(kept.path().join("kept"))
    });
    for text in ["one", "two"] {
        let made = fixture.derivation(&format!("echo {text} > why; exit 1"));
        fixture.fail(&made).await;
    }
    let mut found: Vec<_> = fs::read_dir(kept.path().join("kept"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path().join("why")).unwrap())
        .collect();
    found.sort();
    assert_eq!(found, ["one\n", "two\n"]);
    // Files of builds may have any mode; the parent directory gives nobody access.
    let above = fs::metadata(kept.path().join("kept")).unwrap();
    assert_eq!(above.mode() & 0o7777, 0o700);
    // The log names the directory.
    let failure = fixture
        .fail(&fixture.derivation("echo three > why; exit 1"))
        .await;
    let last = failure.log_tail.last().unwrap();
    let path = last
        .strip_prefix("note: keeping build directory '")
        .unwrap();
    let path = Path::new(path.strip_suffix('\'').unwrap());
    assert_eq!(fs::read_to_string(path.join("why")).unwrap(), "three\n");
}

/// After any build, the scratch directory only contains reusable files.
#[tokio::test]
async fn nothing_of_a_build_stays_behind() {
    let fixture = Fixture::new();
    let script = "echo secret > /build/secret; echo secret > /tmp/secret; mkdir -p $out $out-extra
                  echo secret > $out/secret; ";
    let made = fixture.derivation(&format!("{script} exit 1"));
    fixture.fail(&made).await;
    let scratch = fixture.store.state_dir().join("tvix-builds");
    assert!(scratch.exists());
    let mut left = Vec::new();
    for _ in 0..100 {
        left.clear();
        find_secrets(&scratch, &mut left);
        if left.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("left behind: {left:?}");
}

fn find_secrets(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name() == "secret" {
            found.push(entry.path());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_secrets(&entry.path(), found);
        }
    }
}

/// Without a sandbox, a build reads and writes files at their paths on the host. A derivation that
/// requests no sandbox runs without one only if that is allowed; all others run in a sandbox.
#[tokio::test]
async fn only_what_asks_for_it_has_no_sandbox() {
    for relaxed in [true, false] {
        let directory = Directory::outside_of_tmp();
        let root = directory.path().canonicalize().unwrap().join("root");
        let canary = root.with_file_name("canary");
        fs::write(&canary, "seen").unwrap();
        let dir = root.join("nix/store");
        let fixture = Fixture::at(directory, dir.to_str().unwrap(), |options| {
            let shell = SandboxPath::new(busybox(), "/bin/sh");
            options.with_sandbox_path(shell).with_relaxed(relaxed)
        });
        let script = format!("if [ -e {} ]; then echo seen; fi > $out", canary.display());
        let seen = |made: &Instantiated| {
            let path = made.output_path("out").unwrap();
            fs::read_to_string(fixture.store.real_path(&path)).unwrap()
        };
        let made = fixture.derivation(&script);
        fixture.succeed(&made).await;
        assert_eq!(seen(&made), "");
        let made = fixture.instantiate(shell(&script).env("__noChroot", "1"));
        if relaxed {
            fixture.succeed(&made).await;
            assert_eq!(seen(&made), "seen\n");
        } else {
            let error = fixture.build(&made, &[]).await.unwrap_err();
            assert!(error.to_string().contains("__noChroot"), "{error}");
        }
    }
}

#[tokio::test]
async fn without_a_sandbox() {
    // Where inputs are not at their store paths, there is one nevertheless, also for those that
    // ask for none.
    for relaxed in [false, true] {
        let elsewhere = Fixture::with("/nix/store", |options| {
            let shell = SandboxPath::new(busybox(), "/bin/sh");
            let options = options.with_sandbox_path(shell);
            options.with_sandbox(relaxed).with_relaxed(relaxed)
        });
        let script = format!("echo {relaxed} in $(pwd) > $out");
        for asks in ["1", ""] {
            let made = elsewhere.instantiate(shell(&script).env("__noChroot", asks));
            elsewhere.succeed(&made).await;
            let text = fs::read_to_string(elsewhere.output(&made)).unwrap();
            assert_eq!(text, format!("{relaxed} in /build\n"));
        }
    }

    let directory = Directory::new();
    let dir = directory
        .path()
        .canonicalize()
        .unwrap()
        .join("root/nix/store");
    let fixture = Fixture::at(directory, dir.to_str().unwrap(), |options| {
        options.with_sandbox(false)
    });
    let input = fixture.input("an input\n").await;
    let made = fixture.instantiate(
        shell("read text < $input; echo $text, $HOME, $(pwd) = $TMPDIR > $out")
            .source(&input.path)
            .env(
                "input",
                fixture.store.store_dir().display(&input.path).to_string(),
            ),
    );
    let outcome = fixture.build(&made, &[input]).await.unwrap();
    assert!(matches!(outcome, BuildOutcome::Success(_)), "{outcome:?}");
    let out = fixture.output(&made);
    let text = fs::read_to_string(out).unwrap();
    assert!(text.starts_with("an input, /homeless-shelter, "), "{text}");

    // A rebuild would remove a valid path from the store that may be in use.
    let again = fixture.succeeded_once("echo once > $out").await;
    let path = again.output_path("out").unwrap();
    let file = |path| fs::metadata(fixture.store.real_path(path)).unwrap();
    let before = std::os::unix::fs::MetadataExt::ino(&file(&path));
    let outcome = fixture.build(&again, &[]).await.unwrap();
    assert!(matches!(outcome, BuildOutcome::Success(_)), "{outcome:?}");
    let after = std::os::unix::fs::MetadataExt::ino(&file(&path));
    assert_eq!(before, after, "it was built again");
    fixture.store.verify(&path).await.unwrap();

    let made = fixture.derivation("echo x > $out; exit 1");
    fixture.fail(&made).await;
    let out = fixture.output(&made);
    assert!(!out.exists(), "a failed build left its output in the store");
}

const ROLE: &str = "SANDBOX_BUILDER_TEST_ROLE";

/// Plays a program that may not create namespaces, if this program was started for that.
#[tokio::test]
async fn role() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let fixture = Fixture::new();
    let made = fixture.derivation("echo x > $out");
    let error = fixture.build(&made, &[]).await.unwrap_err();
    assert!(
        matches!(&error, BuilderError::SandboxUnavailable { message, .. }
            if message.contains("--no-sandbox")),
        "{error}"
    );
    assert!(!error.is_retryable());
}

#[test]
fn a_machine_that_cannot_sandbox_is_told() {
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "role"])
        .env(ROLE, "forbidden")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && log.contains("1 passed"), "{log}");
}

#[test]
fn as_an_ordinary_user() {
    again_as_an_ordinary_user();
}

/// Resources that are prepared in advance are removed if there is no build.
#[test]
fn a_builder_that_never_builds_leaves_nothing() {
    for wait in [0, 1, 30] {
        let fixture = Fixture::new();
        let scratch = fixture.store.state_dir().join("tvix-builds");
        std::thread::sleep(Duration::from_millis(wait));
        drop(fixture.builder);
        let left = fs::read_dir(&scratch).map_or(0, Iterator::count);
        assert_eq!(left, 0, "after {wait} ms");
    }
}

/// `--check`: the output of an impure derivation differs, and is kept. A fixed output is built
/// again even if it is valid (CVE-2024-36050).
#[tokio::test]
async fn a_check_builds_again_and_compares() {
    let lent = Directory::outside_of_tmp();
    let file = lent.path().join("file");
    fs::write(&file, "known").unwrap();
    let fixture = Fixture::with("/nix/store", |options| {
        let shell = SandboxPath::new(busybox(), "/bin/sh");
        options.with_sandbox_paths([shell, SandboxPath::new(&file, "/lent")])
    });
    let kept = Directory::new();
    let check = |made: &Instantiated| {
        let request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        let context = BuildContext::new(std::sync::Arc::new(fixture.store.clone()));
        let (fixture, kept) = (&fixture, kept.path().join("kept"));
        async move { check(&fixture.builder, request, context, Some(&kept)).await }
    };
    let same = fixture.derivation("echo same > $out");
    let error = check(&same).await.unwrap_err();
    assert!(matches!(error, CheckError::NotValid { .. }), "{error}");
    fixture.succeed(&same).await;
    assert!(matches!(check(&same).await.unwrap(), CheckOutcome::Same));

    let script = "mkdir $out; cat /proc/sys/kernel/random/uuid > $out/uuid; cp $out/uuid $dev";
    let random = fixture.instantiate(shell(script).outputs(["out", "dev"]));
    fixture.succeed(&random).await;
    let before = fs::read(fixture.output(&random).join("uuid")).unwrap();
    // Twice: the second run replaces the kept output of the first.
    for _ in 0..2 {
        let CheckOutcome::Differs(differences) = check(&random).await.unwrap() else {
            panic!("the same uuid");
        };
        assert_eq!(differences.len(), 2);
        for difference in &differences {
            assert_ne!(difference.expected, difference.actual);
            let kept = difference.kept.as_ref().unwrap();
            assert!(kept.display().to_string().ends_with(".check"));
            let file = match difference.output.as_str() {
                "out" => kept.join("uuid"),
                _ => kept.clone(),
            };
            assert_ne!(fs::read(file).unwrap(), before);
        }
    }
    assert_eq!(
        fs::read(fixture.output(&random).join("uuid")).unwrap(),
        before
    );

    let floating = fixture.instantiate(
        shell("echo $out > $out").floating(ContentAddressMethod::NixArchive, HashAlgo::Sha256),
    );
    // The path of a floating output is not recorded.
    assert!(matches!(
        check(&floating).await,
        Err(CheckError::NotValid { .. })
    ));

    let hash = nix_compat::nixhash::NixHash::digest(HashAlgo::Sha256, "known");
    let fixed = shell("cat /lent > $out").fixed(ContentAddressMethod::Flat, hash);
    let fixed = fixture.instantiate(fixed);
    fixture.succeed(&fixed).await;
    assert!(matches!(check(&fixed).await.unwrap(), CheckOutcome::Same));
    fs::write(&file, "other").unwrap();
    let outcome = check(&fixed).await.unwrap();
    let CheckOutcome::Failed(failure) = outcome else {
        panic!("{outcome:?}");
    };
    let words = failure.to_string();
    assert!(
        matches!(failure.kind, FailureKind::HashMismatch { .. }),
        "{words}"
    );
    // Both hashes, in SRI form.
    assert_eq!(words.matches("sha256-").count(), 2, "{words}");
}

/// The device exists in builds that require it, and an error names a feature that the machine does
/// not have.
#[tokio::test]
async fn kvm_and_uid_range() {
    let fixture = Fixture::with("/nix/store", |options| {
        let options = options.features(["kvm", "uid-range"]);
        options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
    });
    let script = "if [ -c /dev/kvm ]; then echo yes; else echo no; fi > $out";
    let plain = fixture.succeeded_once(script).await;
    assert_eq!(fs::read_to_string(fixture.output(&plain)).unwrap(), "no\n");
    let made = fixture.instantiate(shell(script).env("requiredSystemFeatures", "kvm"));
    if Path::new("/dev/kvm").exists() {
        fixture.succeed(&made).await;
        assert_eq!(fs::read_to_string(fixture.output(&made)).unwrap(), "yes\n");
    } else {
        let error = fixture.build(&made, &[]).await.unwrap_err();
        assert!(error.to_string().contains("'/dev/kvm'"), "{error}");
    }
    let made = fixture.instantiate(shell(script).env("requiredSystemFeatures", "uid-range"));
    let error = fixture.build(&made, &[]).await.unwrap_err();
    assert!(matches!(error, BuilderError::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("'uid-range'"), "{error}");
    // The same for a feature that is not configured.
    let made = fixture.instantiate(shell(script).env("requiredSystemFeatures", "apple-virt"));
    let error = fixture.build(&made, &[]).await.unwrap_err();
    assert!(error.to_string().contains("'apple-virt'"), "{error}");
}

#[tokio::test]
async fn preferring_a_local_build_is_a_hint() {
    let fixture = Fixture::new();
    for (value, hint) in [("1", true), ("", false)] {
        let made = fixture.instantiate(shell("echo > $out").env("preferLocalBuild", value));
        let request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        assert_eq!(request.prefers_local_build(), hint);
        fixture.succeed(&made).await;
    }
}

/// Structured lines are sent to the reader of the log, but are not part of the tail of a failure.
#[tokio::test]
async fn structured_lines_are_not_for_people() {
    let fixture = Fixture::new();
    let made = fixture.derivation(
        r#"phase() { echo "@nix { \"action\": \"setPhase\", \"phase\": \"$1\" }" >&$NIX_LOG_FD; }
           phase unpackPhase; echo unpacking; phase buildPhase; echo building; exit 1"#,
    );
    let (log, mut lines) = tvix_build_api::log_channel(64);
    let request = BuildRequest::new(made.path.clone(), made.derivation.clone());
    let mut context = BuildContext::new(std::sync::Arc::new(fixture.store.clone()));
    context.log = log;
    let outcome = fixture.builder.build(request, context).await.unwrap();
    let BuildOutcome::Failure(failure) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(failure.log_tail, ["unpacking", "building"]);
    let mut phases = Vec::new();
    let mut count = 0;
    while let Some(line) = lines.recv().await {
        count += 1;
        if let Some(StructuredLog::Phase(phase)) = StructuredLog::parse(&line.text) {
            phases.push(phase);
        }
    }
    assert_eq!(phases, ["unpackPhase", "buildPhase"]);
    assert_eq!(count, 4);
}

/// This program never calls `sandbox::init`, so it cannot be started as a built-in builder.
#[cfg(feature = "builtins")]
#[tokio::test]
async fn built_in_builders_need_init() {
    let fixture = Fixture::new();
    let builder = DerivationBuilder::new("x", this_system(), "builtin:buildenv");
    let made = fixture.instantiate(builder);
    let error = fixture.build(&made, &[]).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("call tvix_build_api::sandbox::init()"),
        "{text}"
    );
}
