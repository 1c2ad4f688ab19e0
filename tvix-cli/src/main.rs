//! `tvix`: evaluates Nix expressions and builds derivations. A thin front end on the coordinator.

mod args;
mod build;
mod caches;
mod check;
mod display;
mod dry_run;
mod error;
mod eval;
mod events;
mod exit;
mod imports;
mod instantiate;
mod logs;
mod out_link;
mod output;
mod repl;
mod resolved;
mod session;
mod settings;
mod several;
mod source;
mod store;
mod stores;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Args, Command};
use error::CliError;
use settings::{Configure as _, Effect};

fn main() -> ExitCode {
    let command = match command() {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    let outcome = command.and_then(run);
    match outcome {
        Ok(code) => code,
        // The reader of our output has read enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(exit::ERROR)
        }
        Err(error) => {
            anstream::eprintln!("{}", error::after("error", &error::describe(&error)));
            ExitCode::from(exit::ERROR)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(CliError::Runtime)?.block_on(async {
        match command {
            Command::Build(args) => build::run(args).await,
            Command::Instantiate(args) => instantiate::run(args).await,
            Command::Eval(args) => eval::run(args).await,
            Command::Store(args) => store::run(args).await,
            Command::Repl(args) => repl::run(args).await,
        }
    })
}

/// The command line, with the settings on it.
fn command() -> Result<Result<Command, CliError>, clap::Error> {
    let parser = settings::with_arguments(Args::command());
    let matches = parser.try_get_matches_from(spelled_out(std::env::args_os()))?;
    let mut command = Args::from_arg_matches(&matches)?.command;
    let mut matches = &matches;
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    let assignments = settings::assignments(matches);
    for name in &assignments.unknown {
        anstream::eprintln!("warning: unknown setting '{name}'");
    }
    for assignment in &assignments.known {
        if assignment.setting.effect == Effect::None {
            let name = assignment.setting.name;
            anstream::eprintln!("warning: setting '{name}' has no effect");
        }
        if let Err(error) = command.configure(assignment) {
            return Ok(Err(error.into()));
        }
    }
    Ok(Ok(command))
}

/// `--expr=EXPR` and `-EEXPR` as an option and an argument.
fn spelled_out(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all = Vec::new();
    let mut options = true;
    for arg in args {
        options &= arg != "--";
        let text = arg.to_str().filter(|_| options).unwrap_or_default();
        let expr = match text.strip_prefix("-E") {
            Some(expr) if !expr.is_empty() => Some(("-E", expr)),
            _ => text.strip_prefix("--expr=").map(|expr| ("--expr", expr)),
        };
        match expr {
            Some((option, expr)) => all.extend([option.into(), expr.into()]),
            None => all.push(arg),
        }
    }
    all
}

/// Tells what is wrong with the arguments, or what was asked about them. The exit code is that of any
/// error.
fn refuse(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.use_stderr() {
        true => ExitCode::from(exit::ERROR),
        false => ExitCode::SUCCESS,
    }
}
