//! `tvix store`: one file for each of its commands.

mod add;
mod cat;
mod copy;
mod dump;
mod gc;
mod ls;
mod optimise;
mod path_info;
mod paths;
mod repair;
mod roots;
mod serve;
mod sign;
mod size;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tvix_store_api::StoreUri;

use crate::caches::NetrcOption;
use crate::error::CliError;
use crate::output::print;

pub use paths::{MOST_LINKS, derivation_of_link};

/// Look at stores, add to them, and look after them.
#[derive(Debug, Parser)]
#[command(arg_required_else_help = true)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    Add(add::Args),
    Cat(cat::Args),
    Dump(dump::Args),
    Gc(gc::Args),
    Ls(ls::Args),
    Optimise(optimise::Args),
    PathInfo(path_info::Args),
    Repair(repair::Args),
    Roots(roots::Args),
    Verify(verify::Args),
    Copy(copy::Args),
    Serve(serve::Args),
    Sign(sign::Args),
}

/// Which store, of those on this file system.
#[derive(Debug, Parser)]
pub struct StoreOption {
    /// The store: an absolute path for the one below it, `local` for the system's.
    #[arg(long, value_name = "URI")]
    pub store: Option<StoreUri>,
}

/// Which store, of any kind, to be read.
#[derive(Debug, Parser)]
pub struct AnyStoreOption {
    /// The store: an absolute path for the one below it, `local` for the system's, or a binary cache
    /// (`file://…`, `http://…`, `https://…`, `s3://…`).
    #[arg(long, visible_alias = "from", value_name = "URI")]
    pub store: Option<StoreUri>,

    #[command(flatten)]
    pub netrc: NetrcOption,
}

pub async fn run(args: StoreArgs) -> Result<ExitCode, CliError> {
    match args.command {
        StoreCommand::Add(args) => add::run(args).await,
        StoreCommand::Cat(args) => cat::run(args).await,
        StoreCommand::Dump(args) => dump::run(args).await,
        StoreCommand::Gc(args) => gc::run(args).await,
        StoreCommand::Ls(args) => ls::run(args).await,
        StoreCommand::Optimise(args) => optimise::run(args).await,
        StoreCommand::PathInfo(args) => path_info::run(args).await,
        StoreCommand::Repair(args) => repair::run(args).await,
        StoreCommand::Roots(args) => roots::run(args).await,
        StoreCommand::Verify(args) => verify::run(args).await,
        StoreCommand::Copy(args) => copy::run(args).await,
        StoreCommand::Serve(args) => serve::run(args).await,
        StoreCommand::Sign(args) => sign::run(args).await,
    }
}

/// The exit code of what has looked for trouble.
fn code(fine: bool) -> ExitCode {
    match fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}
