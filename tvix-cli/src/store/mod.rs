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
use crate::settings::{Assignment, Configure, SettingError, WithSettings};

pub use paths::{MOST_LINKS, derivation_of_link};

/// Inspect, copy, verify and clean up stores.
#[derive(Debug, Parser)]
#[command(arg_required_else_help = true)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
#[command(defer = true)]
enum StoreCommand {
    /// Add files and directories to the store and print their store paths.
    Add(WithSettings<add::Args>),
    /// Print the contents of a file in the store.
    Cat(WithSettings<cat::Args>),
    /// Write the NAR of a store path to standard output.
    Dump(WithSettings<dump::Args>),
    /// Delete store paths that are not reachable from a garbage collector root.
    Gc(WithSettings<gc::Args>),
    /// List the contents of a store path.
    Ls(WithSettings<ls::Args>),
    /// Replace identical files in the store by hard links to one copy.
    Optimise(WithSettings<optimise::Args>),
    /// Show information about store paths.
    PathInfo(WithSettings<path_info::Args>),
    /// Replace the contents of store paths with a copy from another store.
    Repair(WithSettings<repair::Args>),
    /// List garbage collector roots, or add one.
    Roots(WithSettings<roots::Args>),
    /// Check that the contents of store paths match their registered hashes.
    Verify(WithSettings<verify::Args>),
    /// Copy store paths and their closures from one store to another.
    Copy(WithSettings<copy::Args>),
    /// Serve a store as a binary cache over HTTP.
    Serve(WithSettings<serve::Args>),
    /// Sign store paths, in addition to the signatures they have.
    Sign(WithSettings<sign::Args>),
}

/// A store on this file system, or a daemon.
#[derive(Debug, Parser)]
pub struct StoreOption {
    /// Store to use: a path for the store below that directory, `local` for the system's, or a Nix daemon
    /// (`daemon`, `unix://…`, `ssh-ng://…`) [default: NIX_REMOTE, or `auto`: the system's store if you can
    /// write to it, otherwise its daemon if it runs, otherwise ~/.local/share/nix/root].
    #[arg(long, value_name = "URI")]
    pub store: Option<StoreUri>,
}

/// A store of any kind, to be read.
#[derive(Debug, Parser)]
pub struct AnyStoreOption {
    /// Store to read: a path for the store below that directory, `local` for the system's, a binary
    /// cache (`file://…`, `http://…`, `https://…`, `s3://…`), or a Nix daemon (`daemon`, `unix://…`,
    /// `ssh-ng://…`) [default: NIX_REMOTE, or `auto`: the system's store if you can write to it, otherwise
    /// its daemon if it runs, otherwise ~/.local/share/nix/root].
    #[arg(long, visible_alias = "from", value_name = "URI")]
    pub store: Option<StoreUri>,

    #[command(flatten)]
    pub netrc: NetworkArgs,
}

impl Configure for AnyStoreOption {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        assignment.store(&mut self.store)?;
        self.netrc.configure(assignment)
    }
}

impl Configure for StoreArgs {
    fn configure(&mut self, assignment: &Assignment) -> Result<(), SettingError> {
        use StoreCommand as Of;
        let (store, network) = match &mut self.command {
            Of::Cat(WithSettings(cat::Args { store, .. }))
            | Of::Dump(WithSettings(dump::Args { store, .. }))
            | Of::Ls(WithSettings(ls::Args { store, .. }))
            | Of::PathInfo(WithSettings(path_info::Args { store, .. }))
            | Of::Serve(WithSettings(serve::Args { store, .. })) => {
                return store.configure(assignment);
            }
            Of::Add(WithSettings(add::Args { store, .. }))
            | Of::Gc(WithSettings(gc::Args { store, .. }))
            | Of::Optimise(WithSettings(optimise::Args { store, .. }))
            | Of::Roots(WithSettings(roots::Args { store, .. })) => (Some(&mut store.store), None),
            Of::Repair(WithSettings(repair::Args { store, netrc, .. }))
            | Of::Verify(WithSettings(verify::Args { store, netrc, .. })) => {
                (Some(&mut store.store), Some(netrc))
            }
            Of::Sign(WithSettings(args)) => (None, Some(&mut args.netrc)),
            Of::Copy(WithSettings(args)) => {
                if assignment.setting.name == "trusted-public-keys" {
                    assignment.list(&mut args.trusted_public_keys)?;
                }
                (Some(&mut args.store), Some(&mut args.netrc))
            }
        };
        if let Some(store) = store {
            assignment.store(store)?;
        }
        network.map_or(Ok(()), |network| network.configure(assignment))
    }
}

pub async fn run(args: StoreArgs) -> Result<ExitCode, CliError> {
    match args.command {
        StoreCommand::Add(args) => add::run(args.0).await,
        StoreCommand::Cat(args) => cat::run(args.0).await,
        StoreCommand::Dump(args) => dump::run(args.0).await,
        StoreCommand::Gc(args) => gc::run(args.0).await,
        StoreCommand::Ls(args) => ls::run(args.0).await,
        StoreCommand::Optimise(args) => optimise::run(args.0).await,
        StoreCommand::PathInfo(args) => path_info::run(args.0).await,
        StoreCommand::Repair(args) => repair::run(args.0).await,
        StoreCommand::Roots(args) => roots::run(args.0).await,
        StoreCommand::Verify(args) => verify::run(args.0).await,
        StoreCommand::Copy(args) => copy::run(args.0).await,
        StoreCommand::Serve(args) => serve::run(args.0).await,
        StoreCommand::Sign(args) => sign::run(args.0).await,
    }
}

/// The exit code of a command that looks for damage.
fn code(fine: bool) -> ExitCode {
    match fine {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    }
}
