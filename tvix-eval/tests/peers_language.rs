//! Random programs, compared with `nix-instantiate`: values, string contexts, store paths of
//! derivations, and whether errors can be caught.
//!
//! `TVIX_PEER_CASES` sets the number of programs, `TVIX_PEER_SEED` the first seed, `TVIX_PEER_NIX`
//! the program to compare with.

#![allow(clippy::unwrap_used)]

#[path = "peers_language/program.rs"]
mod program;
#[path = "peers/random.rs"]
mod random;
#[path = "peers_language/texts.rs"]
mod texts;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::rc::Rc;

use random::{Random, random};
use tvix_eval::Job;
use tvix_eval::files::HostFiles;
use tvix_eval::heap::Heap;
use tvix_eval::host::NoHost;
use tvix_eval::interp::Interp;
use tvix_eval::source::Pos;
use tvix_eval::value::ContextId;
use tvix_eval::world::{Settings, World};

/// Number of programs per batch.
const BATCH: usize = 200;

/// Maximum number of errors that cannot be caught. Each ends its batch.
const FATAL: usize = 10;

/// A value with the contexts of its strings, as JSON; `null` if evaluation fails with an error that
/// can be caught.
const OBSERVE: &str = r#"let
  seen = depth: v:
    if builtins.isString v then { s = builtins.unsafeDiscardStringContext v; c = builtins.getContext v; }
    else if builtins.isFunction v then "function"
    else if builtins.isPath v then toString v
    else if builtins.isList v then map (seen (depth + 1)) v
    else if builtins.isAttrs v then
      (if v.type or null == "derivation" then { drv = seen depth v.drvPath; out = seen depth v.outPath; }
       else builtins.mapAttrs (name: seen (depth + 1)) (removeAttrs v [ "outPath" "__toString" "__functor" ])
         // { names = builtins.attrNames v; })
    else v;
  observe = e: let tried = builtins.tryEval (builtins.toJSON (seen 0 e)); in if tried.success then tried.value else null;
in "#;

fn ours(program: &str) -> Result<String, String> {
    let heap = Heap::new();
    let mut settings = Settings::default();
    settings.system = "x86_64-linux".into();
    let world = World::new(settings, Rc::new(HostFiles), Rc::new(NoHost));
    let interp = Interp::new(&heap, world);
    let result = std::cell::RefCell::new(None);
    let job: Job<'_, '_> = Box::new(|interp: &Interp<'_>| {
        let text = format!("{OBSERVE} observe ({program})");
        let written = (|| {
            let value = interp.eval_text(text.as_bytes(), b"/")?;
            let mut out = Vec::new();
            let cell = interp.cell(value);
            interp.write_json(
                cell,
                Pos::NONE,
                true,
                &mut out,
                &mut ContextId::EMPTY.clone(),
            )?;
            Ok(String::from_utf8_lossy(&out).into_owned())
        })();
        let written = written.map_err(|error: Box<tvix_eval::error::Error>| error.message.clone());
        *result.borrow_mut() = Some(written);
    });
    interp.run([job]).unwrap();
    result.take().unwrap()
}

fn nix() -> String {
    std::env::var("TVIX_PEER_NIX").unwrap_or_else(|_| "nix-instantiate".into())
}

/// Fails if Nix is missing, because a skipped comparison must not pass.
fn must_be_installed() {
    let asked = Command::new(nix()).arg("--version").output();
    asked.unwrap_or_else(|error| panic!("real Nix is needed, as '{}': {error}", nix()));
}

fn evaluate(expression: &str) -> Result<serde_json::Value, String> {
    let state = env!("CARGO_TARGET_TMPDIR");
    let mut child = Command::new(nix())
        .args(["--store", "dummy://", "--eval", "--strict", "--json", "-"])
        .env("NIX_STATE_DIR", format!("{state}/nix/state"))
        .env("NIX_LOG_DIR", format!("{state}/nix/log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(expression.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The results of C++ Nix. A batch with an error that cannot be caught is halved until the error is
/// alone.
fn theirs(programs: &[&str]) -> Vec<Result<String, String>> {
    let items: Vec<_> = programs
        .iter()
        .map(|program| format!("(observe ({program}))"))
        .collect();
    match evaluate(&format!("{OBSERVE} [\n{}\n]", items.join("\n"))) {
        Ok(values) => values
            .as_array()
            .unwrap()
            .iter()
            .map(|value| Ok(value.to_string()))
            .collect(),
        Err(error) if programs.len() == 1 => vec![Err(error)],
        Err(_) => {
            let (left, right) = programs.split_at(programs.len() / 2);
            [theirs(left), theirs(right)].concat()
        }
    }
}

/// The message of an error, without the names in it.
fn kind(message: &str) -> String {
    let last = message
        .rsplit("\n       error: ")
        .next()
        .unwrap_or_default();
    let last = last.strip_prefix("error: ").unwrap_or(last);
    let line = last.lines().next().unwrap_or_default();
    let line = line.split("; values are ").next().unwrap_or_default();
    let mut kind = String::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 0 {
            kind.push_str(part);
        }
    }
    kind.split([
        ':', '(', '«', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
    ])
    .next()
    .unwrap_or_default()
    .trim()
    .to_owned()
}

#[test]
fn programs() {
    must_be_installed();
    let version = Command::new(nix()).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    // Older versions word some errors differently.
    let modern = version.contains(" 2.34");
    let mut random = random();
    let (mut good, mut fatal) = (Vec::new(), Vec::new());
    for _ in 0..random::cases() {
        let program = program::program(&mut random, modern);
        match ours(&program) {
            Ok(value) => good.push((program, Ok(value))),
            Err(message) => fatal.push((program, Err(message))),
        }
    }
    let (values, errors) = (good.len(), fatal.len());
    let most = std::env::var("TVIX_PEER_ERRORS").ok();
    fatal.truncate(most.and_then(|m| m.parse().ok()).unwrap_or(FATAL));
    let mut wrong = 0;
    for batch in good.chunks(BATCH).chain(fatal.chunks(1)) {
        let programs: Vec<_> = batch.iter().map(|(program, _)| program.as_str()).collect();
        for ((program, ours), theirs) in batch.iter().zip(theirs(&programs)) {
            // C++ Nix reports an error where rounding of large integers used to be wrong. It also
            // writes no derivations here, so that their closures are missing.
            let known = matches!(&theirs, Err(theirs) if theirs.contains("issues/12899")
                || theirs.contains(".drv' is not valid"));
            let same = known
                || match (ours, &theirs) {
                    (Ok(ours), Ok(theirs)) => ours == theirs,
                    (Err(ours), Err(theirs)) => !modern || kind(ours) == kind(theirs),
                    _ => false,
                };
            if !same {
                wrong += 1;
                if wrong < 20 {
                    println!("--- {program}\n  theirs {theirs:?}\n  ours   {ours:?}");
                }
            }
        }
    }
    println!(
        "{values} values, {} of {errors} errors, {wrong} differ",
        fatal.len()
    );
    assert_eq!(wrong, 0);
}

/// Compares programs that evaluate to generated texts. None of them fails.
fn values_agree(make: fn(&mut Random) -> String) {
    must_be_installed();
    let mut random = random();
    let programs: Vec<String> = (0..random::cases()).map(|_| make(&mut random)).collect();
    let mut wrong = 0;
    for batch in programs.chunks(BATCH) {
        let programs: Vec<_> = batch.iter().map(String::as_str).collect();
        for (program, theirs) in programs.iter().zip(theirs(&programs)) {
            let ours = ours(program);
            if ours.as_ref().ok() != theirs.as_ref().ok() || ours.is_err() {
                wrong += 1;
                println!("--- {program}\n  theirs {theirs:?}\n  ours   {ours:?}");
            }
        }
    }
    assert_eq!(wrong, 0);
}

#[test]
fn indented_strings() {
    values_agree(texts::indented_string);
}

#[test]
fn xml() {
    values_agree(texts::to_xml);
}
