//! Standard output and standard error, and options that change builds.

use std::fs;

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::store_path::StoreDir;
use tvix_coordinator::{BuildEvent, EVENT_VERSION, EventRecord};
use tvix_store_api::Store as _;
use tvix_tests::local::{LocalWorld, absolute, instantiate, shell};
use tvix_tests::program::run;

use super::{bare_build, build};

fn several() -> Instantiated {
    let script = "echo to the log; echo $out > $out; echo $dev > $dev; echo $doc > $doc";
    instantiate(shell("several", script).outputs(["out", "dev", "doc"]))
}

#[tokio::test]
async fn standard_output_holds_store_paths_only() {
    let world = LocalWorld::new().await;
    let several = several();
    let single = instantiate(shell("single", "echo to the other log; echo > $out"));
    let (first, second) = (world.write(&single).await, world.write(&several).await);
    let ended = run(build(&world).args([&first, &second])).expect(0);
    let mut out = ended.out.clone();
    out.sort();
    let mut expected: Vec<_> = ["out", "dev", "doc"]
        .into_iter()
        .map(|output| absolute(&several.output_path(output).unwrap()))
        .chain([absolute(&single.output_path("out").unwrap())])
        .collect();
    expected.sort();
    assert_eq!(out, expected);
    // All else is on standard error, each line of a log with what it is of.
    let ended = ended.says(&[
        "several> to the log",
        "single> to the other log",
        &format!("building '{first}'"),
        &format!("built '{second}'"),
    ]);

    // The second time there is nothing to tell, and the same to print.
    let again = run(build(&world).args([&first, &second])).expect(0);
    assert_eq!(again.out, ended.out);
    assert_eq!(again.err, "");
    world.expect_clean().await;
}

#[tokio::test]
async fn paths_are_printed_in_the_order_of_the_arguments() {
    let world = LocalWorld::new().await;
    let mut drvs = Vec::new();
    let mut expected = Vec::new();
    for number in 0..6 {
        // What comes first takes the longest: two others have to be built before it.
        let inner = instantiate(shell(&format!("inner-{number}"), "echo > $out"));
        let mut outer = shell(&format!("outer-{number}"), "echo > $out");
        if number % 2 == 0 {
            world.write(&inner).await;
            outer = outer.input_env("inner", &inner, "out");
        }
        let outer = instantiate(outer);
        drvs.push(world.write(&outer).await);
        expected.push(absolute(&outer.output_path("out").unwrap()));
    }
    for _ in 0..2 {
        let ended = run(build(&world).args(&drvs)).expect(0);
        assert_eq!(ended.out, expected);
    }
}

#[tokio::test]
async fn outputs_can_be_chosen() {
    let world = LocalWorld::new().await;
    let several = several();
    let drv = world.write(&several).await;
    let ended = run(build(&world).arg(format!("{drv}!dev"))).expect(0);
    assert_eq!(ended.out, [absolute(&several.output_path("dev").unwrap())]);
    let ended = run(build(&world).arg(format!("{drv}!doc,out"))).expect(0);
    assert_eq!(ended.out.len(), 2);
    run(build(&world).arg(format!("{drv}!lib")))
        .expect(1)
        .says(&[&drv, "has no output 'lib'"]);
}

#[tokio::test]
async fn files_of_derivations_need_not_be_in_the_store() {
    let world = LocalWorld::new().await;
    let made = instantiate(shell("elsewhere", "echo here > $out"));
    let folder = world.beside("drvs");
    fs::create_dir(&folder).unwrap();
    let file = folder.join(made.path.to_string());
    fs::write(&file, made.derivation.to_aterm(&made.store_dir)).unwrap();
    let ended = run(build(&world).arg(&file)).expect(0);
    let out = made.output_path("out").unwrap();
    assert_eq!(ended.out, [absolute(&out)]);
    // By now it is, as the deriver of what was built.
    assert!(world.valid().await.contains(&made.path));
}

#[tokio::test]
async fn every_line_of_events_is_a_record() {
    let world = LocalWorld::new().await;
    let drv = world.write(&several()).await;
    let bad = world.write(&instantiate(shell("bad", "exit 5"))).await;
    let file = world.beside("events.json");
    let mut command = build(&world);
    command.arg("--events").arg(&file).arg("--keep-going");
    run(command.args([&drv, &bad])).expect(100);

    let text = fs::read_to_string(&file).unwrap();
    assert!(text.ends_with('\n'));
    let mut events = Vec::new();
    let dir = world.store.store_dir();
    for line in text.lines() {
        let record = EventRecord::from_json(line, dir).unwrap();
        assert_eq!(record.v, EVENT_VERSION);
        assert_eq!(record.seq, events.len() as u64);
        // What is written is what was read: nothing gets lost on the way.
        assert_eq!(record.to_json(dir).unwrap(), line);
        events.push(record);
    }
    assert!(events.windows(2).all(|pair| pair[0].time <= pair[1].time));
    let started = BuildEvent::SessionStarted {
        store_dir: dir.clone(),
    };
    assert_eq!(events[0].event, started);
    // Paths are those that the user knows.
    assert!(text.contains(&format!("\"drvPath\":\"{bad}\"")), "{text}");
    let has = |holds: fn(&BuildEvent) -> bool| events.iter().any(|it| holds(&it.event));
    assert!(has(|it| matches!(it, BuildEvent::BuildSucceeded { .. })));
    assert!(has(|it| matches!(it, BuildEvent::BuildFailed { .. })));
    let is_end = |it: &EventRecord| matches!(it.event, BuildEvent::Finished { .. });
    assert_eq!(events.iter().position(is_end), Some(events.len() - 1));

    let mut command = build(&world);
    command
        .arg("--events")
        .arg(world.beside("no-folder/events"));
    run(command.arg(&drv)).expect(1).says(&["no-folder/events"]);
}

#[tokio::test]
async fn cores_are_told_to_builds() {
    let world = LocalWorld::new().await;
    let made = instantiate(shell("cores", "echo $NIX_BUILD_CORES > $out"));
    let drv = world.write(&made).await;
    run(build(&world).args(["--cores", "3", &drv])).expect(0);
    assert_eq!(world.read(&made.output_path("out").unwrap()), "3\n");
}

#[tokio::test]
async fn one_job_at_a_time() {
    let world = LocalWorld::new().await;
    let mut drvs = Vec::new();
    for number in 0..8 {
        let made = instantiate(shell(&format!("job-{number}"), "echo > $out"));
        drvs.push(world.write(&made).await);
    }
    let file = world.beside("events");
    let mut command = build(&world);
    command.args(["--max-jobs", "1"]).arg("--events").arg(&file);
    run(command.args(&drvs)).expect(0);
    let mut running = 0;
    let mut builds = 0;
    for line in fs::read_to_string(&file).unwrap().lines() {
        let record = EventRecord::from_json(line, world.store.store_dir()).unwrap();
        match record.event {
            BuildEvent::BuildStarted { .. } => running += 1,
            BuildEvent::BuildSucceeded { .. } => {
                running -= 1;
                builds += 1;
            }
            _ => {}
        }
        assert!(running <= 1);
    }
    assert_eq!(builds, drvs.len());
    run(build(&world).args(["--max-jobs", "nothing", &drvs[0]])).expect(1);
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_given_up() {
    let world = LocalWorld::new().await;
    let made = instantiate(shell("endless", "echo begun; while :; do sleep 1; done"));
    let drv = world.write(&made).await;
    run(build(&world).args(["--timeout", "1", &drv]))
        .expect(101)
        .says(&[&drv, "timed out after 1 s", "> begun"]);
    run(build(&world).args(["--max-silent-time", "1", &drv]))
        .expect(101)
        .says(&[&drv, "timed out after 1 s of silence"]);
    world.expect_clean().await;
}

/// Without a sandbox a build sees paths as they are, and those of a store below another root are
/// not where their names say: as in Nix, there is a sandbox nevertheless.
#[tokio::test]
async fn no_sandbox_needs_a_store_in_its_place() {
    let world = LocalWorld::new().await;
    let made = instantiate(shell("plain", "echo in $(pwd); echo > $out"));
    let drv = world.write(&made).await;
    let ended = run(build(&world).args(["--no-sandbox", &drv])).expect(0);
    ended.says(&["plain> in /build"]);
    run(build(&world).args(["--check", "--option", "sandbox", "false", &drv]))
        .expect(0)
        .says(&["plain> in /build"]);
    world.expect_clean().await;
}

#[tokio::test]
async fn usage() {
    let world = LocalWorld::new().await;
    let help = run(bare_build(&world).arg("--help")).expect(0);
    for option in [
        "--store",
        "--max-jobs",
        "--cores",
        "--keep-going",
        "--no-sandbox",
        "--events",
    ] {
        assert!(
            help.out.iter().any(|line| line.contains(option)),
            "{option}"
        );
    }
    run(&mut bare_build(&world))
        .expect(1)
        .says(&["default.nix"]);
    run(bare_build(&world).args(["--store", "relative", "x"]))
        .expect(1)
        .says(&["relative"]);
    run(bare_build(&world).args(["--no-out-link", "--out-link", "x", "y"])).expect(1);
    for (arguments, message) in [
        (
            &["instantiate", "--workers", "0"][..],
            "a number of workers, 1 or more",
        ),
        (
            &["build", "--workers", "x"],
            "a number of workers, 1 or more",
        ),
        (
            &["jobs", "--workers", "0"],
            "a number of workers, 1 or more",
        ),
        (&["jobs", "--max-memory", "0"], "more than 0 bytes"),
        (&["jobs", "--max-memory", "5Q"], "a number of bytes"),
        (
            &["jobs", "--max-memory-size", "0"],
            "a number of MiB, 1 or more",
        ),
        (
            &["jobs", "--max-memory-size", "5G"],
            "a number of MiB, 1 or more",
        ),
        (&["eval", "--max-eval-memory", "5G"], "a number of MiB"),
    ] {
        let mut command = super::plain();
        let ended = run(command.args(arguments).args(["-E", "1"])).expect(1);
        ended.says(&["error: invalid value", message]);
    }
    let help = run(super::plain().args(["repl", "--help"])).expect(0);
    assert!(help.out.iter().any(|line| line.contains("[default: none]")));
    assert!(
        !help.out.iter().any(|line| line.contains("default.nix]")),
        "{help:#?}"
    );
    let version = run(super::plain().arg("--version")).expect(0);
    assert_eq!(version.out, [concat!("tvix ", env!("CARGO_PKG_VERSION"))]);
}

#[tokio::test]
async fn what_failed_can_be_looked_at() {
    let world = LocalWorld::new().await;
    let drv = world
        .write(&instantiate(shell("broken", "echo why > file; exit 3")))
        .await;
    let ended = run(build(&world).arg("--keep-failed").arg(&drv)).expect(100);
    let (_, rest) = ended
        .err
        .split_once("note: keeping build directory '")
        .unwrap();
    let (path, _) = rest.split_once('\'').unwrap();
    let file = std::path::Path::new(path).join("file");
    assert_eq!(fs::read_to_string(file).unwrap(), "why\n");
}

#[tokio::test]
async fn logs_are_limited() {
    let world = LocalWorld::new().await;
    let drv = world
        .write(&instantiate(shell("loud", "while :; do echo loud; done")))
        .await;
    let ended = run(build(&world).args(["--max-log-size", "5000", &drv])).expect(1);
    ended.says(&["wrote more than 5000 bytes of log"]);
}

#[tokio::test]
async fn features_and_systems_are_those_of_the_machine() {
    let world = LocalWorld::new().await;
    let of = |name: &str, features: &str| {
        instantiate(shell(name, "echo > $out").env("requiredSystemFeatures", features))
    };
    let usual = world
        .write(&of("usual", "big-parallel benchmark nixos-test"))
        .await;
    run(build(&world).arg(&usual)).expect(0);
    let mut usable = fs::OpenOptions::new();
    let kvm = usable.read(true).write(true).open("/dev/kvm").is_ok();
    for feature in ["uid-range", "kvm", "gpu"] {
        let drv = world.write(&of(feature, feature)).await;
        let ended = run(build(&world).arg(&drv));
        // It is detected, as Nix does.
        if feature == "kvm" && kvm {
            assert_eq!(ended.code, Some(0), "{ended:#?}");
            continue;
        }
        assert_ne!(ended.code, Some(0), "{ended:#?}");
        // Once: what is missing, what there is, and which option adds to that.
        assert_eq!(
            ended.err.matches("--system-feature").count(),
            1,
            "{ended:#?}"
        );
        ended.says(&[
            &format!("requires the system feature '{feature}'"),
            "'benchmark', 'big-parallel'",
        ]);
    }
    let drv = world.write(&of("with", "gpu")).await;
    run(build(&world).args(["--system-feature", "gpu", &drv])).expect(0);

    let script = ["-e", "-c", "echo > $out"];
    let other = DerivationBuilder::new("other", "other-linux", "/bin/sh");
    let drv = world.write(&instantiate(other.args(script))).await;
    let ended = run(build(&world).arg(&drv));
    assert_ne!(ended.code, Some(0), "{ended:#?}");
    ended.says(&[
        "is for the system 'other-linux'",
        tvix_build_api::this_system(),
        "--extra-platform",
    ]);
    run(build(&world).args(["--extra-platform", "other-linux", &drv])).expect(0);
    // Levels of the processor are systems, of which the first is any processor's.
    if tvix_build_api::this_system() == "x86_64-linux" {
        let first = DerivationBuilder::new("first", "x86_64-v1-linux", "/bin/sh");
        let drv = world.write(&instantiate(first.args(script))).await;
        run(build(&world).arg(&drv)).expect(0);
        let beyond = DerivationBuilder::new("beyond", "x86_64-v9-linux", "/bin/sh");
        let drv = world.write(&instantiate(beyond.args(script))).await;
        let ended = run(build(&world).arg(&drv));
        assert_ne!(ended.code, Some(0), "{ended:#?}");
        ended.says(&["'x86_64-v9-linux'", "'x86_64-v1-linux'"]);
    }
}

#[tokio::test]
async fn what_is_there_can_be_checked() {
    let world = LocalWorld::new().await;
    let input = instantiate(shell("input", "echo input > $out"));
    let same = shell("same", "echo checked; cat $input > $out").input_env("input", &input, "out");
    let same = instantiate(same);
    let random = instantiate(shell("random", "cat /proc/sys/kernel/random/uuid > $out"));
    world.write(&input).await;
    let (good, bad) = (world.write(&same).await, world.write(&random).await);
    let ended = run(build(&world).args(["--check", &good])).expect(0);
    assert_eq!(ended.out, [absolute(&same.output_path("out").unwrap())]);
    // Once to be there, once more to be compared.
    assert_eq!(
        ended.err.matches("same> checked").count(),
        2,
        "{}",
        ended.err
    );
    let ended = run(build(&world).args(["--check", "--keep-failed", &bad])).expect(104);
    let path = random.output_path("out").unwrap();
    let kept = world
        .store
        .state_dir()
        .join(format!("tvix-failed/{path}.check"));
    assert!(
        ended.err.contains("may not be deterministic"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains(kept.to_str().unwrap()), "{}", ended.err);
    let now = fs::read_to_string(kept).unwrap();
    assert_ne!(now, world.read(&path));
}

/// Derivations with floating outputs are checked as well, and so are their dependents.
#[tokio::test]
async fn what_floats_can_be_checked() {
    use nix_compat::content_address::ContentAddressMethod;
    use nix_compat::nixhash::HashAlgo;
    let world = LocalWorld::new().await;
    let floating = |builder: DerivationBuilder| {
        let method = ContentAddressMethod::NixArchive;
        instantiate(builder.floating(method, HashAlgo::Sha256))
    };
    let input = floating(shell("input", "echo input > $out"));
    let middle = shell(
        "middle",
        "mkdir $out; cat $input > $out/x; echo $out > $out/own",
    );
    let middle = floating(middle.input_env("input", &input, "out"));
    let script = "echo checked; mkdir $out; echo $middle > $out/uses; cat $middle/x > $out/x";
    // Its own path is not known before either, and is that of no content.
    let top = instantiate(shell("top", script).input_env("middle", &middle, "out"));
    let random = "mkdir $out; cat /proc/sys/kernel/random/uuid > $out/uuid; echo $out > $out/own";
    let random = floating(shell("random", random).input_env("middle", &middle, "out"));
    let mut written = Vec::new();
    for made in [&input, &middle, &top, &random] {
        written.push(world.write(made).await);
    }
    for good in &written[..3] {
        run(build(&world).args(["--check", good])).expect(0);
    }
    let ended = run(build(&world).args(["--check", &written[2]])).expect(0);
    assert_eq!(
        ended.err.matches("top> checked").count(),
        1,
        "{}",
        ended.err
    );
    let valid = world.valid().await;

    let ended = run(build(&world).args(["--check", "--keep-failed", &written[3]])).expect(104);
    let ended = ended.says(&["may not be deterministic", ".check'"]);
    let path = StoreDir::default().parse(&ended.out[0]).unwrap();
    let kept = world
        .store
        .state_dir()
        .join(format!("tvix-failed/{path}.check"));
    let now = fs::read(kept.join("uuid")).unwrap();
    let before = fs::read(world.store.real_path(&path).join("uuid")).unwrap();
    assert_ne!(now, before);
    // What was made to be compared has come into no store.
    assert_eq!(world.valid().await.len(), valid.len() + 1);
    world.expect_clean().await;
}

#[tokio::test]
async fn builds_have_limits_and_tell_what_they_used() {
    let world = LocalWorld::new().await;
    let events = world.beside("events");
    let fine = world
        .write(&instantiate(shell("fine", "echo x > $out")))
        .await;
    let options = [
        "--max-processes",
        "50",
        "--max-memory",
        "1000000000",
        "--max-disk",
        "1000000",
    ];
    run(build(&world)
        .args(options)
        .arg("--events")
        .arg(&events)
        .arg(&fine))
    .expect(0);
    let text = fs::read_to_string(&events).unwrap();
    let used = text.lines().filter_map(|line| {
        let record = EventRecord::from_json(line, world.store.store_dir());
        match record.unwrap().event {
            BuildEvent::BuildSucceeded { usage, .. } => usage,
            _ => None,
        }
    });
    let used: Vec<_> = used.collect();
    assert_eq!(used.len(), 1);
    assert!(used[0].peak_memory > 0);
    let script =
        "i=0; while [ $i -lt 50 ]; do head -c 900000 /dev/zero > $i; i=$((i+1)); done; sleep 20";
    let greedy = world.write(&instantiate(shell("greedy", script))).await;
    let ended = run(build(&world).args(options).arg(&greedy)).expect(100);
    assert!(
        ended.err.contains("took more than 1000000 bytes on disk"),
        "{}",
        ended.err
    );
}

#[tokio::test]
async fn lines_for_programs_are_not_shown() {
    let world = LocalWorld::new().await;
    let script = r#"echo '@nix {"action":"setPhase","phase":"buildPhase"}' >&2
        echo '@nix {"action":"msg","level":1,"msg":"careful"}' >&2; echo plain; echo > $out"#;
    let drv = world.write(&instantiate(shell("phases", script))).await;
    let ended = run(build(&world).arg(&drv)).expect(0);
    assert!(!ended.err.contains("@nix"), "{}", ended.err);
    ended.says(&["phases> careful", "phases> plain"]);
}
