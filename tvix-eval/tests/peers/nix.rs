//! Batched questions to `nix-instantiate`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use tvix_eval::internals::text::print;

use crate::ours::SPLIT;

fn literal(text: &str) -> String {
    let mut out = Vec::new();
    print::write_string(&mut out, text.as_bytes());
    String::from_utf8(out).unwrap()
}

/// An expression that evaluates to the answer, a string.
fn question(kind: &str, input: &str) -> String {
    let (left, right) = input.split_once(SPLIT).unwrap_or((input, ""));
    let (left, right, input) = (literal(left), literal(right), literal(input));
    match kind {
        "match" | "split" => format!("(toJSON (builtins.{kind} {left} {right}))"),
        "compare" => format!("(toJSON (compareVersions {left} {right}))"),
        "components" => format!("(toJSON (splitVersion {input}))"),
        "name" => format!("(toJSON (parseDrvName {input}))"),
        "coerced" => format!("(toString (fromJSON {input}))"),
        "float-json" | "json" => format!("(toJSON (fromJSON {input}))"),
        "float-xml" => format!("(toXML (fromJSON {input}))"),
        "json-string" => format!("(toJSON {input})"),
        "toml" => format!("(toJSON (fromTOML {input}))"),
        "xml-string" => format!("(toXML {input})"),
        "printed" => format!("{{ {left} = {right}; }}"),
        _ => panic!("unknown kind {kind}"),
    }
}

fn program() -> String {
    std::env::var("TVIX_PEER_NIX").unwrap_or_else(|_| "nix-instantiate".into())
}

/// The version of `nix-instantiate`, if it is installed. `TVIX_PEER_NIX` can name another program.
pub fn version() -> Option<(u32, u32)> {
    let output = Command::new(program()).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut numbers = text.rsplit(' ').next()?.trim().split('.');
    let mut number = || numbers.next()?.parse().ok();
    Some((number()?, number()?))
}

fn evaluate(expression: &str, json: bool) -> Result<String, String> {
    let state = env!("CARGO_TARGET_TMPDIR");
    let mut command = Command::new(program());
    command.args(["--store", "dummy://", "--eval", "--strict"]);
    if json {
        command.arg("--json");
    }
    let mut child = command
        .arg("-")
        .env("NIX_STATE_DIR", format!("{state}/nix/state"))
        .env("NIX_LOG_DIR", format!("{state}/nix/log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // The program reads all input before it writes.
    stdin.write_all(expression.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The answers, in order. Errors cannot be caught, so a batch with an error is halved until the
/// error is alone.
pub fn ask(kind: &str, inputs: &[String]) -> Vec<Result<String, String>> {
    if inputs.len() > 1000 {
        return inputs
            .chunks(1000)
            .flat_map(|part| ask(kind, part))
            .collect();
    }
    if kind == "printed" {
        // The layout depends on the complete value, so these questions are not put in lists.
        let sets: Vec<_> = inputs.iter().map(|i| question(kind, i)).collect();
        let printed = evaluate(&format!("[\n{}\n]", sets.join("\n")), false).unwrap();
        let inner = printed
            .trim_end()
            .strip_prefix("[ ")
            .unwrap()
            .strip_suffix(" ]")
            .unwrap();
        let parts: Vec<_> = inner.split("; } ").collect();
        assert_eq!(parts.len(), inputs.len());
        return parts
            .into_iter()
            .map(|part| Ok(format!("{}; }}", part.trim_end_matches("; }"))))
            .collect();
    }
    let questions: Vec<_> = inputs.iter().map(|i| question(kind, i)).collect();
    let expression = format!("with builtins; [\n{}\n]", questions.join("\n"));
    match evaluate(&expression, true) {
        Ok(answers) => {
            let answers: Vec<String> = serde_json::from_str(&answers).unwrap();
            assert_eq!(answers.len(), inputs.len());
            answers.into_iter().map(Ok).collect()
        }
        Err(error) if inputs.len() <= 1 => vec![Err(error)],
        Err(_) => {
            let (left, right) = inputs.split_at(inputs.len() / 2);
            [ask(kind, left), ask(kind, right)].concat()
        }
    }
}
