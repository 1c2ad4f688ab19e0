//! Attribute paths on the command line, and the order of their results, as in C++ Nix 2.34.8.
//! tests/asked holds the cases and the recorded output (see record.py there).

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tvix_tests::local::LocalWorld;
use tvix_tests::program::run;

/// Cases in which something else is printed, and why.
const DIFFERENT: &[(&str, &str)] = &[
    // What `tvix jobs` prints is accepted: a name in double quotes may be empty.
    ("eval --eval -A \"\"", "the attribute with an empty name"),
    ("eval --eval -A a.\"\"", "the attribute with an empty name"),
    ("eval --eval -A \"\".a", "the attribute with an empty name"),
];

/// An expression, arguments, lines of output, and everything else that is printed.
type Case = (String, Vec<String>, Vec<String>, String);

fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/asked/recorded.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let cases = text.lines().map(|line| {
        let case: Value = serde_json::from_str(line).unwrap();
        serde_json::from_value(case).unwrap()
    });
    cases.collect()
}

#[tokio::test]
async fn attribute_paths_lead_where_they_lead_in_nix() {
    let world = LocalWorld::new().await;
    let mut wrong = 0;
    let cases = cases();
    for (text, args, out, told) in &cases {
        let subcommand = match args.iter().any(|arg| arg == "--eval") {
            true => "eval",
            false => "instantiate",
        };
        let mut command = super::plain();
        command
            .args([subcommand, "--store"])
            .arg(world.root())
            .args(["-E", text])
            .args(args.iter().filter(|arg| *arg != "--eval"))
            .env("NIX_PATH", "")
            .env("HOME", world.root())
            .stdin(Stdio::null());
        let ended = run(&mut command);
        let case = format!("{text}\n{subcommand} {}", args.join(" "));
        let known = DIFFERENT.iter().find(|(name, _)| case.ends_with(name));
        let same = ended.out == *out && ended.err.trim_end() == told;
        if same == known.is_some() {
            wrong += 1;
            println!(
                "--- {case}\ntheirs: {out:#?}\n{told}\nours: {:#?}\n{}",
                ended.out, ended.err
            );
        }
    }
    assert_eq!(
        wrong,
        0,
        "so many of {} cases are not as expected",
        cases.len()
    );
}
