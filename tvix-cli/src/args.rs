//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use tvix_store_api::StoreUri;

/// Builds Nix derivations.
#[derive(Debug, Parser)]
#[command(name = "tvix", version, about, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(BuildArgs),
}

/// Build derivations and print the store paths of their outputs.
///
/// Store paths go to standard output, one a line, and all else to standard error. The exit code is
/// 0 if everything was built, 1 if a build failed, and 2 for any other error.
#[derive(Debug, Parser)]
pub struct BuildArgs {
    /// Derivations to build: store paths of `.drv` files, or local files of the same names.
    /// `DRV!out,dev` builds these outputs only.
    #[arg(value_name = "DRV", required = true)]
    pub derivations: Vec<String>,

    /// Where to look things up and where outputs go: an absolute path for the store below it,
    /// `local` for the system's.
    #[arg(long, value_name = "URI")]
    pub store: Option<StoreUri>,

    /// The most builds at once [default: one for each processor].
    #[arg(long, short = 'j', value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_jobs: Option<u16>,

    /// Processors for each build, as NIX_BUILD_CORES; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub cores: usize,

    /// Go on with whatever does not need what failed.
    #[arg(long, short = 'k')]
    pub keep_going: bool,

    /// Build without a sandbox: builds see and can change whatever you can.
    #[arg(long)]
    pub no_sandbox: bool,

    /// Let builds see a path of this machine, at another path inside with `INSIDE=PATH`; a `?` at
    /// the end allows it to be missing.
    #[arg(long = "sandbox-path", value_name = "PATH")]
    pub sandbox_paths: Vec<String>,

    /// The link to the first output; further ones get a number or the name of the output.
    #[arg(long, short = 'o', value_name = "PATH", default_value = "result")]
    pub out_link: PathBuf,

    /// Make no links to outputs.
    #[arg(long, conflicts_with = "out_link")]
    pub no_out_link: bool,

    /// Show the logs of builds as they are written. Without a terminal they are shown anyway.
    #[arg(long, short = 'L')]
    pub print_build_logs: bool,

    /// Write everything that happens to this file, as lines of JSON.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Seconds after which a build is given up.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// Seconds without a line of log after which a build is given up.
    #[arg(long, value_name = "SECONDS")]
    pub max_silent_time: Option<u64>,
}
