//! `tvix repl`.
//!
//! Lines are read and evaluated on the evaluation's thread ([`prompt`]). What a line has to have built, or
//! done with a store, is asked for by a channel and done by [`service`], a session of the coordinator for
//! each line: Ctrl-C ends that, and returns to the prompt.

mod command;
mod complete;
mod doc;
mod input;
mod print;
mod prompt;
mod service;
mod state;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tvix_eval::Evaluation;

use crate::args::ReplArgs;
use crate::error::CliError;
use crate::output::say;
use crate::{exit, source};

use service::{Service, requests};

/// Reads, evaluates and prints until there is no more to read.
pub async fn run(args: ReplArgs) -> Result<ExitCode, CliError> {
    let reads_input = args
        .inputs
        .iter()
        .chain(&args.source.files)
        .any(|it| it == "-");
    if reads_input || args.source.arg_from_stdin.is_some() {
        return Err(CliError::Instead {
            action: "load standard input, from which lines are read",
            instead: "':l FILE'",
        });
    }
    let sources = match args.inputs.is_empty() && args.source.files.is_empty() {
        true => Vec::new(),
        false => source::sources(&args.source, &args.inputs)?,
    };
    let loaded = source::requests(&args.source, sources)?;
    let arguments = source::arguments(&args.source)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let evaluator = source::evaluator(&args.source.search, &args.building, true);
    let evaluator = evaluator.with_cancellation(interrupted.clone());
    let (asking, asked) = requests();
    let flag = interrupted.clone();
    let store = args.building.store.clone();
    let started = evaluator.spawn(move |interp| {
        Ok(prompt::run(
            interp, &arguments, asking, store, flag, &loaded,
        ))
    });
    let Evaluation { events, result } = match started {
        Ok(evaluation) => evaluation,
        Err(failure) => {
            say!("{}", failure.rendered);
            return Ok(ExitCode::from(exit::ERROR));
        }
    };
    let service = Service::new(&args.building, interrupted);
    service.run(events, asked).await;
    match result.await {
        Ok(Ok(Ok(()))) => Ok(ExitCode::SUCCESS),
        Ok(Ok(Err(error))) => Err(CliError::Terminal(error)),
        Ok(Err(failure)) => {
            say!("{}", failure.rendered);
            Ok(ExitCode::from(exit::ERROR))
        }
        Err(_) => {
            say!("error: the evaluation ended early");
            Ok(ExitCode::from(exit::ERROR))
        }
    }
}
