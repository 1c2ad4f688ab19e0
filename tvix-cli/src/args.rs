//! The command line.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use nix_compat::signature::VerifyingKey;
use tvix_build_api::sandbox::SandboxPath;
use tvix_store_api::StoreUri;

use crate::caches::{Network, TransferOptions};
use crate::settings::value::parse_jobs;
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
/// Takes files with expressions (`default.nix` of the current directory if nothing else is given),
/// expressions, or derivations. Building begins while expressions are evaluated. Store paths go to
/// standard output, one a line, and all else to standard error.
///
/// The exit code is 0 if everything was built, 1 for errors, and 100 or more for failed builds, as in
/// Nix: 100 if a builder failed, 101 if a build timed out, 102 if a fixed output has another hash,
/// 104 if `--check` found a difference; of several, the bits are combined.
#[derive(Debug, Parser)]
pub struct BuildArgs {
    /// Files to evaluate (`-` is standard input), or, with `--expr`, expressions, or derivations: store
    /// paths of `.drv` files, or local files of the same names. `DRV!out,dev` builds these outputs
    /// only.
    #[arg(value_name = "FILE|EXPR|DRV")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Continue with derivations that do not need a failed one.
    #[arg(long, short = 'k')]
    pub keep_going: bool,

    /// Build the requested derivations once more after they are built, and compare. With --keep-failed,
    /// outputs that differ are kept.
    #[arg(long)]
    pub check: bool,

    /// Show what would be built and fetched, and do neither. Imports from derivations are built.
    #[arg(long)]
    pub dry_run: bool,

    /// Path of the link to the first output; further links get a number or the name of the output.
    #[arg(long, short = 'o', value_name = "PATH", default_value = "result")]
    pub out_link: PathBuf,

    /// Make no links to outputs.
    #[arg(long, alias = "no-link", conflicts_with = "out_link")]
    pub no_out_link: bool,

    /// Accepted for compatibility: links are always indirect roots.
    #[arg(long, hide = true, alias = "add-drv-link")]
    pub indirect: bool,

    /// Refused: `tvix store repair` does that.
    #[arg(long, hide = true)]
    pub repair: bool,
}

/// Add the derivations of an expression to the store and print their paths.
///
/// Nothing is built but what the expression imports. With `--eval` or `--parse`, expressions are
/// printed instead, as `tvix eval` does.
#[derive(Debug, Parser)]
pub struct InstantiateArgs {
    /// Files to evaluate (`-` is standard input), or, with `--expr`, expressions.
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    #[command(flatten)]
    pub print: PrintArgs,

    /// Print values instead, as `tvix eval` does.
    #[arg(long, alias = "eval-only")]
    pub eval: bool,

    /// Make a link to each derivation, which is a garbage collector root, and print the link; further
    /// links get a number.
    #[arg(long, value_name = "PATH")]
    pub add_root: Option<PathBuf>,

    /// Accepted for compatibility: links are always indirect roots.
    #[arg(long, hide = true)]
    pub indirect: bool,

    /// Print the paths of derivations without adding them to the store.
    #[arg(long)]
    pub dry_run: bool,
}

/// Evaluate expressions and print their values.
///
/// Nothing is built but what the expression imports. The exit code is 1 for errors; if an import
/// from a derivation fails, it is that of `tvix build`.
#[derive(Debug, Parser)]
pub struct EvalArgs {
    /// Files to evaluate (`-` is standard input), or, with `--expr`, expressions.
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    #[command(flatten)]
    pub print: PrintArgs,

    /// Accepted for compatibility with `nix-instantiate`: values are evaluated anyway.
    #[arg(long, hide = true, alias = "eval-only")]
    pub eval: bool,
}

/// How values are printed.
#[derive(Debug, Clone, Parser)]
pub struct PrintArgs {
    /// Evaluate all parts of the value.
    #[arg(long)]
    pub strict: bool,

    /// Print JSON; implies `--strict`.
    #[arg(long, overrides_with_all = ["xml", "raw"])]
    pub json: bool,

    /// Print XML.
    #[arg(long, overrides_with_all = ["json", "raw"])]
    pub xml: bool,

    /// Omit source locations from XML output.
    #[arg(long)]
    pub no_location: bool,

    /// Print the value, which must be a string or coercible to one, without quotes and without a
    /// final newline.
    #[arg(long, overrides_with_all = ["json", "xml"])]
    pub raw: bool,

    /// Add derivations and sources to the store.
    #[arg(long, overrides_with = "readonly_mode")]
    pub read_write_mode: bool,

    /// Accepted for compatibility: this is the default.
    #[arg(long, hide = true)]
    pub readonly_mode: bool,

    /// Print the syntax trees of the expressions instead of evaluating them.
    #[arg(long, alias = "parse-only")]
    pub parse: bool,

    /// Print the paths of the arguments in the search path instead of evaluating them.
    #[arg(long)]
    pub find_file: bool,
}

/// Evaluate expressions interactively.
///
/// Without a terminal, input is read from standard input, line by line, and echoed.
#[derive(Debug, Parser)]
pub struct ReplArgs {
    /// Files whose attributes are loaded as variables, or, with `--expr`, expressions.
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,
}

/// What to evaluate.
#[derive(Debug, Clone, Parser)]
pub struct SourceArgs {
    /// File, directory with a `default.nix`, entry of the search path (`<name>`), URL of an archive,
    /// or `-` for standard input, to evaluate; may be given several times [default: ./default.nix].
    #[arg(long = "file", short, value_name = "FILE")]
    pub files: Vec<String>,

    /// Take the arguments as expressions instead of files; may be given before each.
    #[arg(long, short = 'E', conflicts_with = "files")]
    pub expr: bool,

    /// Attribute to select; may be given several times.
    #[arg(long = "attr", short = 'A', value_name = "ATTR")]
    pub attrs: Vec<String>,

    /// Pass an expression as an argument to functions that the source evaluates to.
    #[arg(long = "arg", num_args = 2, value_names = ["NAME", "EXPR"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub args: Vec<String>,

    /// Pass a string as an argument.
    #[arg(long = "argstr", num_args = 2, value_names = ["NAME", "STRING"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub argstrs: Vec<String>,

    /// Pass the contents of a file, as a string, as an argument.
    #[arg(long = "arg-from-file", num_args = 2, value_names = ["NAME", "PATH"], action = ArgAction::Append)]
    pub args_from_files: Vec<String>,

    /// Pass standard input, as a string, as an argument.
    #[arg(long = "arg-from-stdin", value_name = "NAME")]
    pub arg_from_stdin: Option<String>,

    #[command(flatten)]
    pub search: SearchArgs,
}

/// Where `<name>` is looked up, and what evaluation may use.
#[derive(Debug, Clone, Parser)]
pub struct SearchArgs {
    /// Add an entry to the search path: `NAME=PATH`, or a directory of entries. Entries of NIX_PATH and
    /// channels come after it. Instead of a path, the URL of an archive, or `channel:NAME`.
    #[arg(short = 'I', long = "include", value_name = "NAME=PATH")]
    pub include: Vec<String>,

    /// Hide the environment, the time, the search path and all files outside of the store; fetch
    /// only what is named by its hash or commit.
    #[arg(long, overrides_with = "impure")]
    pub pure_eval: bool,

    /// The opposite of `--pure-eval`, which is the default.
    #[arg(long, overrides_with = "pure_eval")]
    pub impure: bool,

    /// Hide the environment and all files but those in the search path and the store; fetch only
    /// what `--allowed-uris` allows.
    #[arg(long)]
    pub restrict_eval: bool,

    /// URIs that may be fetched with `--restrict-eval`, separated by spaces, with all that is below
    /// them.
    #[arg(long, value_name = "URIS")]
    pub allowed_uris: Vec<String>,

    /// How long a cached download is considered fresh, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub tarball_ttl: u64,

    /// Treat warnings of expressions (`builtins.warn`) as errors.
    #[arg(long)]
    pub abort_on_warn: bool,

    /// Show everything that was being evaluated when an evaluation fails, with every function call.
    #[arg(long)]
    pub show_trace: bool,

    /// Heap limit of an evaluation, in MiB; 0 for none.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub max_eval_memory: usize,

    /// Settings without an option of their own.
    #[clap(skip)]
    pub more: EvalSettings,
}

/// Settings of an evaluation that have no option of their own.
#[derive(Debug, Clone)]
pub struct EvalSettings {
    /// `allow-import-from-derivation`.
    pub import_from_derivation: bool,
    /// `max-call-depth`.
    pub max_call_depth: Option<u32>,
    /// `system`, which is also built for.
    pub system: Option<String>,
    /// `eval-system`.
    pub eval_system: Option<String>,
    /// `nix-path`, in place of NIX_PATH.
    pub nix_path: Option<Vec<String>>,
    /// `trace-verbose`.
    pub trace_verbose: bool,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            import_from_derivation: true,
            max_call_depth: None,
            system: None,
            eval_system: None,
            nix_path: None,
            trace_verbose: false,
        }
    }
}

/// Where outputs are fetched from.
#[derive(Debug, Parser)]
pub struct SubstituteArgs {
    /// Store to fetch outputs from instead of building them: a binary cache (`https://…`, `file://…`,
    /// `s3://…`), or an absolute path; may be given several times. Caches are queried in the order of
    /// the priority that they advertise.
    #[arg(long = "substituter", value_name = "URI")]
    pub substituters: Vec<StoreUri>,

    /// Key that paths may be signed by; may be given several times. Paths that are not signed by such a
    /// key are not taken from a cache, unless they are content-addressed.
    #[arg(long = "trusted-public-key", value_name = "KEY")]
    pub trusted_public_keys: Vec<VerifyingKey>,

    /// Build everything that is not in the store.
    #[arg(long)]
    pub no_substitute: bool,

    /// Settings without an option of their own.
    #[clap(skip)]
    pub more: TransferSettings,
}

/// Settings of downloads that have no option of their own.
#[derive(Debug, Clone, Default)]
pub struct TransferSettings {
    /// `require-sigs = false`.
    pub unsigned: bool,
    /// `max-substitution-jobs`.
    pub max_substitution_jobs: Option<usize>,
}

/// Where and how to build.
#[derive(Debug, Parser)]
pub struct BuildingArgs {
    #[command(flatten)]
    pub substitute: SubstituteArgs,

    /// Store that is looked up and added to: an absolute path for the store below it, `local` for the
    /// system's.
    #[arg(long, value_name = "URI")]
    pub store: Option<StoreUri>,

    /// Builds at once; `auto` for one for each processor, 0 for none [default: auto].
    #[arg(long, short = 'j', value_name = "N", value_parser = parse_jobs)]
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

    /// Do not show the logs of builds.
    #[arg(long, short = 'Q', overrides_with = "print_build_logs")]
    pub no_build_output: bool,

    /// Show warnings and errors only.
    #[arg(long)]
    pub quiet: bool,

    /// Accepted for compatibility; `--print-build-logs` and `--events` show more.
    #[arg(long, short, hide = true, action = ArgAction::Count)]
    pub verbose: u8,

    /// Accepted for compatibility; `--events` shows more.
    #[arg(long, hide = true)]
    pub debug: bool,

    /// Format of the display: `raw`, `bar` or `bar-with-logs` [default: bar on a terminal].
    #[arg(long, value_name = "FORMAT", hide = true)]
    pub log_format: Option<String>,

    /// Accepted for compatibility: what cannot be fetched is built anyway.
    #[arg(long, hide = true)]
    pub fallback: bool,

    /// Accepted for compatibility.
    #[arg(long, hide = true)]
    pub no_gc_warning: bool,

    /// Refused: derivations are in the store that is built in.
    #[arg(long, hide = true, value_name = "URI")]
    pub eval_store: Option<String>,

    /// Write everything that happens to this file, as lines of JSON.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,

    /// Time limit of a build, in seconds; 0 for none.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,

    /// Time limit of a build without a line of log, in seconds; 0 for none.
    #[arg(long, value_name = "SECONDS")]
    pub max_silent_time: Option<u64>,

    /// Limit of a build's log, in bytes; 0 for none.
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

    /// Credentials per host, for substituters, `builtin:fetchurl` and fetches of the evaluator. The
    /// file may be missing.
    #[arg(long, value_name = "FILE", default_value = "/etc/nix/netrc")]
    pub netrc_file: PathBuf,

    #[command(flatten)]
    pub transfer: TransferOptions,

    /// System that this machine builds for, from the setting `system`.
    #[clap(skip)]
    pub system: Option<String>,

    /// Whether `system_features` are all there are, from the setting `system-features`.
    #[clap(skip)]
    pub only_system_features: bool,
}

impl BuildingArgs {
    /// How binary caches are accessed.
    pub fn network(&self) -> Network<'_> {
        Network {
            netrc: &self.netrc_file,
            transfer: &self.transfer,
        }
    }
}
