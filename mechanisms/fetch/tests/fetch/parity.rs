//! `fetchGit` beside what C++ Nix 2.34.8 made of the same repositories; `git/record.sh` records it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use super::World;
use super::repositories::git;

/// Defines `f`: `fetchGit` with a list of the files in place of `outPath`.
const PRELUDE: &str = r#"let
  list = dir: builtins.concatLists (builtins.attrValues (builtins.mapAttrs
    (name: type: if type == "directory" then [ "${name}/" ] ++ map (inner: "${name}/${inner}") (list "${dir}/${name}") else [ "${name} ${type}" ])
    (builtins.readDir dir)));
  f = arg: let
    tree = fetchGit arg;
    type = builtins.readFileType tree.outPath;
  in removeAttrs tree [ "outPath" ] // { path = tree.outPath; files = if type == "directory" then list tree.outPath else type; };
in "#;

/// What works here and not in C++ Nix, or otherwise.
const DIFFERENCES: &[(&str, &str)] = &[
    (
        "@/outer.git\"; submodules",
        "2.34.8 makes 'file:/…' of the relative URL of a submodule",
    ),
    ("@/sha256", "2.34.8 does not open such repositories"),
    (
        "@/bare.git\"; ref = \"both\"",
        "2.34.8 takes the tag, which comes along with the branch that it fetches",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fetch/git")
}

/// The repositories, made once for all tests.
fn repositories() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let made = TempDir::new().unwrap();
        let output = Command::new("sh")
            .arg(folder().join("repositories.sh"))
            .current_dir(made.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        made
    });
    made.path()
}

/// A case as an expression.
fn expression(case: &str) -> String {
    static REVISIONS: OnceLock<BTreeMap<&str, String>> = OnceLock::new();
    let made = repositories();
    let revisions = REVISIONS.get_or_init(|| {
        let rev = |repository: &str, rev| git(&made.join(repository), &["rev-parse", rev]);
        BTreeMap::from([
            ("@ONE@", rev("plain", "main~1")),
            ("@SIDE@", rev("plain", "refs/heads/side")),
            ("@TAG@", rev("plain", "annotated")),
            ("@NESTEDTAG@", rev("plain", "nested")),
            ("@TREE@", rev("plain", "main^{tree}")),
            ("@BLOB@", rev("plain", "main:f")),
            ("@SHA256@", rev("sha256", "HEAD")),
        ])
    });
    let mut text = case.replace("@/", &format!("{}/", made.display()));
    for (name, rev) in revisions {
        text = text.replace(name, rev);
    }
    format!("{PRELUDE}{text}")
}

fn cases() -> Vec<String> {
    let text = fs::read_to_string(folder().join("cases.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

fn expected() -> BTreeMap<String, Option<Value>> {
    let text = fs::read_to_string(folder().join("expected.jsonl")).unwrap();
    let parse = |line: &str| {
        let (case, value, _): (String, Option<Value>, String) = serde_json::from_str(line).unwrap();
        (case, value)
    };
    text.lines().map(parse).collect()
}

/// Compares all cases, each in the world that `world` gives.
fn compare(world: impl Fn() -> std::rc::Rc<World>) {
    let expected = expected();
    let mut wrong = Vec::new();
    for case in cases() {
        let expected = expected.get(&case).expect("record.sh records new cases");
        if DIFFERENCES.iter().any(|(part, _)| case.contains(part)) {
            continue;
        }
        let ours = world().eval(&expression(&case));
        match (&ours, expected) {
            (Ok(ours), Some(expected)) if ours == expected => {}
            (Err(_), None) => {}
            (Ok(ours), _) => wrong.push(format!("{case}\n  {ours}\n  {expected:?}")),
            (Err(failure), _) => wrong.push(format!("{case}\n  {}", failure.message)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn as_nix_with_an_empty_cache() {
    compare(|| World::new().into());
}

/// The result of one case is never taken for that of another.
#[test]
fn as_nix_with_a_cache_of_all_cases() {
    let world: std::rc::Rc<World> = World::new().into();
    compare(|| world.clone());
}

/// Records what `TVIX_RECORD_NIX` makes of the cases; see `git/record.sh`.
#[test]
fn record_git() {
    let Ok(program) = std::env::var("TVIX_RECORD_NIX") else {
        return;
    };
    let made = repositories();
    let mut lines = String::new();
    for case in cases() {
        let world = World::new();
        let output = Command::new("sh")
            .args(["-c", &format!("exec {program} \"$@\""), "sh"])
            .args([
                "--eval",
                "--strict",
                "--json",
                "-E",
                &expression(&case),
                "--store",
            ])
            .arg(world.path().join("peer"))
            .env("XDG_CACHE_HOME", world.path().join("peer-cache"))
            .env("HOME", world.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(made)
            .output()
            .unwrap();
        let value: Option<Value> = output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).unwrap());
        let log = String::from_utf8_lossy(&output.stderr);
        let error = match value {
            Some(_) => "",
            None => log.rfind("error:").map_or(&*log, |at| log[at..].trim_end()),
        };
        let error = error.replace(&made.display().to_string(), "@");
        let line = serde_json::json!([case, value, error]);
        lines.push_str(&format!("{line}\n"));
    }
    fs::write(folder().join("expected.jsonl"), lines).unwrap();
}
