//! `tvix`: evaluates Nix expressions and builds derivations. A thin front end on the coordinator.

// Only the allocator's option is set by a function of C.
#![deny(unsafe_code)]

mod allocator;
mod args;
mod build;
mod builders;
mod caches;
mod command;
mod config;
mod daemon;
mod default_store;
mod display;
mod dry_run;
mod error;
mod eval;
mod events;
mod exit;
mod home;
mod imports;
mod instantiate;
mod interrupt;
mod jobs;
mod lazy_substituter;
mod limits;
mod logs;
mod out_link;
mod output;
mod repl;
mod session;
mod settings;
mod several;
mod source;
mod store;
mod stores;
mod untrusted;
mod valid_paths;
mod workers;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use command::{Args, Command};
use error::CliError;
use output::say;
use settings::{Assignments, Configure as _, Effect};

fn main() -> ExitCode {
    allocator::configure();
    // In a process that is started as a built-in builder, this does not return.
    tvix_build_api::sandbox::init();
    limits::with_room(work).unwrap_or_else(|error| {
        say!("error: {error}");
        ExitCode::from(exit::ERROR)
    })
}

fn work() -> ExitCode {
    let command = match command() {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    match command.and_then(run) {
        Ok(code) => code,
        // The reader of our output has read enough.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(exit::ERROR)
        }
        Err(error) => {
            say!("{}", error::after("error", &error::describe(&error)));
            ExitCode::from(exit::ERROR)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    interrupt::save_terminal();
    tvix_store_api::local_fs::observe_lock_waits(|file| {
        say!("waiting for the lock '{}'...", file.display());
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let outcome = runtime.block_on(interrupt::watch(perform(command)));
    if interrupt::has_come() {
        interrupt::restore_terminal();
        interrupt::exit_on_next_signal();
        runtime.shutdown_timeout(interrupt::GRACE);
    }
    outcome
}

async fn perform(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Build(args) => build::run(args.0).await,
        Command::Instantiate(args) => instantiate::run(args.0).await,
        Command::Eval(args) => eval::run(args.0).await,
        Command::Jobs(args) => jobs::run(args.0).await,
        Command::Store(args) => store::run(args).await,
        Command::Repl(args) => repl::run(args.0).await,
        Command::Daemon(args) => daemon::run(args.0).await,
        Command::Config(args) => config::run(args.0),
    }
}

/// The command line, with the settings on it.
fn command() -> Result<Result<Command, CliError>, clap::Error> {
    let parser = Args::command();
    let matches = parser.try_get_matches_from(spelled_out(std::env::args_os()))?;
    let command = Args::from_arg_matches(&matches)?.command;
    let mut matches = &matches;
    while let Some((_, below)) = matches.subcommand() {
        matches = below;
    }
    let from_files = match settings::files::read(home::directory()) {
        Ok(found) => settings::without_overridden(found, matches),
        Err(error) => return Ok(Err(error.into())),
    };
    let given = settings::assignments(matches);
    Ok(configure(command, from_files, given))
}

/// Applies the settings of the files and the command line. Files may well have settings of Nix that mean nothing here.
fn configure(
    mut command: Command,
    from_files: Assignments,
    given: Assignments,
) -> Result<Command, CliError> {
    for (name, origin) in &from_files.unknown {
        let instead = settings::did_you_mean(name);
        say!("warning: unknown setting '{name}' in {origin}{instead}");
    }
    for (name, _) in &given.unknown {
        say!(
            "warning: unknown setting '{name}'{}",
            settings::did_you_mean(name)
        );
    }
    for assignment in &given.known {
        if assignment.setting.effect == Effect::None {
            let name = assignment.setting.name;
            say!("warning: setting '{name}' has no effect");
        }
    }
    let all = from_files.known.into_iter().chain(given.known);
    if let Command::Config(args) = &mut command {
        args.0.assignments = all.collect();
        return Ok(command);
    }
    for assignment in all {
        command.configure(&assignment)?;
    }
    Ok(command)
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

/// Prints a usage error, help or the version. The exit code of a usage error is that of any other.
fn refuse(error: &clap::Error) -> ExitCode {
    // Help and the version are the program's own text.
    if !error.use_stderr() {
        error.exit();
    }
    say!("{}", error.render().ansi().to_string().trim_end());
    ExitCode::from(exit::ERROR)
}
