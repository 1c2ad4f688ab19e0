//! Regular expressions: compared with libstdc++ through a small program, and with the builtins of
//! `nix-instantiate`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use tvix_eval::internals::text::regex::{Groups, Regex, RegexError};

use crate::random::{Random, cases, random};

const PIECES: [&str; 44] = [
    "a",
    "b",
    "c",
    "ab",
    ".",
    "(",
    "(",
    ")",
    ")",
    "|",
    "*",
    "+",
    "?",
    "^",
    "$",
    "[ab]",
    "[^a]",
    "[[:alpha:]]",
    "[a-c]",
    "{2}",
    "{1,2}",
    "{0,1}",
    "{1,}",
    "{0}",
    "{",
    "}",
    "]",
    "[",
    "-",
    "\\.",
    "\\(",
    "\\a",
    "[]a]",
    "[^]a-b]",
    "[-a]",
    "[a-]",
    "[[.a.]b]",
    "[[=b=]]",
    "[[:Space:]]",
    "é",
    "[a-c-e]",
    "\\",
    "[+--]",
    "[[.a.]-c]",
];

/// A mostly well-formed pattern.
fn grown(random: &mut Random, depth: usize, out: &mut String) {
    match random.below(if depth == 0 { 4 } else { 12 }) {
        0 | 1 => out.push_str(random.pick(&["a", "b", "c"])),
        2 => {
            out.push_str(random.pick(&[".", "[ab]", "[^a]", "[b-c]", "[[:alpha:]]", "^", "$", ""]))
        }
        3 => out.push_str(random.pick(&["a", "ab", "ba", "c", ""])),
        4 | 5 => {
            grown(random, depth - 1, out);
            grown(random, depth - 1, out);
        }
        6 => {
            grown(random, depth - 1, out);
            out.push('|');
            grown(random, depth - 1, out);
        }
        7 | 8 => {
            out.push('(');
            grown(random, depth - 1, out);
            out.push(')');
        }
        _ => {
            out.push('(');
            grown(random, depth - 1, out);
            out.push(')');
            out.push_str(
                random.pick(&["*", "+", "?", "*", "{2}", "{0,2}", "{1,}", "{0}", "{1,3}"]),
            );
        }
    }
}

pub fn pattern(random: &mut Random) -> String {
    let mut out = String::new();
    if random.below(4) == 0 {
        for _ in 0..random.below(8) {
            out.push_str(random.pick(&PIECES));
        }
    } else {
        let depth = 1 + random.below(5);
        grown(random, depth, &mut out);
    }
    out
}

pub fn text(random: &mut Random) -> String {
    let length = random.below(9);
    (0..length)
        .map(|_| random.pick(&["a", "b", "a", "b", "c", "-", "\n", "é", "]", "A"]))
        .collect()
}

fn write_groups(out: &mut String, groups: &Groups) {
    for group in groups {
        match group {
            Some(range) => write!(out, " {}-{}", range.start, range.end).unwrap(),
            None => out.push_str(" _"),
        }
    }
}

fn ours(pattern: &str, text: &str) -> String {
    let regex = match Regex::new(pattern.as_bytes()) {
        Ok(regex) => regex,
        Err(RegexError::TooLarge) => return "large".into(),
        Err(_) => return "invalid".into(),
    };
    let mut out = String::new();
    match regex.match_whole(text.as_bytes()) {
        Ok(Some(groups)) => {
            out.push_str("match");
            write_groups(&mut out, &groups);
        }
        Ok(None) => out.push_str("none"),
        Err(error) => return error.to_string(),
    }
    out.push_str(" /");
    for found in regex.find_iter(text.as_bytes()) {
        let found = match found {
            Ok(found) => found,
            Err(error) => return error.to_string(),
        };
        write!(out, " | {}-{}", found.range.start, found.range.end).unwrap();
        write_groups(&mut out, &found.groups);
    }
    out
}

fn hex(text: &str) -> String {
    match text {
        "" => "-".into(),
        _ => text.bytes().map(|b| format!("{b:02x}")).collect(),
    }
}

/// Builds the program that calls libstdc++, or uses the one in `TVIX_REGEX_PEER`.
fn peer() -> Option<std::path::PathBuf> {
    if let Some(path) = std::env::var_os("TVIX_REGEX_PEER") {
        return Some(path.into());
    }
    let program = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("regex_peer");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/regex.cc");
    let built = Command::new("g++")
        .args(["-std=c++17", "-O1", source, "-o"])
        .arg(&program)
        .status();
    built.is_ok_and(|s| s.success()).then_some(program)
}

#[test]
fn libstdcxx_agrees() {
    let peer = peer().expect("g++ is needed");
    let mut random = random();
    let asked: Vec<(String, String)> = (0..cases())
        .map(|_| (pattern(&mut random), text(&mut random)))
        .collect();
    let lines: String = asked
        .iter()
        .fold(String::new(), |mut lines, (pattern, text)| {
            writeln!(lines, "{} {}", hex(pattern), hex(text)).unwrap();
            lines
        });
    let mut child = Command::new(peer)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    assert_eq!(answers.lines().count(), asked.len());
    let mut wrong = 0;
    let (mut valid, mut slow) = (0, 0);
    for ((pattern, text), theirs) in asked.iter().zip(answers.lines()) {
        if theirs == "slow" {
            slow += 1;
            continue;
        }
        valid += usize::from(theirs != "invalid");
        let ours = ours(pattern, text);
        if ours != theirs {
            wrong += 1;
            if wrong < 20 {
                eprintln!("{pattern:?} on {text:?}:\n  theirs {theirs}\n  ours   {ours}");
            }
        }
    }
    eprintln!(
        "{} cases, {valid} valid patterns, {slow} too slow there, {wrong} differ",
        asked.len()
    );
    assert_eq!(wrong, 0);
}
