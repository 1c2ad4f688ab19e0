//! `tvix store`: one file for each of its commands.

mod copy;
mod serve;
mod sign;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::CliError;

/// Look at stores, add to them, and look after them.
#[derive(Debug, Parser)]
#[command(arg_required_else_help = true)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    Copy(copy::Args),
    Serve(serve::Args),
    Sign(sign::Args),
}

pub async fn run(args: StoreArgs) -> Result<ExitCode, CliError> {
    match args.command {
        StoreCommand::Copy(args) => copy::run(args).await,
        StoreCommand::Serve(args) => serve::run(args).await,
        StoreCommand::Sign(args) => sign::run(args).await,
    }
}
