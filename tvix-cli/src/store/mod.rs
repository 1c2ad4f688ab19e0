//! `tvix store`: one file per subcommand.

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

use crate::args::NetworkArgs;
use crate::error::CliError;
use crate::output::print;

pub use paths::{MOST_LINKS, derivation_of_link};

/// Inspect, copy, verify and clean up stores.
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

/// A store on this file system.
#[derive(Debug, Parser)]
pub struct StoreOption {
    /// Store to use: a path for the store below that directory, or `local` for the system's
    /// [default: `local` if you own /nix, otherwise ~/.local/share/nix/root].
    #[arg(long, value_name = "URI")]
    pub store: Option<StoreUri>,
}

/// A store of any kind, to be read.
#[derive(Debug, Parser)]
pub struct AnyStoreOption {
    /// Store to read: a path for the store below that directory, `local` for the system's, a binary
    /// cache (`file://…`, `http://…`, `https://…`, `s3://…`), or a Nix daemon (`daemon`, `unix://…`,
    /// `ssh-ng://…`) [default: `local` if you own /nix, otherwise ~/.local/share/nix/root].
    #[arg(long, visible_alias = "from", value_name = "URI")]
    pub store: Option<StoreUri>,

    #[command(flatten)]
    pub netrc: NetworkArgs,
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

/// The exit code of a command that looks for damage.
fn code(fine: bool) -> ExitCode {
    match fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}
