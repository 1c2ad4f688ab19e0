//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use nix_compat::signature::VerifyingKey;
use tvix_build_api::sandbox::SandboxPath;
use tvix_store_api::StoreUri;

use crate::caches::TransferOptions;
use crate::store::StoreArgs;

/// Evaluates Nix expressions and builds derivations.
#[derive(Debug, Parser)]
#[command(name = "tvix", version, about, arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Build(BuildArgs),
    Instantiate(InstantiateArgs),
    Eval(EvalArgs),
    Repl(ReplArgs),
    Store(StoreArgs),
}

/// Build derivations and print the store paths of their outputs.
///
/// Takes an expression (`default.nix` of the current folder if nothing else is given) or
/// derivations. Building begins while the expression is evaluated. Store paths go to standard
/// output, one a line, and all else to standard error. The exit code is 0 if everything was built,
/// 1 if a build failed, and 2 for any other error.
#[derive(Debug, Parser)]
pub struct BuildArgs {
    /// Derivations to build: store paths of `.drv` files, or local files of the same names.
    /// `DRV!out,dev` builds these outputs only. Or else one file to evaluate, as with `--file`.
    #[arg(value_name = "DRV|FILE", conflicts_with_all = ["file", "expr"])]
    pub derivations: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Go on with whatever does not need what failed.
    #[arg(long, short = 'k')]
    pub keep_going: bool,

    /// Build what was asked for once more after it is there, and compare. With --keep-failed what differs is
    /// kept. The exit code is 104 if something does.
    #[arg(long)]
    pub check: bool,

    /// The link to the first output; further ones get a number or the name of the output.
    #[arg(long, short = 'o', value_name = "PATH", default_value = "result")]
    pub out_link: PathBuf,

    /// Make no links to outputs.
    #[arg(long, conflicts_with = "out_link")]
    pub no_out_link: bool,
}

/// Add the derivations of an expression to the store and print their paths.
///
/// Nothing is built but what the expression imports.
#[derive(Debug, Parser)]
pub struct InstantiateArgs {
    /// The same as `--file`.
    #[arg(value_name = "FILE", conflicts_with_all = ["file", "expr"])]
    pub path: Option<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,
}

/// Evaluate an expression and print its value.
///
/// Nothing is built but what the expression imports. The exit code is 1 if it cannot be evaluated.
#[derive(Debug, Parser)]
pub struct EvalArgs {
    /// The same as `--file`.
    #[arg(value_name = "FILE", conflicts_with_all = ["file", "expr"])]
    pub path: Option<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Evaluate all parts of the value too.
    #[arg(long)]
    pub strict: bool,

    /// Print JSON; implies `--strict`.
    #[arg(long, conflicts_with_all = ["xml", "raw"])]
    pub json: bool,

    /// Print XML.
    #[arg(long, conflicts_with = "raw")]
    pub xml: bool,

    /// Leave out of XML where things come from.
    #[arg(long)]
    pub no_location: bool,

    /// Print the value, which must be a string or become one, as it is and without a newline.
    #[arg(long)]
    pub raw: bool,

    /// Add derivations and sources to the store.
    #[arg(long)]
    pub read_write_mode: bool,
}

/// Evaluate expressions as you type them.
#[derive(Debug, Parser)]
pub struct ReplArgs {
    #[command(flatten)]
    pub search: SearchArgs,

    #[command(flatten)]
    pub building: BuildingArgs,
}

/// What to evaluate.
#[derive(Debug, Parser)]
pub struct SourceArgs {
    /// The file, the folder with a `default.nix`, the entry of the search path (`<name>`), or the
    /// URL of an archive, to evaluate [default: ./default.nix].
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,

    /// The expression to evaluate.
    #[arg(long, short = 'E', value_name = "EXPR", conflicts_with = "file")]
    pub expr: Option<String>,

    /// The attribute of it; may be given several times.
    #[arg(long = "attr", short = 'A', value_name = "ATTR")]
    pub attrs: Vec<String>,

    /// An argument for the functions that it evaluates to, as an expression.
    #[arg(long = "arg", num_args = 2, value_names = ["NAME", "EXPR"], action = ArgAction::Append)]
    pub args: Vec<String>,

    /// The same, as a string.
    #[arg(long = "argstr", num_args = 2, value_names = ["NAME", "STRING"], action = ArgAction::Append)]
    pub argstrs: Vec<String>,

    #[command(flatten)]
    pub search: SearchArgs,
}

/// Where `<name>` is looked up, and what evaluation may use.
#[derive(Debug, Parser)]
pub struct SearchArgs {
    /// An entry of the search path: `NAME=PATH`, or a folder of them. Those of NIX_PATH and channels come after
    /// it. Instead of a path, the URL of an archive, or `channel:NAME`.
    #[arg(short = 'I', long = "include", value_name = "NAME=PATH")]
    pub include: Vec<String>,

    /// Hide the environment, the time, the search path and all files outside of the store; fetch
    /// only what is named by its hash or commit.
    #[arg(long)]
    pub pure_eval: bool,

    /// The opposite of `--pure-eval`, which is the default.
    #[arg(long, overrides_with = "pure_eval")]
    pub impure: bool,

    /// Hide the environment and all files but those in the search path and the store; fetch only
    /// what `--allowed-uris` allows.
    #[arg(long)]
    pub restrict_eval: bool,

    /// URIs that may be fetched with `--restrict-eval`, separated by spaces; whatever is below
    /// them may be too.
    #[arg(long, value_name = "URIS")]
    pub allowed_uris: Vec<String>,

    /// So many seconds what a URL led to is taken for what it leads to.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub tarball_ttl: u64,

    /// Take warnings of expressions (`builtins.warn`) for errors.
    #[arg(long)]
    pub abort_on_warn: bool,

    /// Show all of what was being evaluated when something fails, with every call of a function.
    #[arg(long)]
    pub show_trace: bool,

    /// The most memory that the values of an evaluation may take, in MiB; 0 for any.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub max_eval_memory: usize,
}

/// Where to get what need not be built.
#[derive(Debug, Parser)]
pub struct SubstituteArgs {
    /// A store to fetch outputs from in place of building them: a binary cache (`https://…`,
    /// `file://…`, `s3://…`), or an absolute path; may be given several times. Those are asked
    /// first that say of themselves that they should be.
    #[arg(long = "substituter", value_name = "URI")]
    pub substituters: Vec<StoreUri>,

    /// A key that paths may be signed by; may be given several times. What no such key has signed
    /// is not taken from a cache, unless it is content-addressed.
    #[arg(long = "trusted-public-key", value_name = "KEY")]
    pub trusted_public_keys: Vec<VerifyingKey>,

    /// Build everything that is not there.
    #[arg(long)]
    pub no_substitute: bool,
}

/// Where and how to build.
#[derive(Debug, Parser)]
pub struct BuildingArgs {
    #[command(flatten)]
    pub substitute: SubstituteArgs,

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

    /// Build without a sandbox: builds see and can change whatever you can.
    #[arg(long)]
    pub no_sandbox: bool,

    /// Build derivations that ask for it (`__noChroot`) without a sandbox.
    #[arg(long, conflicts_with = "no_sandbox")]
    pub relaxed_sandbox: bool,

    /// Let builds see a path of this machine, at another path inside with `INSIDE=PATH`; a `?` at
    /// the end allows it to be missing.
    #[arg(long = "sandbox-path", value_name = "PATH")]
    pub sandbox_paths: Vec<SandboxPath>,

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

    /// Bytes of log after which a build is given up.
    #[arg(long, value_name = "BYTES")]
    pub max_log_size: Option<u64>,

    /// Processes and threads that a build may have at once.
    #[arg(long, value_name = "N")]
    pub max_processes: Option<u64>,

    /// Bytes of memory that a build may have, all its processes together where this machine has control
    /// groups for it, else each of them.
    #[arg(long, value_name = "BYTES")]
    pub max_memory: Option<u64>,

    /// Say of builds how much memory all their processes took together, and not the largest of them, where
    /// this machine has control groups for it. A limit of memory does the same.
    #[arg(long)]
    pub count_memory: bool,

    /// Bytes that the files of a build may take.
    #[arg(long, value_name = "BYTES")]
    pub max_disk: Option<u64>,

    /// Keep the build directories of failed builds; their logs say where.
    #[arg(long, short = 'K')]
    pub keep_failed: bool,

    /// A feature that derivations may require, besides `benchmark`, `big-parallel`, `nixos-test`
    /// and, if this machine has it, `kvm`; may be given several times.
    #[arg(long = "system-feature", value_name = "FEATURE")]
    pub system_features: Vec<String>,

    /// A further system that this machine can build for, besides its own, `i686-linux` and the
    /// levels of its processor (`x86_64-v3-linux`); may be given several times.
    #[arg(long = "extra-platform", value_name = "SYSTEM")]
    pub extra_platforms: Vec<String>,

    /// Passwords for what `builtin:fetchurl` fetches and for substituters. The file may be missing.
    #[arg(long, value_name = "FILE", default_value = "/etc/nix/netrc")]
    pub netrc_file: PathBuf,

    #[command(flatten)]
    pub transfer: TransferOptions,
}
