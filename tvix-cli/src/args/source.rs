//! Arguments that select the expressions to evaluate, and limit the access of evaluation.

use clap::{ArgAction, Parser};

use crate::settings::value::parse_limit;

/// The expressions to evaluate.
#[derive(Debug, Clone, Parser)]
#[command(next_help_heading = "Expressions")]
pub struct SourceArgs {
    /// File to evaluate: a path, a directory with a `default.nix`, `<name>` for an entry of the search path,
    /// the URL of an archive, or `-` for standard input; may be repeated [default: ./default.nix].
    #[arg(long = "file", short, value_name = "FILE")]
    pub files: Vec<String>,

    /// Interpret the positional arguments as Nix expressions instead of files.
    #[arg(long, short = 'E', conflicts_with = "files")]
    pub expr: bool,

    /// Select an attribute of the expression; may be repeated.
    #[arg(long = "attr", short = 'A', value_name = "ATTR")]
    pub attrs: Vec<String>,

    /// Call functions with the argument NAME set to the Nix expression EXPR; may be repeated.
    #[arg(long = "arg", num_args = 2, value_names = ["NAME", "EXPR"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub args: Vec<String>,

    /// Call functions with the argument NAME set to a string; may be repeated.
    #[arg(long = "argstr", num_args = 2, value_names = ["NAME", "STRING"], action = ArgAction::Append, allow_hyphen_values = true)]
    pub argstrs: Vec<String>,

    /// Call functions with the argument NAME set to the contents of a file, as a string; may be repeated.
    #[arg(long = "arg-from-file", num_args = 2, value_names = ["NAME", "PATH"], action = ArgAction::Append)]
    pub args_from_files: Vec<String>,

    /// Call functions with the argument NAME set to the contents of standard input, as a string.
    #[arg(long = "arg-from-stdin", value_name = "NAME")]
    pub arg_from_stdin: Option<String>,

    #[command(flatten)]
    pub search: SearchArgs,
}

/// The search path, and access of evaluation to files, the environment and the network.
#[derive(Debug, Clone, Parser)]
#[command(next_help_heading = "Evaluation")]
pub struct SearchArgs {
    /// Add an entry to the search path, before those of NIX_PATH and the channels: `NAME=PATH`, or a directory of
    /// entries. The URL of an archive and `channel:NAME` may stand for PATH. May be repeated.
    #[arg(short = 'I', long = "include", value_name = "NAME=PATH")]
    pub include: Vec<String>,

    /// Evaluate without access to the environment, the current time, the search path and files outside the
    /// store. Downloads must specify a hash or commit.
    #[arg(long, overrides_with = "impure")]
    pub pure_eval: bool,

    /// Undo `--pure-eval`; this is the default.
    #[arg(long, overrides_with = "pure_eval")]
    pub impure: bool,

    /// Evaluate without access to the environment, and to files outside the search path and the store.
    /// Downloads must match `--allowed-uris`.
    #[arg(long)]
    pub restrict_eval: bool,

    /// URIs that `--restrict-eval` allows to be downloaded, separated by spaces. Everything below such a URI
    /// is allowed too. May be repeated.
    #[arg(long, value_name = "URIS")]
    pub allowed_uris: Vec<String>,

    /// How long a cached download is considered fresh, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub tarball_ttl: u64,

    /// Treat warnings of expressions (`builtins.warn`) as errors.
    #[arg(long)]
    pub abort_on_warn: bool,

    /// Show the full stack trace of an evaluation error, with every function call.
    #[arg(long)]
    pub show_trace: bool,

    /// Memory limit of an evaluation, in MiB; 0 means no limit [default: three quarters of the
    /// memory of this machine or control group]. More than 256 allows strings, lists and sets of that size,
    /// which are limited to 256 MiB by default.
    #[arg(long, value_name = "MIB", value_parser = parse_limit)]
    pub max_eval_memory: Option<usize>,

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
