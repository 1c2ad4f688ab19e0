//! The command line, run as a user would.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

mod asked;
mod caches;
mod failures;
mod hostile;
mod http;
mod interrupt;
mod jobs;
mod language;
mod limits;
mod links;
mod options;
mod paths;
mod processes;
mod repl;
mod settings;
mod store;
mod terminal;
mod typed;

use std::path::Path;
use std::process::Command;

use tvix_tests::local::LocalWorld;
use tvix_tests::program;

/// `tvix build` on the world's store.
fn build(world: &LocalWorld) -> Command {
    program::build(Path::new(env!("CARGO_BIN_EXE_tvix")), world)
}

/// `tvix`, with settings for tests.
fn plain() -> Command {
    program::command(Path::new(env!("CARGO_BIN_EXE_tvix")))
}

/// The same, without any option.
fn bare_build(world: &LocalWorld) -> Command {
    program::bare_build(Path::new(env!("CARGO_BIN_EXE_tvix")), world)
}
