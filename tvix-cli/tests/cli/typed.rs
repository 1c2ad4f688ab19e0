//! The command line as users of Nix type it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tvix_tests::local::{LocalWorld, sandbox_paths};
use tvix_tests::program::{Ended, run};

fn tvix(world: &LocalWorld, args: &[&str]) -> Command {
    let directory = world.beside("typed");
    fs::create_dir_all(&directory).unwrap();
    let mut command = super::plain();
    command
        .args(args)
        .current_dir(directory)
        .env("HOME", world.beside("home"))
        .env_remove("NIX_PATH")
        .stdin(Stdio::null());
    command
}

fn eval(world: &LocalWorld, args: &[&str]) -> Ended {
    run(tvix(world, &["eval", "--store"])
        .arg(world.root())
        .args(args))
}

fn with_input(mut command: Command, input: &str) -> Ended {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// What C++ Nix 2.34.8 prints for `nix-instantiate --eval`.
#[tokio::test]
async fn sources() {
    let world = LocalWorld::new().await;
    fs::create_dir_all(world.beside("typed")).unwrap();
    fs::write(world.beside("typed/a.nix"), "5").unwrap();
    for (args, out) in [
        (&["-E", "1", "2", "\"a\""][..], &["1", "2", "\"a\""][..]),
        (&["1", "-E", "2"], &["1", "2"]),
        (&["-E", "1", "-E", "2"], &["1", "2"]),
        (&["--expr=1"], &["1"]),
        (&["a.nix", "./a.nix"], &["5", "5"]),
        (&["-f", "a.nix", "-f", "a.nix"], &["5", "5"]),
        (&["--parse", "-E", "x: x + 1"], &["(x: (x + 1))"]),
        (&["--parse", "a.nix"], &["5"]),
        (&["--json", "--raw", "-E", "\"x\""], &["x"]),
        (
            &["--arg-from-file", "x", "a.nix", "-E", "{ x }: x"],
            &["\"5\""],
        ),
        (
            &[
                "--eval",
                "--readonly-mode",
                "--strict",
                "-E",
                "{ a = 1 + 1; }",
            ],
            &["{ a = 2; }"],
        ),
    ] {
        assert_eq!(eval(&world, args).expect(0).out, out, "{args:?}");
    }
    // What was printed before an error stays.
    let half = eval(&world, &["-E", "1", "throw \"x\""]).expect(1);
    assert_eq!(half.out, ["1"]);
    eval(&world, &["-E"])
        .expect(1)
        .says(&["needs an expression"]);
    for flake in ["flake:nixpkgs", ".#hello", "nixpkgs#hello"] {
        eval(&world, &[flake])
            .expect(1)
            .says(&[flake, "flakes are not supported", "--attr"]);
    }
}

#[tokio::test]
async fn standard_input() {
    let world = LocalWorld::new().await;
    let with = |args: &[&str], input| {
        let mut command = tvix(&world, &["eval", "--store"]);
        command.arg(world.root()).args(args);
        with_input(command, input)
    };
    assert_eq!(with(&["-"], "1 + 2").expect(0).out, ["3"]);
    assert_eq!(with(&["-f", "-"], "1 + 2").expect(0).out, ["3"]);
    assert_eq!(with(&["-", "-E", "7"], "6").expect(0).out, ["6", "7"]);
    let from_stdin = with(&["--arg-from-stdin", "x", "-E", "{ x }: x"], "hi");
    assert_eq!(from_stdin.expect(0).out, ["\"hi\""]);
    with(&["-"], "4 +\n").expect(1).says(&["at «stdin»:2:1"]);
    with(&["-", "-"], "1").expect(1).says(&["only once"]);
    let text = "derivation { name = \"x\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo > $out\" ]; }";
    let mut command = tvix(&world, &["instantiate", "--store"]);
    command.arg(world.root()).arg("-");
    let ended = with_input(command, text).expect(0);
    assert!(ended.out[0].ends_with("-x.drv"), "{ended:#?}");
    let mut command = tvix(&world, &["build", "--no-out-link", "-", "--store"]);
    command.arg(world.root());
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    let ended = with_input(command, text).expect(0);
    assert!(ended.out[0].ends_with("-x"), "{ended:#?}");
}

#[tokio::test]
async fn settings() {
    let world = LocalWorld::new().await;
    let deep = "let f = x: if x == 0 then 0 else 1 + f (x - 1); in f 100";
    let system = "builtins.currentSystem";
    for (args, out) in [
        (
            &["--option", "system", "foo-bar", "-E", system][..],
            "\"foo-bar\"",
        ),
        (&["--system", "foo-bar", "-E", system], "\"foo-bar\""),
        (
            &["--eval-system", "a", "--system", "b", "-E", system],
            "\"a\"",
        ),
        (&["--max-call-depth", "1000", "-E", deep], "100"),
        (&["--show-trace", "--no-show-trace", "-E", "1"], "1"),
        (
            &[
                "--option", "max-jobs", "auto", "-j", "auto", "-j3", "-E", "1",
            ],
            "1",
        ),
        (&["--substituters", "", "--builders", "", "-E", "1"], "1"),
        (
            &[
                "--extra-experimental-features",
                "nix-command flakes",
                "-E",
                "1",
            ],
            "1",
        ),
        (
            &[
                "-v",
                "--debug",
                "--quiet",
                "--log-format",
                "bar",
                "-Q",
                "-E",
                "1",
            ],
            "1",
        ),
        (
            &["--allow-import-from-derivation", "--no-sandbox", "-E", "1"],
            "1",
        ),
    ] {
        let ended = eval(&world, args).expect(0);
        assert_eq!(
            (&ended.out[..], &*ended.err),
            (&[out.to_owned()][..], ""),
            "{args:?}"
        );
    }
    let unknown = eval(&world, &["--option", "foo", "bar", "-E", "1"]).expect(0);
    assert_eq!(unknown.err, "warning: unknown setting 'foo'\n");
    let idle = eval(
        &world,
        &["--option", "auto-optimise-store", "true", "-E", "1"],
    )
    .expect(0);
    assert_eq!(
        idle.err,
        "warning: setting 'auto-optimise-store' has no effect\n"
    );
    for (name, value) in [
        ("cores", "x"),
        ("show-trace", "maybe"),
        ("sandbox", "maybe"),
        ("max-jobs", "x"),
        ("timeout", "-1"),
        ("substituters", "nonsense"),
    ] {
        let ended = eval(&world, &["--option", name, value, "-E", "1"]).expect(1);
        ended.says(&[&format!("setting '{name}' has invalid value '{value}'")]);
    }
    eval(&world, &["--max-call-depth", "50", "-E", deep])
        .expect(1)
        .says(&["max-call-depth exceeded"]);
    let import = "import (derivation { name = \"x\"; system = builtins.currentSystem; builder = \"/bin/sh\"; })";
    eval(&world, &["--no-allow-import-from-derivation", "-E", import])
        .expect(1)
        .says(&["'allow-import-from-derivation' is disabled"]);
    eval(&world, &["--option", "pure-eval", "true", "-E", system])
        .expect(1)
        .says(&["'currentSystem' missing"]);
    eval(&world, &["--foo", "-E", "1"])
        .expect(1)
        .says(&["--foo"]);
    let nowhere = eval(&world, &["--nix-path", "q=/", "--find-file", "q", "r"]).expect(1);
    assert_eq!(nowhere.out, ["/"]);
    nowhere.says(&["file 'r' was not found in the Nix search path"]);
}

const PACKAGES: &str = r#"
let
  d = name: script: more: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
  } // more);
  fixed = { outputHash = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="; outputHashMode = "flat"; };
in rec {
  ok = d "ok" "echo > $out" { };
  fail = d "fail" "exit 3" { };
  slow = d "slow" "while :; do :; done" { };
  hash = d "hash" "echo x > $out" fixed;
  fetch = d "fetch" "exit 4" fixed;
  nothing = d "nothing" "exit 0" { };
  needs = d "needs" "echo > $out" { inherit fail; };
  system = d "system" "echo > $out" { system = "foo-bar"; };
  feature = d "feature" "echo > $out" { requiredSystemFeatures = [ "quux" ]; };
  program = d "program" "" { builder = "/nonexistent"; };
  loud = d "loud" "while :; do echo loud; done" { };
  ifd = import fail;
  error = throw "x";
}"#;

/// The codes that `nix-build` of C++ Nix 2.34.8 ends with.
#[tokio::test]
async fn exit_codes() {
    let world = LocalWorld::new().await;
    fs::create_dir_all(world.beside("typed")).unwrap();
    fs::write(world.beside("typed/p.nix"), PACKAGES).unwrap();
    for (args, code) in [
        ("-A ok", 0),
        ("-A fail", 100),
        ("-A slow --timeout 1", 101),
        ("-A slow --max-silent-time 1", 101),
        ("-A hash", 102),
        ("-A fetch", 1),
        ("-A nothing", 1),
        ("-A needs", 100),
        ("-A system", 100),
        ("-A feature", 100),
        ("-A program", 100),
        ("-A loud --option max-build-log-size 1000", 1),
        ("-A ifd", 100),
        ("-A error", 1),
        ("-A absent", 1),
        ("--no-such-option", 1),
        ("-k -A fail -A slow -A hash --timeout 1", 103),
        ("-k -A fail -A slow --timeout 1", 101),
        ("-k -A ok -A hash", 102),
        ("-k -A nothing -A fail", 100),
        ("-k -A nothing -A ok", 1),
        ("-A ok -j 0", 0),
    ] {
        let mut command = tvix(&world, &["build", "--no-out-link", "p.nix", "--store"]);
        command.arg(world.root()).args(args.split(' '));
        for path in sandbox_paths() {
            command.arg("--sandbox-path").arg(path.to_string());
        }
        let ended = run(&mut command);
        assert_eq!(ended.code, Some(code), "{args}: {ended:#?}");
    }
}

#[tokio::test]
async fn dry_runs_and_roots() {
    let world = LocalWorld::new().await;
    fs::create_dir_all(world.beside("typed")).unwrap();
    fs::write(world.beside("typed/p.nix"), PACKAGES).unwrap();
    let with = |args: &[&str]| {
        let mut command = tvix(&world, &args[..1]);
        run(command.arg("--store").arg(world.root()).args(&args[1..]))
    };
    let dry = with(&["build", "--dry-run", "p.nix", "-A", "needs"]).expect(0);
    assert!(dry.out.is_empty());
    let lines: Vec<&str> = dry.err.lines().collect();
    assert_eq!(lines[0], "these 2 derivations will be built:");
    assert!(
        lines[1].ends_with("-fail.drv") && lines[2].ends_with("-needs.drv"),
        "{dry:#?}"
    );
    let dry = with(&["instantiate", "--dry-run", "p.nix", "-A", "ok"]).expect(0);
    assert!(dry.out[0].ends_with("-ok.drv"));
    assert!(world.valid().await.is_empty());
    let rooted = with(&[
        "instantiate",
        "--add-root",
        "d",
        "--indirect",
        "p.nix",
        "-A",
        "ok",
        "-A",
        "fail",
    ]);
    let rooted = rooted.expect(0);
    assert!(
        rooted.out[0].ends_with("/d") && rooted.out[1].ends_with("/d-2"),
        "{rooted:#?}"
    );
    assert!(
        fs::read_link(world.beside("typed/d-2")).unwrap().ends_with(
            fs::read_link(world.beside("typed/d-2"))
                .unwrap()
                .file_name()
                .unwrap()
        )
    );
    let printed = with(&["instantiate", "--eval", "-E", "1 + 1"]).expect(0);
    assert_eq!(printed.out, ["2"]);
    let both = with(&["instantiate", "p.nix", "p.nix", "-A", "ok"]).expect(0);
    assert_eq!(both.out.len(), 2);
    with(&["build", "--repair", "p.nix"])
        .expect(1)
        .says(&["tvix store repair"]);
}
