//! Completing names of variables, commands, attributes and files.

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use rustyline::completion::Completer;
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};
use tvix_eval::interactive::ParsedInput;
use tvix_eval::value::Value;

use super::command::COMMANDS;
use super::state::State;

/// How long a set may take to be evaluated for its names.
const PATIENCE: Duration = Duration::from_secs(3);

/// Characters that end a word.
const DELIMITERS: &[char] = &[
    ' ', '\n', '\r', '\t', '(', ')', '{', '}', '[', ']', ';', '=',
];

/// Completes names.
#[derive(Helper, Highlighter, Hinter, Validator)]
pub struct Names<'r, 'i, 'h>(pub &'r RefCell<State<'i, 'h>>);

impl Completer for Names<'_, '_, '_> {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let before = &line[..pos];
        let start = before.rfind(DELIMITERS).map_or(0, |at| at + 1);
        // What is typed is not being evaluated, so nobody else has the state.
        let found = match self.0.try_borrow() {
            Ok(state) => candidates(&state, &before[start..], start == 0),
            Err(_) => Vec::new(),
        };
        Ok((start, found))
    }
}

/// The completions of a word, sorted.
pub fn candidates(state: &State<'_, '_>, word: &str, first: bool) -> Vec<String> {
    let mut found = if first && word.starts_with(':') {
        let names = COMMANDS.iter().flat_map(|command| command.names);
        let names = names.filter(|name| name.starts_with(word));
        names.map(|name| (*name).to_owned()).collect()
    } else if let Some((directory, name)) = word.rsplit_once('/') {
        files(directory, name)
    } else if let Some((set, name)) = word.rsplit_once('.') {
        attributes(state, set, name)
    } else {
        let names = state.names.iter().filter(|name| name.starts_with(word));
        names.cloned().collect()
    };
    found.sort();
    found.dedup();
    found
}

fn files(directory: &str, name: &str) -> Vec<String> {
    let read = match (directory, directory.strip_prefix("~/")) {
        ("", _) => std::fs::read_dir("/"),
        ("~", _) => std::fs::read_dir(std::env::home_dir().unwrap_or_default()),
        (_, Some(below)) => {
            let home = std::env::home_dir().unwrap_or_default();
            std::fs::read_dir(home.join(below))
        }
        _ => std::fs::read_dir(Path::new(directory)),
    };
    let entries = read.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let shown = |found: &String| {
        found.starts_with(name)
            && !found.starts_with('.')
            && !found.contains(|letter: char| letter.is_control())
    };
    names
        .filter(shown)
        .map(|found| format!("{directory}/{found}"))
        .collect()
}

/// The attributes of a set. It is evaluated for that; if that fails or takes too long, there are none.
fn attributes(state: &State<'_, '_>, set: &str, name: &str) -> Vec<String> {
    let interp = state.interp;
    let parsed = interp.parse_input(set.as_bytes(), &state.base, &state.scope);
    let Ok(ParsedInput::Expression(expr)) = parsed else {
        return Vec::new();
    };
    let flag = state.interrupted.clone();
    let (done, waits) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            flag.store(true, Ordering::Relaxed);
        }
    });
    let value = interp.eval_typed(expr);
    drop(done);
    let _ = watch.join();
    state.interrupted.store(false, Ordering::Relaxed);
    let Ok(Value::Attrs(attrs)) = value else {
        return Vec::new();
    };
    let names = interp.named(attrs).into_iter();
    let names = names.filter(|(found, _)| found.starts_with(name));
    names
        .map(|(found, _)| {
            let mut literal = Vec::new();
            tvix_eval::literal::write_attribute_name(&mut literal, found.as_bytes());
            format!("{set}.{}", String::from_utf8_lossy(&literal))
        })
        .collect()
}
