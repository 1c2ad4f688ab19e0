//! Arguments of the commands that evaluate and build, in groups that several commands share.

mod building;
mod configure;
mod jobs;
mod network;
mod source;

use std::path::PathBuf;

use clap::Parser;

use crate::settings::Assignment;

pub use building::{BuildingArgs, DEFAULT_PUBLIC_KEY, DEFAULT_SUBSTITUTER, SubstituteArgs};
pub use jobs::{JobsArgs, WorkersArgs};
pub use network::{Network, NetworkArgs, TransferOptions};
pub use source::{SearchArgs, SourceArgs};

/// Build derivations and print the store paths of their outputs.
///
/// Inputs are files with Nix expressions, expressions (with `--expr`) or derivations; without any,
/// `./default.nix` is evaluated. Builds start while evaluation is still running. Store paths are printed to
/// standard output, one per line; everything else goes to standard error.
///
/// Exit codes are those of Nix: 0 if everything was built, 1 for errors, 100 if a builder failed, 101 if a
/// build timed out, 102 if a fixed-output derivation produced a different hash, 104 if `--check` found a
/// difference. Codes of several failures are combined bit by bit.
#[derive(Debug, Parser)]
pub struct BuildArgs {
    /// Files to evaluate (`-` is standard input), expressions if `--expr` is given, or derivations: store
    /// paths of `.drv` files, or local `.drv` files. `DRV!out,dev` builds only the outputs `out` and `dev`.
    #[arg(value_name = "FILE|EXPR|DRV")]
    pub inputs: Vec<String>,

    /// Continue with derivations that do not depend on a failed one.
    #[arg(long, short = 'k')]
    pub keep_going: bool,

    /// Build the requested derivations a second time and compare the outputs. With `--keep-failed`, outputs
    /// that differ are kept.
    #[arg(long)]
    pub check: bool,

    /// Show the derivations that would be built and the paths that would be fetched, without doing either.
    /// Import from derivation (IFD) still builds.
    #[arg(long)]
    pub dry_run: bool,

    /// Path of the symbolic link to the first output, which is also a garbage collector root. Links to
    /// further outputs get a number or the name of the output appended.
    #[arg(long, short = 'o', value_name = "PATH", default_value = "result")]
    pub out_link: PathBuf,

    /// Do not create links to outputs.
    #[arg(long, alias = "no-link", conflicts_with = "out_link")]
    pub no_out_link: bool,

    #[command(flatten)]
    pub workers: WorkersArgs,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Accepted for compatibility: links are always indirect roots.
    #[arg(long, hide = true, alias = "add-drv-link")]
    pub indirect: bool,

    /// Refused: `tvix store repair` does that.
    #[arg(long, hide = true)]
    pub repair: bool,
}

/// Add the derivations of an expression to the store and print their paths.
///
/// Nothing is built except for import from derivation (IFD). With `--eval` or `--parse`, values or syntax
/// trees are printed instead, as `tvix eval` does.
#[derive(Debug, Parser)]
pub struct InstantiateArgs {
    /// Files to evaluate (`-` is standard input), or expressions if `--expr` is given [default:
    /// ./default.nix].
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    /// Print values instead of the paths of derivations, as `tvix eval` does.
    #[arg(long, alias = "eval-only")]
    pub eval: bool,

    /// Create a symbolic link to each derivation, as a garbage collector root, and print the path of the
    /// link. The second and later links get a number appended.
    #[arg(long, value_name = "PATH")]
    pub add_root: Option<PathBuf>,

    /// Print the paths of derivations without adding them to the store.
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub workers: WorkersArgs,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub print: PrintArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Accepted for compatibility: links are always indirect roots.
    #[arg(long, hide = true)]
    pub indirect: bool,
}

/// Evaluate expressions and print their values.
///
/// Nothing is built except for import from derivation (IFD). The exit code is 1 for errors; if a build that
/// the evaluation needs fails, it is that of `tvix build`.
#[derive(Debug, Parser)]
pub struct EvalArgs {
    /// Files to evaluate (`-` is standard input), or expressions if `--expr` is given [default:
    /// ./default.nix].
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub print: PrintArgs,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Accepted for compatibility with `nix-instantiate`: values are always evaluated.
    #[arg(long, hide = true, alias = "eval-only")]
    pub eval: bool,
}

/// How values are printed.
#[derive(Debug, Clone, Parser)]
#[command(next_help_heading = "Format of values")]
pub struct PrintArgs {
    /// Evaluate list elements and attribute values too, recursively.
    #[arg(long)]
    pub strict: bool,

    /// Print values as JSON; implies `--strict`.
    #[arg(long, overrides_with_all = ["xml", "raw"])]
    pub json: bool,

    /// Print values as XML.
    #[arg(long, overrides_with_all = ["json", "raw"])]
    pub xml: bool,

    /// Omit source locations from XML output.
    #[arg(long)]
    pub no_location: bool,

    /// Print a string, or a value that can be coerced to one, without quotes and without a final newline.
    #[arg(long, overrides_with_all = ["json", "xml"])]
    pub raw: bool,

    /// Add derivations and sources to the store during evaluation [default: only compute their paths].
    #[arg(long, overrides_with = "readonly_mode")]
    pub read_write_mode: bool,

    /// Accepted for compatibility: this is the default.
    #[arg(long, hide = true)]
    pub readonly_mode: bool,

    /// Print the syntax trees of the expressions instead of evaluating them.
    #[arg(long, alias = "parse-only")]
    pub parse: bool,

    /// Look the arguments up in the search path and print the paths found, instead of evaluating them.
    #[arg(long)]
    pub find_file: bool,
}

/// Serve clients of Nix as a Nix daemon.
///
/// `nix`, `nix-build` and other programs use a daemon unless they can write to the store themselves, or if
/// NIX_REMOTE is `daemon`. The store, its state and its logs are where NIX_STORE_DIR, NIX_STATE_DIR and NIX_LOG_DIR
/// say, or below the root of `--store`. On SIGINT, SIGTERM or SIGHUP, the daemon ends its connections and exits
/// with 0.
#[derive(Debug, Parser)]
pub struct DaemonArgs {
    /// Socket to listen on [default: NIX_DAEMON_SOCKET_PATH, or daemon-socket/socket in the state directory]. A
    /// socket that the service manager passes (LISTEN_FDS) takes precedence.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Serve a single client on standard input and output, as `ssh-ng://` stores start it. The client is
    /// trusted.
    #[arg(long, conflicts_with = "socket")]
    pub stdio: bool,

    /// Trust no client.
    #[arg(long)]
    pub force_untrusted: bool,

    #[command(flatten)]
    pub building: BuildingArgs,

    /// Settings without an option of their own.
    #[clap(skip)]
    pub more: DaemonSettings,

    /// Accepted for compatibility: this is the default.
    #[arg(long, hide = true)]
    pub daemon: bool,
}

/// Settings of a daemon.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// `allowed-users`.
    pub allowed_users: Vec<String>,
    /// `trusted-users`.
    pub trusted_users: Vec<String>,
    /// `trusted-substituters`.
    pub trusted_substituters: Vec<String>,
    /// `keep-derivations`.
    pub keep_derivations: bool,
    /// `keep-outputs`.
    pub keep_outputs: bool,
    /// `keep-build-log`.
    pub keep_build_log: bool,
    /// `compress-build-log`.
    pub compress_build_log: bool,
    /// `post-build-hook`.
    pub post_build_hook: Option<PathBuf>,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self {
            allowed_users: vec!["*".to_owned()],
            trusted_users: vec!["root".to_owned()],
            trusted_substituters: Vec::new(),
            keep_derivations: true,
            keep_outputs: false,
            keep_build_log: true,
            compress_build_log: true,
            post_build_hook: None,
        }
    }
}

/// Show the settings, their values, and where each was set.
///
/// Settings are those of nix.conf: the file of the system (/etc/nix/nix.conf, or nix.conf in NIX_CONF_DIR), those
/// of the user (~/.config/nix/nix.conf and others, or NIX_USER_CONF_FILES), and the variable NIX_CONFIG. Later ones
/// replace earlier ones, and options on the command line replace all. The output is in the format of nix.conf.
#[derive(Debug, Parser)]
pub struct ConfigArgs {
    /// Settings to show [default: all]. Of a single one, the value is printed alone.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,

    /// Print an object of JSON: for each setting its value, its default, its origin and its effect.
    #[arg(long)]
    pub json: bool,

    /// The assignments of the files and the command line, in order.
    #[clap(skip)]
    pub assignments: Vec<Assignment>,
}

/// Evaluate expressions interactively.
///
/// `:?` at the prompt lists the commands. Without a terminal, input is read from standard input, line by
/// line, and echoed.
#[derive(Debug, Parser)]
// The other commands evaluate `./default.nix` by default.
#[command(mut_arg("files", |arg| arg
    .help("File whose attributes become variables, as in `tvix eval`; may be repeated [default: none]")))]
pub struct ReplArgs {
    /// Files, or expressions if `--expr` is given. Their attributes become variables [default: none].
    #[arg(value_name = "FILE|EXPR")]
    pub inputs: Vec<String>,

    #[command(flatten)]
    pub source: SourceArgs,

    #[command(flatten)]
    pub building: BuildingArgs,
}
