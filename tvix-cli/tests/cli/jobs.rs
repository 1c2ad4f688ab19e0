//! `tvix jobs`, and builds while several workers evaluate.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use tvix_tests::local::{LocalWorld, sandbox_paths};
use tvix_tests::program::{Ended, run};

/// Jobs of every kind. `/bin/sh` is the sandbox's.
const SET: &str = r#"
let
  sh = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    args = [ "-c" script ];
  };
  write = name: sh name "echo ${name} > $out";
  imported = import (sh "imported.nix" "echo '\"fine\"' > $out");
in {
  a = write "a";
  b = write "b";
  again = write "a";
  thrown = throw "thrown";
  endless = let f = n: f (n + 1) + 1; in f 0;
  unfit = import (sh "unfit.nix" "exit 3");
  fine = write imported;
  set = { recurseForDerivations = true; x = write "x"; y = write "y"; };
  other = { z = write "z"; };
}
"#;

fn command(world: &LocalWorld, name: &str, arguments: &[&str]) -> Command {
    let mut command = super::plain();
    command
        .arg(name)
        .args(arguments)
        .arg("--store")
        .arg(world.root());
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    fs::create_dir_all(world.beside("work")).unwrap();
    command
        .current_dir(world.beside("work"))
        .env("HOME", world.beside("home"))
        .stdin(Stdio::null());
    command
}

/// The lines of `tvix jobs`, by attribute, without what differs each time.
fn jobs(ended: &Ended) -> Vec<Value> {
    let lines = ended.out.iter().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let seconds = line.as_object_mut().unwrap().remove("evalSeconds");
        assert!(seconds.unwrap().is_f64(), "{line}");
        assert!(line["evalBytes"].is_u64(), "{line}");
        line.as_object_mut().unwrap().remove("evalBytes");
        line
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort_by_key(|line| line["attr"].as_str().unwrap().to_owned());
    lines
}

#[tokio::test]
async fn jobs_are_the_same_by_any_number_of_workers() {
    let mut first = None;
    for workers in ["1", "2"] {
        let world = LocalWorld::new().await;
        let arguments = ["-E", SET, "--workers", workers, "--show-input-drvs"];
        let ended = run(&mut command(&world, "jobs", &arguments)).expect(0);
        let lines = jobs(&ended);
        let attrs: Vec<_> = lines
            .iter()
            .map(|line| line["attr"].as_str().unwrap())
            .collect();
        assert_eq!(
            attrs,
            [
                "a", "again", "b", "endless", "fine", "set.x", "set.y", "thrown", "unfit"
            ]
        );
        for line in &lines {
            match line["attr"].as_str().unwrap() {
                "endless" => assert_eq!(line["errorKind"], "depth", "{line}"),
                "thrown" => {
                    assert_eq!(line["errorKind"], "thrown", "{line}");
                    assert_eq!(line["errorPosition"]["line"], 15, "{line}");
                    assert!(line["error"].as_str().unwrap().contains("error: thrown"));
                }
                "unfit" => assert_eq!(line["errorKind"], "build", "{line}"),
                _ => {
                    let drv_path = line["drvPath"].as_str().unwrap();
                    assert!(world.root().join(&drv_path[1..]).is_file(), "{line}");
                    assert!(line["outputs"]["out"].is_string(), "{line}");
                    assert!(line["inputDrvs"].is_object(), "{line}");
                }
            }
        }
        assert_eq!(lines, *first.get_or_insert(lines.clone()));
        world.expect_clean().await;
    }
}

/// A set that is imported from a derivation that cannot be built.
const UNFIT: &str = r#"import (derivation {
  name = "unfit"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "exit 3" ];
})"#;

#[tokio::test]
async fn a_set_that_cannot_be_evaluated_is_an_error() {
    let world = LocalWorld::new().await;
    for (arguments, kind) in [
        (&["-E", "throw \"all\""][..], "thrown"),
        (&["-E", SET, "-A", "missing"], "attributeNotFound"),
        (&["-E", "1"], "type"),
        (&["-E", UNFIT], "build"),
    ] {
        let ended = run(&mut command(&world, "jobs", arguments)).expect(1);
        let line: Value = serde_json::from_str(&ended.out[0]).unwrap();
        assert_eq!(line["errorKind"], kind, "{line}");
    }
}

#[tokio::test]
async fn caches_are_asked_for_outputs() {
    let world = LocalWorld::new().await;
    let cached = LocalWorld::new().await;
    let build = |world, attr| {
        let arguments = ["-E", SET, "-A", attr, "--no-out-link"];
        run(&mut command(world, "build", &arguments)).expect(0)
    };
    build(&world, "a");
    build(&cached, "b");
    let cache = cached.root().display().to_string();
    let arguments = ["-E", SET, "--check-cache-status", "--substituter", &cache];
    let ended = run(&mut command(&world, "jobs", &arguments)).expect(0);
    for line in jobs(&ended) {
        let (status, is_cached) = match line["attr"].as_str().unwrap() {
            "a" | "again" => (Value::from("local"), Value::from(true)),
            "b" => (Value::from("cached"), Value::from(true)),
            _ if line["error"].is_string() => (Value::Null, Value::Null),
            _ => (Value::from("notBuilt"), Value::from(false)),
        };
        assert_eq!(line["cacheStatus"], status, "{line}");
        assert_eq!(line["isCached"], is_cached, "{line}");
    }
}

#[tokio::test]
async fn nothing_is_written_if_it_is_asked_not_to_be() {
    let world = LocalWorld::new().await;
    let before = world.valid().await;
    let arguments = ["-E", SET, "-A", "set", "--dry-run"];
    let ended = run(&mut command(&world, "jobs", &arguments)).expect(0);
    assert_eq!(jobs(&ended).len(), 2);
    assert_eq!(world.valid().await, before);
}

/// An import in a dry run gets the derivations that were found before it.
#[tokio::test]
async fn imports_are_built_in_a_dry_run() {
    let world = LocalWorld::new().await;
    let set = r#"
        let sh = name: script: derivation {
              inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
            };
            made = sh "made" "echo '\"fine\"' > $out";
        in { a = made; b = sh (import (sh "text" "while read x; do echo $x; done < ${made} > $out")) "true"; }"#;
    for workers in ["1", "2"] {
        let arguments = ["-E", set, "--workers", workers, "--dry-run"];
        let lines = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
        let names: Vec<_> = lines.iter().map(|line| &line["name"]).collect();
        assert_eq!(names, [&Value::from("made"), &Value::from("fine")]);
    }
}

#[tokio::test]
async fn options_of_nix_eval_jobs() {
    let world = LocalWorld::new().await;
    let arguments = [
        "--expr",
        SET,
        "-A",
        "other",
        "-A",
        "set",
        "--force-recurse",
        "--gc-roots-dir",
        "roots/jobs",
        "--max-memory-size",
        "512",
        "--workers",
        "2",
        "--impure",
    ];
    let lines = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        let drv_path = line["drvPath"].as_str().unwrap();
        let name = drv_path.rsplit('/').next().unwrap();
        let link = world.beside("work").join("roots/jobs").join(name);
        assert!(fs::read_link(link).unwrap().ends_with(&drv_path[1..]));
    }
    let arguments = ["-E", SET, "--force-recurse", "--dry-run"];
    let lines = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
    assert!(lines.iter().any(|line| line["attr"] == "other.z"));
    for (arguments, message) in [
        (&["--flake", ".#x"][..], "flakes are not supported"),
        (&["-E", SET, "--select", "x: x"], "--attr"),
        (&["-E", SET, "--apply", "x: x"], "--meta"),
        (&["-E", SET, "--constituents"], "--show-input-drvs"),
    ] {
        run(&mut command(&world, "jobs", arguments))
            .expect(1)
            .says(&[message]);
    }
}

/// What all workers evaluate is reported once.
#[tokio::test]
async fn messages_come_once() {
    let world = LocalWorld::new().await;
    let set = r#"
        let d = name: derivation { inherit name; system = "s"; builder = "b"; };
        in builtins.trace "shared" (builtins.listToAttrs (builtins.genList (n: {
          name = "n${toString n}";
          value = builtins.trace "job ${toString n}" (d "n${toString n}");
        }) 40))"#;
    let arguments = ["-E", set, "--workers", "3", "--dry-run"];
    let ended = run(&mut command(&world, "jobs", &arguments)).expect(0);
    assert_eq!(jobs(&ended).len(), 40);
    let traces = ended.err.lines().filter(|it| it.starts_with("trace:"));
    let mut traces: Vec<_> = traces.collect();
    assert_eq!(traces.len(), 41, "{}", ended.err);
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 41, "{}", ended.err);
}

#[tokio::test]
async fn a_job_that_takes_all_memory_ends_no_other() {
    let world = LocalWorld::new().await;
    let set = r#"
        let d = name: derivation { inherit name; system = "s"; builder = "b"; };
            all = builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; };
        in { a = d "a"; b = all; c = d "c"; }"#;
    for workers in ["1", "2"] {
        let arguments = ["-E", set, "--workers", workers, "--max-memory", "64M"];
        let lines = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
        let kinds: Vec<_> = lines.iter().map(|line| &line["errorKind"]).collect();
        assert_eq!(kinds, [&Value::Null, &Value::from("limit"), &Value::Null]);
    }
}

/// `instantiate` and `build` come to the same results in the same order with workers.
#[tokio::test]
async fn sets_are_built_while_workers_evaluate_them() {
    let good = r#"{ all = removeAttrs (SET) [ "thrown" "endless" "unfit" ]; }"#;
    let good = good.replace("SET", SET);
    let mut results = Vec::new();
    for workers in ["1", "3"] {
        let world = LocalWorld::new().await;
        let arguments = ["-E", &good, "-A", "all", "--workers", workers];
        let drvs = run(&mut command(&world, "instantiate", &arguments)).expect(0);
        let mut arguments = arguments.to_vec();
        arguments.push("--no-out-link");
        let outputs = run(&mut command(&world, "build", &arguments)).expect(0);
        world.expect_clean().await;
        results.push((drvs.out, outputs.out));
    }
    // A value that is evaluated once, but differs from another that is equal, is a result of its own
    // only without workers.
    let unique = |paths: &[String]| {
        let mut seen = std::collections::HashSet::new();
        let paths = paths.iter().filter(|path| seen.insert((*path).clone()));
        paths.cloned().collect::<Vec<_>>()
    };
    let ((drvs, outputs), (shared_drvs, shared_outputs)) = (&results[0], &results[1]);
    assert_eq!(unique(drvs), *shared_drvs);
    assert_eq!(unique(outputs), *shared_outputs);
    assert_eq!(shared_outputs.len(), 5);
}

#[tokio::test]
async fn a_set_with_failures_ends_as_with_one_worker() {
    let set = r#"
        let sh = name: script: derivation {
              inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
            };
        in { a = sh "a" "echo > $out"; b = sh "b" "exit 1"; c = sh "c" "echo > $out"; }"#;
    let mut results = Vec::new();
    for workers in ["1", "2"] {
        let world = LocalWorld::new().await;
        let arguments = ["-E", set, "-k", "--no-out-link", "--workers", workers];
        let ended = run(&mut command(&world, "build", &arguments)).expect(100);
        let ended = ended.says(&["error: build of '/nix/store/", "-b.drv' failed"]);
        results.push(ended.out);
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0].len(), 2);
}

/// What `jobs` prints as `attr` selects the same job.
#[tokio::test]
async fn printed_attribute_paths_are_accepted() {
    let world = LocalWorld::new().await;
    let set = r#"
        let d = name: derivation { inherit name; system = "s"; builder = "b"; };
        in {
          "" = d "empty"; "0" = d "zero"; "+7" = d "seven"; "a.b" = d "dot"; "q\"x" = d "quote"; "b\\s" = d "slash";
          "\\\"." = d "all"; "x y" = d "space";
          s = { recurseForDerivations = true; "" = d "inner"; "3" = d "three"; };
        }"#;
    for workers in ["1", "2"] {
        let arguments = [
            "-E",
            set,
            "--force-recurse",
            "--dry-run",
            "--workers",
            workers,
        ];
        let lines = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
        assert_eq!(lines.len(), 10, "{lines:?}");
        for line in lines {
            let attr = line["attr"].as_str().unwrap();
            let drv_path = line["drvPath"].as_str().unwrap();
            let arguments = ["-E", set, "-A", attr, "--dry-run"];
            let again = jobs(&run(&mut command(&world, "jobs", &arguments)).expect(0));
            assert_eq!(again[0]["drvPath"], line["drvPath"], "{attr}");
            assert_eq!(again[0]["attr"], line["attr"], "{attr}");
            assert_eq!(again[0]["attrPath"], line["attrPath"], "{attr}");
            let ended = run(&mut command(&world, "instantiate", &arguments)).expect(0);
            assert_eq!(ended.out, [drv_path], "{attr}");
            let output = format!("{attr}.drvPath");
            let arguments = ["-E", set, "-A", &output, "--raw"];
            let ended = run(&mut command(&world, "eval", &arguments)).expect(0);
            assert_eq!(ended.out, [drv_path], "{attr}");
        }
    }
}

#[tokio::test]
async fn errors_of_several_expressions_have_their_numbers() {
    let world = LocalWorld::new().await;
    let jobs_of = |expressions: &[&str], more: &[&str]| {
        let arguments = [&["--dry-run", "-E"], expressions, more].concat();
        let ended = run(&mut command(&world, "jobs", &arguments));
        let line = |line: &Value| {
            let names = line["attrPath"].as_array().unwrap().iter();
            let names: Vec<_> = names.map(|name| name.as_str().unwrap()).collect();
            (line["attr"].as_str().unwrap().to_owned(), names.join("/"))
        };
        let found: Vec<_> = jobs(&ended).iter().map(line).collect();
        (ended.code, found)
    };
    let drv = r#"{ a = derivation { name = "a"; system = "s"; builder = "b"; }; b = throw "x"; }"#;
    let pair = |attr: &str, path: &str| (attr.to_owned(), path.to_owned());
    let (code, found) = jobs_of(&[drv, "throw \"all\"", drv], &[]);
    assert_eq!(code, Some(1));
    let all = [
        ("0.a", "0/a"),
        ("0.b", "0/b"),
        ("1", "1"),
        ("2.a", "2/a"),
        ("2.b", "2/b"),
    ];
    assert_eq!(found, all.map(|(attr, path)| pair(attr, path)));
    let (code, found) = jobs_of(&[drv, drv], &["-A", "b"]);
    assert_eq!(code, Some(1));
    assert_eq!(found, [pair("0.b", "0/b"), pair("1.b", "1/b")]);
    let (code, found) = jobs_of(&[drv, drv], &[]);
    assert_eq!((code, found.len()), (Some(0), 4));
}

#[tokio::test]
async fn results_before_a_failure_are_those_of_one_worker() {
    let world = LocalWorld::new().await;
    let set = r#"
        let d = name: derivation { inherit name; system = "s"; builder = "b"; };
        in {
          z = d "z"; a = d "a"; b = d "b";
          list = builtins.genList (n: if n == 20 || n == 30 then throw "n${toString n}" else d "n${toString n}") 60;
        }"#;
    for attrs in [
        &["z", "a", "nope", "b"][..],
        &["nope", "z"],
        &["z", "list", "a"],
        &["z", "a"],
    ] {
        let mut first = None;
        for workers in ["1", "2", "5"] {
            let mut arguments = vec!["-E", set, "--dry-run", "--workers", workers];
            for attr in attrs {
                arguments.extend(["-A", attr]);
            }
            let ended = run(&mut command(&world, "instantiate", &arguments));
            let found = (ended.code, ended.out, ended.err);
            assert_eq!(found, *first.get_or_insert(found.clone()), "{workers}");
        }
    }
}
