//! `tvix repl` on lines from standard input: beside what C++ Nix 2.34.8 says, and where more is done.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use tvix_tests::local::LocalWorld;
use tvix_tests::program::Ended;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/repl_cases");

/// The output for these lines, in a directory of its own.
fn repl(world: &LocalWorld, lines: &str, args: &[&str]) -> Ended {
    let directory = world.beside("repl");
    fs::create_dir_all(&directory).unwrap();
    for name in ["f.nix", "number.nix"] {
        fs::copy(Path::new(CASES).join(name), directory.join(name)).unwrap();
    }
    let mut child = super::plain()
        .args(["repl", "--store"])
        .arg(world.root())
        .args(args)
        .current_dir(&directory)
        .env("HOME", world.beside("home"))
        .env_remove("NIX_PATH")
        .env_remove("EDITOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Lines after the last one that is read are lost.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// Values that were printed, without the lines that were echoed.
fn values(ended: &Ended) -> Vec<&str> {
    let echoed =
        |line: &&String| line.starts_with("tvix-repl> ") || line.starts_with("         > ");
    let lines = ended
        .out
        .iter()
        .filter(|line| !echoed(line) && !line.is_empty());
    lines.map(String::as_str).collect()
}

/// `repl_cases/record.sh` records what is expected.
#[tokio::test]
async fn as_in_cpp_nix() {
    for case in ["values", "bindings", "lines", "commands"] {
        let world = LocalWorld::new().await;
        let read = |kind: &str| fs::read_to_string(format!("{CASES}/{case}.{kind}")).unwrap();
        let ended = repl(&world, &read("in"), &[]).expect(0);
        let directory = world.beside("repl").display().to_string();
        let ours = |text: &str| {
            text.replace(&directory, "@DIR@")
                .replace("tvix-repl> ", "nix-repl> ")
                .replace("\n         > ", "\n        > ")
        };
        let out = ours(&ended.out.join("\n"));
        assert_eq!(out.trim_end(), read("out").trim_end(), "{case}");
        let (version, err) = ended.err.split_once('\n').unwrap();
        assert!(version.starts_with("Tvix "), "{version}");
        assert_eq!(ours(err).trim_end(), read("err").trim_end(), "{case}");
    }
}

/// C++ Nix 2.34.8 takes these lines one by one.
#[tokio::test]
async fn definitions_may_be_pasted() {
    let world = LocalWorld::new().await;
    let lines = "\
x = {
  a = 1;
  /* a comment
     of two lines */
  b = [
    2
  ];
}
x.a
f = n: # doubles
  n * 2
f 21
y =
  3
y
z = 4 # four
z
";
    let ended = repl(&world, lines, &[]).expect(0);
    assert_eq!(values(&ended), ["1", "42", "3", "4"], "{ended:#?}");
}

#[tokio::test]
async fn input_that_ends_too_early_is_an_error_that_is_said() {
    let world = LocalWorld::new().await;
    let ended = repl(&world, "1 +\n", &[]).expect(0);
    ended.says(&["error: syntax error, unexpected end of file"]);
}

#[tokio::test]
async fn what_is_given_is_loaded() {
    let world = LocalWorld::new().await;
    let loaded = repl(&world, "two\n", &["f.nix", "--arg", "one", "5"]).expect(0);
    assert_eq!(values(&loaded), ["6"], "{loaded:#?}");
    let loaded = repl(&world, "a\n", &["-E", "{ a = 7; }"]).expect(0);
    assert_eq!(values(&loaded), ["7"], "{loaded:#?}");
}

/// Control sequences in values are displayed, not executed.
#[tokio::test]
async fn values_do_not_control_the_terminal() {
    let world = LocalWorld::new().await;
    let lines = "\"\u{1b}]0;title\u{7}\"\n:p \"\u{1b}[2J\"\nthrow \"\u{1b}[2J\"\n";
    let ended = repl(&world, lines, &[]).expect(0);
    let said = format!("{}{}", ended.out.join("\n"), ended.err);
    assert!(
        !said.contains('\u{1b}') && !said.contains('\u{7}'),
        "{said:?}"
    );
}

#[tokio::test]
async fn derivations_are_built_and_linked() {
    let world = LocalWorld::new().await;
    let mut args = Vec::new();
    let paths: Vec<String> = tvix_tests::local::sandbox_paths()
        .into_iter()
        .map(|path| path.to_string())
        .collect();
    for path in &paths {
        args.extend(["--sandbox-path", path]);
    }
    let lines = r#"
d = script: derivation { name = "d"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-euc" script ]; }
good = d "echo to the log; echo > $out"
:b good
:bl good
:log good
:b d "echo why; exit 3"
import (d "echo 42 > $out")
"#;
    let ended = repl(&world, lines, &args).expect(0);
    let values = values(&ended);
    assert_eq!(values[0], "This derivation produced the following outputs:");
    assert!(values[1].starts_with("  out -> /nix/store/"), "{values:#?}");
    assert!(
        values[3].starts_with("  ./repl-result-out -> /nix/store/"),
        "{values:#?}"
    );
    assert_eq!(values[4..], ["to the log", "42"]);
    let link = fs::read_link(world.beside("repl/repl-result-out")).unwrap();
    assert!(link.ends_with(values[1].trim_start_matches("  out -> /")));
    ended.says(&["why"]);
}
