//! `tvix`: evaluates Nix expressions and builds derivations. A thin front end on the coordinator.

mod args;
mod build;
mod caches;
mod check;
mod display;
mod error;
mod eval;
mod events;
mod home;
mod imports;
mod instantiate;
mod interrupt;
mod limits;
mod logs;
mod out_link;
mod output;
mod repl;
mod resolved;
mod session;
mod source;
mod store;
mod stores;
mod valid_paths;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Args, Command};
use output::say;

fn main() -> ExitCode {
    limits::with_room(work).unwrap_or_else(|error| {
        say!("error: {error}");
        ExitCode::from(2)
    })
}

fn work() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        // Help and the version, which are the program's own text.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            say!("{}", error.render().ansi().to_string().trim_end());
            return ExitCode::from(2);
        }
    };
    interrupt::save_terminal();
    tvix_store_api::local_fs::observe_lock_waits(|file| {
        say!("waiting for the lock '{}'...", file.display());
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(interrupt::watch(run(args.command)));
            if interrupt::has_come() {
                interrupt::restore_terminal();
                runtime.shutdown_timeout(interrupt::GRACE);
            }
            outcome
        }
        Err(error) => Err(error::CliError::Runtime(error)),
    };
    match outcome {
        Ok(code) => code,
        // Whoever has read enough hangs up.
        Err(error::CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(2)
        }
        Err(error) => {
            say!("{}", error::after("error", &error::describe(&error)));
            match error {
                // As in Nix, whichever signal it was.
                error::CliError::Interrupted => ExitCode::from(1),
                _ => ExitCode::from(2),
            }
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, error::CliError> {
    match command {
        Command::Build(args) => build::run(args).await,
        Command::Instantiate(args) => instantiate::run(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Store(args) => store::run(args).await,
        Command::Repl(args) => repl::run(args).await,
    }
}
