//! Runs a case on an evaluation of its own, with or without collections.

use std::time::Duration;

use futures::StreamExt as _;
use tvix_eval::world::Settings;
use tvix_eval::{Limits, NixEvaluator, PrintFormat};
use tvix_eval_api::{EvalEvent, EvalRequest, EvalSource};

use crate::cases::files;
use crate::cases::{Case, Mode};

/// What a case results in.
#[derive(Debug, PartialEq, Eq)]
pub struct Result {
    text: String,
    failure: Option<String>,
    messages: Vec<String>,
    derivations: Vec<String>,
}

/// Evaluates a case, with a collection at every `collect_every`th call; `None` if it takes longer
/// than the limit.
pub async fn evaluate(case: &Case, collect_every: Option<u32>, limit: Duration) -> Option<Result> {
    let files = files();
    let mut settings = Settings::default();
    settings.system = "x86_64-linux".into();
    settings.home = Some("/root".into());
    settings.search_path = crate::cases::search_path(case.mode, &files)
        .into_iter()
        .map(|(prefix, path)| (prefix.to_owned(), path))
        .collect();
    settings.pure = case.mode == Mode::Pure;
    settings.allowed_paths = (case.mode == Mode::Restricted).then(Vec::new);
    settings.time = 0;
    settings.collect_every = collect_every;
    settings.limits = Limits::default().with_time(limit);
    let request = EvalRequest::new(EvalSource::Expression {
        text: case.text.clone(),
        base: files.into(),
    });
    let format = match case.mode {
        Mode::Lazy => PrintFormat::Nix { strict: false },
        Mode::Json => PrintFormat::Json,
        Mode::Xml => PrintFormat::Xml {
            strict: true,
            places: true,
        },
        _ => PrintFormat::Nix { strict: true },
    };
    let printing = NixEvaluator::new(settings)
        .print(vec![request], format)
        .unwrap();
    let (mut messages, mut derivations) = (Vec::new(), Vec::new());
    let mut events = printing.events;
    while let Some(event) = events.next().await {
        match event.unwrap() {
            EvalEvent::Diagnostic(diagnostic) => messages.push(diagnostic.message),
            EvalEvent::Derivation { path, .. } => derivations.push(path.to_string()),
            // An import from derivation fails when its request is dropped.
            _ => {}
        }
    }
    let printed = printing.result.await.unwrap().unwrap();
    let failure = printed.failure.map(|failure| failure.rendered);
    if failure
        .as_ref()
        .is_some_and(|text| text.contains("took longer"))
    {
        return None;
    }
    Some(Result {
        text: String::from_utf8_lossy(&printed.text).into_owned(),
        failure,
        messages,
        derivations,
    })
}
