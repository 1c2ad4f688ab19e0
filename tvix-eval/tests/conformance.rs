//! Runs the evaluators' conformance suite on the language: graphs are written as Nix expressions.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;
use tvix_eval::native::Native;
use tvix_eval::source::Pos;
use tvix_eval::world::Settings;
use tvix_eval::{Limits, NixEvaluator};
use tvix_eval_api::conformance::{Capabilities, Counter, Subject, TestGraph, TestValue, run_all};
use tvix_eval_api::{EvalRequest, EvalSource, Evaluator, SourceContent};

/// Generates expressions for graphs.
#[derive(Default)]
struct Text {
    text: String,
    /// The names of derivations and sources.
    names: HashMap<StorePath, String>,
    counters: Vec<Counter>,
}

impl Text {
    /// An empty string with store paths as its context.
    fn mentions<'a>(&self, names: impl Iterator<Item = (&'a StorePath, String)>) -> String {
        let mut text = String::new();
        for (path, part) in names {
            let name = &self.names[path];
            let _ = write!(text, " + builtins.substring 0 0 \"${{{name}{part}}}\"");
        }
        text
    }

    fn derivation(&mut self, made: &Instantiated) {
        let number = self.names.len();
        let derivation = &made.derivation;
        let drvs = derivation.input_drvs.iter().flat_map(|(path, outputs)| {
            let outputs = outputs.iter();
            outputs.map(move |output| (path, format!(".{output}")))
        });
        let sources = derivation
            .input_srcs
            .iter()
            .map(|path| (path, String::new()));
        let mentions = self.mentions(drvs.chain(sources));
        let mut text = format!(
            "  d{number} = derivation {{ name = \"{}\"; system = \"{}\"; builder = \"{}\"{mentions};",
            derivation.name, derivation.system, derivation.builder
        );
        if let Some((_, outputs)) = derivation.env.iter().find(|(name, _)| *name == "outputs") {
            let outputs = outputs.to_string();
            let outputs = outputs.split(' ').map(|output| format!(" \"{output}\""));
            let _ = write!(text, " outputs = [{} ];", outputs.collect::<String>());
        }
        let _ = writeln!(self.text, "{text} }};");
        self.names.insert(made.path.clone(), format!("d{number}"));
    }

    fn count(&mut self, counter: Counter, then: &str) -> String {
        self.counters.push(counter);
        let number = self.counters.len() - 1;
        format!("(builtins.seq (builtins.count {number}) {then})")
    }

    fn value(&mut self, value: TestValue) -> String {
        match value {
            TestValue::Root(made, outputs) => {
                let name = self.name(&made);
                match outputs {
                    None if made.derivation.outputs.iter().count() == 1 => name,
                    None => format!("{name}.all"),
                    Some(outputs) => {
                        let outputs = outputs.iter().map(|output| format!(" {name}.{output}"));
                        format!("[{} ]", outputs.collect::<String>())
                    }
                }
            }
            TestValue::Lazy(made, counter) => {
                let name = self.name(&made);
                self.count(counter, &name)
            }
            TestValue::Import(import) => {
                // The result of an import may have the imported derivations as inputs.
                for (made, _) in &import.wanted {
                    self.name(made);
                }
                let then = self.value(import.then);
                let mut value = self.count(import.resumed, &then);
                for (made, outputs) in import.wanted {
                    let name = self.name(&made);
                    for output in outputs {
                        value = format!(
                            "(builtins.seq (builtins.pathExists \"${{{name}.{output}}}\") {value})"
                        );
                    }
                }
                value
            }
            other => panic!("{other:?}"),
        }
    }

    fn name(&mut self, made: &Instantiated) -> String {
        if !self.names.contains_key(&made.path) {
            self.derivation(made);
        }
        self.names[&made.path].clone()
    }
}

fn subject(graph: TestGraph) -> (NixEvaluator, String) {
    let mut text = Text::default();
    for source in graph.sources.iter().rev() {
        let SourceContent::Text(contents) = &source.content else {
            panic!("{source:?}");
        };
        let mentions = text.mentions(source.references.iter().map(|path| (path, String::new())));
        let number = text.names.len();
        let contents = std::str::from_utf8(contents).unwrap();
        let name = source.path.name();
        let _ = writeln!(
            text.text,
            "  s{number} = builtins.toFile \"{name}\" (\"{contents}\"{mentions});"
        );
        text.names.insert(source.path.clone(), format!("s{number}"));
    }
    for made in &graph.derivations {
        text.derivation(made);
    }
    let mut attributes = String::new();
    for attribute in graph.attributes {
        let value = text.value(attribute.value);
        let _ = writeln!(attributes, "  {} = {value};", attribute.name);
    }
    let expression = format!("let\n{}in {{\n{attributes}}}", text.text);
    let counters = text.counters;
    let count = Native::new("count", 1, move |interp, args, pos: Pos| {
        let number = interp.expect_int(args[0], pos, "while counting")?;
        counters[number as usize].count();
        Ok(tvix_eval::value::Value::Null)
    });
    let mut settings = Settings::default();
    let mut limits = Limits::default();
    // A chain of 2,000 derivations nests more calls than it has links.
    limits.depth = 50_000;
    settings.limits = limits;
    (NixEvaluator::new(settings).with_builtin(count), expression)
}

fn request(expression: String) -> impl Fn(&[&str]) -> EvalRequest + Send + Sync {
    move |names| {
        EvalRequest::new(EvalSource::Expression {
            text: expression.clone(),
            base: "/".into(),
        })
        .with_attr_paths(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

#[tokio::test]
async fn the_language() {
    let factory = |graph| {
        let (evaluator, expression) = subject(graph);
        Subject::new(evaluator).with_request(request(expression))
    };
    let report = run_all(factory, Capabilities::ALL).await;
    report.assert_all();
    assert!(
        report.skipped.is_empty() && report.outcomes.len() >= 16,
        "{report}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_pointers() {
    let boxed = |graph| {
        let (evaluator, expression) = subject(graph);
        let evaluator: Box<dyn Evaluator> = Box::new(evaluator);
        Subject::new(evaluator).with_request(request(expression))
    };
    run_all(boxed, Capabilities::ALL).await.assert_all();
    let shared = |graph| {
        let (evaluator, expression) = subject(graph);
        let evaluator: Arc<dyn Evaluator> = Arc::new(evaluator);
        Subject::new(evaluator).with_request(request(expression))
    };
    run_all(shared, Capabilities::ALL).await.assert_all();
}
