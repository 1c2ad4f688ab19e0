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

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            match args.command {
                Command::Build(args) => build::run(args).await,
                Command::Instantiate(args) => instantiate::run(args).await,
                Command::Eval(args) => eval::run(args).await,
                Command::Store(args) => store::run(args).await,
                Command::Repl(args) => repl::run(args).await,
            }
        }),
        Err(error) => Err(error::CliError::Runtime(error)),
    };
    match outcome {
        Ok(code) => code,
        // Whoever has read enough hangs up.
        Err(error::CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::from(2)
        }
        Err(error) => {
            anstream::eprintln!("{}", error::after("error", &error::describe(&error)));
            ExitCode::from(2)
        }
    }
}
