//! Records the cases of the language with C++ Nix; see language/record.sh.

#![allow(clippy::unwrap_used)]

#[path = "language/cases.rs"]
#[allow(dead_code, reason = "only the comparison needs all")]
mod cases;

use std::io::Write as _;
use std::process::{Command, Stdio};

use cases::{Case, Mode, Outcome};

/// Records the results of `TVIX_RECORD_NIX` for the cases; see record.sh.
#[test]
fn record() {
    let program = std::env::var("TVIX_RECORD_NIX").expect("TVIX_RECORD_NIX is the program");
    let files = std::env::var("TVIX_RECORD_FILES").unwrap_or_else(|_| cases::files());
    let only = std::env::var("TVIX_CASES").ok();
    for topic in cases::topics() {
        if only.as_ref().is_some_and(|only| *only != topic) {
            continue;
        }
        // Recorded cases are not run again, unless their topic's results were removed.
        let known = cases::expected(&topic);
        let mut lines = Vec::new();
        for case in cases::read(&topic) {
            let outcome = match known.iter().find(|(other, _)| *other == case) {
                Some((_, outcome)) => outcome.clone(),
                None => ask(&program, &files, &case),
            };
            let line =
                serde_json::json!([case.mode.name(), case.text, outcome.value, outcome.messages]);
            writeln!(lines, "{line}").unwrap();
        }
        let path = cases::folder().join(format!("{topic}.jsonl"));
        std::fs::write(path, lines).unwrap();
    }
}

fn ask(program: &str, files: &str, case: &Case) -> Outcome {
    let mode: &[&str] = match case.mode {
        Mode::Strict => &["--strict"],
        Mode::Lazy => &[],
        Mode::Json => &["--strict", "--json"],
        Mode::Xml => &["--strict", "--xml"],
        Mode::Pure => &["--strict", "--pure-eval"],
        Mode::Restricted => &["--strict", "--restrict-eval"],
        Mode::Store => &["--strict", "--read-write-mode", "--store"],
    };
    let store = tempfile::tempdir().unwrap();
    let store = (case.mode == Mode::Store).then_some(store.path());
    let search_path = cases::search_path(case.mode, files).into_iter();
    let search_path = search_path.map(|(prefix, path)| match prefix {
        "" => ["-I".to_owned(), path],
        prefix => ["-I".to_owned(), format!("{prefix}={path}")],
    });
    let output = Command::new(program)
        .arg("--eval")
        .args(mode)
        .args(store)
        .args(search_path.flatten())
        .args(["-E", &case.text])
        .current_dir(cases::files())
        .env("NIX_PATH", "")
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.trim_end_matches('\n').replace(files, "@FILES@")
    };
    let messages = text(&output.stderr);
    Outcome {
        value: output.status.success().then(|| text(&output.stdout)),
        messages: cases::without_internal_lines(messages.trim_end()),
    }
}
